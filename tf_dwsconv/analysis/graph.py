"""Finds the depthwise-separable layers in the graph of a Keras model."""

import dataclasses

from tf_dwsconv.analysis.problem import Problem


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a DWS layer: kind "dws", or "depthwise" without a pointwise half."""

    name: str
    kind: str
    problem: Problem
    dtype: str


def dws_calls(keras, model, batch_size, prefix=""):
    """The `Call`s of a built Functional or Sequential model, inner models included, in the order of its graph."""
    if isinstance(model, keras.Sequential):
        # A Sequential keeps its graph in a Functional of its own once it is built.
        graph = model._functional
    else:
        graph = model
    # Keras has no public way to walk a model's calls; `_nodes_by_depth` is what its own plot_model and summary use.
    depths = getattr(graph, "_nodes_by_depth", None)
    if depths is None:
        raise ValueError(
            f"model must be a built Functional or Sequential model, got {type(model).__name__} "
            f"{model.name!r}, which has no graph of layers"
        )
    nodes = [node for depth in sorted(depths, reverse=True) for node in depths[depth]]
    made_by, used_by = {}, {}
    for node in nodes:
        for tensor in node.outputs:
            made_by[id(tensor)] = node
        for tensor in node.input_tensors:
            used_by.setdefault(id(tensor), []).append(node)
    results = {id(tensor) for tensor in graph.outputs}

    def only_user(node):
        tensor = node.outputs[0]
        users = used_by.get(id(tensor), [])
        return users[0] if len(users) == 1 and id(tensor) not in results else None

    between = tuple(
        getattr(keras.layers, name)
        for name in (
            "BatchNormalization",
            "Activation",
            "ReLU",
            "LeakyReLU",
            "ELU",
            "PReLU",
            "Dropout",
            "SpatialDropout2D",
        )
    )
    calls = []
    for node in nodes:
        layer = node.operation
        if isinstance(layer, keras.Model):
            calls += dws_calls(keras, layer, batch_size, f"{prefix}{layer.name}/")
        elif isinstance(layer, keras.layers.SeparableConv2D):
            calls.append(_call(keras, layer, node, made_by, batch_size, prefix, "dws", layer.filters))
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            last = only_user(node)
            while last is not None and isinstance(last.operation, between):
                last = only_user(last)
            pointwise = last is not None and _is_pointwise(keras, last.operation)
            calls.append(
                _call(
                    keras,
                    layer,
                    node,
                    made_by,
                    batch_size,
                    prefix,
                    "dws" if pointwise else "depthwise",
                    last.operation.filters if pointwise else 1,
                )
            )
    return calls


def _is_pointwise(keras, layer):
    return (
        isinstance(layer, keras.layers.Conv2D)
        and tuple(layer.kernel_size) == (1, 1)
        and tuple(layer.strides) == (1, 1)
        and layer.groups == 1
    )


def _call(keras, layer, node, made_by, batch_size, prefix, kind, filters):
    tensor = node.input_tensors[0]
    padding = layer.padding.upper()
    before = made_by.get(id(tensor))
    if (
        padding == "VALID"
        and before is not None
        and isinstance(before.operation, keras.layers.ZeroPadding2D)
        and before.operation.data_format == layer.data_format
    ):
        padding = before.operation.padding
        tensor = before.input_tensors[0]
    n, *sizes = tensor.shape
    channels, height, width = sizes if layer.data_format == "channels_first" else (sizes[2], *sizes[:2])
    if None in (channels, height, width):
        raise ValueError(
            f"model must have a fixed input size for its costs to be known, but layer {layer.name!r} has "
            f"an input of shape {tuple(tensor.shape)}"
        )
    r, s = layer.kernel_size
    problem = Problem(
        N=n or batch_size,
        H=height,
        W=width,
        C=channels,
        K=filters,
        R=r,
        S=s,
        M=layer.depth_multiplier,
        stride=tuple(layer.strides),
        dilation=tuple(layer.dilation_rate),
        padding=padding,
    )
    return Call(prefix + layer.name, kind, problem, layer.compute_dtype)
