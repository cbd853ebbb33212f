"""Frames of files, without loss, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from clst_runtime.data.inputs import InputImages
from clst_runtime.imaging.array_pool import Pool
from clst_runtime.imaging.geometry import Image
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.recordings import Recording
from clst_runtime.imaging.video_frames import Video
from clst_runtime.imaging.videos import open_video
from clst_runtime.sources.base import CORRUPT, FRAMES_HELD, OVERTAKEN, Source, SourceEnded, TimedFrame


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
    """A video, every frame of it that can be read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._video = open_video(path)
        self.fps = self._video.fps
        self._pool, self._shape = Pool(FRAMES_HELD), (0, 0, 3)

    def take(self, timeout_seconds: float) -> TimedFrame:
        """The next frame, however long reading takes."""
        image = self._video.read(self._pool.take(self._shape))
        if image is None:
            self.warnings += self._video.warnings()
            raise SourceEnded
        self._shape = image.shape
        return _timed(self._video, image, time.monotonic_ns())

    def close(self) -> None:
        self._video.close()


class PlayedSource(Source):
    """A recording played as if its camera gave it: who comes late gets the newest frame, and the others are drops.

    A frame's capture time is the moment it was due, so ages hold everything that came after it, waiting included.
    """

    live = True

    def __init__(
        self,
        path: Path,
        rate: float,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Args: rate: how many times as fast as it was recorded. clock: nanoseconds that never go back."""
        super().__init__()
        self._video = Recording(path)
        self.fps = None if self._video.fps is None else self._video.fps * rate
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._began: tuple[int, int] | None = None
        self._at_hand_ns: int | None = None
        """When the frame was due that nobody has taken yet."""

    def waiting_ns(self) -> int:
        """When the next frame is due; at the end 0, for `take` to tell it."""
        return self._due() or 0

    def take(self, timeout_seconds: float) -> TimedFrame | None:
        """The newest frame that is due, waited for at most `timeout_seconds`."""
        end_ns = self._clock() + round(timeout_seconds * 1e9)
        while True:
            due_ns, now = self._due(), self._clock()
            if due_ns is not None and due_ns <= now:
                self.drops[OVERTAKEN] += self._at_hand_ns is not None
                self._video.skip()
                self._at_hand_ns = due_ns
            elif self._at_hand_ns is not None:
                captured_ns, self._at_hand_ns = self._at_hand_ns, None
                image = self._video.retrieve()
                if image is not None:
                    return _timed(self._video, image, captured_ns)
                self.drops[CORRUPT] += 1
            elif due_ns is None:
                self.warnings += self._video.warnings()
                raise SourceEnded
            elif now >= end_ns:
                return None
            else:
                self._sleep((min(due_ns, end_ns) - now) / 1e9)

    def _due(self) -> int | None:
        """When the next frame is due; None at the end."""
        log_ns = self._video.next_ns()
        if log_ns is None:
            return None
        if self._began is None:
            self._began = self._clock(), log_ns
        return self._began[0] + round((log_ns - self._began[1]) / self._rate)

    def close(self) -> None:
        self._video.close()


def _timed(video: Video, image: Image, captured_ns: int) -> TimedFrame:
    return TimedFrame(
        index=video.position, image=image, layout=video.layout, captured_ns=captured_ns, name=f"{video.position:06d}",
        stamp_ns=video.stamp_ns, frame_id=video.frame_id,
    )  # fmt: skip
