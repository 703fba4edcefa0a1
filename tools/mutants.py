"""Plants faults in the package, one at a time, and tells which of them the tests let pass.

Usage: mutants.py [--list] [--check] [--only WORD]... [--no-baseline], with the interpreter of .venv.

The faults stand in mutant_faults/. Those of the C++ code are all built into one library, in a copy of the tree,
where the environment's DWSCONV_FAULT says which one is there; so one build serves them all. Those of the Python code
are each written into a copy of the package. The copies are under build/mutants/. Then the tests that should notice run,
until one does. First they run without any fault: one that fails by itself notices nothing, and is left out.

A fault is killed where a test fails or the process dies, and has survived where all tests pass. Some are known to
change nothing and say why; such a one must survive. The exit status is 1 where any fault does not end as it should.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from mutant_faults import FAULTS, Fault  # noqa: E402

# Before TensorFlow is imported, as in conftest.py.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

FOLDER = ROOT / "build" / "mutants"
# What the build reads, beside the interpreter and what that has installed.
BUILT = ("BUILD", "WORKSPACE", ".bazelrc", "cc", "cuda", "third_party", "tools")
SWITCH = """// Which fault is there: of tools/mutants.py.
#include <cstdlib>

extern "C" {
extern const int dwsconv_fault;
const int dwsconv_fault = std::getenv("DWSCONV_FAULT") ? std::atoi(std::getenv("DWSCONV_FAULT")) : 0;
}
"""
DECLARATION = 'extern "C" const int dwsconv_fault;\n'
SECONDS = 3600  # for the tests of one fault, or of none: what hangs is noticed too


def number_of(fault: Fault) -> int:
    """What DWSCONV_FAULT is for it; 0 is no fault."""
    return FAULTS.index(fault) + 1


def is_cpp(fault: Fault) -> bool:
    """Whether it is in the compiled half."""
    return not fault.file.endswith(".py")


def wrong_with(fault: Fault, text: str) -> str:
    """What is wrong with a fault in the text of its file; "" if it can be planted."""
    at = fault.at or fault.good
    if text.count(at) != 1:
        return f"{fault.file} holds its text {text.count(at)} times instead of once: {at!r}"
    if at.count(fault.good) != 1 or fault.good == fault.bad:
        return f"its good text must be in its text once, and differ from the bad one: {fault.good!r}"
    if is_cpp(fault) and fault.good.endswith(";") != fault.bad.endswith(";"):
        return "both of its texts must be statements, or both expressions"
    if is_cpp(fault) and fault.good.endswith(","):
        return "its texts must not end with a comma: expressions stand between brackets"
    if is_cpp(fault) and fault.good.startswith("{"):
        return "its texts must not begin with a bracket of their own: that is no expression"
    before = text[: text.index(at) + at.index(fault.good)].rstrip().rpartition("\n")[2]
    if is_cpp(fault) and fault.good.endswith(";") and before[-1:] not in ";{})" and "//" not in before:
        return f"a statement must not begin in the middle of another: {before.strip()!r} is before it"
    if is_cpp(fault) and any(text.count(a) != text.count(b) for text in fault[2:4] for a, b in ("()", "[]", "{}")):
        return "its texts must have as many brackets that open as brackets that close"
    if not is_cpp(fault):
        try:
            ast.parse(planted(fault, text))
        except SyntaxError as error:
            return f"with it {fault.file} is no Python: {error}"
    return ""


def planted(fault: Fault, text: str) -> str:
    """The text of its file with the fault in it; in C++ behind the switch."""
    bad = fault.bad
    if is_cpp(fault):
        chosen = f"dwsconv_fault == {number_of(fault)}"
        statements = fault.good.endswith(";")
        bad = (
            f"if ({chosen}) {{ {bad} }} else {{ {fault.good} }}" if statements else f"({chosen} ? {bad} : {fault.good})"
        )
    at = fault.at or fault.good
    return text.replace(at, at.replace(fault.good, bad))


def check(faults: Sequence[Fault] = FAULTS, root: Path = ROOT) -> list[str]:
    """What is wrong with the table, a line each."""
    wrong = []
    names = [fault.name for fault in faults]
    wrong += [f"{name}: two faults have this name" for name in sorted({n for n in names if names.count(n) > 1})]
    spans: dict[str, list] = {}
    for fault in faults:
        path = root / fault.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        error = wrong_with(fault, text) if text else f"there is no file {fault.file}"
        missing = [test for test in fault.tests if not (root / "python_tests" / test.split("::")[0]).is_file()]
        if not error and (missing or not fault.tests):
            error = f"there are no tests {missing}"
        if not error:
            at = fault.at or fault.good
            begin = text.index(at) + at.index(fault.good)
            span = range(begin, begin + len(fault.good))
            others = [name for name, other in spans.get(fault.file, []) if is_cpp(fault) and _overlap(span, other)]
            spans.setdefault(fault.file, []).append((fault.name, span))
            if others:
                error = f"it overlaps with {others[0]}"
        if error:
            wrong.append(f"{fault.name}: {error}")
    return wrong


def _overlap(a: range, b: range) -> bool:
    return max(a.start, b.start) < min(a.stop, b.stop)


def files(*folders: str) -> list[Path]:
    """The files of the tree under some of its folders, and some of its files: those that git knows, or would add."""
    out = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", *folders],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted({Path(name) for name in out.stdout.split("\0") if name and (ROOT / name).is_file()})


def write(path: Path, text: str) -> None:
    """Writes a file, if it is not so already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def copy_package(folder: Path, changed: dict[str, str], libraries: Path) -> None:
    """Puts a copy of the package into a folder: some files changed, `libraries` the folder with the compiled half."""
    shutil.rmtree(folder / "tf_dwsconv", ignore_errors=True)
    for path in files("tf_dwsconv"):
        text = changed.get(path.as_posix()) or (ROOT / path).read_text(encoding="utf-8")
        write(folder / path, text)
    for library in (*libraries.glob("*.so"), libraries / "_build_info.json"):
        os.link(library, folder / "tf_dwsconv" / library.name)  # not a symbolic one: tests compare its path


def build() -> Path:
    """Builds all faults of the C++ code into a copy of the tree; returns the folder that holds its package."""
    tree = FOLDER / "tree"
    texts = {path: (ROOT / path).read_bytes() for path in files(*BUILT)}
    for fault in filter(is_cpp, FAULTS):
        path = Path(fault.file)
        texts[path] = planted(fault, texts[path].decode()).encode()
    for path in {Path(fault.file) for fault in FAULTS if is_cpp(fault)}:
        texts[path] = DECLARATION.encode() + texts[path]
    texts[Path("cc/core/dwsconv_fault.cc")] = SWITCH.encode()
    for path in [p for p in tree.rglob("*") if p.is_file() and ".bazel" not in p.parts and p.suffix != ".so"]:
        if path.relative_to(tree) not in texts and "tf_dwsconv" not in path.parts:
            path.unlink()  # gone since the last time
    for path, text in texts.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or target.read_bytes() != text:
            target.write_bytes(text)
            shutil.copymode(ROOT / path if (ROOT / path).exists() else __file__, target)
    python = os.environ.get("DWSCONV_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
    subprocess.run([tree / "tools" / "build.sh"], check=True, env={**os.environ, "DWSCONV_PYTHON": python})
    package = FOLDER / "compiled"
    copy_package(package, {}, tree / "tf_dwsconv")
    return package


def run_tests(
    tests: Sequence[str], package: Path, fault: int = 0, options: Sequence[str] = ("-x",)
) -> tuple[bool, list[str]]:
    """Whether tests pass with the package in a folder, and what failed if they do not: tests, or words.

    `options` are pytest's.

    They run in a fork of this process, which has imported what takes longest: most of them take less than that.
    """
    import hypothesis  # noqa: F401
    import keras  # noqa: F401
    import pytest  # noqa: F401
    import tensorflow  # noqa: F401

    with tempfile.TemporaryFile("w+") as out:
        child = os.fork()
        if child == 0:
            paths = [str(ROOT / "python_tests" / test) for test in tests]
            _in_child([*options, *paths], package, fault, out.fileno())
        end = time.monotonic() + SECONDS
        ended, status = os.waitpid(child, os.WNOHANG)
        while not ended and time.monotonic() < end:
            time.sleep(0.05)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False, [f"not done after {SECONDS} seconds"]
        out.seek(0)
        said = out.read()
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return True, []
    if code < 0:
        return False, [f"the process died of signal {-code}"]
    if code > 2:
        raise RuntimeError(f"pytest could not run {tests}:\n{said}")
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?(python_tests/.+?)(?: - .*)?$", said, re.MULTILINE)
    return False, failed or said.strip().splitlines()[-1:]


def _in_child(arguments: list[str], package: Path, fault: int, out: int) -> None:
    """Runs pytest on the package in a folder, and ends the process."""
    code = 3
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(out, 2)
        # From the folder of the package: `python -c` finds what is in the current one first, and tests run that.
        os.chdir(package)
        os.environ.update(PYTHONPATH=str(package), DWSCONV_FAULT=str(fault))
        sys.path[0] = str(package)
        import pytest

        options = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=no"]
        code = int(pytest.main([*options, *arguments], plugins=[_NoShrinking()]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _NoShrinking:
    """A plugin of pytest: the first example that fails is enough."""

    def pytest_sessionstart(self) -> None:
        from hypothesis import Phase, settings

        profile = settings.get_profile("dwsconv")  # of conftest.py
        settings.register_profile("mutants", parent=profile, phases=(Phase.explicit, Phase.generate), database=None)
        settings.load_profile("mutants")


def tell(faults: Sequence[Fault], baseline: bool) -> int:
    """Runs the tests of each fault and prints what became of it; returns how many did not end as they should."""
    options = ["-x"]
    if baseline:
        tests = sorted({test for fault in faults for test in fault.tests})
        _, failed = run_tests(tests, ROOT, options=())
        for test in failed:
            print(f"left out, as it fails without any fault: {test}")
            options.append(f"--deselect={test}")
    compiled = build() if any(map(is_cpp, faults)) else None
    has = isas()
    ends: dict[str, list[str]] = {"killed": [], "survived": [], "changes nothing": [], "not on this CPU": []}
    unexpected = 0
    for fault in faults:
        begin = time.monotonic()
        if fault.isa and fault.isa not in has:
            end, what = "not on this CPU", fault.isa
        else:
            package = compiled
            if not is_cpp(fault):
                package = FOLDER / "python"
                text = (ROOT / fault.file).read_text(encoding="utf-8")
                copy_package(package, {fault.file: planted(fault, text)}, ROOT / "tf_dwsconv")
            passed, failed = run_tests(fault.tests, package, number_of(fault) if is_cpp(fault) else 0, options)
            what = failed[0] if failed else ""
            end = "killed" if not passed else "changes nothing" if fault.same else "survived"
            unexpected += end == "survived" or (end == "killed" and bool(fault.same))
        note = what or fault.same
        if end == "killed" and fault.same:
            note += f", though it should change nothing: {fault.same}"
        ends[end].append(fault.name)
        print(f"{end:15} {fault.name:40} {time.monotonic() - begin:5.0f} s  {note}", flush=True)
    print(", ".join(f"{len(names)} {end}" for end, names in ends.items()))
    for name in ends["survived"]:
        print(f"survived: {name}")
    return unexpected


def isas() -> list[str]:
    """The instruction sets of this CPU. Asked in another process: this one must not have the package."""
    program = "from tf_dwsconv import native; i = native.cpu_info(); print(*i['isas'], *['avx512bf16'] * i['bf16'])"
    command = [sys.executable, "-c", program]
    has = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    cpu = Path("/proc/cpuinfo")
    return has + ["avx512rounds"] * (cpu.is_file() and "avx512_bf16" in cpu.read_text(encoding="utf-8"))


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Plants faults and tells which of them the tests let pass.")
    parser.add_argument("--list", action="store_true", help="print the faults, and do nothing else")
    parser.add_argument("--check", action="store_true", help="check the table against the sources, and do nothing else")
    parser.add_argument(
        "--only",
        action="append",
        metavar="WORD",
        help="only the fault of this name, or those whose name or file holds it",
    )
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a fault first")
    arguments = parser.parse_args()
    wrong = check()
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        return 1
    words = arguments.only or [""]
    faults = [f for f in FAULTS if f.name in words] or [
        f for f in FAULTS if any(word in f.name or word in f.file for word in words)
    ]
    if not faults:
        parser.error(f"no fault's name or file holds {' or '.join(map(repr, words))}")
    if arguments.list:
        for fault in faults:
            print(f"{fault.name:40} {fault.file}" + (f" (changes nothing: {fault.same})" if fault.same else ""))
    if arguments.check:
        print(f"{len(FAULTS)} faults, all of which can be planted")
    if arguments.list or arguments.check:
        return 0
    return 1 if tell(faults, not arguments.no_baseline) else 0


if __name__ == "__main__":
    sys.exit(main())
