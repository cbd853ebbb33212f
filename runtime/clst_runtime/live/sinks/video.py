"""The overlay as a video. Legend: H rows, W columns."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from itertools import chain, count
from pathlib import Path

from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import resize_frame
from clst_runtime.imaging.overlay import blend
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.sinks.growing_file import flush_folder
from clst_runtime.live.sinks.video_files import VideoFile, begin_video
from clst_runtime.sources.base import TimedFrame

FREE_FLOOR_BYTES = 64 << 20
"""A recording ends while so much of the disk is still free: room to finish the video, and for everybody else."""
MILLISECOND = Fraction(1, 1000)
RATES = (0.01, 10_000.0)
"""Frames a second; damaged files announce others."""


class VideoSink(Sink):
    """The overlay as a video that outlives the program and plays at the time that really passed.

    While it grows it is named `<stem>-unfinished<suffix>`. After an end without warning that file is playable but for
    its last second, and no later run writes over it.
    """

    name = "video"

    def __init__(self, path: Path, classes: ClassList, fps: float | None, alpha: float) -> None:
        """What it is to be; the file is made with the first frame.

        Args:
            path: its suffix chooses the format, see `video_suffix`.
            fps: rate of frames from files, which stay one to one; None = each is shown from its time of capture on.
        """
        self.path, self.classes, self.alpha = path, classes, alpha
        self._steady, self._tick = fps is not None, MILLISECOND if fps is None else 1 / rate_of(fps)
        self._unfinished = path
        self._video: VideoFile | None = None
        self._first: TimedFrame | None = None
        self._ticks = -1

    def write(self, result: Result) -> None:
        """Append one frame; the first one fixes the size.

        Raises:
            DataError: the disk is full or nearly so, or the file cannot be made; what was recorded until then is kept.
        """
        timed, first = result.timed, self._first or result.timed
        try:
            if self._video is None:
                self._video, self._first = self._begin(timed.size_hw), first
            self._check_room(self._video)
            overlay = blend(timed.rgb, result.mask, self.classes, self.alpha)
            self._ticks = max(self._ticks_between(first, timed), self._ticks + 1)  # also when a clock stands still
            self._video.add(resize_frame(overlay, first.size_hw), self._ticks)
        except OSError as error:
            raise self._failed(error, self._end()[1]) from error

    def _begin(self, size_hw: tuple[int, int]) -> VideoFile:
        names = chain([""], (f"-{number}" for number in count(2)))
        paths = (self.path.with_name(f"{self.path.stem}-unfinished{name}{self.path.suffix}") for name in names)
        self._unfinished = next(path for path in paths if not path.exists() or path.stat().st_size == 0)
        self._unfinished.unlink(missing_ok=True)  # the empty file of a run that was killed in its first second
        return begin_video(self._unfinished, size_hw, self._tick)

    def _check_room(self, video: VideoFile) -> None:
        if shutil.disk_usage(self.path.parent).free < FREE_FLOOR_BYTES:
            raise DataError(
                f"{self.path.parent}: less than {FREE_FLOOR_BYTES >> 20} MiB free on the disk; recording ended after "
                f"{video.given} frames, free some space or give another --out"
            )

    def _ticks_between(self, first: TimedFrame, timed: TimedFrame) -> int:
        return timed.index - first.index if self._steady else round((timed.captured_ns - first.captured_ns) / 1e6)

    def close(self) -> None:
        """Finish the file and give it its name; a second call does nothing.

        Raises:
            DataError: it does not hold every frame, and so keeps the name of an unfinished one.
        """
        failure, kept = self._end()
        if failure is not None:
            raise self._failed(failure, kept) from failure

    def _failed(self, error: OSError, kept: str) -> DataError:
        return DataError(f"cannot write {self.path}: {error.strerror or error}; {kept}")

    def _end(self) -> tuple[OSError | None, str]:
        """Finish once; what went wrong, and what is kept where."""
        video, self._video = self._video, None
        if video is None:
            return None, "nothing was recorded"
        failure, kept_as = None, self._unfinished
        try:
            video.finish()
            if video.frames:
                os.replace(self._unfinished, self.path)
                kept_as = self.path
                flush_folder(self.path.parent)
        except OSError as error:
            failure = error
        if not video.frames:
            self._unfinished.unlink(missing_ok=True)
            return failure, "nothing was recorded"
        return failure, f"its first {video.frames} frames are kept in {kept_as}"


def rate_of(fps: float) -> Fraction:
    """Frames a second as a fraction, 29.97 as 30000/1001; what only a damaged file can announce is brought in range."""
    return Fraction(min(max(fps, RATES[0]), RATES[1])).limit_denominator(1001)
