"""README and docs: their Python runs, their commands exist and take the options that are shown, and `make docs` builds.

Quick commands are run here, and programs of examples/ until they have read their flags. Of the others that take long,
such as `make bench`, the program or target is looked up; they have tests of their own.
"""

from __future__ import annotations

import doctest
import importlib.util
import re
import shlex
import shutil
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
# Whole programs of other people.
OTHERS = {"pip", "nvcc", "curl", "bazel"}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROGRAMS = r"make|python|\.venv/bin/python|pip|tools/\w+\.sh|cuda/\w+\.sh|curl|bazel|nvcc|tf-dwsconv-\w+"
STARTS = rf"(?:[A-Z_]+=(?:'[^']*'|\S*) )*(?:{PROGRAMS})( |$)"


def blocks_of(text: str) -> tuple[list[tuple[str, str]], str]:
    """The fenced blocks of a page, as (language, content), and the rest of it."""
    blocks, rest, language, content = [], [], None, []
    for line in text.splitlines():
        fence = re.fullmatch(r"```(.*)", line)
        if fence and language is None:
            language, content = fence[1], []
        elif fence:
            blocks.append((language, "".join(f"{each}\n" for each in content)))
            language = None
        else:
            (rest if language is None else content).append(line)
    assert language is None, "a block does not end"
    return blocks, "\n".join(rest)


def commands_of(text: str) -> list[str]:
    """The shell commands of a page: in blocks of the shell or no language, in indented lines, in code between words.

    Every line of a block for the shell has to be one, so that none is passed over.
    """
    blocks, rest = blocks_of(text.replace("\\\n", " "))
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    lines += [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`([^`]+)`", rest.replace("\n", " "))
    found = [line for line in lines if re.match(STARTS, line)]
    for language, block in blocks:
        if language == "sh":
            every = [line for line in block.splitlines() if line.strip() and not line.startswith("#")]
            assert [line for line in every if not re.match(STARTS, line)] == []
            found += every
    return [re.sub(r" +#.*", "", line).strip() for line in found]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"))))


def words_of(command: str) -> list[str]:
    """A command without the variables in front of it."""
    words = shlex.split(command, comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return words


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
        if len(rest) < 2:  # the word, in a sentence
            return
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
        if module != "tf_dwsconv" and words[2:] not in ([], ["--help"]):
            command._parser().parse_args(words[2:])
    elif words[0].startswith(("examples/", "tools/")) and not words[0].endswith("..."):
        assert (ROOT / words[0]).exists(), words[0]
        if words[0].startswith("examples/"):  # absl reads the flags, and ends
            program = [sys.executable, str(ROOT / words[0]), *words[1:], "--only_check_args"]
            done = subprocess.run(program, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command):
    check(command)


def test_a_wrong_command_is_found(capsys):
    """The check above can fail, in each of its ways."""
    assert len(COMMANDS) > 60 and any(command.startswith("python examples/") for command in COMMANDS)
    for wrong in (
        "make nothing", "make bench NO_SUCH=1", "python examples/none.py", "tools/none.sh", "tf-dwsconv-fast",
        "python examples/demo/detect_faces.py --faces=3", "pip install 'tf_dwsconv[all]'",
        "python examples/benchmarks/benchmark_layer.py --suite=none",
    ):  # fmt: skip
        with pytest.raises((AssertionError, OSError)):
            check(wrong)
    for wrong in ("python -m tf_dwsconv.convert a.keras b.keras --fast", "python -m tf_dwsconv.tune --shape 1,2"):
        with pytest.raises(SystemExit):
            check(wrong)


@pytest.mark.parametrize(
    "planted",
    [
        "```python\nx = 1\n```\n\n```sh\nmake build\nmake nothing  # soon\n```\n",
        "```python\nx = 1\n```\n\n```\nmake nothing\n```\n",
        "A list:\n\n    make nothing\n",
        "Call `make\nnothing`, then look.\n",
    ],
)
def test_a_command_is_found_wherever_it_stands(planted):
    """In a block for the shell, a block of no language, an indented line, a sentence; also behind a block of Python."""
    (*_, command) = [command for command in commands_of(planted) if command != "make build"]
    with pytest.raises(AssertionError):
        check(command)


def test_no_line_for_the_shell_is_passed_over():
    with pytest.raises(AssertionError, match="pyton"):
        commands_of("```sh\npyton -m tf_dwsconv\n```\n")
    with pytest.raises(AssertionError, match="does not end"):
        commands_of("```sh\nmake build\n")


def test_quick_commands_run(tmp_path, monkeypatch, capsys):
    """As they stand, one after the other; the models that they name are small ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DWSCONV_PLAN_CACHE", str(tmp_path / "plans"))
    layers = [keras.Input((8, 8, 4)), keras.layers.SeparableConv2D(6, 3), keras.layers.SeparableConv2D(4, 3)]
    model = keras.Sequential(layers)
    model.save("model.keras")
    model.export("saved_model", verbose=False)
    tf_dwsconv.save_network(tf_dwsconv.convert(model), "network.safetensors")
    ran = 0
    for command in COMMANDS:
        words = words_of(command)
        quick = r"tf_dwsconv\.(convert|profile|analysis(?!\.traffic$))|tf_dwsconv\.tune --(show|clear)"
        is_quick = words[:2] == ["python", "-m"] and len(words) > 3 and re.match(quick, " ".join(words[2:]))
        if is_quick and "frozen.pb" not in words:
            name = words[2] if words[2].endswith(("traffic", "profile")) else f"{words[2]}.__main__"
            if words[2].endswith("convert"):  # each page begins anew
                shutil.rmtree(words[4], ignore_errors=True)
                Path(words[4]).unlink(missing_ok=True)
            assert importlib.import_module(name).main(words[3:]) == 0, (command, capsys.readouterr().err)
            ran += 1
    assert ran >= 10
    assert Path("fused.keras").exists() and Path("roofline.png").exists()


def python_of(page: Path) -> str:
    blocks, _ = blocks_of(page.read_text(encoding="utf-8"))
    return "\n".join(block for language, block in blocks if language == "python" and not block.startswith(">>>"))


def test_parts_of_programs_name_what_there_is():
    """Blocks marked `py` are parts of a reader's program, and do not run by themselves."""
    names = []
    for page in PAGES:
        for language, block in blocks_of(page.read_text(encoding="utf-8"))[0]:
            assert language in ("", "sh", "python", "py", "bibtex", "{eval-rst}"), (page.name, language)
            if language == "py":
                compile(block, page.name, "exec")
                names += re.findall(r"(?<!import )\btf_dwsconv\.(\w+)", block)
    assert len(names) >= 3 and [name for name in names if not hasattr(tf_dwsconv, name)] == []


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


def test_pages_name_this_version():
    """README's wheel and how to cite, the newest entry of the changes, and the example of a wheel's name."""
    readme, changes, installing = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md", "docs/installing.md")
    )
    version = re.escape(tf_dwsconv.__version__)
    assert set(re.findall(r"tf_dwsconv-([\d.]+)\+|version = \{([\d.]+)\}", readme)) == {
        (tf_dwsconv.__version__, ""),
        ("", tf_dwsconv.__version__),
    }
    assert re.search(r"^## (\S+)$", changes, re.MULTILINE)[1] == tf_dwsconv.__version__
    assert re.search(rf"tf_dwsconv-{version}\+tf", installing)


def test_the_table_of_networks_is_of_what_was_measured():
    """`tools/networks.py draw` ran after `measure` did."""
    spec = importlib.util.spec_from_file_location("networks", ROOT / "tools" / "networks.py")
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    page = (ROOT / "docs" / "converting.md").read_text(encoding="utf-8")
    machines = networks.read()
    assert machines
    for machine in machines:
        assert set(machine.about) == set(networks.NETWORKS)
        assert machine.cpu in page and networks.table(machine.times) in page


def test_the_api_pages_hold_every_public_name():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("api*.md"))
    shown = set(re.findall(r"^\.\. auto\w+:: tf_dwsconv\.(?:convert\.)?(\w+)$", text, re.MULTILINE))
    assert set(tf_dwsconv.__all__) - shown == {"layers", "ops"}  # modules of which all is shown by itself


@one_commit_in_four(1, "Sphinx takes 20 seconds")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "docs.py"), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    html = (tmp_path / "html" / "api.html").read_text(encoding="utf-8")
    for name in ("DepthwiseSepConv2D", "FusedConvBlock", "depthwise_sep_conv2d", "build_info"):
        assert f'id="tf_dwsconv.{name}"' in html and hasattr(tf_dwsconv, name)
    assert "int | Sequence" in re.sub(r"<[^>]+>", "", html)  # signatures have types
