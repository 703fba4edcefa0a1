"""What takes the place of what was found: fused blocks, folded convolutions, and in training exact equivalents."""

from __future__ import annotations

from tf_dwsconv.activations import spelled
from tf_dwsconv.layers import FusedConvBlock
from tf_dwsconv.convert import _sequences
from tf_dwsconv.convert._block import Block, FoldedConvolution
from tf_dwsconv.convert._rebuild import Emission, Step, assign, function_again


def fused_block(block: Block) -> Emission:
    """A `FusedConvBlock` for a chain of calls."""
    expand, depthwise, pointwise = block.expand, block.depthwise, block.pointwise
    main = block.main
    function, copy_function = function_again(block.function)
    layer = FusedConvBlock(
        filters=None if pointwise is None else pointwise.outputs,
        data_format=block.layout,
        activation=function if function is not None else spelled(block.activation),
        use_bias=pointwise is not None and pointwise.bias is not None,
        expand_filters=None if expand is None else expand.outputs,
        expand_use_bias=expand is not None and expand.bias is not None,
        expand_activation=spelled(block.expand_activation),
        depthwise_use_bias=depthwise is not None and depthwise.bias is not None,
        depthwise_activation=spelled(block.depthwise_activation),
        epsilon=block.epsilon,
        gated=block.gate is not None,
        residual=block.residual is not None,
        name=block.name,
        dtype=main.dtype_policy,
        trainable=main.trainable,
        **block.window,
    )

    def fill() -> None:
        copy_function()
        for stage, convolution in (("expand", expand), ("depthwise", depthwise), ("pointwise", pointwise)):
            if convolution is not None:
                assign(getattr(layer, f"{stage}_kernel"), convolution.kernel)
                if convolution.bias is not None:
                    assign(layer.bias if stage == "pointwise" else getattr(layer, f"{stage}_bias"), convolution.bias)
        for stage, slopes in block.slopes.items():
            assign(getattr(layer, f"{stage}slopes"), slopes)

    others = [t for t in (block.gate, block.residual) if t is not None]
    step = Step(layer, fill, tuple(range(1, 1 + len(others))))
    steps = _between_reshapes(block, step) if block.is_sequence else [step]
    return Emission([block.x, *others], steps, block.out)


def _between_reshapes(block: Block, step: Step) -> list[Step]:
    """The step of a block of sequences, which takes pictures of one row."""
    layer, channels = step.layer, block.out.shape[-1]
    name, dtype = layer.name, layer.dtype_policy
    layer.name = f"{name}_block"
    if block.residual is not None:
        step.prepare = _sequences.to_row(channels, f"{name}_residual_row", dtype)
    first = Step(_sequences.to_row(block.x.shape[-1], f"{name}_row", dtype))
    return [first, step, Step(_sequences.from_row(channels, name, dtype))]


def folded_convolution(folded: FoldedConvolution, name: str) -> Emission:
    """The same stock convolution with the batch norms in its weights, under another name."""
    old = folded.convolution.layer
    config = {**old.get_config(), **folded.window, "use_bias": True, "name": name}
    for key in list(config):
        if key.endswith(("_regularizer", "_constraint")):
            config[key] = None  # they were about other weights
    layer = type(old).from_config(config)

    def fill() -> None:
        assign(layer.kernel, folded.convolution.kernel)
        assign(layer.bias, folded.convolution.bias)

    return Emission([folded.x], [Step(layer, fill)], folded.out)
