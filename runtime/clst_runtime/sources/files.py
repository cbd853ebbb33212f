"""Frames of files, without loss, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clst_runtime.errors import DataError
from clst_runtime.frames import Layout
from clst_runtime.images import read_image
from clst_runtime.media import name_for_opencv
from clst_runtime.places import Pictures
from clst_runtime.pool import Pool
from clst_runtime.sources.base import Source, SourceEnded, TimedFrame

FRAMES_HELD = 8
"""Frames of a video that may be held at a time without new memory."""


class ImageSource(Source):
    """Pictures of a place, in the order of their paths."""

    def __init__(self, pictures: Pictures) -> None:
        super().__init__()
        self.paths, self.names = pictures.paths, pictures.names()
        self.warnings.extend(pictures.remarks)
        self._next = 0

    def take(self, timeout_seconds: float) -> TimedFrame:
        """The next picture, however long reading takes."""
        if self._next == len(self.paths):
            raise SourceEnded
        path, index = self.paths[self._next], self._next
        picture = read_image(path)
        self._next += 1
        return TimedFrame(index=index, picture=picture, captured_ns=time.monotonic_ns(), name=self.names[index])

    def close(self) -> None:
        """Nothing is held open."""


class VideoSource(Source):
    """A video file, every frame of it."""

    def __init__(self, path: Path, capture: Callable[..., Any]) -> None:
        super().__init__()
        self.path = path
        with name_for_opencv(path) as name:
            self._capture = capture(name)
        if not self._capture.isOpened():
            raise DataError(f"{path}: not a video that this OpenCV can read")
        announced = float(self._capture.get(5))  # CAP_PROP_FPS
        self.fps = announced if announced > 0 else None
        self._count = int(self._capture.get(7))  # CAP_PROP_FRAME_COUNT
        self._next = 0
        self._pool, self._shape = Pool(FRAMES_HELD), (0, 0, 3)

    def take(self, timeout_seconds: float) -> TimedFrame:
        """The next frame, however long reading takes."""
        good, picture = self._capture.read(self._pool.take(self._shape))
        index = self._next
        if good:
            self._next, self._shape = index + 1, picture.shape
            return TimedFrame(
                index=index, picture=picture, layout=Layout.BGR, captured_ns=time.monotonic_ns(), name=f"{index:06d}"
            )
        if index == 0:
            raise DataError(f"{self.path}: not one frame could be read; the file is damaged")
        if index < self._count:
            self.warnings.append(
                f"{self.path}: {index} of {self._count} announced frames could be read; it is truncated"
            )
        raise SourceEnded

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
