"""What the commands of this package share: mistakes in one line, exit statuses, and a word on what takes long.

A command exits with 0; with 1 where something failed; with 2 where it was used wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Optional

LOGGER = logging.getLogger("tf_dwsconv")
# What takes no longer than this is not worth a word.
_PATIENCE_SECONDS = 2.0


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with one line, and takes `--batch_size` for `--batch-size`.

    Args:
        command: the command's module behind `tf_dwsconv.`, for example "convert".
        **options: of `argparse.ArgumentParser`.
    """

    def __init__(self, command: str, **options: Any):
        called = os.path.basename(sys.argv[0])
        name = called if called.startswith("tf-dwsconv-") else f"python -m tf_dwsconv.{command}"
        super().__init__(prog=name, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def parse_args(self, args: Optional[Sequence[str]] = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        dashed = [re.sub(r"^--\w+", lambda option: option[0].replace("_", "-"), word) for word in words]
        return super().parse_args(dashed, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints the usage too."""
        self.exit(2, f"error: {one_line(message)} (see --help)\n")


def one_line(words: object) -> str:
    """A message without line breaks."""
    return " ".join(str(words).split())


def number(kind: type, least: float) -> Callable[[str], Any]:
    """For `type` of an argument: an int or a float of at least `least`."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not value >= least:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {what} of at least {least:g}; given {text!r}")
        return value

    return convert


def run(function: Callable[[Any], None], given: Any) -> int:
    """Calls `function(given)`; the exit status, with one line on stderr where it failed."""
    log_progress()
    try:
        function(given)
    except Exception as error:  # of files, of Keras, and of whatever a model is made of
        print(f"error: {one_line(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def log_progress() -> None:
    """Lets the package's log be seen on stderr, unless the program has set it up otherwise."""
    if not LOGGER.handlers and not logging.getLogger().handlers:
        LOGGER.addHandler(logging.StreamHandler())
        LOGGER.setLevel(logging.INFO)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Logs what is going on, once it has taken two seconds."""
    timer = threading.Timer(_PATIENCE_SECONDS, LOGGER.info, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
