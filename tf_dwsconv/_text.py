"""Tables of text, for reports and command lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Columns of text, the first `left` of them to the left and the others to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    sides = ["<" if i < left else ">" for i in range(len(widths))]
    lines = ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
