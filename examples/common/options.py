"""Flags of the benchmark programs: what they share, and mistakes in them, answered by one line."""

from __future__ import annotations

from typing import Any

from absl import app

LETTERS = {4: "N,H,W,C", 5: "N,H,W,C,K"}


def no_arguments(argv: list[str]) -> None:
    """Raises UsageError for words that belong to no flag."""
    if len(argv) > 1:
        raise app.UsageError(f"no plain arguments are taken, got {argv[1:]}")


def positive_integers(flag: str, words: list[str], what: str = "positive integers") -> list[int]:
    """The numbers of a flag; raises UsageError naming it."""
    if not words or not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise app.UsageError(f"--{flag} must be {what}, got {','.join(words)!r}")
    return [int(word) for word in words]


def shape(flag: str, text: str, count: int) -> tuple[int, ...]:
    """The sizes of one layer, four (N,H,W,C) or five (N,H,W,C,K); raises UsageError naming the flag."""
    what = f"{'four' if count == 4 else 'five'} positive integers {LETTERS[count]}"
    sizes = positive_integers(flag, text.split(","), what)
    if len(sizes) != count:
        raise app.UsageError(f"--{flag} must be {what}, got {text!r}")
    return tuple(sizes)


def words_of(flag: str, words: list[str], allowed: Any) -> list[str]:
    """The different words of a flag, each of `allowed`; raises UsageError naming it."""
    if not words or len(set(words)) < len(words) or not set(words) <= set(allowed):
        raise app.UsageError(f"--{flag} must be different ones of {', '.join(allowed)}; got {','.join(words)!r}")
    return list(words)
