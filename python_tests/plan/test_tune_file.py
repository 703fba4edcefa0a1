"""The file of tuned plans: who reads it, what is left out of it, who writes it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import check_python, python_environment, run_python
from tune_support import SHAPES, cache, choice, in_use, odd_choice, tuning  # noqa: F401

from tf_dwsconv import native, tune
from tf_dwsconv.native import _native
from tf_dwsconv.tune import _cache


def test_a_plan_in_the_file_is_used(cache):
    """Written, read anew, used where it fits and nowhere else, and forgotten again."""
    planned, odd = choice(), odd_choice()
    assert tune.reload() == 0
    assert in_use() == (False, planned)
    _cache.update(cache, [tuning(odd)["line"] + " # a remark"])
    assert in_use() == (False, planned)  # read once
    assert tune.reload() == 1
    assert in_use() == (True, odd)
    assert in_use(variant="fused") == (False, planned)
    assert not native.plan((3, *SHAPES[0][1:]), *SHAPES[1:])["tuned"]
    assert not in_use(dtype="bfloat16")[0]
    assert not in_use(strides=2)[0]
    assert not in_use(num_threads=tuning()["threads_limit"] + 1)[0]
    x, depthwise, pointwise = SHAPES
    assert native.plan((x[0], x[3], *x[1:3]), depthwise, pointwise, data_format="NCHW")["tuned"]
    assert tune.clear() == 1
    assert not cache.exists() and in_use() == (False, planned)
    assert tune.clear() == 0


def test_another_process_uses_the_file(cache):
    """A new process needs nobody to tell it; unless the environment says that it must not."""
    odd = odd_choice()
    _cache.update(cache, [tuning(odd)["line"]])
    program = f"from tf_dwsconv import native; print(native.plan(*{SHAPES!r}))"
    assert "'tuned': True" in check_python(program) and f"'block_pixels': {odd['block_pixels']}," in check_python(
        program
    )
    for off in ("off", ""):
        assert "'tuned': False" in check_python(program, DWSCONV_PLAN_CACHE=off)


def test_the_place_without_the_variable(tmp_path, monkeypatch):
    """Both halves look in the same folder: XDG_CACHE_HOME where it is absolute, else ~/.cache."""
    line = tuning(odd_choice())["line"]
    program = "from tf_dwsconv import _native, tune; print(tune.cache_path(), _native.reload_tuned_plans())"
    settings = [
        ({"XDG_CACHE_HOME": str(tmp_path / "xdg")}, tmp_path / "xdg"),
        ({"XDG_CACHE_HOME": "", "HOME": str(tmp_path / "home")}, tmp_path / "home" / ".cache"),
    ]
    monkeypatch.delenv("DWSCONV_PLAN_CACHE")
    for environment, folder in settings:
        path = folder / "tf_dwsconv" / "plans-v1.txt"
        _cache.update(path, [line])
        assert check_python(program, **environment).split() == [str(path), "1"]


def hostile_lines():
    """Lines that must be left out, by what is wrong with them."""
    good = tuning(odd_choice())["line"]
    start = _native.TUNED_PLANS_CPU
    swaps = {
        "rubbish": "\x00\xff rubbish",
        "no number": good.replace("N=2", "N="),
        "a sign": good.replace("block_pixels=13", "block_pixels=-13"),
        "zero pixels": good.replace("block_pixels=13", "block_pixels=0"),
        "too many pixels": good.replace("block_pixels=13", "block_pixels=401"),
        "overflow": good.replace("block_pixels=13", "block_pixels=" + "9" * 400),
        "part of a tile": re.sub(r"block_channels=\d+", "block_channels=3", good),
        "threads": re.sub(r" threads=\d+ stream", " threads=4096 stream", good),
        "stream": good.replace("stream=0", "stream="),
        "order": good.replace("N=2 H=20", "H=20 N=2"),
        "no plan": good.split(" : ")[0],
        "tail": good + " and=1",
        "huge sizes": good.replace("Ho=20 Wo=20", "Ho=268435456 Wo=268435456").replace("N=2", "N=268435456"),
        "zero sizes": good.replace("Ho=20", "Ho=0"),
        "no tiles": re.sub("tile_channels=[0-9]+", "tile_channels=0", good),
        "no vectors": re.sub("vector_floats=[0-9]+", "vector_floats=0", good),
        "z_bytes": re.sub("z_bytes=[0-9]+", "z_bytes=0", good),
        "start only": start,
        "cut": good[: len(good) // 2],
        "very long": good + " # " + "x" * 100_000 + "\n" + start + "N=" * 50_000,
    }
    assert all(line != good for line in swaps.values())
    return swaps


def test_hostile_lines(cache, capfd):
    """Every bad line is left out with one warning in all, and the good one after it is used."""
    odd = odd_choice()
    cache.parent.mkdir()
    for wrong, line in hostile_lines().items():
        cache.write_bytes(f"{_native.TUNED_PLANS_HEADER}\n{line}\n".encode("latin-1"))
        count = 1 if wrong == "very long" else 0  # its first line is a good one with a remark
        assert tune.reload() == count, wrong
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and "1 lines of tuned plans ignored" in error and "line " in error, (wrong, error)
        assert len(error) < 500, wrong
        assert in_use()[0] == (count == 1), wrong
    everything = "\n".join([*hostile_lines().values(), tuning(odd)["line"]])
    cache.write_bytes(f"{_native.TUNED_PLANS_HEADER}\n{everything}\n".encode("latin-1"))
    assert tune.reload() == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert in_use() == (True, odd)


def test_files_that_are_none(cache, capfd):
    """Another version, a folder, a pipe, too large a file: nothing is read, one warning says why."""
    line = tuning(odd_choice())["line"]
    header = _native.TUNED_PLANS_HEADER
    cache.parent.mkdir()
    for text in (header.replace("v1", "v2") + "\n" + line, line, "\n" + header, header + "\n" + "#" * (5 << 20)):
        cache.write_text(text + "\n")
        assert tune.reload() == 0
        assert capfd.readouterr().err.count("tuned plans ignored") == 1
    cache.unlink()
    for make in (os.mkdir, os.mkfifo):
        make(cache)
        assert tune.reload() == 0
        assert "tuned plans ignored: not a file" in capfd.readouterr().err
        (os.rmdir if make is os.mkdir else os.unlink)(cache)
    cache.write_text("")
    assert tune.reload() == 0 and capfd.readouterr().err == ""
    cache.write_text(f"{header}\n{line.replace(_native.TUNED_PLANS_CPU, 'cpu=another/1/2/3 ')}\n")
    assert tune.reload() == 0 and capfd.readouterr().err == ""  # another machine's, in a shared home


def test_what_is_not_ours_is_not_overwritten(cache):
    """A file of something else at the cache's place stays as it is."""
    cache.parent.mkdir()
    cache.write_text("my thesis\n")
    for change in (lambda: _cache.update(cache, [tuning(choice())["line"]]), tune.clear):
        with pytest.raises(ValueError, match="is not a file of tuned plans"):
            change()
    assert cache.read_text() == "my thesis\n"


def test_two_writers(cache):
    """Neither loses what the other wrote, and no reader sees half a file."""
    program = """
import sys
from pathlib import Path
from tf_dwsconv.tune import _cache
path, who = Path(sys.argv[1]), sys.argv[2]
for i in range(40):
    _cache.update(path, [f"cpu=writer{who} N={i} : block_pixels=1"])
"""
    command = [sys.executable, "-c", program, str(cache)]
    writers = [subprocess.Popen([*command, who], env=python_environment()) for who in "ab"]
    while any(writer.poll() is None for writer in writers):
        if cache.exists():
            text = cache.read_text()
            assert text.startswith(_native.TUNED_PLANS_HEADER + "\n") and text.endswith("=1\n")
    assert [writer.returncode for writer in writers] == [0, 0]
    assert set(_cache.read(cache)) == {f"cpu=writer{who} N={i} : block_pixels=1" for who in "ab" for i in range(40)}
    assert sorted(path.name for path in cache.parent.iterdir()) == [cache.name, cache.name + ".lock"]


def test_update_replaces_and_forgets(cache):
    """One plan for each subject; a symbolic link stays one."""
    target = cache.parent / "real.txt"
    cache.parent.mkdir()
    cache.symlink_to(target)
    _cache.update(cache, ["cpu=a N=1 : old", "cpu=a N=2 : two"])
    _cache.update(cache, ["cpu=a N=1 : new"])
    assert sorted(_cache.read(cache)) == ["cpu=a N=1 : new", "cpu=a N=2 : two"]
    _cache.update(cache, [], forget=["cpu=a N=2", "cpu=a N=3"])
    assert _cache.read(target) == ["cpu=a N=1 : new"]
    assert cache.is_symlink()


def test_reading_the_cache_needs_nothing_else(cache):
    """`native` alone imports neither the tuner nor what only it needs."""
    program = (
        "import sys; from tf_dwsconv import native; native.plan((1,4,4,4),(3,3,4,1),(1,1,4,4)); print(*sys.modules)"
    )
    modules = check_python(program).split()
    assert not {"platformdirs", "absl", "tf_dwsconv.tune"} & set(modules)
    without = run_python(
        "import sys; sys.modules['platformdirs'] = None; from tf_dwsconv import tune; tune.cache_path()",
        DWSCONV_PLAN_CACHE="",
    )
    assert without.returncode == 0
    program = (
        "import os, sys; del os.environ['DWSCONV_PLAN_CACHE']; sys.modules['platformdirs'] = None\n"
        "from tf_dwsconv import tune; tune.cache_path()"
    )
    without = run_python(program)
    assert without.returncode == 1 and "pip install 'tf_dwsconv[tune]'" in without.stderr
