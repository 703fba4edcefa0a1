"""The wheel, as a user gets it: installed into a fresh virtual environment and used from another folder.

The environment takes TensorFlow from the one that runs the tests, through a .pth file, instead of fetching it anew. Its
packages come after the environment's own, so tf_dwsconv is the wheel's; every program below asserts that.
"""

import email
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import tf_dwsconv

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("analysis", "convert", "profile", "tune")
SITE = Path(sysconfig.get_paths()["platlib"])

# A layer against the stock layer with the same weights, in eager mode, in a function and through save and load.
LAYER = """
import json, os, sys, warnings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import keras
    import tensorflow as tf
    import tf_dwsconv
    x = np.random.default_rng(0).standard_normal((2, 13, 11, 6)).astype("float32")
    differences = []
    for stride, activation in [(1, None), (2, "relu")]:
        args = dict(filters=10, kernel_size=3, strides=stride, padding="same", activation=activation)
        stock, ours = keras.layers.SeparableConv2D(**args), tf_dwsconv.DepthwiseSepConv2D(**args)
        stock.build(x.shape), ours.build(x.shape)
        stock.set_weights([w + 0.1 for w in stock.get_weights()])
        ours.set_weights(stock.get_weights())
        expected = stock(x).numpy()
        for call in (ours, tf.function(ours)):
            differences.append(float(np.abs(call(x).numpy() - expected).max() / np.abs(expected).max()))
    model = keras.Sequential([keras.Input(x.shape[1:]), ours])
    model.save("model.keras")
    again = keras.models.load_model("model.keras")(x).numpy()
    differences.append(float(np.abs(again - expected).max() / np.abs(expected).max()))
print(json.dumps({
    "file": tf_dwsconv.__file__,
    "difference": max(differences),
    "warnings": [str(w.message) for w in caught if "tf_dwsconv" in str(w.message) or "Stock" in w.category.__name__],
    "info": tf_dwsconv.build_info(),
}))
"""

# The NumPy module, where TensorFlow does not exist.
NATIVE = """
import importlib.util, json, sys
import numpy as np
assert importlib.util.find_spec("tensorflow") is None
import tf_dwsconv.native
x = np.arange(2 * 5 * 4 * 3, dtype="float32").reshape(2, 5, 4, 3)
d = np.zeros((3, 3, 3, 1), "float32")
d[1, 1] = 1.0
p = np.arange(6, dtype="float32").reshape(1, 1, 3, 2)
y = tf_dwsconv.native.depthwise_sep_conv2d(x, d, p)
print(json.dumps({"file": tf_dwsconv.__file__, "equal": bool(np.array_equal(y, x @ p[0, 0]))}))
"""


def run(*command, cwd=None, **environment) -> subprocess.CompletedProcess:
    """Runs a command without this process' Python settings; its output is in the error where it fails."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "DWSCONV_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**env, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the tree as it is built."""
    folder = tmp_path_factory.mktemp("dist")
    run(ROOT / "tools" / "wheel.sh", folder, DWSCONV_PYTHON=sys.executable)
    (path,) = folder.glob("*.whl")
    return path


def environment(folder: Path, wheel: Path) -> Path:
    """A fresh virtual environment with the wheel alone in it; returns its site-packages."""
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--no-index", "--no-deps", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    assert (site / "tf_dwsconv" / "_dwsconv_ops.so").exists()
    return site


@pytest.fixture(scope="module")
def with_tensorflow(wheel, tmp_path_factory) -> Path:
    """site-packages of an environment that has the wheel, and sees this one's packages."""
    site = environment(tmp_path_factory.mktemp("with_tensorflow"), wheel)
    (site / "tests.pth").write_text(f"{SITE}\n")
    return site


def run_layer(site: Path, cwd: Path) -> dict:
    """What LAYER prints in the environment of `site`."""
    done = run(site.parents[2] / "bin" / "python", "-I", "-c", LAYER, cwd=cwd)
    out = json.loads(done.stdout.splitlines()[-1])
    assert Path(out["file"]).parent == site / "tf_dwsconv"
    return out


def test_contents(wheel):
    """A wheel of this platform that holds the package, its libraries, the record of the build and the licence."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert wheel.name.endswith(f"-{tag}-{tag}-manylinux_2_34_x86_64.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        info = json.loads(packed.read("tf_dwsconv/_build_info.json"))
    modules = {f"tf_dwsconv/{p.relative_to(ROOT / 'tf_dwsconv')}" for p in (ROOT / "tf_dwsconv").rglob("*.py")}
    shipped = {name for name in names if ".dist-info/" not in name}
    built = ("_dwsconv_ops.so", "_native.so", "_lab.so", "libtf_dwsconv.so", "tf_dwsconv.h", "_build_info.json")
    others = ("_native.pyi", "py.typed")
    assert shipped == modules | {f"tf_dwsconv/{name}" for name in (*built, *others)}
    assert any(name.endswith("LICENSE") for name in names)
    assert set(info) == {"tensorflow", "compiler", "cuda", "isas", "abi"}
    assert info["tensorflow"].count(".") == 2
    assert info["cuda"] is False
    assert info["isas"][0] == "generic"
    assert "GCC" in info["compiler"] or "clang" in info["compiler"]


def test_it_asks_for_what_debian_12_and_rhel_9_have(wheel, tmp_path):
    """Of the C and C++ libraries, by auditwheel; no OpenMP runtime, which no slim image has."""
    found = json.loads(run(sys.executable, "-m", "auditwheel", "show", "--json", wheel).stdout)
    assert set(found["external_libs"]) == {"libtensorflow_framework.so.2"}
    assert not found["unsupported_isa"]

    def newest(library: str, prefix: str) -> tuple:
        versions = [v.removeprefix(prefix) for v in found["versioned_symbols"][library] if v.startswith(prefix)]
        return max(tuple(map(int, version.split("."))) for version in versions)

    assert newest("libc.so.6", "GLIBC_") <= (2, 34)
    assert newest("libstdc++.so.6", "GLIBCXX_") <= (3, 4, 29)


@pytest.mark.parametrize("words", [[], ["no.whl"], [str(ROOT / "README.md")], ["a", "b", "c"]])
def test_the_trial_in_an_empty_system_asks_for_a_wheel(words):
    """tools/try_wheel.sh, whose trial takes minutes and a network: what it found is in docs/installing.md."""
    done = subprocess.run([ROOT / "tools" / "try_wheel.sh", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and done.stdout == ""


def test_it_names_its_tensorflow(wheel):
    """In its version, and in what it requires."""
    with zipfile.ZipFile(wheel) as packed:
        built_for = json.loads(packed.read("tf_dwsconv/_build_info.json"))["tensorflow"]
        (name,) = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(packed.read(name))
    minor = built_for.rpartition(".")[0]
    assert metadata["Version"] == f"{tf_dwsconv.__version__}+tf{minor}"
    requirement = f"tensorflow~={minor}.0"
    assert requirement in metadata.get_all("Requires-Dist")
    assert f'{requirement}; extra == "tensorflow"' in metadata.get_all("Requires-Dist")
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_commands_are_installed(with_tensorflow, tmp_path):
    """Each answers `--help`, and wrong use by one line."""
    folder = with_tensorflow.parents[2] / "bin"
    commands = sorted(path.name for path in folder.glob("tf-dwsconv-*"))
    assert commands == sorted(f"tf-dwsconv-{name}" for name in COMMANDS)
    for name in commands:
        assert f"usage: {name} " in run(folder / name, "--help", cwd=tmp_path).stdout
        wrong = subprocess.run([folder / name, "--nonsense"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert wrong.returncode == 2 and wrong.stderr.splitlines()[-1].startswith("error: "), wrong.stderr


def test_the_check_passes_elsewhere(with_tensorflow, tmp_path):
    out = run(with_tensorflow.parents[2] / "bin" / "python", "-m", "tf_dwsconv", cwd=tmp_path).stdout
    assert f"in {with_tensorflow / 'tf_dwsconv'}" in out and "All is well" in out


def test_layer_runs_elsewhere(with_tensorflow, tmp_path):
    """The fused op runs from the installed wheel, in another folder, without a word of warning."""
    out = run_layer(with_tensorflow, tmp_path)
    assert out["warnings"] == []
    assert out["info"]["op_library"] == str(with_tensorflow / "tf_dwsconv" / "_dwsconv_ops.so")
    assert 0 <= out["difference"] < 1e-5


def test_another_tensorflow_gets_stock_ops_and_one_warning(wheel, tmp_path):
    """With a TensorFlow of another minor version: one warning that names both, and the right results."""
    site = environment(tmp_path / "venv", wheel)
    (site / "tests.pth").write_text(f"{SITE}\n")
    record = site / "tf_dwsconv" / "_build_info.json"
    info = json.loads(record.read_text())
    installed = info["tensorflow"]
    major, minor, _ = installed.split(".")
    info["tensorflow"] = f"{major}.{int(minor) - 1}.0"
    record.write_text(json.dumps(info))
    out = run_layer(site, tmp_path)
    assert len(out["warnings"]) == 1, out["warnings"]
    assert info["tensorflow"] in out["warnings"][0]
    assert installed in out["warnings"][0]
    assert "stock" in out["warnings"][0]
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"+tf{major}.{installed.split('.')[1]}-{python}" in out["warnings"][0]  # the wheel that fits
    assert out["info"]["op_library"] is None
    assert out["difference"] < 1e-5


def test_native_without_tensorflow(wheel, tmp_path):
    """tf_dwsconv.native needs NumPy and ml_dtypes, no TensorFlow."""
    site = environment(tmp_path / "venv", wheel)
    for name in ("numpy", "ml_dtypes"):
        package = Path(importlib.util.find_spec(name).origin).parent
        (site / name).symlink_to(package)
        libraries = package.with_name(f"{name}.libs")
        if libraries.exists():
            (site / libraries.name).symlink_to(libraries)
    done = run(site.parents[2] / "bin" / "python", "-I", "-c", NATIVE, cwd=tmp_path)
    out = json.loads(done.stdout.splitlines()[-1])
    assert Path(out["file"]).parent == site / "tf_dwsconv"
    assert out["equal"]
