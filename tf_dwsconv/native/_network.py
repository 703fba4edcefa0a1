"""Whole networks on NumPy arrays, without TensorFlow."""

from __future__ import annotations

import os
from typing import Any

from tf_dwsconv import _native


class Network(_native.Network):
    """A whole network from a file (docs/program.md), run without TensorFlow.

    >>> network = Network("mobilenet_v2.safetensors")  # doctest: +SKIP
    >>> probabilities = network(images)  # doctest: +SKIP

    `str(network)` is its program: a JSON text, a line for each step. `inputs` and `outputs` are lists of dicts with the
    name, the shape (None for a size that each call brings) and the dtype of each tensor.

    Args:
        path: the file, as `tf_dwsconv.save_network` writes it.
        isa: as in `native.depthwise_sep_conv2d`.

    Call arguments:
        x: an array of the network's dtype; where it has several inputs, a list of arrays in the order of `inputs`, or
            a dict by their names. Sizes that `inputs` shows as None may differ between calls.
        out: where to put the result: a C-contiguous, writeable array of the output's shape and dtype that shares no
            memory with x, or a list of those, one for each of `outputs`. None for new arrays.
        num_threads: as in `native.depthwise_sep_conv2d`.
        Returns `out`, or a new array; a list of them where there are several outputs.

    Raises:
        OSError: the file cannot be opened.
        TypeError, ValueError: a file that is broken or holds no program; an array of a wrong dtype or shape.
        MemoryError: no memory for the weights, the result or what lies between the steps.

    Source: Keras models, by `tf_dwsconv.convert`.
    """

    def __init__(self, path: str | bytes | os.PathLike[str], *, isa: str | None = None):
        path = os.fspath(path)
        with open(path, "rb"):  # for Python's own errors
            pass
        super().__init__(os.fsencode(path), isa)

    @classmethod
    def from_program(cls, text: str, weights: Any, *, isa: str | None = None) -> Network:
        """The network of a program's text and its flat weights, an array `[count]` of the program's dtype.

        Raises:
            TypeError, ValueError: a text that is no program; weights of a wrong dtype or shape.
        """
        network = cls.__new__(cls)
        _native.Network.__init__(network, text, weights, isa)
        return network

    def profile(self, x: Any, num_threads: int = 0, repeats: int = 10) -> list[dict[str, Any]]:
        """What each step takes: the least of `repeats` calls, each step by itself.

        Args:
            x, num_threads: as in a call.
            repeats: how often the network runs, besides once to warm up.

        Returns:
            a dict for each step: step (its number), op, name, shape (of its output), ms, gflops (10^9 operations a
            second, a multiply-add counting two), gbs (10^9 bytes a second of all that it reads and writes once). A step
            that another one has taken in (docs/kernels.md, "Programs") has 0 in all three.
        """
        return super().profile(x, num_threads, repeats)
