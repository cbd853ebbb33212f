"""The live loop: source → backend → sinks. Legend: H rows, W columns."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from clst_runtime.backends.base import Backend
from clst_runtime.frames import resize_classes, resize_frame
from clst_runtime.sinks import Sink
from clst_runtime.sources import Source, TimedFrame
from clst_runtime.timing import summarise_ms

WARM_UP_RUNS = 3


@dataclass(kw_only=True)
class RunStatistics:
    """What a run came to."""

    frames: int = 0
    """Frames segmented."""
    dropped: int = 0
    """Frames of a live source that passed unseen."""
    seconds: float = 0.0
    """Wall time from the first frame to the end."""
    inference_ns: list[int] = field(default_factory=list)
    """Backend alone, each frame."""
    capture_to_mask_ns: list[int] = field(default_factory=list)
    """From capture to the mask at camera size, each frame."""
    interrupted: bool = False
    """Ended by Ctrl-C."""
    warnings: list[str] = field(default_factory=list)
    """What went wrong without ending the run."""

    @property
    def fps(self) -> float:
        """Frames a second, sinks included."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values, latencies summed up."""
        return {
            "frames": self.frames,
            "dropped": self.dropped,
            "seconds": self.seconds,
            "fps": self.fps,
            "inference_ms": summarise_ms(self.inference_ns),
            "capture_to_mask_ms": summarise_ms(self.capture_to_mask_ns),
            "interrupted": self.interrupted,
            "warnings": self.warnings,
        }


def run_pipeline(
    source: Source,
    backend: Backend,
    sinks: Sequence[Sink],
    *,
    limit: int | None = None,
    progress: Callable[[RunStatistics], None] | None = None,
) -> RunStatistics:
    """Segment frames until the source ends, `limit` is reached or Ctrl-C; every sink is always closed."""
    statistics = RunStatistics()
    started = None
    with ExitStack() as closing:
        for sink in reversed(sinks):
            closing.callback(sink.close)
        try:
            for timed in source:
                if started is None:
                    _warm_up(backend, timed)
                    started = time.perf_counter()
                with interrupt_deferred():
                    _segment(timed, backend, sinks, statistics, fresh=source.live or statistics.frames > 0)
                statistics.seconds = time.perf_counter() - started
                if progress is not None:
                    progress(statistics)
                if limit is not None and statistics.frames >= limit:
                    break
        except KeyboardInterrupt:
            statistics.interrupted = True
    statistics.dropped, statistics.warnings = source.dropped, list(source.warnings)
    return statistics


@contextmanager
def interrupt_deferred() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done, so that every sink has every frame or none has it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pressed:
        raise KeyboardInterrupt


def _warm_up(backend: Backend, timed: TimedFrame) -> None:
    frame = resize_frame(timed.frame, backend.manifest.input_hw)
    for _ in range(WARM_UP_RUNS):
        backend.predict(frame)


def _segment(
    timed: TimedFrame, backend: Backend, sinks: Sequence[Sink], statistics: RunStatistics, *, fresh: bool
) -> None:
    """One frame; the first of a file waited for the warm-up, so its age is not counted (`fresh` is False)."""
    frame = resize_frame(timed.frame, backend.manifest.input_hw)
    before = time.perf_counter_ns()
    classes = backend.predict(frame).classes
    after = time.perf_counter_ns()
    mask = resize_classes(classes, (timed.frame.shape[0], timed.frame.shape[1]))
    age_ns = time.perf_counter_ns() - timed.captured_ns
    statistics.frames += 1
    statistics.inference_ns.append(after - before)
    if fresh:
        statistics.capture_to_mask_ns.append(age_ns)
    for sink in sinks:
        sink.write(timed, mask, age_ns / 1e6)
