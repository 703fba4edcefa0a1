"""What a search finds: some calls of a graph, and the new layers that take their place.

Every find has `nodes`, the calls; `pattern`, `name` and `note`, which the report shows; and `emission`, what the
rebuilding puts there.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Callable, Optional

import keras

from tf_dwsconv.activations import NONE, Fused, spelled
from tf_dwsconv.convert._copy import assign, function_again
from tf_dwsconv.convert._read import Convolution
from tf_dwsconv.layers import FusedConvBlock


@dataclasses.dataclass
class Step:
    """One new layer.

    layer: not called yet. fill: sets its weights once it is built, or None. others: which of the inputs of its
    `Emission` it is called with besides the result of the step before. prepare: a layer that those go through, or None.
    """

    layer: Any
    fill: Optional[Callable[[], None]] = None
    others: tuple[int, ...] = ()
    prepare: Any = None


def fill(steps: list[Step]) -> None:
    """Gives new layers their weights; a layer that is called again has them already."""
    for step in steps:
        if step.fill is not None:
            step.fill()
            step.fill = None


@dataclasses.dataclass
class Emission:
    """What stands for some calls of the old model, and takes the place of the last one.

    inputs: tensors of the old model, of which the first goes into the first step. steps: one after the other. out: the
    old tensor whose place the last one's result takes.
    """

    inputs: list
    steps: list[Step]
    out: Any

    def call(self, inputs: list) -> Any:
        """Calls the steps, one after the other, with what stands for `inputs` now; fills those that are new."""
        y = inputs[0]
        for step in self.steps:
            others = [inputs[i] if step.prepare is None else step.prepare(inputs[i]) for i in step.others]
            y = step.layer([y, *others] if others else y)
            fill([step])
        return y


@dataclasses.dataclass
class Assembly:
    """As `Emission`, where several tensors take the place of several.

    call: gives the new tensors for those that take the place of `inputs`, in the order of `outs`. steps: the same as
    layers one behind the other, for a Sequential model.
    """

    inputs: list
    outs: list
    call: Callable[[list], list]
    steps: list[Step]


@dataclasses.dataclass
class Swap:
    """Some calls, and an emission that is ready for them."""

    pattern: str
    nodes: list
    name: str
    emission: Emission
    note: str = ""


@dataclasses.dataclass
class Folded:
    """A convolution that stays a stock layer, with what was folded into its weights.

    x, out: what goes in and comes out. window: its arguments where they are not those of the old layer.
    """

    x: Any
    out: Any
    nodes: list
    convolution: Convolution
    window: dict = dataclasses.field(default_factory=dict)
    name: str = ""
    pattern = "convolution + batch norm"
    note = ""

    @property
    def emission(self) -> Emission:
        """The same stock convolution under another name."""
        old = self.convolution.layer
        config = {**old.get_config(), **self.window, "use_bias": True, "name": self.name}
        # Regularizers and constraints were about other weights.
        config.update((key, None) for key in config if key.endswith(("_regularizer", "_constraint")))
        layer = type(old).from_config(config)

        def fill() -> None:
            assign(layer.kernel, self.convolution.kernel)
            assign(layer.bias, self.convolution.bias)

        return Emission([self.x], [Step(layer, fill)], self.out)


@dataclasses.dataclass
class Block:
    """A chain of calls that one `FusedConvBlock` computes.

    x: what goes in, and out: what comes out, as tensors of the old graph; gate, residual: more inputs, or None.
    nodes: the calls. main: the layer after which the new one is called. expand, depthwise, pointwise: the convolutions,
    with all folded in; None for a stage that is not there. window: arguments of the new layer. slopes: of activations
    that are PReLU, by "expand_", "depthwise_" or "". function: the last activation where the kernels do not know it.
    kind: of what the block is made where the stages do not tell: "separable", "convolution", "scale", "dense" of rows.
    note: why the chain is no longer.
    """

    x: Any
    out: Any
    layout: str
    dtype: str
    main: Any
    nodes: list
    expand: Optional[Convolution] = None
    expand_activation: Fused = NONE
    window: dict = dataclasses.field(default_factory=dict)
    depthwise: Optional[Convolution] = None
    depthwise_activation: Fused = NONE
    epsilon: Optional[float] = None
    gate: Any = None
    pointwise: Optional[Convolution] = None
    residual: Any = None
    activation: Fused = NONE
    slopes: dict = dataclasses.field(default_factory=dict)
    function: Any = None
    kind: str = ""
    is_sequence: bool = False  # tensors are [N, W, C]
    note: str = ""
    name: str = ""  # of the new layer

    @property
    def pattern(self) -> str:
        """The stages in words."""
        if self.kind == "dense":
            return "dense"
        if self.kind == "scale":
            return "scale" if self.residual is None else "scale + residual"
        words = {
            "expand": self.expand is not None,
            "separable": self.kind == "separable",
            "depthwise": self.depthwise is not None and self.kind != "separable",
            "norm": self.epsilon is not None,
            "gate": self.gate is not None,
            "convolution": self.kind == "convolution",
            "1x1": self.pointwise is not None and self.kind == "",
            "residual": self.residual is not None,
        }
        return " + ".join(word for word, is_there in words.items() if is_there)

    def fork(self) -> Block:
        """A copy that may be extended while this one stays as it is."""
        other = copy.copy(self)
        other.nodes, other.window, other.slopes = list(self.nodes), dict(self.window), dict(self.slopes)
        for stage in ("expand", "depthwise", "pointwise"):
            setattr(other, stage, copy.copy(getattr(self, stage)))
        return other

    def take(self, node: Any) -> None:
        """Adds a call at the end."""
        self.nodes.append(node)
        self.out = node.outputs[0]

    @property
    def emission(self) -> Emission:
        """A `FusedConvBlock`."""
        stages = {"expand": self.expand, "depthwise": self.depthwise, "pointwise": self.pointwise}
        has_bias = {name: stage is not None and stage.bias is not None for name, stage in stages.items()}
        function, copy_function = function_again(self.function)
        layer = FusedConvBlock(
            filters=None if self.pointwise is None else self.pointwise.outputs,
            data_format=self.layout,
            activation=function if function is not None else spelled(self.activation),
            use_bias=has_bias["pointwise"],
            expand_filters=None if self.expand is None else self.expand.outputs,
            expand_use_bias=has_bias["expand"],
            expand_activation=spelled(self.expand_activation),
            depthwise_use_bias=has_bias["depthwise"],
            depthwise_activation=spelled(self.depthwise_activation),
            epsilon=self.epsilon,
            gated=self.gate is not None,
            residual=self.residual is not None,
            name=self.name,
            dtype=self.main.dtype_policy,
            trainable=self.main.trainable,
            **self.window,
        )

        def fill() -> None:
            copy_function()
            for name, stage in stages.items():
                if stage is not None:
                    assign(getattr(layer, f"{name}_kernel"), stage.kernel)
                if has_bias[name]:
                    assign(layer.bias if name == "pointwise" else getattr(layer, f"{name}_bias"), stage.bias)
            for stage, slopes in self.slopes.items():
                assign(getattr(layer, f"{stage}slopes"), slopes)

        others = [t for t in (self.gate, self.residual) if t is not None]
        steps = [Step(layer, fill, tuple(range(1, 1 + len(others))))]
        if self.is_sequence:
            steps = self._between_reshapes(steps[0])
        return Emission([self.x, *others], steps, self.out)

    def _between_reshapes(self, step: Step) -> list[Step]:
        """The step of a block of sequences, which takes pictures of one row: reshapes move nothing."""
        name, dtype = step.layer.name, step.layer.dtype_policy
        step.layer.name = f"{name}_block"

        def to_row(channels: int, suffix: str) -> Any:
            return keras.layers.Reshape((1, -1, channels), name=f"{name}_{suffix}", dtype=dtype)

        channels = self.out.shape[-1]
        if self.residual is not None:
            step.prepare = to_row(channels, "residual_row")
        last = keras.layers.Reshape((-1, channels), name=name, dtype=dtype)
        return [Step(to_row(self.x.shape[-1], "row")), step, Step(last)]
