"""The overlay as a video. Legend: H rows, W columns."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from clst_runtime.classes.labels import ClassList
from clst_runtime.imaging.geometry import resize_frame
from clst_runtime.imaging.overlay import blend
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.growing_sink import GrowingSink
from clst_runtime.live.sinks.video_files import VideoFile, begin_video
from clst_runtime.sources.base import TimedFrame

MILLISECOND = Fraction(1, 1000)
RATES = (0.01, 10_000.0)
"""Frames a second; damaged files announce others."""


class VideoSink(GrowingSink[VideoFile]):
    """The overlay as a video that plays at the time that really passed; the first frame fixes its size."""

    name = "video"

    def __init__(self, path: Path, classes: ClassList, fps: float | None, alpha: float) -> None:
        """What it is to be.

        Args:
            path: its suffix chooses the format, see `video_suffix`.
            fps: rate of frames from files, which stay one to one; None = each is shown from its time of capture on.
        """
        super().__init__(path)
        self.classes, self.alpha = classes, alpha
        self._steady, self._tick = fps is not None, MILLISECOND if fps is None else 1 / rate_of(fps)
        self._first: TimedFrame | None = None
        self._ticks = -1

    def _begin(self, path: Path, result: Result) -> VideoFile:
        begun = begin_video(path, result.timed.size_hw, self._tick)
        self._first = self._first or result.timed
        return begun

    def _add(self, file: VideoFile, result: Result) -> None:
        timed, first = result.timed, self._first or result.timed
        overlay = blend(timed.rgb, result.mask, self.classes, self.alpha)
        self._ticks = max(self._ticks_between(first, timed), self._ticks + 1)  # also when a clock stands still
        file.add(resize_frame(overlay, first.size_hw), self._ticks)

    def _ticks_between(self, first: TimedFrame, timed: TimedFrame) -> int:
        return timed.index - first.index if self._steady else round((timed.captured_ns - first.captured_ns) / 1e6)


def rate_of(fps: float) -> Fraction:
    """Frames a second as a fraction, 29.97 as 30000/1001; what only a damaged file can announce is brought in range."""
    return Fraction(min(max(fps, RATES[0]), RATES[1])).limit_denominator(1001)
