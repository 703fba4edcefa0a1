"""Tests that take long run for one commit in four, or where DWSCONV_TEST_ALL=1 asks for all."""

from __future__ import annotations

import os
import subprocess

import pytest
from conftest import ROOT


def one_commit_in_four(digit: int, why: str) -> pytest.MarkDecorator:
    """A mark that skips a test for most commits; tests with another `digit` of the hash run for others."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    chosen = done.returncode != 0 or int(done.stdout[digit], 16) % 4 == 0
    skips = os.environ.get("DWSCONV_TEST_ALL") != "1" and not chosen
    return pytest.mark.skipif(skips, reason=f"{why}: one commit in four, or DWSCONV_TEST_ALL=1")
