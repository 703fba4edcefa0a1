"""Every way of cutting a block that a 1x1 convolution leads: right, the same bits whichever way, and which way it was.

What decides is the size of L2, the number of threads and the images. So a process of its own is told each
(DWSCONV_TEST_MACHINE), on every CPU the same, and runs all blocks: each machine cuts them in other ways.
"""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from conftest import chain_ways, check_python
from native_support import rounds_between

from tf_dwsconv import native

pytestmark = pytest.mark.usefixtures("op_library")

WORDS = ("images", "pieces", "channels", "shares", "strips", "kept")
MACHINES = {
    "strips of a row": "l1d=32K,l2=48K,l3=16K,cores=8,stores=streamed",  # and stores around the caches
    "strips": "l1d=32K,l2=200K,l3=64M,cores=8",
    "whole images": "l1d=48K,l2=4M,l3=64M,cores=8",
}
THREADS = {"float32": (1, 2, 3, 8), "bfloat16": (1, 3), "float16": (1, 3)}

# What `inverted` of test_block_kernel takes: (images, height, width, E, C, K), options, and options of its `check`.
BLOCKS = {
    "plain": ((1, 20, 17, 17, 96, 40), {}, {}),
    "stride 2": ((1, 33, 18, 16, 96, 48), {}, {"strides": (2, 2)}),
    "stride 3 of 2 rows": ((1, 31, 20, 9, 80, 24), {"r": 2}, {"strides": (3, 1)}),
    "two images": ((2, 19, 16, 17, 128, 64), {"residual": (2, 19, 16, 64)}, {}),
    "eight images": ((8, 9, 9, 8, 200, 33), {}, {"words": ("relu6", "silu", "relu")}),
    "pads": ((3, 14, 15, 12, 72, 24), {"r": 5}, {"padding": ((4, 1), (0, 3))}),
    "dilated": ((1, 30, 14, 19, 64, 16), {}, {"dilations": (3, 2), "words": ("hard_swish", "relu", "none")}),
    "gate and norm": ((3, 16, 16, 24, 96, 40), {"stages": "edsp"}, {"epsilon": 1e-3}),
    "no 1x1 at the end": ((2, 21, 15, 16, 80, 0), {"stages": "ed"}, {"words": ("relu6", "silu", "none")}),
    "two filters a channel": ((2, 17, 14, 11, 40, 48), {"m": 2}, {}),
    # The pixels are few and K is large: the last channels of a share.
    "few pixels": ((1, 7, 7, 17, 160, 200), {}, {}),
    "few pixels, stride 2": ((1, 5, 5, 64, 320, 457), {"residual": (1, 3, 3, 457)}, {"strides": (2, 2)}),
    # What happens to Z as a whole happens once, however many share the channels of Y.
    "few pixels, gate and norm": ((1, 7, 7, 17, 160, 200), {"stages": "edsp"}, {"epsilon": 1e-3}),
    "gate and norm, no 1x1 at the end": ((2, 13, 11, 16, 96, 0), {"stages": "eds"}, {"epsilon": 1e-3}),
    "one pixel": ((1, 1, 1, 96, 384, 1001), {}, {"words": ("relu6", "relu6", "relu6")}),
}


def ways():
    """How often each way was gone in this process."""
    return {word: chain_ways(word) for word in WORDS}


def run_all():
    """In a process of its own: (block, dtype, instruction set, threads, ways gone, hash of the bits) of each run."""
    import tensorflow as tf
    from test_block_kernel import check, inverted

    tf.config.threading.set_intra_op_parallelism_threads(max(THREADS["float32"]))
    found = []
    for name, (sizes, arrays, options) in BLOCKS.items():
        x, tensors = inverted(*sizes, **arrays)
        for dtype, all_threads in THREADS.items():
            for isa in native.cpu_info()["isas"]:
                os.environ["DWSCONV_ISA"] = isa
                for threads in all_threads:
                    os.environ["DWSCONV_NUM_THREADS"] = str(threads)
                    before = ways()
                    y = check(tf.as_dtype(dtype), x, tensors, **options)
                    gone = [word for word, count in ways().items() if count > before[word]]
                    found.append([name, dtype, isa, threads, gone, hashlib.sha256(y.tobytes()).hexdigest()])
    return json.dumps(found)


@pytest.fixture(scope="module")
def found():
    """The runs on each machine."""
    program = "import test_block_ways; print(test_block_ways.run_all())"
    own = os.environ.get("DWSCONV_TEST_MACHINE", "")
    return {
        name: json.loads(
            check_python(program, DWSCONV_TEST_MACHINE=",".join(filter(None, [own, facts]))).splitlines()[-1]
        )
        for name, facts in MACHINES.items()
    }


def ways_of(runs, block, threads=THREADS["float32"], halves=True):
    """The ways that a block went on one machine, in each of its runs with so many threads.

    Without `halves` those alone whose A and Z are of floats, of which L2 holds half as many.
    """
    return [
        set(gone)
        for name, dtype, isa, count, gone, _ in runs
        if name == block and count in threads and (halves or not rounds_between(isa, dtype))
    ]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_same_bits_whichever_way(found, block):
    """Each run was compared with float64; here, with the same one on other machines and with other threads."""
    bits = {}
    for runs in found.values():
        for name, dtype, isa, _, _, of_run in runs:
            if name == block:
                bits.setdefault((dtype, isa), set()).add(of_run)
    assert len(bits) == 3 * len(native.cpu_info()["isas"])
    assert all(len(different) == 1 for different in bits.values())


SMALL = ("few pixels", "few pixels, stride 2", "few pixels, gate and norm", "one pixel")


@pytest.mark.parametrize("block", [name for name in BLOCKS if name not in SMALL])
def test_strips_where_l2_is_small(found, block):
    """Rows are kept wherever a strip reads what the one before has read. Several threads may share the channels."""
    kept = set() if block == "stride 3 of 2 rows" else {"kept"}
    for gone in ways_of(found["strips of a row"], block, threads=(1,)):
        assert gone == {"strips"} | kept
    for gone in ways_of(found["strips of a row"], block):
        assert gone - {"shares"} == {"channels"} or gone - {"kept"} == {"strips"}


@pytest.mark.parametrize("block", ["plain", "two images", "dilated", "no 1x1 at the end", "gate and norm"])
def test_strips_of_several_rows(found, block):
    gone = ways_of(found["strips"], block, threads=(1,), halves=False)
    assert all(ways == {"strips", "kept"} for ways in gone) and len(gone) >= 2 * len(native.cpu_info()["isas"])


def test_whole_images_and_pieces_of_channels(found):
    runs = found["whole images"]
    one_thread = {"plain": "pieces", "stride 2": "pieces", "two images": "pieces", "eight images": "images"}
    for block, way in {**one_thread, "pads": "images", "two filters a channel": "images"}.items():
        assert all(gone == {way} for gone in ways_of(runs, block, threads=(1,), halves=False)), block
    for block in ("plain", "stride 2", "dilated"):
        # One image: the threads share its channels, and those of Y or its pixels, unless some would wait longer then.
        for gone in ways_of(runs, block, threads=(2, 3, 8)):
            assert gone - {"shares"} == {"channels"} or gone - {"kept"} == {"strips"}, block
    # No row of A is read by two strips of this one.
    assert all(gone == {"strips"} for gone in ways_of(runs, "stride 3 of 2 rows", threads=(2,)))


def test_channels_where_pixels_are_few(found):
    for machine in ("strips", "whole images"):
        for block in ("few pixels", "few pixels, stride 2"):
            assert all("channels" in gone for gone in ways_of(found[machine], block, threads=(2,)))


def test_there_is_no_way_that_no_run_went(found):
    gone = {word for runs in found.values() for run in runs for word in run[4]}
    assert gone == set(WORDS)
