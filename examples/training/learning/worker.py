"""One worker of train_distributed.py, which starts it: `python worker.py JSON`.

Keras 3's `fit` does not run under MultiWorkerMirroredStrategy (keras-team/keras issue 20585), so the loop is written
out here. It is the same for one process, for replicas in one process and for many workers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `learning`
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `common`
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from common import record

from learning import digits, workers
from learning.backup import Backup, BackupError


class Worker:
    """A replica or more of the model, and its share of every batch."""

    def __init__(self, config: dict):
        self.config = config
        self.count, self.rank, chief = 1, 0, 0
        if "TF_CONFIG" in os.environ:
            self.count, self.rank, chief = workers.read_cluster(os.environ["TF_CONFIG"])
        self.is_chief = self.rank == chief
        self.strategy = self._make_strategy()
        self.data = digits.load()
        self.steps = len(self.data.train_y) // config["batch_size"]
        self.model = self._make_model()

    def _make_strategy(self) -> Any:
        """Before anything else of TensorFlow: the cluster's server and logical devices cannot be had later."""
        import tensorflow as tf

        replicas = self.config["replicas"]
        if "TF_CONFIG" in os.environ:
            return tf.distribute.MultiWorkerMirroredStrategy()
        if replicas == 1:
            return tf.distribute.get_strategy()
        devices = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])

    def _make_model(self) -> Any:
        import keras

        import tf_dwsconv

        kinds = {"stock": keras.layers.SeparableConv2D, "ours": tf_dwsconv.DepthwiseSepConv2D}
        keras.utils.set_random_seed(self.config["seed"])
        with self.strategy.scope():
            # No batch norm: its statistics are of one replica's pictures, and N replicas would train another network.
            model = digits.network(kinds[self.config["variant"]], batch_norm=False)
            model.compile(keras.optimizers.SGD(self.config["learning_rate"], momentum=0.9))
            model.optimizer.build(model.trainable_variables)
        return model

    def batches(self, epoch: int) -> Any:
        """This worker's part of every batch of an epoch. Together the replicas see what one of them would alone."""
        import tensorflow as tf

        replicas, batch = self.strategy.num_replicas_in_sync, self.config["batch_size"]
        order = digits.epoch_order(self.config["seed"], epoch, len(self.data.train_y))[: self.steps * batch]

        def share(context: Any) -> Any:
            local = replicas // context.num_input_pipelines
            first = context.input_pipeline_id * local
            parts = order.reshape(self.steps, replicas, batch // replicas)[:, first : first + local]
            parts = parts.reshape(self.steps * local, -1)
            return tf.data.Dataset.from_tensor_slices((self.data.train_x[parts], self.data.train_y[parts]))

        return self.strategy.distribute_datasets_from_function(share)

    def training_step(self) -> Any:
        """A function of a batch that takes one step on all replicas, and returns the loss of the whole batch."""
        import keras
        import tensorflow as tf

        model, batch = self.model, self.config["batch_size"]

        def on_replica(x, y):
            with tf.GradientTape() as tape:
                logits = model(x, training=True)
                losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
                loss = tf.reduce_sum(losses) / batch  # gradients and losses of replicas are summed
            weights = model.trainable_variables
            model.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
            return loss

        @tf.function
        def step(x, y):
            return self.strategy.reduce("SUM", self.strategy.run(on_replica, args=(x, y)), axis=None)

        return step

    def accuracy(self) -> float:
        logits = self.model(self.data.test_x, training=False)
        return float(np.mean(np.argmax(logits, axis=-1) == self.data.test_y))

    def check_same_start(self, epoch: int) -> None:
        """Ends this worker where others restored another epoch: the chief was still writing. All start again then."""
        import tensorflow as tf

        if self.count == 1:
            return
        start = self.strategy.gather(tf.constant([epoch]), axis=0).numpy()
        if start.min() != start.max():
            raise SystemExit(f"workers found backups of different epochs ({start}): do all see the same --backup_dir?")

    def train(self) -> None:
        """All epochs that are not done yet; the chief writes down the result."""
        run = {key: self.config[key] for key in ("batch_size", "learning_rate", "seed", "variant")}
        backup = Backup(Path(self.config["backup_dir"]), self.model, run, self.is_chief)
        history = backup.restore()
        self.say(f"attempt {self.config['attempt'] + 1}, pid {os.getpid()}, starts after epoch {len(history)}")
        self.check_same_start(len(history))
        step = self.training_step()
        for epoch in range(len(history), self.config["epochs"]):
            start = time.perf_counter()
            losses = []
            for number, (x, y) in enumerate(self.batches(epoch)):
                self.maybe_crash(epoch, number)
                losses.append(float(step(x, y)))
            row = {"epoch": epoch + 1, "loss": float(np.mean(losses)), "test_accuracy": self.accuracy()}
            history.append({**row, "seconds": time.perf_counter() - start, "attempt": self.config["attempt"] + 1})
            backup.save(history)
            if self.is_chief:
                self.say(
                    f"epoch {epoch + 1:3}/{self.config['epochs']}  loss {row['loss']:.6f}  "
                    f"test accuracy {100 * row['test_accuracy']:6.2f}%  {history[-1]['seconds']:6.2f} s"
                )
        if self.is_chief:
            self.write(history)
        backup.remove()

    def write(self, history: list[dict]) -> None:
        settings = {
            key: self.config[key] for key in ("epochs", "batch_size", "learning_rate", "seed", "variant", "replicas")
        }
        settings = record.settings(**settings, workers=self.count)
        output = Path(self.config["output"])
        record.write_csv(output / "epochs.csv", history)
        np.savez(output / "weights.npz", *self.model.get_weights())
        record.write_json(output / "run.json", {"settings": settings, "history": history})

    def maybe_crash(self, epoch: int, step: int) -> None:
        """Kills this process where --crash asks for it, in the first attempt."""
        if self.config["attempt"] == 0 and self.config["crash"] == [self.rank, epoch + 1, step + 1]:
            self.say(f"kills itself in epoch {epoch + 1}, step {step + 1}, as --crash asks")
            os.kill(os.getpid(), signal.SIGKILL)

    def say(self, text: str) -> None:
        print(f"worker {self.rank}/{self.count}: {text}", flush=True)


def main() -> None:
    config = json.loads(sys.argv[1])
    workers.end_with_parent(config["parent"])
    try:
        worker = Worker(config)
    except (ImportError, OSError) as error:
        record.fail(str(error))
    import tensorflow as tf

    try:
        worker.train()
    except (BackupError, OSError) as error:
        record.fail(str(error))
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        reason = next((line for line in error.message.splitlines() if "aborted" in line), error.message)
        worker.say(f"lost another worker: {reason}")
        os._exit(1)  # the cluster's shutdown would wait for the one that is gone


if __name__ == "__main__":
    main()
