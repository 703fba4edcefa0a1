"""The threads that `native` works on: its own, which sleep, hear no signals, and are there anew after a fork."""

import numpy as np
import pytest
from conftest import check_python

from tf_dwsconv import native

SETUP = """
import os, signal, sys
import numpy as np
from tf_dwsconv import native
random = np.random.default_rng(0)
d, p = random.standard_normal((3, 3, 8, 1), np.float32), random.standard_normal((1, 1, 8, 16), np.float32)
layer = native.Layer(d, p)
x = random.standard_normal((4, 64, 64, 8), np.float32)
assert native.plan(x.shape, d.shape, p.shape, num_threads=3)["threads"] == 3
expected = layer(x, num_threads=1)
before = set(os.listdir("/proc/self/task"))
assert layer(x, num_threads=3).tobytes() == expected.tobytes()
started = set(os.listdir("/proc/self/task")) - before
"""


def test_child_of_a_fork_has_threads_of_its_own():
    """A fork copies one thread alone: who waited for the others would wait for ever."""
    program = SETUP + (
        "assert len(started) == 2, started\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"
        "    same = layer(x, num_threads=3).tobytes() == expected.tobytes()\n"
        "    os._exit(0 if same and len(os.listdir('/proc/self/task')) == 3 else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "assert layer(x, num_threads=3).tobytes() == expected.tobytes()\n"
        "print('done')\n"
    )
    assert "done" in check_python(program)


def test_threads_sleep_and_block_signals():
    """Between calls they sleep, and a signal goes to a thread of the program, as Python expects of SIGINT."""
    program = SETUP + (
        "import time\n"
        "def state(task): return open(f'/proc/self/task/{task}/stat').read().rpartition(')')[2].split()[0]\n"
        "until = time.monotonic() + 60\n"
        "while any(state(t) != 'S' for t in started) and time.monotonic() < until: time.sleep(0.01)\n"
        "assert all(state(t) == 'S' for t in started)\n"
        "for t in started:\n"
        "    lines = open(f'/proc/self/task/{t}/status').read().splitlines()\n"
        "    blocked = int(dict(l.split(':\\t') for l in lines if ':\\t' in l)['SigBlk'], 16)\n"
        "    assert blocked >> (signal.SIGINT - 1) & 1 and blocked >> (signal.SIGALRM - 1) & 1\n"
        "assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()\n"
        "print('done')\n"
    )
    assert "done" in check_python(program)


def test_works_where_no_thread_can_be_started():
    """A system that refuses threads slows a call down; it does not break it."""
    program = (
        "import resource\n"
        + SETUP.replace("before =", "resource.setrlimit(resource.RLIMIT_AS, (USED, USED))\nbefore =").replace(
            "USED", "(int(open('/proc/self/statm').read().split()[0]) << 12) + (4 << 20)"
        )
        + "assert not started, started\nprint('done')\n"
    )
    assert "done" in check_python(program)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_more_threads_than_cores_or_tasks(threads):
    """Every task runs once, whoever takes it: also in many short calls in a row, where threads come late."""
    random = np.random.default_rng(1)
    d, p = random.standard_normal((3, 3, 5, 1), np.float32), random.standard_normal((1, 1, 5, 7), np.float32)
    layer = native.Layer(d, p)
    x = random.standard_normal((3, 50, 51, 5), np.float32)
    expected = layer(x, num_threads=1)
    plan = {"block_pixels": 37, "block_channels": 7, "threads": threads, "stream": False}
    for _ in range(300):
        out = np.full_like(expected, np.nan)
        assert layer(x, out=out, num_threads=threads, plan=plan).tobytes() == expected.tobytes()
