"""Statistics as JSON lines while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.statistics import RunStatistics

IDLE_SECONDS = 0.1


class StatisticsLog(Sink):
    """Writes the statistics every so many seconds, whether or not there are frames.

    A sink, so that a disk that is full or hangs costs this log alone.
    """

    name = "statistics log"
    wants_camera_size = False
    idle_seconds = IDLE_SECONDS

    def __init__(
        self,
        statistics: RunStatistics,
        append: Callable[[dict[str, Any]], None],
        every_seconds: float,
        *,
        begun: Callable[[], bool] = lambda: True,
        close: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: append: takes one line's values. begun: whether it may be called. clock: seconds that never go back."""
        self._statistics, self._append, self._every = statistics, append, every_seconds
        self._begun, self._close, self._clock = begun, close, clock
        self._next = clock() + every_seconds

    def write(self, result: Result) -> None:
        """As `idle`: the time counts, not the frame."""
        self.idle()

    def idle(self) -> None:
        """Write them when it is time."""
        now = self._clock()
        if now >= self._next and self._begun():
            late = self._next + self._every <= now
            self._next = now + self._every if late else self._next + self._every
            self._append({"unix_seconds": round(time.time(), 3), **self._statistics.to_json()})

    def close(self) -> None:
        self._close()
