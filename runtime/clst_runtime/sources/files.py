"""Frames of files, without loss, one after another."""

from __future__ import annotations

import time
from pathlib import Path

from clst_runtime.data.inputs import InputImages
from clst_runtime.imaging.array_pool import Pool
from clst_runtime.imaging.geometry import Layout
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.video_frames import VideoFile
from clst_runtime.sources.base import FRAMES_HELD, Source, SourceEnded, TimedFrame


class ImageSource(Source):
    """Images of a place, in the order of their paths."""

    def __init__(self, images: InputImages) -> None:
        super().__init__()
        self.paths, self.names = images.paths, images.names()
        self.warnings.extend(images.remarks)
        self._next = 0

    def take(self, timeout_seconds: float) -> TimedFrame:
        """The next image, however long reading takes."""
        if self._next == len(self.paths):
            raise SourceEnded
        path, index = self.paths[self._next], self._next
        image = read_image(path)
        self._next += 1
        return TimedFrame(index=index, image=image, captured_ns=time.monotonic_ns(), name=self.names[index])


class VideoSource(Source):
    """A video file, every frame of it that can be read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._video = VideoFile(path)
        self.fps = self._video.fps
        self._pool, self._shape = Pool(FRAMES_HELD), (0, 0, 3)

    def take(self, timeout_seconds: float) -> TimedFrame:
        """The next frame, however long reading takes."""
        image = self._video.read(self._pool.take(self._shape))
        if image is None:
            self.warnings += self._video.warnings()
            raise SourceEnded
        index, self._shape = self._video.position, image.shape
        return TimedFrame(
            index=index, image=image, layout=Layout.BGR, captured_ns=time.monotonic_ns(), name=f"{index:06d}"
        )

    def close(self) -> None:
        self._video.close()
