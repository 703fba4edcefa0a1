"""`convert_saved_model` on random graphs, in a process of its own: Grappler may end one, and answers must stay."""

import subprocess
import sys

import pytest
from conftest import ROOT, python_environment
from some_commits import ALL

pytestmark = pytest.mark.usefixtures("op_library")

NUMBER = 200 if ALL else 80  # two minutes, or one


def test_random_graphs():
    """Equal answers in graph mode before and after."""
    program = ROOT / "python_tests" / "convert" / "graph_random_program.py"
    done = subprocess.run(
        [sys.executable, str(program), str(NUMBER)],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    graphs, fused, worst = done.stdout.split()
    assert int(graphs) >= NUMBER and int(fused) > NUMBER and float(worst) < 1e-4
