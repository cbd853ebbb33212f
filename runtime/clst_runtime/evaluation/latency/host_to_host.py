"""Host-to-host latency: a frame in NumPy goes in, a mask in NumPy comes out. Nothing else is in the number.

Several models take turns in rounds, so that a clock that rises or falls meanwhile, or another program, hits all of
them alike. A turn begins with a run that is not counted: it brings the model's weights back into the caches, where
they are when it drives alone. Who begins changes from round to round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clst_runtime.backends.base import Backend, Frame
from clst_runtime.errors import DataError
from clst_runtime.evaluation.export_digest import classes_sha256
from clst_runtime.live.latency import summarise_ms

Step = Callable[[Frame], int]
"""Runs one frame and returns the nanoseconds that count."""

TURN_SECONDS = 0.5
"""A turn lasts about so long, so that slow models change places often too."""
TURN_RUNS = 16
"""And has at most so many runs."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure."""

    runs: int
    """Measured runs of each model, at most."""
    seconds: float
    """Measured time of each model, at most; one turn is always measured."""
    warm_up_runs: int = 50
    """Runs of each model before."""
    warm_up_ms: float = 200.0
    """And so long, at least."""


@dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """One model's latency."""

    samples_ns: tuple[int, ...]
    """Each measured run."""
    warm_up_runs: int
    output_sha256: str
    """SHA-256 of the class maps of all frames, in order."""

    def summary_ms(self) -> dict[str, float]:
        return summarise_ms(self.samples_ns)


def measure_side_by_side(backends: Sequence[Backend], frames: Sequence[Frame], effort: Effort) -> list[LatencyResult]:
    """Host-to-host latency of models that take turns on the same frames H,W,3.

    Raises:
        DataError: there are no frames, or they do not have the models' input size.
    """
    check_frames(frames)
    hashes = [classes_sha256([backend.predict(frame).classes for frame in frames]) for backend in backends]
    samples, warm = measure_rounds([_host_to_host(backend) for backend in backends], frames, effort)
    return [
        LatencyResult(samples_ns=tuple(own), warm_up_runs=warm, output_sha256=digest)
        for own, digest in zip(samples, hashes, strict=True)
    ]


def _host_to_host(backend: Backend) -> Step:
    def step(frame: Frame) -> int:
        before = time.perf_counter_ns()
        backend.predict(frame)
        return time.perf_counter_ns() - before

    return step


def measure_rounds(steps: Sequence[Step], frames: Sequence[Frame], effort: Effort) -> tuple[list[list[int]], int]:
    """Warm everybody up, then let them take turns.

    Returns:
        For each step its samples in ns, equally many; and how many runs of each came before.

    Raises:
        DataError: there are no frames.
    """
    check_frames(frames)
    turn, warm = _warm_up(steps, frames, effort)
    samples: list[list[int]] = [[] for _ in steps]
    end, round_ = time.perf_counter() + effort.seconds * len(steps), 0
    while len(samples[0]) < effort.runs and (round_ == 0 or time.perf_counter() < end):
        done = len(samples[0])
        count = min(turn, effort.runs - done)
        for place in (round_ + offset for offset in range(len(steps))):
            own = place % len(steps)
            steps[own](frames[done % len(frames)])
            samples[own].extend(steps[own](frames[(done + run) % len(frames)]) for run in range(count))
        round_ += 1
    return samples, warm


def _warm_up(steps: Sequence[Step], frames: Sequence[Frame], effort: Effort) -> tuple[int, int]:
    """Runs of a turn by the slowest model's median, and warm-up runs of each."""
    longest, most = 0.0, 0
    for step in steps:
        started = time.perf_counter()
        spent: list[float] = []
        while len(spent) < effort.warm_up_runs or (time.perf_counter() - started) * 1000 < effort.warm_up_ms:
            before = time.perf_counter()
            step(frames[len(spent) % len(frames)])
            spent.append(time.perf_counter() - before)
        longest = max(longest, statistics.median(spent) if spent else 0.0)
        most = max(most, len(spent))
    fitting = int(TURN_SECONDS / longest) if longest > 0 else TURN_RUNS
    return max(1, min(TURN_RUNS, fitting)), most


def check_frames(frames: Sequence[Frame]) -> None:
    """Refuse by DataError to measure on no frames."""
    if not frames:
        raise DataError("no frames to measure on; give --data a folder with images")
