"""The text of programs: read, written, refused; and the shapes of their tensors."""

from __future__ import annotations

import json

import pytest
from program_support import program

from tf_dwsconv import _program_shapes
from tf_dwsconv._program import Program

CHAIN = {"op": "chain", "x": 0, "output": 1, "weights": {"depthwise_filter": 0, "pointwise_filter": 1}}
WEIGHTS = [[3, 3, 4, 1], [1, 1, 4, 6]]
IMAGE = {0: [None, 8, None, 4]}


def small(**changes):
    return program([{**CHAIN, **changes}], IMAGE, [1], WEIGHTS)


def test_a_text_is_read_and_written():
    """What has its default is left out; what comes out reads the same."""
    steps = [
        {**CHAIN, "strides": [2, 1], "padding": [[0, 1], [2, 3]], "activation": {"word": "relu", "max_value": 4}},
        {"op": "mean", "x": 1, "output": 5, "keepdims": True},
        {"op": "multiply", "x": 1, "y": 5, "output": 2, "activation": {"word": "leaky_relu", "alpha": 0.5}},
        {"op": "max_pool", "x": 2, "output": 3, "window": [2, 2]},
        {"op": "reshape", "x": 3, "output": 4, "shape": [-1, 6]},
    ]
    parsed = Program.from_text(program(steps, IMAGE, [4, 0], WEIGHTS))
    assert Program.from_text(parsed.text) == parsed
    written = json.loads(parsed.text)["steps"]
    assert {key: written[0][key] for key in ("strides", "padding", "activation")} == {
        "strides": [2, 1], "padding": [[0, 1], [2, 3]], "activation": {"word": "relu", "max_value": 4.0},
    }  # fmt: skip
    assert "dilations" not in written[0] and "strides" not in written[3]
    shapes = _program_shapes.infer(parsed, [[None, 8, None, 4]])
    assert [shapes[t] for t in (1, 5, 2, 3, 4)] == [
        [None, 4, None, 6], [None, 1, 1, 6], [None, 4, None, 6], [None, 2, None, 6], [None, None, 6],
    ]  # fmt: skip
    assert _program_shapes.infer(parsed, [[2, 8, 7, 4]])[4] == [2, 10, 6]


WRONG = {
    "no JSON": ("{", "must be JSON"),
    "infinity": (small().replace('"version": 1', '"version": Infinity'), "it has no Infinity"),
    "no object": ("[]", "must be an object with format"),
    "too deep": ("[" * 100000, "must be JSON"),
    "a newer version": (program([], IMAGE, [0], version=2), "version must be 1"),
    "another format": (program([], IMAGE, [0], format="x"), "format must be 'tf_dwsconv.program'"),
    "a key too many": (program([], IMAGE, [0], notes=""), "must be an object with"),
    "a dtype": (program([], IMAGE, [0], dtype="int8"), "dtype must be one of float32"),
    "a shape": (program([], {0: [-1]}, [0]), "shape must be one or more sizes"),
    "an op": (small(op="lstm"), "step 0 's0': op must be one of chain, dense"),
    "an unknown option": (small(stride=[1, 1]), "'chain' has no 'stride'"),
    "strides": (small(strides=[0, 1]), r"step 0 's0': strides must be two numbers >= 1; given \[0, 1\]"),
    "a fraction": (small(strides=[1.5, 1]), "strides must be"),
    "padding": (small(padding="full"), "padding must be 'same'"),
    "an activation": (small(activation={"word": "swoosh"}), "activation must be an activation"),
    "prelu without slopes": (small(activation={"word": "prelu"}), "without weights.slopes"),
    "an unknown weight": (small(weights={"filter": 0}), "'chain' has no 'weights.filter'"),
    "no filter": (small(weights={"bias": 0}), "one of expand_filter"),
    "a place": (small(weights={"depthwise_filter": 2}), "weights.depthwise_filter must be below 2; given 2"),
    "no input": (small(x=7), "tensor 7 must be an input, or written by an earlier step"),
    "itself": (small(x=1), "tensor 1 must be an input"),
    "written twice": (small(output=0), "output must be a tensor that nothing else writes; given 0"),
    "a large number": (small(output=2**20 + 1), "output must be a number from 0 to 1048576"),
    "an output": (program([], IMAGE, [3]), "output 'out3': tensor 3 must be an input"),
    "no y": (program([{"op": "add", "x": 0, "output": 1}], IMAGE, [1]), "y must be given"),
    "no window": (program([{"op": "max_pool", "x": 0, "output": 1}], IMAGE, [1]), "needs 'window'"),
    "size and scale": (
        program([{"op": "resize", "x": 0, "output": 1, "method": "nearest"}], IMAGE, [1]), "one of scale and size",
    ),
    "pairs below 0": (
        program([{"op": "crop", "x": 0, "output": 1, "croppings": [[0, 0], [-1, 0]]}], IMAGE, [1]),
        "croppings must be a pair of numbers >= 0 for each axis; given",
    ),
    "no axes": (program([{"op": "transpose", "x": 0, "output": 1}], IMAGE, [1]), "'transpose' needs 'axes'"),
    "the batch moves": (
        program([{"op": "transpose", "x": 0, "output": 1, "axes": [1, 0, 2, 3]}], IMAGE, [1]),
        r"axes must be the numbers of all axes, 0 first; given \[1, 0, 2, 3\]",
    ),
    "an axis twice": (
        program([{"op": "transpose", "x": 0, "output": 1, "axes": [0, 2, 2, 3]}], IMAGE, [1]), "axes must be",
    ),
    "no block": (
        program([{"op": "depth_to_space", "x": 0, "output": 1, "block": [2, 0]}], IMAGE, [1]),
        r"block must be two numbers >= 1; given \[2, 0\]",
    ),
    "croppings of pixels": (
        program([{"op": "depth_to_space", "x": 0, "output": 1, "block": [2, 2], "croppings": [[1, 0]]}], IMAGE, [1]),
        r"croppings must be \[\[top, bottom\], \[left, right\]\], each >= 0",
    ),
    "weights outside": (
        small().replace('"count": 60', '"count": 59'), "weight 1: offset and shape must be inside the 59 weights",
    ),
    "weights that overlap": (
        small().replace('"offset": 36', '"offset": 35'), "weights must not overlap; 'w1' begins inside another one",
    ),
    "names of weights": (small().replace('"w1"', '"w0"'), "names of weights must differ"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_text_is_refused(what):
    text, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        Program.from_text(text)


def test_a_text_must_be_text():
    with pytest.raises(TypeError, match="must be the text of a program; given a dict"):
        Program.from_text({})


@pytest.mark.parametrize(
    "step, message",
    [
        ({"op": "dense", "weights": {"filter": 1}}, r"step 0 's0': `filter` must have shape \[C, K\] with C = 4"),
        ({"op": "chain", "weights": {"depthwise_filter": 1}}, "must have as many input channels as `x`, 4"),
        ({"op": "max_pool", "window": [9, 1]}, "`window` with `dilations` is larger than the padded `x`"),
        ({"op": "concatenate", "xs": [0], "x": None, "axis": 4}, "`axis` must be below the rank"),
        ({"op": "pad", "paddings": [[1, 0], [0, 0], [0, 0], [0, 0]]}, "must be 4 pairs"),
        ({"op": "reshape", "shape": [7]}, "as many elements as shape"),
        ({"op": "crop", "croppings": [[1, 0], [0, 0], [0, 0], [0, 0]]}, "must be 4 pairs"),
        ({"op": "crop", "croppings": [[0, 0], [4, 5], [0, 0], [0, 0]]}, r"no more than there is, \(2, 8, 8, 4\)"),
        ({"op": "transpose", "axes": [0, 2, 1]}, "`axes` must be 4 numbers"),
        ({"op": "depth_to_space", "block": [2, 3]}, "`block` must divide the channels of `x`, 4"),
        (
            {"op": "depth_to_space", "block": [2, 2], "croppings": [[9, 8], [0, 0]]},
            r"no more than there is, \(16, 16\)",
        ),
        ({"op": "add", "y": 9}, "`y` must broadcast with `x`"),
        ({"op": "normalize", "weights": {"gamma": 0}}, r"`gamma` must have shape \[4\]"),
    ],
)
def test_shapes_that_do_not_fit(step, message):
    step = {key: value for key, value in {"x": 0, "output": 1, **step}.items() if value is not None}
    text = program([step], {0: [None, 8, 8, 4], 9: [None, 8, 8, 3]}, [1], [[5], [3, 3, 5, 1]])
    with pytest.raises(ValueError, match=message):
        _program_shapes.infer(Program.from_text(text), [[2, 8, 8, 4], [2, 8, 8, 3]])


def test_inputs_that_do_not_fit():
    parsed = Program.from_text(small())
    with pytest.raises(ValueError, match=r"'in0' must have shape \[any, 8, any, 4\]; given \(2, 8, 8, 3\)"):
        _program_shapes.infer(parsed, [(2, 8, 8, 3)])
    with pytest.raises(ValueError, match=r"must be 1 tensors, \['in0'\]; given 2"):
        _program_shapes.infer(parsed, [(2, 8, 8, 4)] * 2)
