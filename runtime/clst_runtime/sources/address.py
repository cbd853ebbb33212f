"""What a live source's URI means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from clst_runtime.errors import ConfigError, did_you_mean
from clst_runtime.imaging.geometry import Layout
from clst_runtime.system.numbers import LARGEST_SIDE
from clst_runtime.system.ros2 import is_topic, node_arguments

STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "http", "https", "udp", "tcp")
"""Schemes of streams; which of them can be opened depends on how OpenCV was built."""
GSTREAMER = {"gst:": Layout.BGR, "gst+bgr:": Layout.BGR, "gst+nv12:": Layout.NV12, "gst+yuyv:": Layout.YUYV}
FORMATS = {"MJPG": Layout.BGR, "YUYV": Layout.YUYV, "NV12": Layout.NV12}
"""Pixel formats that a camera can be asked for, and what then arrives."""
CSI = (
    "nvarguscamerasrc sensor-id={device} ! "
    "video/x-raw(memory:NVMM),format=NV12{caps} ! nvvidconv ! video/x-raw,format=NV12 ! "
    "appsink drop=true max-buffers=1 sync=false"
)
"""A Jetson's CSI camera as OpenCV's GStreamer takes it; NV12 arrives as it is, without a conversion on the CPU."""


@dataclass(frozen=True, kw_only=True)
class LiveAddress:
    """How to open a camera or stream; plain values, because another process does it."""

    kind: str
    """`camera`, `stream`, `gstreamer`, `ros2` or `raw`."""
    place: int | str
    """Device number, address, pipeline or topic; of `raw` a file descriptor."""
    layout: Layout = Layout.BGR
    """How its pixels arrive."""
    size_hw: tuple[int, int] | None = None
    """H, W asked of a camera, or of raw frames."""
    fps: float | None = None
    """Frames a second asked of a camera, or announced of raw frames."""
    pixel_format: str = ""
    """Asked of a camera, of `FORMATS`; empty = whatever it gives, as BGR."""
    ros_args: tuple[str, ...] = ()
    """Of a topic: the node's arguments."""


def live_address(uri: str, ros_args: tuple[str, ...] = ()) -> LiveAddress | None:
    """Read `camera:0`, `0`, `/dev/video0`, `csi:0`, each with `?size=1280x720&fps=30`, `rtsp://…`, `gst:pipeline` or
    `ros2:/topic`.

    Cameras also take `format=` MJPG, YUYV or NV12. None when it is none of these.

    Raises:
        ConfigError: a camera with an unknown option or a value that cannot be, a topic that cannot be one.
    """
    scheme, found_scheme, rest = uri.partition("://")
    if found_scheme and scheme.lower() in STREAMS:  # FFmpeg knows schemes in small letters only
        return LiveAddress(kind="stream", place=f"{scheme.lower()}://{rest}")
    for prefix, layout in GSTREAMER.items():
        if uri.startswith(prefix):
            return LiveAddress(kind="gstreamer", place=uri.removeprefix(prefix), layout=layout)
    if uri.startswith("ros2:"):
        topic = uri.removeprefix("ros2:")
        if not is_topic(topic):
            raise ConfigError(f"{uri}: no topic's name; give letters, digits and _, as ros2:/camera/image_raw")
        return LiveAddress(kind="ros2", place=topic, ros_args=ros_args or node_arguments(None))
    place, _, query = uri.partition("?")
    found = re.fullmatch(r"(camera:|/dev/video|csi:|)(\d{1,4})", place)
    if found is None:
        return None
    device = int(found[2])
    if found[1] == "csi:":
        options = read_options(uri, query, ("size", "fps"))
        return LiveAddress(kind="gstreamer", place=csi_pipeline(device, options), layout=Layout.NV12)
    options = read_options(uri, query, ("size", "fps", "format"))
    return LiveAddress(
        kind="camera", place=device, layout=FORMATS.get(options.pixel_format, Layout.BGR), size_hw=options.size_hw,
        fps=options.fps, pixel_format=options.pixel_format,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What stands behind the `?` of a source."""

    size_hw: tuple[int, int] | None = None
    fps: float | None = None
    pixel_format: str = ""
    layout: Layout = Layout.RGB
    live: bool = True


def read_options(uri: str, query: str, known: tuple[str, ...]) -> Options:
    """Options of a source.

    Raises:
        ConfigError: unknown, or a value that cannot be.
    """
    values = dict(parse_qsl(query, keep_blank_values=True))
    for name in values:
        if name not in known:
            raise ConfigError(f"{uri}: option {name!r} is not known; {did_you_mean(name, known)}")
    if query and not values:
        raise ConfigError(f"{uri}: {query!r} is no option; {', '.join(f'{name}=…' for name in known)}")
    try:
        return Options(
            size_hw=_size(values["size"]) if "size" in values else None,
            fps=_positive(values["fps"]) if "fps" in values else None,
            pixel_format=_one_of(values["format"].upper(), tuple(FORMATS)) if "format" in values else "",
            layout=Layout(_one_of(values["layout"], tuple(Layout))) if "layout" in values else Layout.RGB,
            live=_one_of(values["live"], ("yes", "no")) == "yes" if "live" in values else True,
        )
    except ValueError as error:
        raise ConfigError(f"{uri}: {error}") from error


def csi_pipeline(device: int, options: Options) -> str:
    caps = ""
    if options.size_hw is not None:
        caps += f",width={options.size_hw[1]},height={options.size_hw[0]}"
    if options.fps is not None:
        caps += f",framerate={round(options.fps)}/1"
    return CSI.format(device=device, caps=caps)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None or not all(0 < int(side) <= LARGEST_SIDE for side in found.groups()):
        raise ValueError(f"size {text!r}; give WIDTHxHEIGHT, as 1280x720")
    return int(found[2]), int(found[1])


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 10_000:
        raise ValueError(f"fps {text!r}; give frames a second, as 30")
    return value


def _one_of(value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is not known; {did_you_mean(value, (str(getattr(k, 'value', k)) for k in known))}")
    return value
