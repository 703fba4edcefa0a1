"""What the search finds: blocks, and convolutions with batch norms folded in."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Optional

from tf_dwsconv.activations import NONE, Fused
from tf_dwsconv.convert._read import Convolution


@dataclasses.dataclass
class Block:
    """A chain of calls that one `FusedConvBlock` computes.

    x: what goes in, and out: what comes out, as tensors of the old graph; gate, residual: more inputs, or None.
    nodes: the calls. main: the layer after which the new one is called. before: (scale, shift) of the input, which goes
    into the first convolution, or None. expand, depthwise, pointwise: the convolutions, with all folded in; None for a
    stage that is not there. slopes: of activations that are PReLU, by "expand_", "depthwise_" or "". function: the last
    activation where the kernels do not know it. note: why the chain is no longer.
    """

    x: Any
    out: Any
    layout: str
    dtype: str
    main: Any
    nodes: list
    before: Any = None
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
    is_separable: bool = False
    is_dense: bool = False
    is_scale: bool = False
    is_rows: bool = False
    is_sequence: bool = False  # tensors are [N, W, C]
    note: str = ""
    name: str = ""  # of the new layer

    def pattern(self) -> str:
        """The stages in words."""
        if self.is_rows:
            return "dense"
        if self.is_scale:
            return "scale" if self.residual is None else "scale + residual"
        words = ["expand"] if self.expand is not None else []
        if self.is_separable:
            words.append("separable")
        elif self.depthwise is not None:
            words.append("depthwise")
        words += ["norm"] if self.epsilon is not None else []
        words += ["gate"] if self.gate is not None else []
        if self.pointwise is not None and not self.is_separable:
            words.append("convolution" if self.is_dense else "1x1")
        words += ["residual"] if self.residual is not None else []
        return " + ".join(words)

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


@dataclasses.dataclass
class FoldedConvolution:
    """A convolution that stays a stock layer, with the batch norms behind it folded in."""

    x: Any
    out: Any
    nodes: list
    convolution: Convolution
    window: dict = dataclasses.field(default_factory=dict)  # where it is not that of the old layer
