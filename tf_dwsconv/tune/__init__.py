"""Finds faster plans for the layers you use, by measuring, and keeps them for all later runs on this machine.

    python -m tf_dwsconv.tune MobileNet --batch-size 8

or from Python:

>>> from tf_dwsconv import tune
>>> from tf_dwsconv.analysis import Problem
>>> results = tune.tune([Problem(N=1, H=14, W=14, C=32, K=64)], seconds=0.01, write=False)
>>> print(results[0].problem, results[0].best_seconds <= results[0].planned_seconds or not results[0].kept)
1x14x14x32 -> 64, 3x3 True

The planner cuts a layer into tasks by a model of the machine. The tuner runs the layer with the plan's neighbours. If
one of them wins by more than the noise, the tuner writes it to a file in the user's cache folder, which the op and
`tf_dwsconv.native` read when a process first plans a layer. Every plan gives the same bits.
docs/tuning_a_model.md says when tuning is worthwhile.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Callable, Optional, Union

from tf_dwsconv.analysis import graph
from tf_dwsconv.analysis.problem import Problem, check_problem, positive
from tf_dwsconv.tune import _cache, _search
from tf_dwsconv.tune._cache import cache_path, reload
from tf_dwsconv.tune._search import MARGIN, Result

__all__ = ["MARGIN", "Result", "cache_path", "clear", "model_layers", "reload", "tune"]

DTYPES = ("float32", "bfloat16", "float16")


def tune(
    layers: Iterable[Union[Problem, graph.Call]],
    *,
    dtype: Optional[str] = None,
    seconds: float = 2.0,
    num_threads: int = 0,
    isa: Optional[str] = None,
    write: bool = True,
    progress: Optional[Callable[[int, int, Result], None]] = None,
) -> list[Result]:
    """Measures the planner's neighbours for each layer and keeps the winners in the cache.

    A plan is for one shape, batch included, one dtype and one number of threads, and is used where these are the same.
    The machine should have nothing else to do meanwhile.

    Args:
        layers: each a `tf_dwsconv.analysis.Problem`, or what `model_layers` returns. Equal ones are measured once.
        dtype: "float32", "bfloat16" or "float16"; None for the dtype that a layer of a model computes in, and float32
            for a `Problem`.
        seconds: to spend on a layer, about. Every plan is run a few times even where that takes longer.
        num_threads: as in `native.depthwise_sep_conv2d`: 0 for what the op uses by default.
        isa: "generic", "avx2", "avx512" or "amx"; None for the one in use.
        write: whether to change the cache. Winners are put in, and plans of these layers that win no longer are taken
            out; afterwards this process uses the plans too. Where the machine was not quiet enough to tell, nothing
            changes for the layer.
        progress: called after each layer with its number, from 1, how many there are, and its result.

    Returns:
        A `Result` for each distinct layer, in the order given. Its `refused` says why nothing was concluded, if so; a
        RuntimeWarning says it too where there is no `progress`.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value, or `write` where the cache is off.
        OSError: the cache cannot be written.
        ImportError: `platformdirs` is not installed (see `cache_path`).
        MemoryError: a layer's arrays do not fit in memory.
    """
    positive("seconds", seconds)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be None or one of {', '.join(DTYPES)}; given {dtype!r}")
    # By problem, dtype, channels in front of an expansion, and whether a pointwise convolution ends it.
    work: dict[tuple[Problem, str, int, bool], list[str]] = {}
    for layer in layers:
        if isinstance(layer, graph.Call):
            key = layer.problem, dtype or layer.dtype, layer.E, layer.kind == "dws"
            work.setdefault(key, []).append(layer.name)
        else:
            work.setdefault((check_problem(layer), dtype or "float32", 0, True), []).append("")
    for problem, kind, _, _ in work:
        if kind not in DTYPES:
            raise ValueError(f"layers must compute in one of {', '.join(DTYPES)}, but {problem} does in {kind}")
    path = cache_path() if write else None
    if write and path is None:
        raise ValueError("write must be False where the environment's DWSCONV_PLAN_CACHE turns the cache off")

    results = []
    for number, ((problem, kind, E, project), names) in enumerate(work.items(), 1):
        name = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 and names[0] else "")
        bench = _search.Bench(problem, kind, num_threads, isa, E, project)
        result = _search.search(bench, name, kind, seconds)
        del bench  # and its arrays, before the next layer's
        if path is not None:
            # At once, so that what is found stays when the tuner is stopped.
            _keep(path, result)
        results.append(result)
        if progress is not None:
            progress(number, len(work), result)
        elif result.refused:
            warnings.warn(f"{problem} {kind}: {result.refused}", RuntimeWarning, stacklevel=2)
    if path is not None:
        seen = reload()
        if seen == 0 and any(result.kept for result in results):
            raise RuntimeError(f"the plans are in {path}, but the compiled half does not read them there: a defect")
    return results


def model_layers(model: Any, batch_size: int = 1) -> list[graph.Call]:
    """The depthwise-separable layers of a built Keras model, as the fused op runs them.

    SeparableConv2D layers, DepthwiseConv2D layers that a pointwise Conv2D follows, and the blocks of a converted model
    that do as much or begin with an expansion, in the order of the graph.

    Args:
        model: a Functional or Sequential model with a fixed image size.
        batch_size: N where the model leaves it open.

    Raises:
        ValueError: a layer's input has no fixed size, or the model has no graph.
    """
    return [call for call in graph.dws_calls(model, batch_size) if call.kind == "dws" or call.E]


def clear() -> int:
    """Forgets all tuned plans. Returns how many there were.

    Raises:
        ValueError: what is at `cache_path()` is not a file of tuned plans, or the cache is off.
        OSError: it cannot be removed.
    """
    path = cache_path()
    if path is None:
        raise ValueError("there is no cache to clear: the environment's DWSCONV_PLAN_CACHE turns it off")
    count = _cache.clear(path)
    reload()
    return count


def _keep(path: Any, result: Result) -> None:
    if result.refused:
        return
    remark = f"{result.planned_seconds * 1e6:.1f} us planned, {result.best_seconds * 1e6:.1f} us tuned"
    if result.kept:
        _cache.update(path, [f"{result.line} # {remark}"])
    elif path.exists():
        _cache.update(path, [], forget=[_cache.subject(result.line)])
