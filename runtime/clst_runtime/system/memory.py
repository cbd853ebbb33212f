"""How much memory this process holds, and whether it grows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median_high

LOOK_SECONDS = 0.5
SETTLING = 0.25
"""This share of a run, at its beginning, is not looked at: pools and libraries fill."""


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Bytes of this process that are in memory; None where the system does not report them."""
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class MemoryTrace:
    """Looks at the memory every `LOOK_SECONDS`, however often it is called."""

    def __init__(
        self, look: Callable[[], int | None] = resident_bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.samples_mib: list[float] = []
        self._look, self._clock = look, clock
        self._next = 0.0

    def look(self) -> None:
        """Take a sample, if it is time for one."""
        now = self._clock()
        if now >= self._next:
            self._next = now + LOOK_SECONDS
            found = self._look()
            if found is not None:
                self.samples_mib.append(found / 2**20)

    def growth_mib(self) -> float | None:
        """Median of the last quarter minus median of what follows the settling; None for fewer than 8 samples."""
        settled = self.samples_mib[int(SETTLING * len(self.samples_mib)) :]
        if len(self.samples_mib) < 8:
            return None
        part = max(1, len(settled) // 4)
        return median_high(settled[-part:]) - median_high(settled[:part])
