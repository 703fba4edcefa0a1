"""Whether a machine had other work while something was measured: what Linux counted, less our own."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

# Of the cores, what others may take before a run counts as one on a loaded machine.
MOST = 0.1
STAT = Path("/proc/stat")


def _counted() -> tuple[float, float]:
    """Seconds that all cores worked since boot, and those that the host kept for others."""
    fields = STAT.read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields[:8])
    return user + nice + system + irq + softirq, steal


def _own() -> float:
    """Seconds that this process worked, and its children that have ended."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


class Watch:
    """Counts from its construction on."""

    def __init__(self) -> None:
        self.start, self.own = time.perf_counter(), _own()
        try:
            self.counted = _counted()
        except (OSError, ValueError):
            self.counted = None

    def others(self) -> float | None:
        """Cores that other processes, and other guests of the host, took since; None where Linux does not say."""
        if self.counted is None:
            return None
        worked, stolen = (now - then for now, then in zip(_counted(), self.counted))
        taken = max(worked - (_own() - self.own), 0.0) + stolen
        return taken / max(time.perf_counter() - self.start, 1e-3)

    def verdict(self, cores: int) -> dict[str, object]:
        """For a record: `others_cores`, and `loaded`, whether that is too much to believe times."""
        others = self.others()
        if others is None:
            return {"others_cores": "unknown", "loaded": "unknown"}
        return {"others_cores": round(others, 2), "loaded": others > MOST * cores}


def warning(verdict: dict[str, object], cores: int) -> str:
    """A sentence for the reader where the machine was loaded, else ""."""
    if verdict["loaded"] is not True:
        return ""
    taken = f"others took {verdict['others_cores']} of {cores} cores during this run"
    return f"LOADED MACHINE: {taken}. Ratios of calls taken in turn may hold; times do not."
