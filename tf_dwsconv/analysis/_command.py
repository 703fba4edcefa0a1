"""What the command lines of the analysis and of the tuner share: layers in words, and errors in one line."""

import functools
import sys

from tf_dwsconv.analysis._optional import require
from tf_dwsconv.analysis.problem import Problem


def parse_layer(text):
    """A layer from N,H,W,C,K[,kernel[,stride]]; x may stand for a comma."""
    try:
        numbers = [int(word) for word in text.replace("x", ",").split(",")]
    except ValueError:
        numbers = []
    if not 5 <= len(numbers) <= 7:
        raise ValueError(f"--shape must be 5 to 7 numbers N,H,W,C,K[,kernel[,stride]], got {text!r}")
    *sizes, kernel, stride = (*numbers, *(3, 1)[len(numbers) - 5 :])
    return Problem(*sizes, R=kernel, S=kernel, stride=stride)


def application(name):
    """A model of keras.applications without weights; None where there is none of that name."""
    make = getattr(require("keras", "a model").applications, name, None)
    return make(weights=None) if callable(make) else None


def main_of(name):
    """Makes a `main` for absl from a function without arguments, for a command line of that name."""

    def decorate(function):
        @functools.wraps(function)
        def main(argv):
            if len(argv) > 1:
                raise require("absl.app", "a command line").UsageError(f"unexpected arguments {argv[1:]}")
            try:
                function()
            except (ImportError, MemoryError, TypeError, ValueError, OSError) as error:
                print(f"{name}: {str(error) or type(error).__name__}", file=sys.stderr)
                return 1
            return 0

        return main

    return decorate
