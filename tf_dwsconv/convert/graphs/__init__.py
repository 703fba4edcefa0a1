"""TensorFlow graphs that are no Keras models, with their convolutions fused: `convert_saved_model(source, target)`.

    report = tf_dwsconv.convert_saved_model("saved", "fused")   # a SavedModel, or a frozen graph's file
    python -m tf_dwsconv.convert saved fused --report

What is fused, what is not and why: docs/converting.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Optional

from tf_dwsconv._keras_graph import Graph
from tf_dwsconv._tf import library
from tf_dwsconv.convert import rules
from tf_dwsconv.convert._report import Row, format_report
from tf_dwsconv.convert._search import Search
from tf_dwsconv.convert.graphs import _builtin, _freeze, _networks, _rewrite, _rows, _whole
from tf_dwsconv.convert.graphs._reader import Reader
from tf_dwsconv.convert.graphs._source import PathLike, Signature, open_source
from tf_dwsconv.convert.graphs._write import check_target, write
from tf_dwsconv.convert.network import _save

__all__ = ["convert_saved_model", "unfuse_saved_model"]


def convert_saved_model(
    source: PathLike,
    target: PathLike,
    *,
    signatures: Optional[Iterable[str]] = None,
    fuse: str = "network",
    verbose: bool = False,
    tags: Optional[Sequence[str]] = None,
    inputs: Optional[Sequence[str]] = None,
    outputs: Optional[Sequence[str]] = None,
    overwrite: bool = False,
    check: Optional[Callable[[Any, str], None]] = None,
) -> tuple[Row, ...]:
    """Writes a SavedModel with fused convolutions that answers as another one, or a frozen graph, does.

    Variables that no signature writes become constants, and batch norms are folded. What cannot be frozen, such as
    tables and variables that are written, and all nodes that no rule knows, stay as they are.

    Args:
        source: a SavedModel's folder, of TensorFlow 1 or 2, or a file with a frozen GraphDef.
        target: the folder to write. It loads where `tf_dwsconv` is imported.
        signatures: names of the signatures to write; None for all.
        fuse: "network" makes one op of each large part that a program can compute; "blocks" one of each block.
        verbose: whether to print the report.
        tags: of the graph to read, where a SavedModel holds several.
        inputs, outputs: tensors of a GraphDef, by name; None for its placeholders, and for what no node reads. Their
            signature is "serving_default".
        overwrite: whether to write over a SavedModel that is there.
        check: is called with what was opened and the folder of the new SavedModel before that takes its place; what it
            raises leaves all as it was.

    Returns:
        The report: a `Row` for each convolution, as `convert.report` has them for Keras models, and one for each thing
        that is kept or left out.

    Raises:
        TypeError, ValueError: an argument that cannot be, by name; a file that cannot be read or written.

    Example:

    >>> import tempfile
    >>> import keras
    >>> import tf_dwsconv
    >>> model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.SeparableConv2D(6, 3, name="conv")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.export(f"{folder}/saved", verbose=False)
    ...     rows = tf_dwsconv.convert_saved_model(f"{folder}/saved", f"{folder}/fused")
    >>> [row.pattern for row in rows if row.fused]
    ['depthwise + 1x1']
    """
    if fuse not in ("network", "blocks"):
        raise ValueError(f"`fuse` must be 'network' or 'blocks'; given {fuse!r}.")
    path = check_target(target, source, overwrite)
    if library.block_op() is None:
        reason = "DWSCONV_DISABLE is set" if library.disabled() else library.load().reason
        raise ValueError(f"a graph with ops of this package needs its op library: {reason}")
    opened = open_source(source, signatures, tags, inputs, outputs)
    rows: list[Row] = []
    for signature in opened.signatures:
        if len(opened.signatures) > 1:
            same = "" if signature.like is None else f"it is {signature.like!r} under another name"
            rows.append(Row("signature", (signature.name,), None, same))
        if signature.like is None:
            rows += _fuse(signature, fuse)
    rows += _rows.of_source(opened)
    write(opened, path, check)
    if verbose:
        print(format_report(rows))
    return tuple(rows)


def unfuse_saved_model(
    source: PathLike,
    target: PathLike,
    *,
    signatures: Optional[Iterable[str]] = None,
    tags: Optional[Sequence[str]] = None,
    inputs: Optional[Sequence[str]] = None,
    outputs: Optional[Sequence[str]] = None,
    overwrite: bool = False,
    check: Optional[Callable[[Any, str], None]] = None,
) -> int:
    """Writes a SavedModel of stock ops that answers as one with ops of this package: the way back.

    Args:
        source, target, signatures, tags, inputs, outputs, overwrite, check: as of `convert_saved_model`.

    Returns:
        How many ops of this package there were.

    Raises:
        TypeError, ValueError: as `convert_saved_model`; or an op of this package is where it cannot be replaced.
    """
    path = check_target(target, source, overwrite)
    opened = open_source(source, signatures, tags, inputs, outputs)
    count = sum(_builtin.unfuse(signature) for signature in opened.signatures if signature.like is None)
    write(opened, path, check)
    return count


def save_network(source: PathLike, path: PathLike, *, overwrite: bool = False, **options: Any) -> None:
    """Writes the file of the network that a signature is; options as of `open_source`."""
    _save.write(*_whole.program_of(open_source(source, **options).signatures), path, overwrite)


def is_path(model: Any) -> bool:
    """Whether something names a file or a folder."""
    return isinstance(model, (str, os.PathLike))


def _fuse(signature: Signature, fuse: str) -> list[Row]:
    """Fuses what can be in the graph of a signature; says what became of each convolution."""
    nodes = signature.nodes
    reader = Reader(nodes)
    rows = _rows.Rows(reader)
    if reader.model is not None:
        search = Search(Graph(reader.model), rules.INFERENCE)
        rows.searched(search)
        for found in search.found:
            emission = found.emission
            inputs, out = [reader.ref(t) for t in emission.inputs], reader.ref(emission.out)
            if out is None or None in inputs:
                rows.not_placed(found)
                continue
            rows.placed(found, out)
            _rewrite.put(nodes, found, emission, [ref for ref in inputs if ref is not None], out)
        _freeze.plain(nodes)
    if fuse == "network":
        _networks.join(nodes, rows)
        _freeze.plain(nodes)
    return rows.close()
