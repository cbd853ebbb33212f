"""Where frames come from: folders, videos, cameras, streams.

Files are read without loss, one frame after another. Live sources keep the newest frame only and count what they
had to drop.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clst_runtime.errors import DataError
from clst_runtime.images import IMAGE_SUFFIXES, list_images
from clst_runtime.optional import require
from clst_runtime.sources.base import Source, SourceEnded, TimedFrame
from clst_runtime.sources.files import ImageSource, VideoSource
from clst_runtime.sources.live import LiveSource

__all__ = ["Source", "SourceEnded", "TimedFrame", "live_address", "open_source"]

STALL_SECONDS = 5.0


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
