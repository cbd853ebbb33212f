"""The status that every viewer of the page gets, computed once for all of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import dropwhile
from typing import Any

import numpy as np

from clst_runtime.backends.base import Classes
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.live.web.recording import Recorder
from clst_runtime.live.web.run_info import RunInfo
from clst_runtime.system.credentials import all_without_credentials
from clst_runtime.system.optional import require

FRESH_SECONDS = 0.25
"""So long one look at the statistics serves everybody."""
DROP_SAMPLES = 300
"""Seconds of drops by cause that a new viewer gets for the chart."""


def class_shares(classes: Classes, count: int) -> list[float]:
    """The share of each of `count` classes in class ids H,W, to four decimals; other ids belong to none of them."""
    pixels = require("cv2").calcHist([np.ascontiguousarray(classes)], [0], None, [256], [0, 256]).ravel()[:count]
    return [round(float(share), 4) for share in pixels / classes.size]


class RunStatus:
    """Statistics, facts and recording as plain JSON values. Any thread may ask."""

    def __init__(
        self,
        statistics: RunStatistics,
        facts: RunInfo,
        recorder: Recorder,
        machine: Callable[[], dict[str, Any]],
    ) -> None:
        """Args: machine: finds the facts of this machine; called once, in a thread of its own."""
        self.statistics, self.recorder = statistics, recorder
        self.facts = facts.to_json()
        self.viewers = 0
        self._lock, self._looked_at = threading.Lock(), 0.0
        self._seen: dict[str, Any] = {}
        self._drops: deque[tuple[float, dict[str, int]]] = deque(maxlen=DROP_SAMPLES)
        self._machine: dict[str, Any] | None = None
        self._newest: Classes | None = None
        self._counted: tuple[Classes, list[float]] | None = None
        # nvidia-smi may take long, and must hold up neither the start nor the end of the program
        threading.Thread(target=self._find_machine, args=(machine,), name="web machine", daemon=True).start()

    def _find_machine(self, machine: Callable[[], dict[str, Any]]) -> None:
        try:
            self._machine = machine()
        except Exception as error:  # noqa: BLE001  whatever its tools raise, the page must not wait for ever
            self._machine = {"error": str(error)}

    def saw(self, classes: Classes) -> None:
        """Keep the newest class ids, to be counted when somebody asks."""
        self._newest = classes

    def shares(self) -> list[float]:
        """The share of each class in the newest mask, 0 … 1, in the order of the ids; empty before the first one."""
        newest, counted = self._newest, self._counted
        if newest is None:
            return []
        if counted is None or counted[0] is not newest:
            self._counted = counted = newest, class_shares(newest, len(self.facts["classes"]))
        return counted[1]

    @property
    def machine(self) -> dict[str, Any] | None:
        """Facts of this machine, or `error` where they cannot be found out; None until either is known."""
        return self._machine

    def snapshot(self, *, fresh: bool = False) -> dict[str, Any]:
        """The statistics as of now, at most `FRESH_SECONDS` old unless `fresh`, without anybody's password."""
        with self._lock:
            if fresh or not self._seen or time.monotonic() - self._looked_at > FRESH_SECONDS:
                values = self.statistics.snapshot()
                recent = values.pop("recent")  # numbers only
                values = all_without_credentials(values) | {"recent": recent}
                if not values["frames"]:
                    values["seconds"] = 0.0  # time runs from the warm-up, which has not ended
                self._seen, self._looked_at = values, time.monotonic()
            return self._seen

    def sample_drops(self) -> None:
        """Keep the drops of now for the chart; called once a second."""
        values = self.snapshot()
        self._drops.append((values["seconds"], values["drops"]))

    def status(self, *, fresh: bool = False) -> dict[str, Any]:
        """All that changes, without the rows of the charts."""
        run = {name: value for name, value in self.snapshot(fresh=fresh).items() if name != "recent"}
        deadline = self.statistics.deadline
        return {
            "run": run,
            "live": self.statistics.live,
            "shares": self.shares(),
            "stale_ms": deadline.silent_ns / 1e6,
            "stale_after": deadline.stale_after,
            "recording": all_without_credentials(self.recorder.to_json()),
            "viewers": self.viewers,
        }

    def rows_since(self, frames_s: float, drops_s: float) -> tuple[list[list[float]], list[tuple[float, Any]]]:
        """Rows of the charts that are newer than these seconds of the run.

        Returns: [seconds, capture to mask in ms, inference in ms] of frames; (seconds, drops by cause so far).
        """
        recent = dropwhile(lambda row: row[0] <= frames_s, self.snapshot()["recent"])
        drops = dropwhile(lambda row: row[0] <= drops_s, list(self._drops))
        return [[round(value, 3) for value in row] for row in recent], list(drops)
