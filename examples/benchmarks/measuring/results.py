"""What a benchmark program finds: tables, figures and comparisons with the sources, printed, and kept as files.

A folder of results holds `results.json` (all of it, with the settings of the run), a CSV file for each table, and the
figures. `report.py` reads those folders.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from absl import flags
from common import options, record

from measuring import load, machine
from tf_dwsconv import native
from tf_dwsconv.analysis import format_table

flags.disclaim_key_flags()  # --output is the program's

FILE = "results.json"
# Environment variables that change what is measured.
VARIABLES = (
    "TF_ENABLE_ONEDNN_OPTS",
    "DWSCONV_ISA",
    "DWSCONV_NUM_THREADS",
    "DWSCONV_DISABLE",
    "DWSCONV_PLAN_CACHE",
    "OMP_NUM_THREADS",
)


def define_output(name: str) -> flags.FlagHolder:
    """The flag `--output` of a program."""
    return options.output(name, "results.json, the CSV files and the plots")


def progress(text: str) -> None:
    """One line that the next overwrites; nothing where nobody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def progress_of(what: Any) -> Callable[[str], None]:
    """What `time_in_turn` shows of its calls, behind what is timed."""
    return lambda text: progress(text and f"{what}, {text}")


def commit() -> str:
    """The commit of the checkout that the programs lie in, with `+` where it is changed; "unknown" outside of one."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def settings(**more: Any) -> dict[str, Any]:
    """What the figures of a run depend on: flags, command, versions, machine, environment. JSON takes it.

    Args:
        **more: the program's own: the seed, what was timed.
    """
    if "tensorflow" in sys.modules:
        found = record.settings()
    else:
        found = {"python": sys.version.split()[0], "numpy": sys.modules["numpy"].__version__}
    return {
        "command": " ".join(["python", *(word if " " not in word else repr(word) for word in sys.argv)]),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        **more,
        **found,
        **machine.describe(),
        **{name: os.environ.get(name, "not set") for name in VARIABLES},
    }


class Results:
    """Tables, figures and comparisons of one run.

    Args:
        folder: where they go; made if it is not there. The program ends with one line where that is not possible.
        title: one line that says what was measured.
    """

    def __init__(self, folder: str, title: str):
        self.folder = record.make_folder("output", folder)
        self.title = title
        self.settings: dict[str, Any] = {}
        self.tables: list[dict[str, Any]] = []
        self.figures: list[dict[str, str]] = []
        self.comparisons: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self._watch = load.Watch()

    def describe(self, **more: Any) -> None:
        """Takes the settings, once TensorFlow is imported where it will be, and prints them."""
        self.settings = settings(**more)
        print(self.title)
        record.print_settings(self.settings)
        print(flush=True)

    def table(
        self, name: str, title: str, columns: dict[str, str], rows: list[dict[str, Any]], show: bool = True
    ) -> None:
        """Adds a table.

        Args:
            name: of its CSV file.
            title: says what it shows, with the conditions.
            columns: heading by key, the unit in it.
            rows: values by key; what a row lacks is empty. The CSV file has all keys, a column or not.
            show: print it too.
        """
        self.tables.append({"name": name, "title": title, "columns": columns, "rows": rows})
        if show:
            self.print_table(title, columns, rows)

    @staticmethod
    def print_table(title: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> None:
        """Prints rows as text columns."""
        print(f"== {title}")
        print(format_table(tuple(columns.values()), [tuple(cell(row.get(key)) for key in columns) for row in rows]))
        print(flush=True)

    def figure(self, file: str, caption: str) -> Path:
        """Adds a figure that is about to be saved in the folder; returns its path."""
        self.figures.append({"file": file, "caption": caption})
        return self.folder / file

    def compare(self, what: str, reported: Any, ours: Any, unit: str, source: str, remark: str = "") -> None:
        """Sets a figure beside what a source reported.

        Args:
            what: is compared.
            reported: as the source has it; None where it names none.
            ours: of this run; None where it could not be measured, and then `remark` says why.
            unit: of both.
            source: "GPU study" or "report", and the hardware.
            remark: what differs.
        """
        self.comparisons.append(
            {"what": what, "source": source, "reported": reported, "ours": ours, "unit": unit, "remark": remark}
        )

    def note(self, text: str) -> None:
        """A sentence for the reader, printed now and kept."""
        self.notes.append(text)
        print(text, flush=True)

    def save(self) -> None:
        """Prints the comparisons, says whether the machine had other work, and writes everything."""
        cores = native.cpu_info()["cores"]
        verdict = self._watch.verdict(cores)
        self.settings.update(verdict)
        if load.warning(verdict, cores):
            self.note(load.warning(verdict, cores))
        if self.comparisons:
            columns = {
                "what": "beside the sources",
                "reported": "reported",
                "ours": "here",
                "unit": "unit",
                "source": "by",
            }
            self.print_table("what the sources reported", columns, self.comparisons)
        for table in self.tables:
            keys: dict[str, Optional[None]] = dict.fromkeys(key for row in table["rows"] for key in row)
            if keys:
                rows = [{key: row.get(key, "") for key in keys} for row in table["rows"]]
                record.write_csv(self.folder / f"{table['name']}.csv", rows)
        names = ("title", "settings", "tables", "figures", "comparisons", "notes")
        record.write_json(self.folder / FILE, {name: getattr(self, name) for name in names})
        files = [FILE, *(f"{table['name']}.csv" for table in self.tables), *(figure["file"] for figure in self.figures)]
        print(f"saved {', '.join(files)} in {self.folder}")


def cell(value: Any) -> str:
    """A value as a table shows it: four digits of a float, nothing for None."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"
    return str(value)


def threads_in_use(threads: int) -> int:
    """What a flag `--threads` comes to: 0 is all cores."""
    return threads or native.cpu_info()["cores"]
