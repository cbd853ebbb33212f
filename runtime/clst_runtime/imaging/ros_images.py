"""Images of ROS messages as a camera's images: of rosbags, MCAP files and topics alike. Legend: H rows, W columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Image, Layout
from clst_runtime.system.optional import require


class _Encoding(NamedTuple):
    layout: Layout
    pixel_bytes: int
    """Of one pixel in a row."""
    conversion: str = ""
    """`cv2.COLOR_…` that makes the layout of it, or `swap`: each two bytes change places."""


_ENCODINGS = {
    "rgb8": _Encoding(Layout.RGB, 3),
    "bgr8": _Encoding(Layout.BGR, 3),
    "rgba8": _Encoding(Layout.RGB, 4, "RGBA2RGB"),
    "bgra8": _Encoding(Layout.BGR, 4, "BGRA2BGR"),
    "mono8": _Encoding(Layout.RGB, 1, "GRAY2RGB"),
    "yuyv": _Encoding(Layout.YUYV, 2),
    "yuv422_yuy2": _Encoding(Layout.YUYV, 2),
    "uyvy": _Encoding(Layout.YUYV, 2, "swap"),
    "yuv422": _Encoding(Layout.YUYV, 2, "swap"),
    "nv12": _Encoding(Layout.NV12, 1),
    "nv21": _Encoding(Layout.NV12, 1, "swap"),
}
"""By their names in `sensor_msgs/image_encodings.hpp`; `nv12` is NVIDIA's."""


def image_of(encoding: str, size_hw: tuple[int, int], step: int, data: Any) -> tuple[Image, Layout]:
    """The pixels of a `sensor_msgs/msg/Image` and how they lie; a view of `data` where nothing has to be done to them.

    All encodings that are read are of single bytes, so that `is_bigendian` plays no part.

    Args:
        encoding: as the message names it.
        size_hw: H, W.
        step: bytes from one row to the next.
        data: bytes, or what has their buffer.

    Raises:
        DataError: another encoding, or fewer bytes than the other values say.
    """
    known = _ENCODINGS.get(encoding.lower())
    if known is None:
        raise DataError(_refusal(encoding))
    if min(size_hw) < 1:
        raise DataError(f"an image of {size_hw[1]}x{size_hw[0]}")
    shape = known.layout.shape(size_hw)
    rows, row_bytes = shape[0], size_hw[1] * known.pixel_bytes
    pixels = np.frombuffer(data, np.uint8)
    if step < row_bytes or len(pixels) < rows * step:
        raise DataError(
            f"an image of {size_hw[1]}x{size_hw[0]} {encoding} has {len(pixels)} bytes, in rows of {step}; "
            f"{rows * max(step, row_bytes)} in rows of at least {row_bytes} are needed"
        )
    lines = pixels[: rows * step].reshape(rows, step)[:, :row_bytes]
    return _converted(np.ascontiguousarray(lines), known, size_hw).reshape(shape), known.layout


def decoded(file_format: str, data: Any) -> Image | None:
    """The picture of a `sensor_msgs/msg/CompressedImage`, H,W,3 BGR: JPEG, PNG or what else OpenCV reads.

    None where it is damaged.

    Raises:
        DataError: it is of depths.
    """
    if "compressedDepth" in file_format:
        raise DataError(f"format {file_format!r} holds depths; name the topic of a camera's images")
    cv2, pixels = require("cv2"), np.frombuffer(data, np.uint8)
    image = cv2.imdecode(pixels, cv2.IMREAD_COLOR) if len(pixels) else None
    return None if image is None else np.asarray(image, np.uint8)


def _converted(lines: Image, known: _Encoding, size_hw: tuple[int, int]) -> Image:
    if known.conversion == "swap":
        first = size_hw[0] if known.layout is Layout.NV12 else 0  # its plane of Y has nothing to swap
        swapped = lines.copy() if first else lines
        pairs = swapped[first:].view(np.uint16).byteswap().view(np.uint8)
        if not first:
            return np.asarray(pairs, np.uint8)
        swapped[first:] = pairs
        return swapped
    if not known.conversion:
        return lines
    cv2 = require("cv2")
    code = getattr(cv2, f"COLOR_{known.conversion}")
    return np.asarray(cv2.cvtColor(lines.reshape(*size_hw, known.pixel_bytes), code), np.uint8)


def _refusal(encoding: str) -> str:
    names = ", ".join(_ENCODINGS)
    if encoding.lower().startswith("bayer_"):
        return f"encoding {encoding!r} is a raw Bayer mosaic; name a topic of colours, as image_proc makes it ({names})"
    return f"encoding {encoding!r} is not read; read are {names}"
