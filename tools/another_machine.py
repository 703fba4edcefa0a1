"""Runs a part of the tests on a machine that is not there: tools/another_machine.py ["l1d=48K,l2=2M,..."].

Without an argument the machine is one of python_tests/support/machines.py. The commit chooses it, so that every commit
is tested on one and a rerun meets the same. The tests run in a process of their own, which believes the facts
(DWSCONV_TEST_MACHINE).
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT / "python_tests" / "support", ROOT):
    sys.path.insert(0, str(folder))

from machines import MACHINES  # noqa: E402

# What depends on caches, cores and instruction sets: plans, ways to cut a layer or a block, threads, packed filters.
TESTS = (
    "native/test_native.py",
    "native/test_native_module.py",
    "op/test_runtime.py",
    "block/test_block_kernel.py",
    "plan/test_tune_plans.py",
    "plan/test_planner.py::test_this_machine_is_planned_for",
    "gradient/test_backward.py::test_blocks_and_chunks",
    "gradient/test_backward.py::test_same_bits_for_any_number_of_threads",
)


def chosen(commit: str) -> str:
    """The machine for a commit, in hexadecimal digits; for the day where there is none."""
    number = int(commit[:8], 16) if commit else datetime.date.today().toordinal()
    return str(MACHINES[number % len(MACHINES)])


def commit_here() -> str:
    """The commit of this checkout; empty where it is none."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(machine: str) -> dict:
    """Of a process that believes in the machine; TensorFlow is given its number of cores too."""
    facts = dict(fact.partition("=")[::2] for fact in machine.split(","))
    changes = {"DWSCONV_TEST_MACHINE": machine}
    if "cores" in facts:
        changes["TF_NUM_INTRAOP_THREADS"] = facts["cores"]
    return {**os.environ, **changes}


def main(arguments: list) -> int:
    if len(arguments) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    commit = commit_here()
    machine = arguments[0] if arguments and arguments[0] else chosen(commit)
    print(f">> tests on another machine: {machine}", flush=True)
    print(f'>> again: make test-machine MACHINE="{machine}"', flush=True)
    tests = [str(ROOT / "python_tests" / name) for name in TESTS]
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], env=environment(machine), cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
