# What type checkers see of the compiled module that tf_dwsconv.native is made of.
from typing import Any

import numpy as np

TUNED_PLANS_CPU: str

class Options:
    def __init__(
        self,
        *,
        strides: Any,
        dilations: Any,
        padding: Any,
        data_format: Any,
        depthwise_activation: Any,
        activation: Any,
        isa: Any,
        variant: Any,
        **more: Any,
    ) -> None: ...

class Layer:
    def __init__(
        self,
        depthwise_filter: Any,
        pointwise_filter: Any,
        depthwise_bias: Any,
        bias: Any,
        expand_filter: Any,
        expand_bias: Any,
        options: Options,
    ) -> None: ...
    def __call__(
        self, x: Any, out: Any = None, residual: Any = None, num_threads: int = 0, plan: Any = None
    ) -> np.ndarray: ...

class Network:
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    def __init__(self, *arguments: Any) -> None: ...
    def __call__(self, x: Any, out: Any = None, num_threads: int = 0) -> Any: ...
    def profile(self, x: Any, num_threads: int, repeats: int) -> list[dict[str, Any]]: ...

def forward(*arguments: Any) -> np.ndarray: ...
def plan(*arguments: Any) -> dict[str, Any]: ...
def plan_for_machine(*arguments: Any) -> dict[str, Any]: ...
def use_ladder(ladder: Any) -> None: ...
def tuning(*arguments: Any) -> dict[str, Any]: ...
def reload_tuned_plans() -> int: ...
def cpu_info() -> dict[str, Any]: ...
def calls() -> dict[str, int]: ...
