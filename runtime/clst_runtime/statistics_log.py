"""Statistics as JSON lines while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from clst_runtime.errors import DataError
from clst_runtime.statistics import RunStatistics


class StatisticsLog:
    """Tells the statistics every so many seconds."""

    def __init__(
        self,
        append: Callable[[dict[str, Any]], None],
        every_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: append: takes one line's values. clock: seconds that never go back."""
        self._append, self._every, self._clock = append, every_seconds, clock
        self._next, self._failed = clock() + every_seconds, False

    def tick(self, statistics: RunStatistics) -> None:
        """Tell them when it is time."""
        now = self._clock()
        if now >= self._next:
            late = self._next + self._every <= now
            self._next = now + self._every if late else self._next + self._every
            self.write(statistics)

    def write(self, statistics: RunStatistics) -> None:
        """Tell them now; a full disk ends the log with a warning, not the run."""
        if self._failed:
            return
        try:
            self._append({"unix_seconds": round(time.time(), 3), **statistics.to_json()})
        except (DataError, OSError) as error:
            self._failed = True
            statistics.warn(f"the log of statistics has stopped: {getattr(error, 'message', error)}")
