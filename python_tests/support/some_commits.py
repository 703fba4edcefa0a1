"""What takes long runs for some commits, or where DWSCONV_TEST_ALL=1 asks for all."""

from __future__ import annotations

import os
import subprocess

import pytest
from conftest import ROOT

ALL = os.environ.get("DWSCONV_TEST_ALL") == "1"


def commit() -> str:
    """The hash of the commit, 40 hexadecimal digits; without git nothing."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def one_commit_in_four(digit: int, why: str) -> pytest.MarkDecorator:
    """A mark that skips a test for most commits; tests with another `digit` of the hash run for others."""
    hash_of = commit()
    chosen = not hash_of or int(hash_of[digit], 16) % 4 == 0
    return pytest.mark.skipif(not ALL and not chosen, reason=f"{why}: one commit in four, or DWSCONV_TEST_ALL=1")


def some_of(names: tuple, count: int) -> tuple:
    """`count` neighbours of `names`, others for other commits; all of them without git or with DWSCONV_TEST_ALL=1."""
    hash_of = commit()
    if ALL or not hash_of:
        return names
    first = int(hash_of[:8], 16) % len(names)
    return tuple((names + names)[first : first + min(count, len(names))])
