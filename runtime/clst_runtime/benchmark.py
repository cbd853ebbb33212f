"""Host-to-host latency: a frame in NumPy goes in, a mask in NumPy comes out. Nothing else is in the number."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from clst_runtime.backends.base import Backend, Frame
from clst_runtime.errors import DataError
from clst_runtime.timing import summarise_ms


@dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """One model's latency."""

    samples_ns: tuple[int, ...]
    """Each measured run."""
    warm_up_runs: int
    """Runs before them."""
    output_sha256: str
    """SHA-256 of the class maps of all frames, in order."""

    def summary_ms(self) -> dict[str, float]:
        """Percentiles in milliseconds and the coefficient of variation."""
        return summarise_ms(self.samples_ns)


def measure_latency(
    backend: Backend,
    frames: Sequence[Frame],
    *,
    runs: int,
    seconds: float,
    warm_up_runs: int,
    warm_up_ms: float = 200.0,
) -> LatencyResult:
    """Warm up, then measure until `runs` runs are done or `seconds` have passed, frames in turn.

    Raises:
        DataError: there are no frames.
    """
    if not frames:
        raise DataError("no frames to measure on; give --data a folder with pictures")
    started, warm = time.perf_counter(), 0
    while warm < warm_up_runs or (time.perf_counter() - started) * 1000 < warm_up_ms:
        backend.predict(frames[warm % len(frames)])
        warm += 1
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(backend.predict(frame).classes.tobytes())
    samples: list[int] = []
    end = time.perf_counter() + seconds
    while len(samples) < runs and (not samples or time.perf_counter() < end):
        frame = frames[len(samples) % len(frames)]
        before = time.perf_counter_ns()
        backend.predict(frame)
        samples.append(time.perf_counter_ns() - before)
    return LatencyResult(samples_ns=tuple(samples), warm_up_runs=warm, output_sha256=digest.hexdigest())
