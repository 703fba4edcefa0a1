"""`pip install .` and the sdist hold what the libraries are built from, and build them or say what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import ROOT

import tf_dwsconv

MINOR = ".".join(tf_dwsconv.build_info()["built"]["tensorflow"].split(".")[:2])


def pip_wheel(source, folder, **environment):
    """`pip wheel` without isolation, as without a network."""
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DWSCONV_"))}
    done = subprocess.run(
        [*command, f"--wheel-dir={folder}", str(source)],
        env={**env, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The sdist of the tracked files, unpacked, as pip does it."""
    folder = tmp_path_factory.mktemp("sdist")
    tree, packed = folder / "tree", folder / "packed"
    subprocess.run([ROOT / "tools" / "sdist.sh", packed], check=True, capture_output=True, timeout=300)
    (archive,) = packed.glob("*.tar.gz")
    assert archive.name == f"tf_dwsconv-{tf_dwsconv.__version__}.tar.gz"
    with tarfile.open(archive) as tar:
        tar.extractall(tree, filter="data")
    (root,) = tree.iterdir()
    return root


def test_an_sdist_holds_what_the_libraries_are_built_from(sdist):
    for top, pattern in (("cc", "**/*"), ("tools", "*.*"), ("third_party", "*.*"), ("tf_dwsconv", "**/*.py")):
        there = {
            p.relative_to(ROOT) for p in (ROOT / top).glob(pattern) if p.is_file() and "__pycache__" not in p.parts
        }
        assert len(there) > 3
        assert [path for path in sorted(there) if not (sdist / path).exists()] == []
    for name in (".bazelrc", "BUILD", "WORKSPACE", "LICENSE", "README.md", "CHANGELOG.md", "cuda/BUILD"):
        assert (sdist / name).exists(), name
    assert not list(sdist.rglob("*.so"))


def test_without_bazel_one_line_says_what_to_do(sdist, tmp_path):
    status, out = pip_wheel(sdist, tmp_path, BAZEL="no-such-bazel")
    assert status != 0 and "Traceback" not in out
    (line,) = [line for line in out.splitlines() if "error: tf_dwsconv" in line]
    assert "no-such-bazel cannot be found" in line and "apt-get install" in line and "wheel" in line
    assert not list(tmp_path.iterdir())


def test_a_user_is_told_of_a_missing_header_before_anything_is_fetched(tmp_path):
    """Only root has nlohmann-json installed by the build itself; root is played here."""
    program = """
import os, pathlib, sys
import build_backend
os.geteuid = lambda: int(sys.argv[1])
build_backend.JSON = pathlib.Path("missing.hpp")
build_backend.shutil.which = lambda name: name
build_backend.check_tools()
print("fine")
"""
    for user, status, words in ((0, 0, "fine"), (1000, 1, "missing.hpp cannot be found. Install them")):
        done = subprocess.run(
            [sys.executable, "-c", program, str(user)],
            env={**{k: v for k, v in os.environ.items() if k != "DWSCONV_PREBUILT"}, "PYTHONPATH": str(ROOT / "tools")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status and words in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_an_unknown_tensorflow_is_refused(tmp_path):
    program = "import build_backend; print(build_backend.get_requires_for_build_wheel())"
    for given, words in (("2.20", "tensorflow~=2.20.0"), ("latest", "such as 2.21; given 'latest'")):
        env = {**os.environ, "PYTHONPATH": str(ROOT / "tools"), "DWSCONV_TENSORFLOW": given}
        done = subprocess.run(
            [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert words in done.stdout + done.stderr
        assert done.returncode == (0 if given == "2.20" else 1)


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["latest", sys.executable], 2, "TENSORFLOWS must be minor versions"),
        (["2.21 2.21.0", sys.executable], 2, "given 2.21.0"),
        (["2.21", "no-such-python"], 2, "PYTHONS must be interpreters that have the module venv; given no-such-python"),
        (["2.99", sys.executable], 1, "no wheel was made"),
    ],
)
def test_a_release_of_nothing_is_refused(words, status, message):
    """Without a network: no TensorFlow can be found then. What a whole release does takes an hour and more."""
    environment = {**os.environ, "PIP_NO_INDEX": "1"}
    command = [ROOT / "tools" / "release.sh", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == status and message in done.stderr, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which(os.environ.get("BAZEL", "bazel")) is None, reason="there is no Bazel")
def test_pip_builds_the_libraries(tmp_path):
    """From this checkout, where Bazel has built them already."""
    status, out = pip_wheel(ROOT, tmp_path, DWSCONV_PYTHON=sys.executable)
    assert status == 0, out[-4000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"tf_dwsconv-{tf_dwsconv.__version__}+tf{MINOR}-cp")
    with zipfile.ZipFile(wheel) as packed:
        built = ("_dwsconv_ops.so", "_native.so", "_lab.so", "libtf_dwsconv.so", "tf_dwsconv.h", "_build_info.json")
        for name in built:
            assert packed.read(f"tf_dwsconv/{name}") == (ROOT / "tf_dwsconv" / name).read_bytes(), name
