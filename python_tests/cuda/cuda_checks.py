"""What the programs share that check kernels on a card: checks one after the other, each told as it ends."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time


@dataclasses.dataclass
class Outcome:
    """How checks went: names of those that passed, why others failed, how many were skipped or not begun in time."""

    passed: list
    failed: dict
    skipped: int = 0
    left: int = 0
    lost: bool = False  # the card answers no more: what came after an illegal address proves nothing


def run(checks, *, seconds: float = float("inf"), skips=lambda name, error: False) -> Outcome:
    """Runs (name, function) pairs, prints a line of each at once, and begins no more after `seconds`.

    A function fails by AssertionError or ValueError (which may mean that it is to be skipped: skips(name, error)).
    Anything else that it raises is the card's or the driver's word, after which none begins.
    """
    outcome, begin = Outcome([], {}), time.monotonic()
    for name, check in checks:
        if outcome.lost or time.monotonic() - begin > seconds:
            outcome.left += 1
            continue
        since = time.monotonic()
        try:
            words = check() or ""
        except (AssertionError, ValueError) as error:
            if skips(name, error):
                outcome.skipped += 1
                continue
            outcome.failed[name] = str(error)
        except Exception as error:  # PyTorch's errors of a card have no class of their own
            outcome.failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            outcome.lost = True
        else:
            outcome.passed.append(name)
            print(f"passed {name}: {words}, {time.monotonic() - since:.2f} s", flush=True)
            continue
        print(f"FAILED {name}: {outcome.failed[name]}", flush=True)
    return outcome


def arguments_of(description: str, cases: int) -> argparse.Namespace:
    """The options that these programs have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("library")
    parser.add_argument("--cases", type=int, default=cases, help="random ones")
    parser.add_argument("--small", action="store_true", help="no layers of real sizes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no check begins")
    return parser.parse_args()


def report(outcome: Outcome, **more) -> int:
    """Prints the last line, JSON, and the failures again; what the program exits with."""
    numbers = {"passed": len(outcome.passed), "skipped": outcome.skipped, "left": outcome.left, "lost": outcome.lost}
    print(json.dumps({**numbers, **more}))
    for name, why in outcome.failed.items():
        print(f"FAILED {name}: {why}")
    return int(bool(outcome.failed) or not outcome.passed)


def card_or_none(torch) -> str:
    """The card's name; "" and a word to stderr where PyTorch finds none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    print("error: PyTorch finds no GPU", file=sys.stderr)
    return ""
