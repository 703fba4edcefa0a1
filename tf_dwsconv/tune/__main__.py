"""Tunes the layers of a model, or of given shapes, for this machine.

python -m tf_dwsconv.tune --application MobileNet --batch 8
python -m tf_dwsconv.tune --model my_model.keras --dtype bfloat16
python -m tf_dwsconv.tune --shape 1,56,56,128,128 --shape 8,28,28,256,256,5,2      # N,H,W,C,K,kernel,stride
python -m tf_dwsconv.tune --show
"""

import collections
import math

from tf_dwsconv import tune
from tf_dwsconv.analysis._command import application, main_of, parse_layer
from tf_dwsconv.analysis._optional import require
from tf_dwsconv.analysis.report import format_table
from tf_dwsconv.native import _native
from tf_dwsconv.tune import _cache

app = require("absl.app", "the command line of tf_dwsconv.tune")
flags = require("absl.flags", "the command line of tf_dwsconv.tune")

_MODEL = flags.DEFINE_string("model", None, "A file that keras.saving.load_model reads (.keras).")
_APPLICATION = flags.DEFINE_string("application", None, "The name of a model in keras.applications.")
_SHAPE = flags.DEFINE_multi_string(
    "shape", [], "A layer as N,H,W,C,K, kernel (3 if left out), stride (1 if left out); SAME padding. Repeatable."
)
_BATCH = flags.DEFINE_integer("batch", 1, "N of the layers of --model and --application.")
_THREADS = flags.DEFINE_integer("threads", 0, "Threads; 0 for what the op uses by default.")
_DTYPE = flags.DEFINE_enum("dtype", None, list(tune.DTYPES), "By default what the model computes in, or float32.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "Time for a layer, about.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Measure and print, but leave the cache as it is.")
_CLEAR = flags.DEFINE_bool("clear", False, "Forget all tuned plans, and do nothing else.")
_SHOW = flags.DEFINE_bool("show", False, "List the plans tuned on this CPU, and do nothing else.")


def _model():
    """The model asked for, or None."""
    if _MODEL.value and _APPLICATION.value:
        raise ValueError("--model and --application cannot be given together")
    if _MODEL.value:
        return require("keras", "--model").saving.load_model(_MODEL.value, compile=False)
    if _APPLICATION.value:
        model = application(_APPLICATION.value)
        if model is None:
            raise ValueError(f"--application must be a name in keras.applications, got {_APPLICATION.value!r}")
        return model
    return None


def _plan(plan):
    if "rows" in plan:
        words = f"{plan['rows']} rows x {plan['channels']}" + (" apart" if plan["by_channels"] else "")
    else:
        words = f"{plan['block_pixels']}x{plan['block_channels']}"
    return words + f" t{plan['threads']}" + (" stream" if plan["stream"] else "")


def _layer(result):
    expand = f"expand {result.E}: " if result.E else ""
    return f"{result.name} {expand}{result.problem}".strip()


def _row(result):
    return (
        _layer(result),
        f"{result.planned_seconds * 1e6:.1f}",
        f"{result.best_seconds * 1e6:.1f}",
        f"{result.default_seconds * 1e6:.1f}",
        f"{result.gain:.3f}",
        _plan(result.planned),
        _plan(result.best),
        "yes" if result.kept else "not quiet" if result.refused else "no",
    )


def _mean(numbers):
    numbers = list(numbers)
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def _progress(number, count, result):
    verdict = f"{result.gain:.2f} times as fast" if result.kept else result.refused or "the planner's stays"
    print(
        f"[{number}/{count}] {_layer(result)} {result.dtype}: {result.candidates} plans, {verdict}",
        flush=True,
    )


def _report(results):
    headers = ("layer", "planned us", "best us", "default us", "planned/best", "planned", "best", "kept")
    print()
    print(format_table(headers, [_row(result) for result in results]))
    print("A plan: output pixels x output channels of a task, threads, whether it writes around the caches.")
    if any(result.E for result in results):
        print("Of an expanded block: output rows x expanded channels at a time, apart where each task has its own.")
    # The planned plan is one of those swept, so the sweep's best is never behind it.
    gap = _mean(max(result.gain, 1.0) for result in results)
    default = _mean(result.default_seconds / result.planned_seconds for result in results)
    used = _mean(result.gain if result.kept else 1.0 for result in results)
    print(
        f"Geometric means over {len(results)} layers: planned/best {gap:.3f}, default/planned {default:.3f}; "
        f"the plans kept gain {used:.3f}."
    )


def _show():
    path = tune.cache_path()
    if path is None:
        print("The cache is off (DWSCONV_PLAN_CACHE).")
        return
    lines = _cache.read(path)
    own = [line for line in lines if line.startswith(_native.TUNED_PLANS_CPU)]
    print(f"{path}: {len(own)} plans for this CPU, {len(lines) - len(own)} for others")
    rows = []
    for line in own:
        subject, _, rest = line.partition(" : ")
        plan, _, remark = rest.partition(" # ")
        of = collections.defaultdict(lambda: "?", (field.partition("=")[::2] for field in subject.split(" ")))
        dtype = dict(zip("012", ("float32", "bfloat16", "float16"))).get(of["dtype"], "?")
        expand = f"expand {of['E']}: " if "E" in of else ""
        name = (
            f"{expand}{of['N']}x{of['H']}x{of['W']}x{of['C']} -> {of['K']}, {of['R']}x{of['S']} "
            f"s{of['stride_h']}x{of['stride_w']} {dtype}, {of['threads']} threads"
        )
        rows.append((name, plan, remark))
    if rows:
        print(format_table(("layer", "plan", "when tuned"), rows))


@main_of("tf_dwsconv.tune")
def main():
    """Runs the command line."""
    if _SHOW.value:
        _show()
        return
    if _CLEAR.value:
        print(f"Forgot {tune.clear()} plans.")
        return
    layers = [parse_layer(text) for text in _SHAPE.value]
    model = _model()
    if model is not None:
        layers += tune.model_layers(model, _BATCH.value)
    if not layers:
        reason = "the model has no depthwise-separable layers" if model is not None else "nothing to tune"
        raise ValueError(f"{reason}: give --model, --application or --shape")
    options = {"dtype": _DTYPE.value, "seconds": _SECONDS.value, "num_threads": _THREADS.value}
    results = tune.tune(layers, write=not _DRY_RUN.value, progress=_progress, **options)
    _report(results)
    kept = sum(result.kept for result in results)
    print(f"{kept} plans would be kept (dry run)." if _DRY_RUN.value else f"{kept} plans kept in {tune.cache_path()}")
    refused = sum(result.refused != "" for result in results)
    if refused:
        print(f"Not decided, as the machine was not quiet: {refused} of {len(results)} layers. Try again later.")


if __name__ == "__main__":
    app.run(main)
