"""Where frames come from: folders, videos, cameras. Legend: H rows, W columns.

Files are read without loss, one frame after another. Live sources keep the newest frame only and count what they
had to drop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clst_runtime.backends.base import Frame
from clst_runtime.errors import DataError
from clst_runtime.images import IMAGE_SUFFIXES, list_images, read_image
from clst_runtime.optional import require

STALL_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A frame and when it was taken."""

    index: int
    """Position, counted from 0; with drops, positions are missing."""
    frame: Frame
    """H,W,3 RGB uint8."""
    captured_ns: int
    """`time.perf_counter_ns` when the frame was handed over by the camera or read from the file."""
    name: str
    """Name for files made of it."""


class Source(Protocol):
    """Frames, in order; closed by `with`."""

    live: bool
    """Whether frames pass by and are dropped when nobody takes them."""
    dropped: int
    """Frames that passed unseen."""
    fps: float | None
    """Frames a second as the source announces them."""
    warnings: list[str]
    """What went wrong without ending the program."""

    def __iter__(self) -> Iterator[TimedFrame]: ...

    def __enter__(self) -> Source: ...

    def __exit__(self, *error: object) -> None: ...


def open_source(uri: str, *, capture: Callable[..., Any] | None = None, stall_seconds: float = STALL_SECONDS) -> Source:
    """Open a source by what it names.

    Args:
        uri: a folder or file of pictures, a video file, `camera:0` or `0` or `/dev/video0`, `rtsp://…`,
            or `gst:` with a GStreamer pipeline that ends in appsink.
        capture: opens a video capture; None = `cv2.VideoCapture`.
        stall_seconds: how long a live source may give nothing.

    Raises:
        DataError: it does not exist, cannot be opened or holds no frame.
    """
    opened = capture or require("cv2").VideoCapture
    path = Path(uri)
    if path.is_dir() or (path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES):
        return ImageSource(list_images(path) if path.is_dir() else [path])
    if path.is_file() and not uri.startswith("/dev/"):
        return VideoSource(path, opened)
    address, arguments = live_address(uri)
    if address is None:
        raise DataError(
            f"{uri}: no such folder, picture or video, and no camera (camera:0, /dev/video0, rtsp://…, gst:…)"
        )
    return LiveSource(uri, opened, (address, *arguments), stall_seconds)


def live_address(uri: str) -> tuple[int | str | None, tuple[int, ...]]:
    """What to open a live source with: a device number or an address, and the API to use; None if it is neither."""
    number = uri.removeprefix("camera:").removeprefix("/dev/video")
    if number.isdigit():
        return int(number), ()
    if uri.startswith("gst:"):
        return uri.removeprefix("gst:"), (int(require("cv2").CAP_GSTREAMER),)
    return (uri, ()) if uri.startswith(("rtsp://", "http://", "https://", "udp://")) else (None, ())


class ImageSource:
    """Pictures of a folder, sorted by name."""

    live = False
    fps: float | None = None

    def __init__(self, paths: list[Path]) -> None:
        self.paths, self.dropped = paths, 0
        self.warnings: list[str] = []

    def __iter__(self) -> Iterator[TimedFrame]:
        for index, path in enumerate(self.paths):
            frame = read_image(path)
            yield TimedFrame(index=index, frame=frame, captured_ns=time.perf_counter_ns(), name=path.stem)

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is held open."""


class VideoSource:
    """A video file, every frame of it."""

    live = False

    def __init__(self, path: Path, capture: Callable[..., Any]) -> None:
        self.path, self.dropped = path, 0
        self.warnings: list[str] = []
        self._capture = capture(str(path))
        if not self._capture.isOpened():
            raise DataError(f"{path}: not a video that this OpenCV can read")
        announced = float(self._capture.get(5))  # CAP_PROP_FPS
        self.fps: float | None = announced if announced > 0 else None
        self._count = int(self._capture.get(7))  # CAP_PROP_FRAME_COUNT

    def __iter__(self) -> Iterator[TimedFrame]:
        index = 0
        while True:
            good, picture = self._capture.read()
            if not good:
                break
            frame = np.ascontiguousarray(picture[..., ::-1])  # BGR → RGB
            yield TimedFrame(index=index, frame=frame, captured_ns=time.perf_counter_ns(), name=f"{index:06d}")
            index += 1
        if index == 0:
            raise DataError(f"{self.path}: not one frame could be read; the file is damaged")
        if index < self._count:
            self.warnings.append(
                f"{self.path}: {index} of {self._count} announced frames could be read; it is truncated"
            )

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()


class LiveSource:
    """A camera or stream, read by a thread of its own; the newest frame is the only one kept."""

    live = True

    def __init__(self, uri: str, capture: Callable[..., Any], arguments: tuple[Any, ...], stall_seconds: float) -> None:
        self.uri, self.dropped = uri, 0
        self.warnings: list[str] = []
        self._capture = capture(*arguments)
        if not self._capture.isOpened():
            raise DataError(f"{uri}: the camera cannot be opened; is it plugged in and free? clst-doctor lists cameras")
        announced = float(self._capture.get(5))
        self.fps: float | None = announced if announced > 0 else None
        self._stall_seconds = stall_seconds
        self._newest: tuple[int, Any, int] | None = None
        self._arrived, self._ended = threading.Condition(), False
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)

    def _read(self) -> None:
        index = 0
        while not self._ended:
            good, picture = self._capture.read()
            with self._arrived:
                if not good:
                    self._ended = True
                    self._arrived.notify()
                    return
                self.dropped += self._newest is not None
                self._newest = (index, picture, time.perf_counter_ns())
                index += 1
                self._arrived.notify()

    def __iter__(self) -> Iterator[TimedFrame]:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._newest is not None or self._ended, self._stall_seconds)
                newest, self._newest = self._newest, None
            if newest is None and not self._ended:
                raise DataError(f"{self.uri}: no frame for {self._stall_seconds:.0f} s; the camera has stalled")
            if newest is None:
                self.warnings.append(f"{self.uri}: the stream has ended")
                return
            index, picture, captured_ns = newest
            frame = np.ascontiguousarray(picture[..., ::-1])
            yield TimedFrame(index=index, frame=frame, captured_ns=captured_ns, name=f"{index:06d}")

    def __enter__(self) -> LiveSource:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():  # releasing under a read that hangs would crash OpenCV
            self._capture.release()
