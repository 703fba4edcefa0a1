"""Rows of measurements as they come: a visit to a card may end at any time. Needs neither PyTorch nor a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable, Optional


class Rows:
    """Rows, each printed and added to a file as soon as it is there. A measurement that fails is a row with its error.

    Args:
        path: a file of one JSON object a line, or None.
    """

    def __init__(self, path: Optional[Path] = None):
        self._path, self.kept = path, []

    def add(self, what: dict, measure: Callable[[], dict]) -> dict:
        """The row {**what, **measure()}; what `measure` raises is its "error"."""
        try:
            row = {**what, **measure()}
        except Exception as error:  # whatever it is, the next rows are wanted
            row = {**what, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        line = json.dumps(row)
        print(line, flush=True)
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        self.kept.append(row)
        return row

    @property
    def good(self) -> list[dict]:
        """Those that were measured."""
        return [row for row in self.kept if "error" not in row]

    @property
    def failed(self) -> bool:
        return len(self.good) < len(self.kept)


def table(rows: list[dict]) -> str:
    """Rows as Markdown, of all their columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def show(value):
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(show(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"
