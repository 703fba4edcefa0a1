"""Trains the digits network on several workers, data-parallel, and goes on where it was when one of them dies.

  python examples/training/train_distributed.py                 # 2 workers on this machine, over the loopback interface
  python examples/training/train_distributed.py --compare       # and one worker with the whole batch, side by side
  python examples/training/train_distributed.py --crash=1,2,10  # worker 1 dies in epoch 2, step 10; all resume
  python examples/training/train_distributed.py --workers=1 --replicas=2  # MirroredStrategy over two CPU devices
  TF_CONFIG=... python examples/training/train_distributed.py   # this machine's worker of a cluster

Several workers run under tf.distribute.MultiWorkerMirroredStrategy. Each epoch's end is kept by Keras' BackupAndRestore
in --backup_dir, which in a cluster has to be a folder that all workers see. After a death all workers start again from
there: only the unfinished epoch is done twice. A cluster's machines each run this program with their own TF_CONFIG.
Writes epochs.csv, run.json and weights.npz (of the chief) into --output.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `common`

from absl import app, flags
from common import options, record
from learning import digits, workers

_WORKERS = options.integer("workers", 2, "Processes on this machine; TF_CONFIG decides where it is set.", 1, 64)
_REPLICAS = options.integer("replicas", 1, "Logical CPU devices of a single worker.", 1, 64)
_EPOCHS = options.epochs(6, "Passes over the training pictures.")
_BATCH_SIZE = options.batch_size(32, "Pictures a step, of all replicas together.", digits.TRAINING_PICTURES)
_RATE = options.learning_rate(0.02, "Of SGD with momentum 0.9.")
_SEED = options.seed(1, "Of the initial weights and of the order of the pictures.")
_VARIANT = flags.DEFINE_enum("variant", "ours", ["stock", "ours"], "The network's separable layers.")
_COMPARE = flags.DEFINE_bool("compare", False, "First train one worker with the whole batch, then compare the losses.")
_CRASH = flags.DEFINE_list("crash", [], "worker,epoch,step: which kills itself (SIGKILL) when and once; to try it out.")
_RESTARTS = options.integer("max_restarts", 3, "How often workers may be started again.", 0, 1000)
_OUTPUT = options.output("train_distributed", "the results")
_BACKUP = flags.DEFINE_string("backup_dir", "", "Folder for the backups; OUTPUT/backup where it is empty.")

WORKER = Path(__file__).resolve().parent / "learning" / "worker.py"


def read_flags() -> tuple[int, list[int]]:
    """Checks the flags that depend on each other; returns the number of workers and where to crash."""
    count = _WORKERS.value
    cluster = os.environ.get("TF_CONFIG", "")
    if cluster:
        if flags.FLAGS["workers"].present or _COMPARE.value:
            raise app.UsageError("--workers and --compare are for one machine; TF_CONFIG is set and names a cluster")
        try:
            count = workers.read_cluster(cluster)[0]
        except ValueError as error:
            raise app.UsageError(str(error)) from None
    if count > 1 and _REPLICAS.value > 1:
        raise app.UsageError(f"--replicas is for a single worker; given {_REPLICAS.value} with {count} workers")
    if _BATCH_SIZE.value % (count * _REPLICAS.value):
        raise app.UsageError(
            f"--batch_size must be a multiple of the replicas ({count * _REPLICAS.value}); given {_BATCH_SIZE.value}"
        )
    return count, read_crash(_CRASH.value, count)


def read_crash(words: list[str], count: int) -> list[int]:
    """The numbers of --crash, or none."""
    if not words:
        return []
    bounds = ((0, count - 1), (1, _EPOCHS.value), (1, digits.TRAINING_PICTURES // _BATCH_SIZE.value))
    numbers = [int(word) if word.strip().isdigit() else -1 for word in words]
    if len(numbers) != 3 or not all(low <= number <= high for number, (low, high) in zip(numbers, bounds)):
        allowed = ", ".join(f"{name} {low}..{high}" for name, (low, high) in zip(("worker", "epoch", "step"), bounds))
        raise app.UsageError(f"--crash must be worker,epoch,step ({allowed}); given {','.join(words)!r}")
    return numbers


def train(count: int, replicas: int, output: Path, backup: Path, crash: list[int]) -> int:
    """Runs the workers; returns how often they were started again."""
    output.mkdir(parents=True, exist_ok=True)
    config = {flag.name: flag.value for flag in (_EPOCHS, _BATCH_SIZE, _RATE, _SEED, _VARIANT)}
    config.update(replicas=replicas, output=str(output), backup_dir=str(backup), crash=crash, parent=os.getpid())

    def command(attempt: int) -> list[str]:
        return [sys.executable, str(WORKER), json.dumps({**config, "attempt": attempt})]

    in_cluster = "TF_CONFIG" in os.environ
    return workers.run(command, lambda: [{}] if in_cluster else workers.loopback_cluster(count), _RESTARTS.value)


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in json.loads((output / "run.json").read_text(encoding="utf-8"))["history"]]


def compare(count: int, output: Path, backup: Path, crash: list[int]) -> None:
    """One worker with the whole batch, then all; prints both curves."""
    alone = output / "one_worker"
    shutil.rmtree(alone / "backup", ignore_errors=True)
    train(1, 1, alone, alone / "backup", [])
    train(count, _REPLICAS.value, output, backup, crash)
    pairs = list(zip(losses(alone), losses(output)))
    print("epoch   loss of one worker   loss of all   relative difference")
    for epoch, (one, many) in enumerate(pairs, start=1):
        print(f"{epoch:5}   {one:18.6f}   {many:11.6f}   {abs(one - many) / one:19.1e}")


def main(argv: list[str]) -> None:
    options.no_arguments(argv)
    count, crash = read_flags()
    output = record.make_folder("output", _OUTPUT.value)
    backup = record.make_folder("backup_dir", _BACKUP.value or str(output / "backup"))
    try:
        if _COMPARE.value:
            compare(count, output, backup, crash)
        else:
            train(count, _REPLICAS.value, output, backup, crash)
    except workers.WorkerError as error:
        print(f"train_distributed: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"done; the chief's results are in {output}")


if __name__ == "__main__":
    app.run(main)
