"""Builds the documentation: `tools/docs.py [FOLDER]` writes HTML to FOLDER (default: build/docs/html).

The pages of docs/ and those of the root become one site, from a copy in which links between them are the site's. A link
to a file that is not there is an error, and so is each warning of Sphinx.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What is no page of docs/, by its name in the site.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PAGES["examples/README.md"] = "examples.md"
CONTENTS = {
    "Use": [
        "installing", "using", "converting", "report", "training", "tuning_a_model", "workers", "migrating", "examples",
    ],
    "Help": ["troubleshooting", "performance", "bfloat16", "results"],
    "Reference": ["api", "api_native", "api_analysis", "analysis", "program", "changelog"],
    "How it is made": [
        "design", "kernels", "decisions", "names", "ladder", "tuning", "cuda", "cuda_backward", "cuda_block",
        "cuda_measured", "contributing",
    ],
}  # fmt: skip
LINK = re.compile(r"(!?\[(?:[^\]\n]|\n(?!\n))*\])\(([^)\s]+)\)")  # its words may go on in the next line


def contents() -> str:
    """The site's table of contents, for the end of its first page."""
    blocks = ["```{toctree}\n:hidden:\n\nOverview <self>\n```"]
    for caption, pages in CONTENTS.items():
        blocks.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```")
    return "\n\n".join(blocks)


def relink(text: str, source: Path) -> str:
    """A page's text with links to other pages as the site has them; those to code become plain words."""

    def link(match: re.Match) -> str:
        words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        file = (source.parent / path).resolve()
        if not file.exists():
            raise SystemExit(f"error: {source.relative_to(ROOT)} links to {target}, which is not there")
        name = file.relative_to(ROOT).as_posix()
        page = PAGES.get(name, file.name if file.parent == ROOT / "docs" else None)
        if page is None:
            return words[1:-1]
        return f"{words}({page}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)  # code stays as it is
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def stage(folder: Path) -> None:
    """Lays out what Sphinx reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted((ROOT / "docs").iterdir()):
        if path.suffix == ".md":
            (folder / path.name).write_text(relink(path.read_text(encoding="utf-8"), path), encoding="utf-8")
        elif path.is_file():
            shutil.copy(path, folder)
    for name, page in PAGES.items():
        text = relink((ROOT / name).read_text(encoding="utf-8"), ROOT / name)
        (folder / page).write_text(text + (f"\n\n{contents()}\n" if page == "index.md" else ""), encoding="utf-8")


def main() -> int:
    """Builds the site; returns the exit status."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs" / "html").resolve()
    source = ROOT / "build" / "docs" / "source"
    stage(source)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(source), str(target)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    status = subprocess.run(command, env=environment).returncode
    if status == 0:
        print(f">> {target / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
