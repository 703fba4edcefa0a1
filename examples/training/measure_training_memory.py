"""Peak memory of one training step through a stack of depthwise-separable layers: stock Keras beside tf_dwsconv.

  python examples/training/measure_training_memory.py  # ten layers, 32 x 56 x 56 x 128, float32
  python examples/training/measure_training_memory.py --layers=4 --shape=8,28,28,256 --activation=none

Each kind of layer runs in a process of its own: builds the stack, warms up with one picture, then takes a step with the
whole batch (forward, gradients of all weights, SGD). Two figures of MiB are printed for each: `step`, by how much the
process's resident memory rose above what it was before the step, as Linux tells its highest (VmHWM), and `process`, the
highest resident memory of the whole process (getrusage). Where TensorFlow counts what its CPU allocator has handed out,
that peak is printed too (`tensors`). Linux alone.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: warnings and errors only
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags
from common import options, record

KINDS = ("stock", "ours")
TARGET = 0.65

_LAYERS = options.integer("layers", 10, "How many layers are stacked.", 1, 1000)
_SHAPE = options.shape("shape", "32,56,56,128", "Input N,H,W,C of each; every layer has C filters.")
_KERNEL_SIZE = options.kernel_size()
_ACTIVATION = flags.DEFINE_enum("activation", "relu", ["none", "relu", "relu6", "silu"], "After each layer.")
_POLICY = options.dtype_policy()
_REPEAT = options.repeat(2, "Steps with the whole batch; the highest counts.")
_OUTPUT = options.output("measure_training_memory", "run.json")
_CHILD = flags.DEFINE_enum("child", None, KINDS, "What this program passes to the processes it starts.")

MIB = 2**20


def status_kib(key: str) -> int:
    """A line of /proc/self/status: VmRSS, what is resident now, or VmHWM, the most that was."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status tells no {key}")


def measure(kind: str, shape: tuple[int, ...]) -> dict:
    """Takes the steps in this process; returns the figures in MiB."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tf_dwsconv

    # One op at a time: what two that happen to run together hold would differ from run to run by a tensor.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    layer = {"stock": keras.layers.SeparableConv2D, "ours": tf_dwsconv.DepthwiseSepConv2D}[kind]
    activation = None if _ACTIVATION.value == "none" else _ACTIVATION.value
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape[1:])])
    for _ in range(_LAYERS.value):
        model.add(layer(shape[3], _KERNEL_SIZE.value, padding="same", activation=activation, dtype=_POLICY.value))
    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)

    @tf.function(reduce_retracing=True, input_signature=[tf.TensorSpec([None, *shape[1:]])])
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.cast(model(x, training=True), tf.float32)))
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
        return loss

    x = tf.constant(np.random.default_rng(0).standard_normal(shape, np.float32))
    step(x[:1])
    before = status_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is resident
    counted = reset_allocator()
    start = time.perf_counter()
    losses = [float(step(x)) for _ in range(_REPEAT.value)]
    seconds = (time.perf_counter() - start) / _REPEAT.value
    result = {
        "step": (status_kib("VmHWM") - before) / 1024,
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds": seconds,
        "loss": losses[0],
        "settings": record.settings(),
    }
    if counted is not None:
        result["tensors"] = (tf.config.experimental.get_memory_info("CPU:0")["peak"] - counted) / MIB
    return result


def reset_allocator() -> int | None:
    """Starts the peak of TensorFlow's CPU allocator anew; bytes in use now, None where it keeps no count."""
    import tensorflow as tf

    try:
        tf.config.experimental.reset_memory_stats("CPU:0")
        return tf.config.experimental.get_memory_info("CPU:0")["current"] or None
    except (ValueError, RuntimeError, tf.errors.OpError):
        return None


def run_child(kind: str) -> dict:
    """Measures in a new process, which has freed nothing yet and shares nothing."""
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], f"--child={kind}"]
    # Large blocks go back to the system when they are freed: what stays resident is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MIB), "MALLOC_TRIM_THRESHOLD_": str(MIB)}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-3:])
        record.fail(f"the process with {kind} layers ended with status {done.returncode}:\n{tail}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    shape = _SHAPE.value
    if _CHILD.value:
        print(json.dumps(measure(_CHILD.value, shape)))
        return
    if not Path("/proc/self/clear_refs").exists():
        record.fail("it reads /proc, which Linux alone has")
    output = record.make_folder("output", _OUTPUT.value)
    n, h, w, c = shape
    x_mib = n * h * w * c * (4 if _POLICY.value == "float32" else 2) / MIB
    print(
        f"{_LAYERS.value} layers of {n} x {h} x {w} x {c}, {_KERNEL_SIZE.value}x{_KERNEL_SIZE.value}, "
        f"{_ACTIVATION.value}, {_POLICY.value}; one activation tensor is {x_mib:.1f} MiB"
    )
    found = {}
    for kind in KINDS:
        found[kind] = run_child(kind)
        settings = found[kind].pop("settings")
        if kind == KINDS[0]:
            record.print_settings(settings)
            print(f"\n{'MiB':8}{'step':>10}{'process':>10}{'tensors':>10}{'s a step':>10}")
        row = found[kind]
        tensors = f"{row['tensors']:10.0f}" if "tensors" in row else f"{'-':>10}"
        print(f"{kind:8}{row['step']:10.0f}{row['process']:10.0f}{tensors}{row['seconds']:10.2f}", flush=True)
    keys = [key for key in ("step", "process", "tensors") if all(key in row for row in found.values())]
    ratios = {key: found["ours"][key] / found["stock"][key] for key in keys}
    words = ", ".join(f"{key} {ratio:.2f}" for key, ratio in ratios.items())
    print(f"\nours / stock: {words} (the aim is at most {TARGET} for a step)")
    record.write_json(output / "run.json", {"settings": settings, "MiB": found, "ours_over_stock": ratios})


if __name__ == "__main__":
    app.run(main)
