"""What a run has come to so far, in fixed memory, readable by other threads at any time."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clst_runtime.live.latency import LatencyHistogram
from clst_runtime.live.results import Result
from clst_runtime.system.credentials import without_credentials

STALE_AFTER = 10
"""So many deadlines missed in a row make a run stale."""
SILENT_SECONDS = 1.0
"""Without a deadline, a run is stale when its newest mask is older."""
RECENT = 600
"""Frames that charts show."""
WARNINGS_KEPT = 100

STARTING, READY, STALE, LOST, ENDED = STATES = ("starting", "ready", "stale", "lost", "ended")
"""What a run can be: no mask yet; masks in time; masks too old or none; no camera; over."""
INTERRUPTS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
"""Ends that somebody asked for, by signal."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """When a mask comes too late to drive by."""

    milliseconds: float | None = None
    """From capture to mask; None = no deadline."""
    stale_after: int = STALE_AFTER
    """Misses in a row that make the run stale."""

    @property
    def silent_ns(self) -> int:
        """A run is stale when its newest image is older than this."""
        seconds = SILENT_SECONDS if self.milliseconds is None else self.milliseconds * self.stale_after / 1e3
        return int(1e9 * seconds)


class RunStatistics:
    """Counts, latencies and state of one run. One thread writes, any may call `snapshot`."""

    def __init__(
        self, deadline: Deadline | None = None, *, live: bool = True, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Args: live: whether silence makes stale; a file waits. clock: nanoseconds that never go back."""
        self.deadline, self.live = deadline or Deadline(), live
        self.frames = self.misses = self.streak = self.longest_streak = self.stale_spells = self.losses = 0
        self.drops: Counter[str] = Counter()
        self.failures: list[str] = []
        """Sinks that stopped before the end, and why."""
        self.why = ""
        """Why the source gives nothing just now, where that is known."""
        self.end = ""
        """Why the run ended; empty while it runs."""
        self.domain: Callable[[], dict[str, Any]] | None = None
        """`MonitorSink.snapshot` of the monitor that watches the camera; None = nothing watches it."""
        self._clock, self._lock = clock, threading.RLock()
        self._inference, self._age = LatencyHistogram(), LatencyHistogram()
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=RECENT)
        self._warned: dict[str, int] = {}
        self._unseen: Counter[str] = Counter()
        self._begun_ns = self._newest_ns = self._last_ns = 0
        self._lost = self._was_stale = False

    def begin(self) -> None:
        """The model is warm; time runs from now."""
        self._begun_ns = self._last_ns = self._newest_ns = self._clock()

    def took(self, result: Result, *, fresh: bool) -> None:
        """Count a frame. `fresh` is False where its age is not the program's: it waited for the warm-up."""
        limit_ms = self.deadline.milliseconds
        with self._lock:
            self.frames += 1
            self._lost = False
            self._newest_ns, self._last_ns = result.timed.captured_ns, self._clock()
            self._inference.add(result.inference_ns)
            if fresh:
                self._age.add(result.age_ns)
                missed = limit_ms is not None and result.age_ns > limit_ms * 1e6
                self.misses += missed
                self.streak = self.streak + 1 if missed else 0
                self.longest_streak = max(self.longest_streak, self.streak)
            seconds = (self._last_ns - self._begun_ns) / 1e9
            self._recent.append((round(seconds, 3), result.age_ns / 1e6, result.inference_ns / 1e6))
            self._note_stale()

    def passed(self, drops: Mapping[str, int], *, lost: bool, losses: int, why: str = "") -> None:
        """Take over the source's status; called whether or not there was a frame.

        Nobody missed what a camera dropped before `begin`; of a file every frame counts.
        """
        with self._lock:
            self._lost, self.losses, self.why = lost, max(self.losses, losses), why
            if self.live and self._begun_ns == 0:
                self._unseen = Counter(drops)
            for cause, count in (Counter(drops) - self._unseen).items():
                self.drops[cause] = max(self.drops[cause], count)
            self._last_ns = self._clock()
            self._note_stale()

    def dropped(self, cause: str, count: int = 1) -> None:
        """Count results that a sink had to leave out."""
        if count:
            with self._lock:
                self.drops[cause] += count

    def warn(self, message: str) -> None:
        """Keep a warning without passwords, once however often it comes; the oldest go when there are too many."""
        message = without_credentials(message)
        with self._lock:
            self._warned[message] = self._warned.pop(message, 0) + 1  # the latest stands last
            if len(self._warned) > WARNINGS_KEPT:
                del self._warned[next(iter(self._warned))]

    @property
    def warnings(self) -> list[str]:
        """What went wrong, the latest last; with a count where it came more than once."""
        warned = self._warned.copy()  # one step, so that no other thread can come between
        return [message if count == 1 else f"{message} ({count} times)" for message, count in warned.items()]

    def _note_stale(self) -> None:
        stale = self._is_stale()
        self.stale_spells += stale and not self._was_stale
        self._was_stale = stale

    def _is_stale(self) -> bool:
        if self._begun_ns == 0:
            return False
        silent = self.live and self._clock() - self._newest_ns > self.deadline.silent_ns
        return silent or self.streak >= self.deadline.stale_after

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if self.end:
            return ENDED
        if self._lost:
            return LOST
        if self._is_stale():
            return STALE
        return READY if self.frames else STARTING

    @property
    def seconds(self) -> float:
        """Wall time from the warm-up to the last sign of life."""
        return (self._last_ns - self._begun_ns) / 1e9 if self._begun_ns else 0.0

    @property
    def fps(self) -> float:
        """Frames a second over the whole run."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def interrupted(self) -> bool:
        return self.end in INTERRUPTS.values()

    def to_json(self) -> dict[str, Any]:
        """Plain values, latencies summed up."""
        with self._lock:
            return {
                "state": self.state,
                "end": self.end,
                "frames": self.frames,
                "dropped": sum(self.drops.values()),
                "drops": dict(self.drops),
                "seconds": self.seconds,
                "fps": self.fps,
                "inference_ms": self._inference.summary_ms(),
                "capture_to_mask_ms": self._age.summary_ms(),
                "deadline_ms": self.deadline.milliseconds,
                "deadline_misses": self.misses,
                "deadline_streak": self.streak,
                "deadline_longest_streak": self.longest_streak,
                "stale_spells": self.stale_spells,
                "losses": self.losses,
                "interrupted": self.interrupted,
                "warnings": self.warnings,
                "failures": list(self.failures),
                "domain": None if self.domain is None else self.domain(),
            }

    def snapshot(self) -> dict[str, Any]:
        """`to_json` as of now, with the age of the newest image and the recent frames for charts.

        `recent` holds [seconds since the start, capture to mask in ms, inference in ms] of each.
        """
        with self._lock:
            age_ms = (self._clock() - self._newest_ns) / 1e6 if self.frames else None
            return self.to_json() | {"newest_age_ms": age_ms, "recent": list(self._recent)}
