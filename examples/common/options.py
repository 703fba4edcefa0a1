"""Flags that mean the same in all programs, each defined once, and mistakes in them, answered by one line.

A flag that cannot be read is an error of absl's, which names it: `flag --shape=1,2: must be ...`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Optional

from absl import app, flags

from common.layer_table import Layer

# They are the programs' flags: --help shows them.
flags.disclaim_key_flags()

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def images(what: str) -> Any:
    """Pictures."""
    return flags.DEFINE_multi_string("image", [], what)


class _Sizes(flags.ArgumentParser):
    """A list of positive integers, as a tuple; as many as there are names, or any number."""

    def __init__(self, names: str = ""):
        super().__init__()
        self.count = len(names.split(",")) if names else 0
        what = f"{self.count} positive integers {names}" if names else "positive integers with commas between"
        self.syntactic_help = what

    def parse(self, argument: Any) -> tuple[int, ...]:
        words = argument.split(",") if isinstance(argument, str) else [str(number) for number in argument]
        good = all(word.strip().isdigit() and int(word) > 0 for word in words)
        if not good or len(words) != (self.count or len(words)):
            raise ValueError(f"must be {self.syntactic_help}")
        return tuple(map(int, words))

    def flag_type(self) -> str:
        return "sizes"


class _Words(flags.ArgumentParser):
    """A list of different words, each one of those that are allowed."""

    def __init__(self, allowed: Iterable[str]):
        super().__init__()
        self.allowed = list(allowed)
        self.syntactic_help = f"different ones of {', '.join(self.allowed)}, with commas between"

    def parse(self, argument: Any) -> list[str]:
        words = argument.split(",") if isinstance(argument, str) else list(argument)
        if not words or len(set(words)) < len(words) or not set(words) <= set(self.allowed):
            raise ValueError(f"must be {self.syntactic_help}")
        return words

    def flag_type(self) -> str:
        return "words"


class _Commas(flags.ArgumentSerializer):
    """How a list is written in a command."""

    def serialize(self, value: Any) -> str:
        return ",".join(map(str, value))


def no_arguments(argv: list[str]) -> None:
    """Raises UsageError for words that belong to no flag."""
    if len(argv) > 1:
        raise app.UsageError(f"no plain arguments are taken; given {argv[1:]}")


def words(name: str, default: Sequence[str], allowed: Iterable[str], text: str) -> flags.FlagHolder:
    """A flag that takes some of the words that are allowed."""
    allowed = list(allowed)
    return flags.DEFINE(_Words(allowed), name, list(default), f"{text} {', '.join(allowed)}.", serializer=_Commas())


def sizes(name: str, default: Sequence[int], text: str) -> flags.FlagHolder:
    """A flag that takes any number of positive integers."""
    return flags.DEFINE(_Sizes(), name, tuple(default), text, serializer=_Commas())


def shape(name: str, default: Optional[str], text: str) -> flags.FlagHolder:
    """A flag that takes one tensor N,H,W,C."""
    return flags.DEFINE(_Sizes("N,H,W,C"), name, default, text, serializer=_Commas())


def integer(name: str, default: int, text: str, low: int, high: Optional[int] = None) -> flags.FlagHolder:
    """A flag that takes one whole number."""
    return flags.DEFINE_integer(name, default, text, lower_bound=low, upper_bound=high)


def kernel_size() -> flags.FlagHolder:
    """The flag `--kernel_size`."""
    return integer("kernel_size", 3, "Rows and columns of the layers' depthwise filters.", 1)


def batch_size(default: int, text: str = "Pictures a batch.", most: int = 65536) -> flags.FlagHolder:
    """The flag `--batch_size`."""
    return integer("batch_size", default, text, 1, most)


def size(default: int, text: str = "Rows and columns of the pictures, pixels.", least: int = 1) -> flags.FlagHolder:
    """The flag `--size`."""
    return integer("size", default, text, least, 4096)


def threads(text: str = "Threads; 0 for all cores.") -> flags.FlagHolder:
    """The flag `--threads`."""
    return integer("threads", 0, text, 0, 1024)


def repeat(default: int, text: str = "Timed calls of each, at the most.") -> flags.FlagHolder:
    """The flag `--repeat`."""
    return integer("repeat", default, text, 1)


def seconds(default: float, text: str = "Seconds after which one is not called again.") -> flags.FlagHolder:
    """The flag `--seconds`."""
    return flags.DEFINE_float("seconds", default, text, lower_bound=0.0)


def seed(default: int = 0, text: str = "Of the random arrays.") -> flags.FlagHolder:
    """The flag `--seed`."""
    return integer("seed", default, text, 0, 2**31 - 1)


def dtype(text: str = "Of all arrays.") -> flags.FlagHolder:
    """The flag `--dtype`."""
    return flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], text)


def dtype_policy() -> flags.FlagHolder:
    """The flag `--dtype_policy`."""
    return flags.DEFINE_enum(
        "dtype_policy",
        "float32",
        POLICIES,
        "Keras' policy: mixed ones compute in 16 bits and keep float32 weights; mixed_float16 also scales the loss.",
    )


def model(default: str, text: str) -> flags.FlagHolder:
    """The flag `--model`."""
    return flags.DEFINE_string("model", default, text)


def name() -> flags.FlagHolder:
    """The flag `--name`."""
    return flags.DEFINE_string("name", "network", "Of the model, in the paths of the server.")


def learning_rate(default: float, text: str) -> flags.FlagHolder:
    """The flag `--learning_rate`."""
    return flags.DEFINE_float("learning_rate", default, text, lower_bound=1e-7, upper_bound=1.0)


def epochs(default: int, text: str) -> flags.FlagHolder:
    """The flag `--epochs`."""
    return integer("epochs", default, text, 1)


def plot(file: str) -> flags.FlagHolder:
    """The flag `--plot`."""
    return flags.DEFINE_bool("plot", True, f"Draw {file} (needs matplotlib).")


def output(program: str, holds: str) -> flags.FlagHolder:
    """The flag `--output`."""
    return flags.DEFINE_string("output", f"output/{program}", f"Folder for {holds}.")


def use_threads(count: int) -> None:
    """Gives TensorFlow's ops so many threads; 0 leaves that to TensorFlow. Before its first op."""
    if count:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(count)


class LayerFlags:
    """The flags `--shape`, `--filters`, `--kernel_size` and `--strides`.

    Args:
        otherwise: what is taken where no --shape is given, a sentence.
    """

    def __init__(self, otherwise: str):
        self._shapes = flags.DEFINE_multi(
            _Sizes("N,H,W,C"), _Commas(), "shape", [], f"Input N,H,W,C of a layer; repeatable. {otherwise}"
        )
        self._filters = flags.DEFINE_multi_integer(
            "filters", [], "Output channels, one for each --shape, or one for all.", lower_bound=1
        )
        self.kernel_size = kernel_size()
        self.strides = integer("strides", 1, "Of the layers, along both axes.", 1)

    def chosen(self) -> list[Layer]:
        """The layers of --shape; raises UsageError where --filters does not fit."""
        shapes, filters = self._shapes.value, self._filters.value
        if len(filters) != len(shapes) and not (shapes and len(filters) == 1):
            raise app.UsageError(
                f"--filters must be one for each --shape or one for all; given {len(filters)} for {len(shapes)}"
            )
        filters = filters * len(shapes) if len(filters) == 1 else filters
        return [Layer(*shape, k, self.kernel_size.value, self.strides.value) for shape, k in zip(shapes, filters)]
