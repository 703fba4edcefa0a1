"""README and docs: their Python runs, their commands exist and take the options that are shown, and `make docs` builds.

Quick commands are run here. Of those that take long, such as `make bench`, the program or target is looked up and each
option; programs have tests of their own.
"""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from conftest import ROOT, check_python
from some_commits import one_commit_in_four

import tf_dwsconv

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# Whole programs of other people, or of the reader.
OTHERS = {"pip", "nvcc", "curl", "bazel"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROGRAMS = r"make|python|\.venv/bin/python|pip|tools/\w+\.sh|cuda/\w+\.sh|curl|bazel|nvcc|tf-dwsconv-\w+"
STARTS = rf"(?:[A-Z_]+=\S+ )*(?:{PROGRAMS})( |$)"


def commands_of(page: Path) -> list[str]:
    """The shell commands of a page: in ```sh blocks, in blocks without a language, and in indented lines."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [
        line.strip()
        for line in re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S).splitlines()
        if line.startswith("    ")
    ]
    return [re.sub(r" +#.*", "", line).strip() for line in lines if re.match(STARTS, line)]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))


def words_of(command: str) -> list[str]:
    """A command without the variables in front of it."""
    words = shlex.split(command, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return words


def flags_of_examples() -> set[str]:
    """Every flag that the programs of examples/ define, and those of options.py, which are named as their functions."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "examples").rglob("*.py"))
    defined = re.findall(r"(?:DEFINE_\w+|options\.(?:words|sizes|shape|integer))\(\s*\"(\w+)\"", text)
    defined += re.findall(r"options\.([a-z_]+)\(", text)
    shared = (ROOT / "examples" / "common" / "options.py").read_text(encoding="utf-8")
    return {*defined, *re.findall(r"(?:DEFINE\w*|integer)\(\s*(?:_\w+\(.*?\), _Commas\(\), )?\"(\w+)\"", shared)}


def check(command: str) -> None:
    """Fails where a command names what is not there, or an option that it does not know."""
    words = words_of(command)
    program, rest = words[0], words[1:]
    if program == "make":
        for word in rest:
            name, is_variable, _ = word.partition("=")
            pattern = rf"\$\({name}\)|^{name} \?=" if is_variable else rf"^{re.escape(name)}:"
            assert re.search(pattern, MAKEFILE + (ROOT / "tools" / "build.sh").read_text(), re.MULTILINE), word
    elif program.endswith("python"):
        check_python_command(rest)
    elif program.startswith("tf-dwsconv-"):
        assert f"{program} = " in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    elif program == "pip":
        extras = re.findall(r"tf_dwsconv\[(\w+)\]", command)
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(re.search(rf"^{extra} = \[", text, re.MULTILINE) for extra in extras), extras
        assert rest[0] == "install"
    elif program not in OTHERS:
        assert (ROOT / program).stat().st_mode & 0o100, program


def check_python_command(words: list[str]) -> None:
    if words[0] == "-m":
        module = words[1]
        if not module.startswith("tf_dwsconv"):
            assert module == "pip"
            return
        is_file = module in ("tf_dwsconv.analysis.traffic", "tf_dwsconv.profile")
        name = module if is_file else f"{module}.__main__"
        command = importlib.import_module(name)
        if module != "tf_dwsconv":
            command._parser().parse_args(words[2:])
    elif words[0].startswith(("examples/", "tools/")):
        assert (ROOT / words[0]).exists(), words[0]
        if words[0].startswith("examples/"):
            given = {word[2:].split("=")[0] for word in words[1:] if word.startswith("--")}
            known = flags_of_examples()
            assert {flag for flag in given if not {flag, flag.removeprefix("no")} & known} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command):
    check(command)


def test_a_wrong_command_is_found(capsys):
    """The check above can fail, in each of its ways."""
    assert len(COMMANDS) > 30 and any(command.startswith("python examples/") for command in COMMANDS)
    for wrong in (
        "make nothing", "make bench NO_SUCH=1", "python examples/none.py", "tools/none.sh", "tf-dwsconv-fast",
        "python examples/demo/detect_faces.py --faces=3", "pip install 'tf_dwsconv[all]'",
    ):  # fmt: skip
        with pytest.raises((AssertionError, OSError)):
            check(wrong)
    for wrong in ("python -m tf_dwsconv.convert a.keras b.keras --fast", "python -m tf_dwsconv.tune --shape 1,2"):
        with pytest.raises(SystemExit):
            check(wrong)


def test_quick_commands_run(tmp_path, monkeypatch, capsys):
    """As they stand, one after the other; the models that they name are small ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DWSCONV_PLAN_CACHE", str(tmp_path / "plans"))
    layers = [keras.Input((8, 8, 4)), keras.layers.SeparableConv2D(6, 3), keras.layers.SeparableConv2D(4, 3)]
    model = keras.Sequential(layers)
    model.save("model.keras")
    model.export("saved_model", verbose=False)
    ran = 0
    for command in COMMANDS:
        words = words_of(command)
        quick = r"tf_dwsconv\.(convert|analysis(?!\.traffic$))|tf_dwsconv\.tune --(show|clear)"
        is_quick = words[:2] == ["python", "-m"] and re.match(quick, " ".join(words[2:]))
        if is_quick and "frozen.pb" not in words:
            name = words[2] if words[2].endswith("traffic") else f"{words[2]}.__main__"
            assert importlib.import_module(name).main(words[3:]) == 0, (command, capsys.readouterr().err)
            ran += 1
    assert ran >= 6
    assert Path("fused.keras").exists() and Path("roofline.png").exists()


def python_of(page: Path) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return "\n".join(block for block in blocks if not block.startswith(">>>"))


def test_python_of_pages_runs(tmp_path):
    """All but README's and that of converting.md, which have tests of their own; it is each page's own program."""
    pages = [
        page
        for page in PAGES
        if page.name not in ("README.md", "converting.md", "tuning_a_model.md") and python_of(page)
    ]
    assert {page.stem for page in pages} >= {"using", "report", "workers"}
    programs = {page.name: python_of(page) for page in pages}
    program = f"import os\nos.chdir({str(tmp_path)!r})\n" + "\n".join(
        f"exec(compile({text!r}, {name!r}, 'exec'), {{'__name__': '__main__'}})" for name, text in programs.items()
    )
    check_python(program, timeout=600)


def test_doctests_of_pages():
    """analysis.md has a test of its own."""
    pages = [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8") and page.stem != "analysis"]
    assert [page.stem for page in pages] == ["ladder"]
    for page in pages:
        failed, count = doctest.testfile(str(page), module_relative=False)
        assert count and not failed


def test_links_between_pages():
    """Files that are linked to are there; Sphinx, below, looks at the headings."""
    found = 0
    for page in PAGES:
        for target in re.findall(
            r"\]\(([^)\s#]+)[^)]*\)", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
        ):
            if "://" not in target:
                assert (page.parent / target).exists(), (page.name, target)
                found += 1
    assert found > 60


@one_commit_in_four(1, "Sphinx takes 20 seconds")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "docs.py"), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    html = (tmp_path / "html" / "api.html").read_text(encoding="utf-8")
    for name in ("DepthwiseSepConv2D", "FusedConvBlock", "depthwise_sep_conv2d", "build_info"):
        assert f'id="tf_dwsconv.{name}"' in html and hasattr(tf_dwsconv, name)
    assert "int | Sequence" in re.sub(r"<[^>]+>", "", html)  # signatures have types
