"""Processes that train together: started, watched, started again after one died, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

USAGE_ERROR = 2  # a worker that ends with this would do so again
_PR_SET_PDEATHSIG = 1


class WorkerError(Exception):
    """Workers that did not come to an end."""


def end_with_parent(parent: int) -> None:
    """Has Linux kill this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def loopback_cluster(workers: int) -> list[dict[str, str]]:
    """The `TF_CONFIG` of each worker of a cluster on this machine; none for a single one."""
    if workers == 1:
        return [{}]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    configs = [{"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}} for i in range(workers)]
    return [{"TF_CONFIG": json.dumps(config)} for config in configs]


def read_cluster(text: str) -> tuple[int, int, int]:
    """Checks a `TF_CONFIG`.

    Returns:
        `(workers, rank, chief)`: how many train, which of them this one is, and which of them is the chief.

    Raises:
        ValueError: it is not JSON, or not a cluster of workers that holds its own task.
    """
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        members = [(kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, [])))]
        own = (task["type"], int(task["index"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG is not a cluster's description ({type(error).__name__}: {error})") from None
    if own not in members:
        raise ValueError(f"TF_CONFIG names the task {own[0]} {own[1]}; its workers are {members}")
    return len(members), members.index(own), 0


@contextlib.contextmanager
def _signals_end_the_program() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that the workers are stopped."""

    def stop(number, frame):
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run(
    command: Callable[[int], list[str]], environments: Callable[[], list[dict[str, str]]], max_restarts: int
) -> int:
    """Runs workers to their end. When one fails, stops the others and starts all again.

    They train in step, so the others cannot go on without the one that died.

    Args:
        command: of a worker, for a given attempt (0, 1, ...).
        environments: called before each attempt: what each worker's environment holds beyond this one's.
        max_restarts: how often they may be started again.

    Returns:
        The number of restarts it took.

    Raises:
        WorkerError: they failed once more, or in a way that a restart does not mend.
    """
    with _signals_end_the_program():
        for attempt in range(max_restarts + 1):
            children: list[subprocess.Popen] = []
            try:
                for extra in environments():
                    children.append(subprocess.Popen(command(attempt), env={**os.environ, **extra}))
                failed = _wait(children)
            finally:
                _stop(children)
            if failed is None:
                return attempt
            status = failed.returncode
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            if status == USAGE_ERROR or attempt == max_restarts:
                raise WorkerError(f"the worker of pid {failed.pid} {how}")
            print(f"the worker of pid {failed.pid} {how}; restart {attempt + 1} of {max_restarts} at most", flush=True)
    raise AssertionError("unreachable")


def _wait(children: list[subprocess.Popen]) -> subprocess.Popen | None:
    """Waits until all have ended well (None), or one has not: that one."""
    while True:
        statuses = [child.poll() for child in children]
        failed = [child for child in children if child.returncode]
        if failed:
            # Who was killed is the cause; the others end a moment later because of it.
            return min(failed, key=lambda child: child.returncode)
        if None not in statuses:
            return None
        time.sleep(0.02)


def _stop(children: list[subprocess.Popen], patience_s: float = 2.0) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    end = time.monotonic() + patience_s
    for child in children:
        try:
            child.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
