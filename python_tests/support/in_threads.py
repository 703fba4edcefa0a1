"""Work in many threads at a time; what goes wrong in one of them fails the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


def in_threads(work: Callable[[int], None], numbers: Iterable[int]) -> None:
    """Calls work(number) in a thread each, and returns when all have ended; raises what the first of them raised."""
    errors = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
