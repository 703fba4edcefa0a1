"""Data-parallel training: many workers compute what one does, and go on where they were when one of them dies.

All over the loopback interface, on ports that are free.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, python_environment, run_example
from learning import backup, workers
from some_commits import one_commit_in_four

PROGRAM = "training/train_distributed.py"
EPOCHS = 3


def train(folder, *flags, **options):
    done = run_example(PROGRAM, f"--epochs={EPOCHS}", f"--output={folder}", *flags, **options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout, *results(folder)


def results(folder):
    record = json.loads((folder / "run.json").read_text())
    with np.load(folder / "weights.npz") as arrays:
        weights = [arrays[name] for name in arrays.files]
    return record, weights


def column(record, key):
    return [row[key] for row in record["history"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """One worker with the whole batch, then two."""
    folder = tmp_path_factory.mktemp("compare")
    printed, record, weights = train(folder, "--compare")
    return printed, record, weights, results(folder / "one_worker")


def test_two_workers_train_as_one_with_the_whole_batch(undisturbed):
    printed, two, weights, (one, alone) = undisturbed
    assert (one["settings"]["workers"], two["settings"]["workers"]) == (1, 2)
    assert two["settings"]["tf_dwsconv_runs"] == "fused kernels"
    losses = np.array([column(one, "loss"), column(two, "loss")])
    assert losses.shape == (2, EPOCHS) and (np.diff(losses) < 0).all()
    # Sums in another order differ by roundings, which each of the 44 steps of an epoch enlarges.
    relative = np.abs(losses[1] / losses[0] - 1)
    assert relative[0] < 1e-5 and relative[1] < 1e-3 and relative[2] < 1e-2
    assert len(weights) == len(alone)
    for a, b in zip(weights, alone):
        assert np.abs(a - b).max() < 0.02 * np.abs(b).max()
    assert f"{losses[1][0]:.6f}" in printed.splitlines()[-EPOCHS - 1]


@one_commit_in_four(3, "its processes take most of a minute")
def test_a_killed_worker_loses_the_unfinished_epoch_alone(undisturbed, tmp_path):
    _, expected, weights, _ = undisturbed
    printed, record, found = train(tmp_path, "--crash=1,2,20")
    assert "kills itself in epoch 2, step 20" in printed and "was ended by signal 9" in printed
    assert "attempt 2" in printed and "starts after epoch 1" in printed
    # The first epoch was not done again, the second was, and no bit tells that anything happened.
    attempts = column(record, "attempt")
    assert attempts[0] == 1 and min(attempts[1:]) >= 2
    assert column(record, "loss") == column(expected, "loss")
    assert column(record, "test_accuracy") == column(expected, "test_accuracy")
    for a, b in zip(found, weights):
        np.testing.assert_array_equal(a, b)
    assert not list((tmp_path / "backup").iterdir())


@one_commit_in_four(4, "its processes take most of a minute")
def test_a_cluster_by_tf_config_survives_its_chief(undisturbed, tmp_path):
    """Two machines' programs, each with its own TF_CONFIG: both see the death, and start their workers again."""
    _, expected, _, _ = undisturbed
    programs = []
    for i, extra in enumerate(workers.loopback_cluster(2)):
        flags = ["--epochs=2", "--crash=0,2,20", f"--output={tmp_path / str(i)}", f"--backup_dir={tmp_path / 'b'}"]
        command = [sys.executable, str(ROOT / "examples" / PROGRAM), *flags]
        environment = python_environment(**extra)
        programs.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        printed = [program.communicate(timeout=240)[0].decode() for program in programs]
    finally:
        for program in programs:
            program.kill()
    assert [program.returncode for program in programs] == [0, 0], "\n".join(printed)
    assert "was ended by signal 9" in printed[0] and "lost another worker" in printed[1]
    record, _ = results(tmp_path / "0")
    assert column(record, "loss") == column(expected, "loss")[:2]
    assert column(record, "attempt")[1] >= 2
    assert not (tmp_path / "1" / "run.json").exists()  # the chief writes


def test_replicas_in_one_process_train_as_one(undisturbed, tmp_path):
    _, _, _, (one, _) = undisturbed
    _, record, _ = train(tmp_path, "--workers=1", "--replicas=2", "--epochs=2")
    assert record["settings"]["replicas"] == 2
    np.testing.assert_allclose(column(record, "loss"), column(one, "loss")[:2], rtol=1e-3)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_program(tmp_path, number):
    command = [sys.executable, "-u", str(ROOT / "examples" / PROGRAM), f"--output={tmp_path}", "--epochs=100000"]
    pids = []
    with subprocess.Popen(
        command, env=python_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        try:
            while len(pids) < 2:
                line = program.stdout.readline()
                assert line, "the program ended"
                pids += [int(word) for word in line.replace(",", "").split() if word.isdigit() and int(word) > 100]
            assert all(map(alive, pids))
            program.send_signal(number)
            program.wait(60)
            end = time.monotonic() + 60
            while any(map(alive, pids)) and time.monotonic() < end:
                time.sleep(0.05)
            assert not any(map(alive, pids))
        finally:
            program.kill()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


CLUSTER = {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a cluster's description"),
        ("[]", "not a cluster's description"),
        (json.dumps({"cluster": CLUSTER}), "KeyError"),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}), "names the task worker 2"),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "ps", "index": 0}}), "names the task ps 0"),
    ],
)
def test_wrong_tf_config_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        workers.read_cluster(text)
    done = run_example(PROGRAM, f"--output={tmp_path}", TF_CONFIG=text)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_rank_in_a_cluster_with_a_chief():
    cluster = {"chief": ["127.0.0.1:1"], **CLUSTER}
    for rank, task in enumerate([("chief", 0), ("worker", 0), ("worker", 1)]):
        text = json.dumps({"cluster": cluster, "task": {"type": task[0], "index": task[1]}})
        assert workers.read_cluster(text) == (3, rank, 0)


def test_workers_are_restarted_so_often_and_no_more(capfd):
    def command(attempt):
        return [sys.executable, "-c", f"print('attempt {attempt}', flush=True); raise SystemExit({attempt} < 2)"]

    assert workers.run(command, lambda: [{}, {}], 2) == 2
    with pytest.raises(workers.WorkerError, match="ended with status 1"):
        workers.run(command, lambda: [{}], 1)
    printed = capfd.readouterr().out
    assert "restart 2 of 2 at most" in printed and printed.count("attempt 2") == 2
    with pytest.raises(workers.WorkerError, match="status 2"):  # it would only end so again
        workers.run(lambda attempt: [sys.executable, "-c", "raise SystemExit(2)"], lambda: [{}], 5)
    assert "restart" not in capfd.readouterr().out


class TestBackup:
    """The folder of backups, whatever happened to who wrote it."""

    @pytest.fixture
    def model(self):
        import keras

        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.Adam(0.1), "mse")
        model.fit(np.ones((4, 2)), np.ones((4, 3)), verbose=0)
        return model

    def changed(self, model):
        for variable in [*model.variables, *model.optimizer.variables]:
            variable.assign(variable + 1)

    def state(self, model):
        return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]

    def test_restores_weights_and_optimizer(self, tmp_path, model):
        own = backup.Backup(tmp_path, model, {"seed": 1}, writes=True)
        assert own.restore() == []
        kept = self.state(model)
        own.save([{"epoch": 1}])
        self.changed(model)
        assert own.restore() == [{"epoch": 1}]
        for a, b in zip(self.state(model), kept):
            np.testing.assert_array_equal(a, b)
        own.save([{"epoch": 1}, {"epoch": 2}])
        assert [path.name for path in tmp_path.iterdir()] == ["epoch-000002"]

    def test_a_backup_that_was_being_written_does_not_count(self, tmp_path, model):
        own = backup.Backup(tmp_path, model, {}, writes=True)
        own.save([{"epoch": 1}])
        (tmp_path / "epoch-000002.unfinished").mkdir()
        (tmp_path / "epoch-000002.unfinished" / "latest.weights.h5").write_bytes(b"half")
        assert own.restore() == [{"epoch": 1}]
        own.save([{"epoch": 1}, {"epoch": 2}])
        assert len(own.restore()) == 2
        own.remove()
        assert not list(tmp_path.iterdir())

    def test_only_the_chief_writes(self, tmp_path, model):
        other = backup.Backup(tmp_path, model, {}, writes=False)
        other.save([{"epoch": 1}])
        assert not list(tmp_path.iterdir())

    def test_another_run_or_damage_is_refused(self, tmp_path, model):
        own = backup.Backup(tmp_path, model, {"seed": 1}, writes=True)
        own.save([{"epoch": 1}])
        with pytest.raises(backup.BackupError, match="another run"):
            backup.Backup(tmp_path, model, {"seed": 2}, writes=True).restore()
        weights = tmp_path / "epoch-000001" / "latest.weights.h5"
        weights.write_bytes(weights.read_bytes()[:100])
        with pytest.raises(backup.BackupError, match="cannot be read"):
            own.restore()
