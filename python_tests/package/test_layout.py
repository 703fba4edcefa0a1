"""The rules of the tree that no compiler holds: who may include or import whom, what the built files show, where tests
are, sizes of files, no stray paths.
"""

import ast
import graphlib
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, SUBJECTS

OBJECTS = ROOT / ".bazel" / "bin" / "cc" / "cpu" / "_objs"

# Each room and those that it may include: core <- plan, ref <- cpu, cuda <- lab, tf, python, capi.
ARROWS = {
    "cc/core": {"cc/core"},
    "cc/plan": {"cc/core", "cc/plan"},
    "cc/ref": {"cc/core", "cc/ref"},
    "cc/cpu": {"cc/core", "cc/plan", "cc/ref", "cc/cpu"},
    "cc/lab": {"cc/core", "cc/plan", "cc/ref", "cc/cpu", "cc/lab"},
    "cuda": {"cc/core", "cc/plan", "cuda"},
    "cc/tf": {"cc/core", "cc/plan", "cc/ref", "cc/cpu", "cuda", "cc/tf"},
    "cc/capi": {"cc/core", "cc/plan", "cc/cpu", "cc/capi"},
    "cc/python": {"cc/core", "cc/plan", "cc/cpu", "cc/lab", "cc/python"},
}

# What is not ours, and the only files that may include it.
FENCED = {
    r"(tensorflow|Eigen|absl|tsl|xla|unsupported|google|third_party)/": r"cc/tf/",
    r"(pybind11/|Python\.h)": r"cc/python/",
    r"(cuda|cublas|cudnn|cute/|cutlass/|cub/|thrust/)": r"(cuda/|cc/tf/[a-z_]*gpu[a-z_]*\.)",
    r"omp\.h": r"cc/lab/openmp\.cc$",
    r"g(test|mock)/": r"cc/(core|plan|cpu/kernels)/[a-z0-9_]+_test\.cc$",
    r"nlohmann/": r"cc/core/(json\.h|program_print\.cc)$",
    r"[a-z]*intrin\.h|arm_neon\.h": r"cc/cpu/kernels/([a-z_]+_(avx2|avx512|neon)|step_bf16)\.h$",
}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)
OPENMP = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+omp\b|_Pragma\(\"omp", re.MULTILINE)


def sources() -> "dict[str, str]":
    """Every C++ and CUDA file by its path from the root."""
    suffixes = {".cc", ".h", ".cu", ".cuh", ".inc"}
    files = [f for top in ("cc", "cuda") for f in sorted((ROOT / top).rglob("*")) if f.suffix in suffixes]
    return {f.relative_to(ROOT).as_posix(): f.read_text(encoding="utf-8") for f in files}


def broken_rules(path: str, text: str) -> "list[str]":
    """What is wrong with the includes and pragmas of one file."""
    room = next((name for name in ARROWS if path.startswith(name + "/")), None)
    if room is None:
        return [f"{path} is in no room"]
    wrong = []
    if room == "cc/python" and "cc/lab/" in text and path != "cc/python/lab.cc":
        wrong.append(f"{path} names cc/lab, which only cc/python/lab.cc may: users' libraries do without it")
    for quote, included in INCLUDE.findall(text):
        target = next((name for name in ARROWS if included.startswith(name + "/")), None)
        if target is not None:
            if target not in ARROWS[room]:
                wrong.append(f"{path} includes {included}: {room} may only include {', '.join(sorted(ARROWS[room]))}")
            continue
        for fenced, allowed in FENCED.items():
            if re.match(fenced, included):
                if not re.match(allowed, path):
                    wrong.append(f"{path} includes {included}, which only {allowed} may")
                break
        else:
            if quote == '"':
                wrong.append(f'{path} includes "{included}": our files are named from the root, others in <>')
    if OPENMP.search(text) and path != "cc/lab/openmp.cc":
        wrong.append(f"{path} has an OpenMP pragma, which only cc/lab/openmp.cc may")
    return wrong


def test_includes_follow_the_arrows():
    """core <- plan, ref <- cpu, cuda <- lab, tf, python; TensorFlow, pybind11, CUDA and OpenMP where they belong."""
    files = sources()
    assert len(files) > 10
    assert [wrong for path, text in files.items() for wrong in broken_rules(path, text)] == []


@pytest.mark.parametrize(
    "path, text",
    [
        ("cc/core/a.cc", '#include "cc/plan/plan.h"'),
        ("cc/plan/a.h", '#include "cc/cpu/forward.h"'),
        ("cc/cpu/a.cc", "#include <cc/tf/filter_cache.h>"),
        ("cc/cpu/a.cc", '  #  include "tensorflow/core/framework/op.h"'),
        ("cc/ref/a.cc", "#include <Eigen/Core>"),
        ("cc/tf/a.cc", "#include <pybind11/pybind11.h>"),
        ("cc/python/a.cc", '#include "cc/tf/chain_op.h"'),
        ("cc/plan/a.cc", "#include <cuda_runtime.h>"),
        ("cc/tf/chain_ops.cc", "#include <cuda_runtime_api.h>"),
        ("cc/core/a.cc", "#include <immintrin.h>"),
        ("cc/cpu/a.cc", "#include <omp.h>"),
        ("cc/core/a.cc", "#include <gtest/gtest.h>"),
        ("cc/core/a.cc", "#include <nlohmann/json.hpp>"),
        ("cc/cpu/a.cc", "int a;\n  #pragma omp parallel for"),
        ("cc/cpu/a.cc", '#include "forward.h"'),
        ("cc/cpu/a.cc", '#include "cc/lab/ladder.h"'),
        ("cc/python/native.cc", '#include "cc/lab/ladder.h"'),
        ("cuda/a.cu", '#include "cc/cpu/forward.h"'),
        ("cc/extra/a.cc", ""),
    ],
)
def test_a_wrong_include_is_found(path, text):
    """The check above can fail, in each of its ways."""
    assert len(broken_rules(path, text)) == 1


# Python's rooms, and those that each may import. Modules on top that users import may import any.
ROOMS = {
    "core": {"core"},
    "native": {"core", "native"},
    "_tf": {"core", "_tf"},
    "layers": {"core", "_tf", "layers"},
    "convert": {"core", "_tf", "layers", "convert"},
    "analysis": {"core", "native", "analysis"},
    "tune": {"core", "native", "analysis", "tune"},
}
CORE = {
    "_arguments",
    "_command",
    "_keras_graph",
    "_program",
    "_program_shapes",
    "_program_steps",
    "_registration",
    "_shapes",
    "_text",
    "_tf_keras",
    "activations",
}
PYTHON = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted((ROOT / "tf_dwsconv").rglob("*.py"))
}


def imports_of(text: str) -> "set[str]":
    """Our modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("tf_dwsconv")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tf_dwsconv"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name not in ("tf_dwsconv._native", "tf_dwsconv._lab"):  # compiled
                    found.add(name if name in PYTHON else node.module)
    return found


def room_of(module: str) -> str:
    name = (module.split(".") + [""])[1]
    return "core" if name in CORE else name if name in ROOMS else "top"


def wrong_imports(module: str, text: str) -> "list[str]":
    allowed = ROOMS.get(room_of(module))
    wrong = [name for name in imports_of(text) if allowed is not None and room_of(name) not in allowed]
    return [
        f"{module} imports {name}: {room_of(module)} may only import {', '.join(sorted(allowed))}" for name in wrong
    ]


def test_python_imports_follow_the_arrows():
    """core <- _tf <- layers <- convert, and core <- native <- analysis <- tune."""
    texts = {module: path.read_text(encoding="utf-8") for module, path in PYTHON.items()}
    assert [wrong for module, text in texts.items() for wrong in wrong_imports(module, text)] == []


def test_python_has_no_import_circle():
    """Not even one that an import inside a function hides."""
    graph = {module: imports_of(path.read_text(encoding="utf-8")) for module, path in PYTHON.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises where there is a circle
    assert set(order) == set(PYTHON)


@pytest.mark.parametrize(
    "module, text",
    [
        ("tf_dwsconv._shapes", "from tf_dwsconv._tf import stock"),
        ("tf_dwsconv.activations", "def f():\n    from tf_dwsconv.layers import FusedConvBlock"),
        ("tf_dwsconv._tf.stock", "import tf_dwsconv.layers"),
        ("tf_dwsconv.analysis.graph", "from tf_dwsconv.convert import _read"),
        ("tf_dwsconv.convert._read", "from tf_dwsconv import ops"),
    ],
)
def test_a_wrong_import_is_found(module, text):
    assert len(wrong_imports(module, text)) == 1


def symbols(path: Path, *flags: str) -> "list[tuple[str, str]]":
    """(type, name) of the symbols that `nm -C` lists."""
    out = subprocess.run(["nm", "-C", *flags, str(path)], check=True, capture_output=True, text=True).stdout
    lines = [re.match(r"(?:[0-9a-f]{8,16})?\s+(\S) (.*)$", line) for line in out.splitlines()]
    return [(m.group(1), m.group(2)) for m in lines if m]


def test_isa_objects_export_their_table_alone():
    """An object for AVX2 or AVX-512 defines one symbol that others see, its table of kernels, and no weak ones.

    A weak symbol (an inline function, a template of the standard library) may win over its baseline copy at link time,
    and then a CPU without AVX-512 runs AVX-512 code.
    """
    objects = sorted(OBJECTS.glob("kernels_*/*_kernels.*o"))
    assert objects, f"no objects of kernels under {OBJECTS}: run make build first"
    names = dict(
        re.findall(r'"(\w+)": "(\w+)"', (ROOT / "cc" / "copts.bzl").read_text(encoding="utf-8").split("TARGETS")[1])
    )
    assert {"generic", "avx2", "avx512", "avx512bf16", "avx512rounds"} == set(names)
    built = {path.parent.name.removeprefix("kernels_") for path in objects}
    assert built <= set(names) and "generic" in built
    kinds = {"forward_kernels": "Kernels", "backward_kernels": "Backward", "step_kernels": "Steps"}
    assert {path.name.split(".")[0] for path in objects} == set(kinds)
    for path in objects:
        kind = kinds[path.name.split(".")[0]]
        table = f"dwsconv::{kind}{names[path.parent.name.removeprefix('kernels_')]}()"
        assert symbols(path, "--defined-only", "--extern-only") == [("T", table)], path
    tiles = sorted(OBJECTS.glob("tiles_*/tiles_kernels.*o"))
    assert {path.parent.name for path in tiles} <= {"tiles_amx", "tiles_model"}
    assert "tiles_model" in {path.parent.name for path in tiles}
    for path in tiles:
        table = f"dwsconv::Tiles{path.parent.name.removeprefix('tiles_').capitalize()}()"
        assert symbols(path, "--defined-only", "--extern-only") == [("T", table)], path


def dynamic(path: Path, tag: str) -> "list[str]":
    """The values of one tag of a library's dynamic section."""
    out = subprocess.run(["readelf", "-d", "-W", str(path)], check=True, capture_output=True, text=True).stdout
    return re.findall(rf"\({tag}\).*\[(.*)\]", out)


@pytest.mark.parametrize("name", ["_native.so", "_lab.so", "_dwsconv_ops.so", "libtf_dwsconv.so"])
def test_libraries_stand_alone(name):
    """No run path of the machine that built them, and nothing needed that their users lack."""
    library = ROOT / "tf_dwsconv" / name
    assert dynamic(library, "RUNPATH") + dynamic(library, "RPATH") == []
    runtime = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6"}
    loader = {n for n in dynamic(library, "NEEDED") if n.startswith("ld-linux")}
    tensorflow = {"libtensorflow_framework.so.2"} if name == "_dwsconv_ops.so" else set()
    needed = set(dynamic(library, "NEEDED")) - loader
    assert tensorflow <= needed <= runtime | tensorflow
    assert not re.search(rb"/(?:home|root|work|opt|mnt|execroot)/", library.read_bytes())


def test_libraries_hide_the_core():
    """All hold a copy of the core and may be in one process: none lets its C++ names be seen."""
    for module in ("_native", "_lab"):
        visible = symbols(ROOT / "tf_dwsconv" / f"{module}.so", "-D", "--defined-only", "--extern-only")
        assert [name for _, name in visible] == [f"PyInit_{module}"]
    header = (ROOT / "cc" / "capi" / "tf_dwsconv.h").read_text(encoding="utf-8")
    visible = symbols(ROOT / "tf_dwsconv" / "libtf_dwsconv.so", "-D", "--defined-only", "--extern-only")
    assert {name for _, name in visible} == set(re.findall(r"\b(dwsconv_\w+)\(", header))
    ops = symbols(ROOT / "tf_dwsconv" / "_dwsconv_ops.so", "-D", "--defined-only", "--extern-only")
    assert [name for kind, name in ops if "dwsconv::" in name] == []


def files_of(*tops: str) -> "list[Path]":
    """Files with code below folders of the root."""
    suffixes = {".py", ".sh", ".cc", ".h", ".cu", ".cuh", ".inc", ".bzl"}
    return [path for top in tops for path in sorted((ROOT / top).rglob("*")) if path.suffix in suffixes]


@pytest.mark.parametrize("top", ["cc", "cuda", "examples", "python_tests", "tf_dwsconv", "tools"])
def test_files_are_short(top):
    """A file has one subject, and less than 400 lines."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files_of(top)}
    assert len(lengths) > 10
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length >= 400} == {}


def test_tests_are_in_the_folder_of_their_subject():
    """Each with its support modules; a name is there once, as any folder imports from any."""
    folders = {path.relative_to(ROOT / "python_tests").parts[0] for path in files_of("python_tests")} - {"conftest.py"}
    assert folders <= {*SUBJECTS, "support", "saved"}
    files = [path for path in files_of("python_tests") if "saved" not in path.parts]
    names = Counter(path.name for path in files)
    assert [name for name, count in names.items() if count > 1] == []
    tests = [path for path in files if path.name.startswith("test_")]
    assert len(tests) > 80
    assert {path.parent.name for path in tests} <= set(SUBJECTS)


def test_programs_of_examples_are_told_of():
    """In examples/README.md, a line each."""
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    programs = {path.name for path in files_of("examples") if "app.run(main)" in path.read_text(encoding="utf-8")}
    assert len(programs) > 10
    assert {name for name in programs if text.count(f"| `{name}` |") != 1} == set()


def test_no_path_of_a_machine():
    """Committed text names no folder of the machine that somebody wrote it on."""
    stray = re.compile(r"(?<![\w.$}*-])/(?:home|root|work|opt|mnt|Users|venv\w*)/\w+")
    skipped = {"build", "dist", "bazel-out", "output", "tf_dwsconv.egg-info"}
    suffixes = {".py", ".cc", ".h", ".cu", ".cuh", ".md", ".sh", ".bzl", ".toml", ".lds", ".json", ".txt", ""}
    found = []
    count = 0
    for top in sorted(ROOT.iterdir()):
        if top.name in skipped | {".git"} or (top.is_dir() and top.name.startswith(".") and top.name != ".ci"):
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.suffix in suffixes and path.is_file() and "__pycache__" not in path.parts:
                count += 1
                text = path.read_text(encoding="utf-8", errors="replace")
                found += [f"{path.relative_to(ROOT)}: {match}" for match in stray.findall(text)]
    assert count > 30
    assert found == []
    assert stray.search("see /" + "home/someone/tf") and not stray.search("cc/home/x")
