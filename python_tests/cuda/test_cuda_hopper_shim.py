"""The shim of what compute capability 9.0 has of its own (cuda/testing/shim_hopper.h): what is right, what is wrong."""

from __future__ import annotations

import subprocess

from conftest import ROOT
from cuda_shim_support import build_shim


def build(folder, source: str):
    """A program over the shim, of the objects that its library is linked of."""
    objects = build_shim().parent
    program = folder / source.removesuffix(".cu")
    parts = [*sorted(objects.glob("cuda_testing_*.cc.o")), objects / "cc_plan_cuda_machine.cc.o"]
    flags = ["-std=c++17", "-O1", "-Wno-unknown-pragmas", "-Wno-psabi", "-I.", "-DDWSCONV_SHIM", "-x", "c++"]
    command = ["g++", *map(str, parts), *flags, f"cuda/testing/{source}", "-o", str(program)]
    subprocess.run(command, check=True, cwd=ROOT)
    return program


def test_the_program_that_checks_a_card_finds_nothing_off_here(tmp_path):
    """Which thread has what of a product, and where tiles lie, by formulas that are not the shim's."""
    done = subprocess.run([str(build(tmp_path, "layouts_hopper.cu"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("as expected") == 2 + 2 * 4 * 5 + 5 and "OFF" not in done.stdout


# By case of cuda/testing/hopper_misuse.cu.
MISUSE = {
    0: "",
    1: "a barrier that nobody has made",
    2: "a barrier that others may not see yet",
    3: "a wait for a phase that never ends",  # more bytes expected than sent
    4: "a phase got more bytes than it expects",
    5: "a block that ends before its bulk copies have come",
    6: "a wait for a phase that never ends",  # bytes that nobody expects
    7: "a bulk copy to an address that is not a multiple of 16",
    8: "a bulk copy from an address that is not a multiple of 16",
    9: "a number of bytes that is not a multiple of 16",
    10: "a bulk copy to outside shared memory",
    11: "an arrival that its phase has no place for",
    12: "a wait for a phase that never ends",  # nothing was sent
    13: "a block that ends before its bulk copies have come",
    14: "a bulk copy to an address that is not a multiple of 1024",  # a tile
    15: "a barrier outside shared memory, askew, or for nobody",
    16: "a matrix that no descriptor describes",
    17: "bytes that come when their phase has ended",
    20: "a product without a fence",
    21: "a matrix that begins within its pattern",
    22: "a matrix that reaches outside shared memory",
    23: "a matrix that no descriptor describes",
    24: "warps of a warpgroup that multiply different things",
    25: "a barrier or a warp's instruction that not all of its threads reach",
    26: "products that nobody waits for",
    27: "products that nobody waits for",
    28: "a product without a fence",
    29: "",
}


def test_the_shim_says_what_is_wrong(tmp_path):
    program = build(tmp_path, "hopper_misuse.cu")
    for case, message in MISUSE.items():
        done = subprocess.run([str(program), str(case)], capture_output=True, text=True)
        said = done.stdout.strip()
        assert done.returncode == 0 and (message in said if message else said == ""), f"{case}: {said}"
