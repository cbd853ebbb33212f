"""Capture-to-mask latency: from the capture of a frame to its finished mask, through the loop of `clst-run`."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

from clst_runtime.backends.base import Backend
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Image
from clst_runtime.live.latency import summarise_ms
from clst_runtime.live.pipeline import Observers, Stop, run_pipeline
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.statistics import Deadline, RunStatistics
from clst_runtime.sources import open_source
from clst_runtime.sources.base import Source
from clst_runtime.sources.replay import REPLAY_FPS, ReplaySource
from clst_runtime.system.memory import MemoryTrace

REPLAYED = 32
"""Images of a file that are held to be replayed."""
STALL_SECONDS = 30.0
"""How long the first frame may take."""


class AgeSink(Sink):
    """Keeps every mask's age. It asks for masks at the camera's size, as a vehicle's program does."""

    name = "ages"

    def __init__(self) -> None:
        self.ages_ns: list[int] = []

    def write(self, result: Result) -> None:
        self.ages_ns.append(result.age_ns)


@dataclass(frozen=True, kw_only=True)
class LiveResult:
    """A live run."""

    ages_ns: tuple[int, ...]
    """Capture to mask, each frame."""
    statistics: dict[str, Any]
    """`RunStatistics.to_json` at the end."""
    memory: MemoryTrace
    replayed_fps: float | None
    """Set when no camera was there: images were replayed at this rate."""

    def summary_ms(self) -> dict[str, float]:
        return summarise_ms(self.ages_ns)


def live_source(uri: str, *, fps: float = REPLAY_FPS) -> tuple[Source, float | None]:
    """A camera or stream as it is; images and videos replayed at `fps`, which is given back then.

    Raises:
        DataError: it cannot be opened, or holds no image.
    """
    source = open_source(uri)
    if source.live:
        return source, None
    with source:
        images: list[Image] = [timed.rgb for timed in itertools.islice(source, REPLAYED)]
    return ReplaySource(images, fps=fps), fps


def run_live(
    backend: Backend,
    source: Source,
    seconds: float,
    *,
    deadline_ms: float | None = None,
    replayed_fps: float | None = None,
) -> LiveResult:
    """Drive for `seconds` after the warm-up; the source is closed afterwards.

    Raises:
        DataError: the source gave no frame at all, or cannot go on.
    """
    sink, stop, trace = AgeSink(), Stop(), MemoryTrace()
    opened = time.monotonic()

    def tick(statistics: RunStatistics) -> None:
        trace.look()
        begun = statistics.frames > 0
        if begun and statistics.seconds >= seconds:
            stop.ask("the wanted time")
        if not begun and time.monotonic() - opened > STALL_SECONDS + seconds:
            stop.ask("no frame came")

    with source:
        statistics = run_pipeline(
            source,
            backend,
            [sink],
            deadline=Deadline(milliseconds=deadline_ms),
            observers=Observers(tick=tick),
            stop=stop,
        )
    if not sink.ages_ns:
        raise DataError(f"not one frame was segmented ({statistics.end}); is the camera there and free?")
    return LiveResult(
        ages_ns=tuple(sink.ages_ns),
        statistics=statistics.to_json(),
        memory=trace,
        replayed_fps=replayed_fps,
    )
