"""What a run can go on from: Keras' BackupAndRestore, made safe against a death at any moment, and for many workers.

Keras' callback writes two files in place: who dies between them has weights of one epoch and the number of another. So
each epoch's backup is written by the callback into a folder of its own, which gets its name when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

_HISTORY = "history.json"


class BackupError(Exception):
    """A backup that does not belong to this run, or cannot be read."""


class Backup:
    """The backups of one run, in a folder that all its workers see. The chief writes, all read.

    Args:
        folder: where they lie.
        model: built, compiled, its optimizer built too. Its weights and its optimizer's state are what is kept.
        run: what a run depends on, as JSON takes it. A backup of another run is refused.
        writes: whether this worker is the chief.
    """

    def __init__(self, folder: Path, model: Any, run: dict, writes: bool):
        self.folder, self.model, self.run, self.writes = folder, model, run, writes

    def _callback(self, folder: Path) -> Any:
        import keras

        callback = keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)
        callback.set_model(self.model)
        return callback

    def _epochs(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("epoch-??????") if path.is_dir())

    def restore(self) -> list[dict]:
        """Loads the newest backup into the model.

        Returns:
            What `save` was given last: a row for each finished epoch. Empty where there is no backup.

        Raises:
            BackupError: it is of a run with other settings, or damaged.
        """
        folders = self._epochs()
        if not folders:
            return []
        newest = folders[-1]
        try:
            kept = json.loads((newest / _HISTORY).read_text(encoding="utf-8"))
            if kept["run"] != self.run:
                raise BackupError(
                    f"{self.folder} holds the backup of another run ({kept['run']}, not {self.run}); name another "
                    "--backup_dir, or remove it"
                )
            self._callback(newest).on_train_begin()
        except (OSError, KeyError, ValueError) as error:
            raise BackupError(f"the backup in {newest} cannot be read: {error}") from None
        return kept["history"]

    def save(self, history: list[dict]) -> None:
        """Keeps the model after `len(history)` epochs; only the chief does."""
        if not self.writes:
            return
        final = self.folder / f"epoch-{len(history):06}"
        unfinished = final.with_name(final.name + ".unfinished")
        for old in (unfinished, final):
            shutil.rmtree(old, ignore_errors=True)
        unfinished.mkdir(parents=True)
        self._callback(unfinished).on_epoch_end(len(history) - 1)
        (unfinished / _HISTORY).write_text(json.dumps({"run": self.run, "history": history}), encoding="utf-8")
        os.rename(unfinished, final)
        for old in self._epochs()[:-1]:
            shutil.rmtree(old, ignore_errors=True)

    def remove(self) -> None:
        """Removes all backups: the run is over. Only the chief does."""
        if self.writes:
            for old in self.folder.glob("epoch-*"):
                shutil.rmtree(old, ignore_errors=True)
