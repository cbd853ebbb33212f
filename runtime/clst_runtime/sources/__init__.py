"""Where frames come from: folders, videos, cameras, streams, pipes.

Files are read without loss, one frame after another. Live sources keep the newest frame only and count what they
had to drop.
"""

from __future__ import annotations

import fcntl
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

from clst_runtime.data.inputs import images_of
from clst_runtime.errors import DataError
from clst_runtime.imaging.media import is_recording, is_video, split_options
from clst_runtime.imaging.recordings import recording_options
from clst_runtime.sources.address import LiveAddress, live_address, read_options
from clst_runtime.sources.base import Source, SourceEnded, TimedFrame
from clst_runtime.sources.files import ImageSource, PlayedSource, VideoSource
from clst_runtime.sources.live import LiveSource, Timeouts
from clst_runtime.sources.raw import RawSource
from clst_runtime.system.credentials import without_credentials
from clst_runtime.system.ros2 import check_ros2

__all__ = ["Source", "SourceEnded", "TimedFrame", "Timeouts", "is_live", "open_source"]


def open_source(uri: str, *, timeouts: Timeouts | None = None, ros_args: tuple[str, ...] = ()) -> Source:
    """Open a source by what it names.

    Args:
        uri: a folder or file of images, a video file, a recording (`drive.mcap?topic=/front&rate=1`), `camera:0` or
            `0` or `/dev/video0`, `csi:0`, `rtsp://…`, `gst:` with a GStreamer pipeline that ends in appsink,
            `ros2:/camera/image_raw` for a topic, or `raw:1280x720` for frames on standard input.
        timeouts: how long a live source may give nothing.
        ros_args: arguments of the node that subscribes to a topic.

    Raises:
        DataError: it does not exist, cannot be opened or holds no frame. ConfigError: an option that cannot be.
        MissingDependency: a topic, and there is no ROS 2 in this environment.
    """
    path = Path(uri)
    if is_video(path):
        return _video_source(path)
    if os.path.isfile(uri) or os.path.isdir(uri):
        return ImageSource(images_of(path))
    if uri.startswith("raw:"):
        address, live = raw_address(uri)
        if not live:
            return RawSource(address)
        # Another reader would begin in the middle of a frame
        return LiveSource(without_credentials(uri), address, replace(timeouts or Timeouts(), stall_seconds=math.inf))
    address_found = live_address(uri, ros_args)
    if address_found is None:
        kind = "no folder, image or video" if os.path.exists(uri) else "no such folder, image or video"
        raise DataError(f"{uri}: {kind}, and no camera (camera:0, csi:0, rtsp://…, gst:…, ros2:/TOPIC, raw:WxH)")
    if address_found.kind == "ros2":
        check_ros2(uri)
    return LiveSource(without_credentials(uri), address_found, timeouts)


def is_live(uri: str) -> bool:
    """Whether frames pass by and are dropped when nobody takes them, as of a camera; without opening the source.

    Raises:
        ConfigError: an option that cannot be.
    """
    path = Path(uri)
    if is_video(path):
        return is_recording(split_options(path)[0]) and recording_options(path).rate is not None
    if uri.startswith("raw:"):
        return "live=no" not in uri.partition("?")[2].split("&")
    return not (os.path.isfile(uri) or os.path.isdir(uri)) and live_address(uri) is not None


def _video_source(path: Path) -> Source:
    if is_recording(split_options(path)[0]):
        rate = recording_options(path).rate
        if rate is not None:
            return PlayedSource(path, rate)
    return VideoSource(path)


def raw_address(uri: str) -> tuple[LiveAddress, bool]:
    """`raw:1280x720?layout=nv12&fps=30&live=no` and whether frames may be dropped.

    Raises:
        ConfigError: an option that cannot be. DataError: nobody can write frames to standard input.
    """
    size, _, query = uri.removeprefix("raw:").partition("?")
    options = read_options(uri, f"size={size}&{query}" if query else f"size={size}", ("size", "layout", "fps", "live"))
    if sys.stdin is None or sys.stdin.isatty():
        text = "closed" if sys.stdin is None else "a terminal"
        raise DataError(f"{uri}: standard input is {text}; write frames into it: camera-program | clst-run …")
    # Passed on to a child, which has standard files of its own
    place = fcntl.fcntl(sys.stdin.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    address = LiveAddress(kind="raw", place=place, layout=options.layout, size_hw=options.size_hw, fps=options.fps)
    return address, options.live
