"""Image files: read with their surprises named, written whole. Legend: H rows, W columns."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.atomic import written_whole
from clst_runtime.complaints import overheard
from clst_runtime.errors import DataError
from clst_runtime.optional import require
from clst_runtime.paths import check_file

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """An RGB image H,W,3 uint8; grey is repeated to three channels, transparency is dropped.

    Raises:
        DataError: missing, unreadable, truncated, or not 8 bits a channel.
    """
    pixels = _decoded(path)
    if pixels.mode.startswith(("I", "F")) or (png_layout(path) or (8, 0))[0] == 16:  # Pillow cuts 16-bit RGB silently
        raise DataError(f"{path}: {pixels.mode} pixels (more than 8 bits a channel); convert the images to 8 bits")
    return np.array(pixels.convert("RGB"))  # a copy: Pillow's own memory is read-only


def read_label(path: Path) -> npt.NDArray[np.int32]:
    """Raw label ids H,W: grey values, the indices of a paletted PNG, or the first channel of a 16-bit one.

    Raises:
        DataError: missing, unreadable, truncated, or an 8-bit colour picture, which holds no ids.
    """
    if png_layout(path) in ((16, 2), (16, 4), (16, 6)):
        return _first_channel_16(path)
    pixels = _decoded(path)
    if pixels.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
        raise DataError(
            f"{path}: a {pixels.mode} colour picture, not label ids; give a grey or paletted PNG of class ids"
        )
    return np.asarray(pixels).astype(np.int32)


def png_layout(path: Path) -> tuple[int, int] | None:
    """Bit depth and colour type of a PNG's header (0 grey, 2 RGB, 3 palette, 4 grey+alpha, 6 RGBA), else None."""
    try:
        with path.open("rb") as stream:
            head = stream.read(26)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    return struct.unpack("BB", head[24:26]) if head.startswith(_PNG_MAGIC) and len(head) == 26 else None


def _decoded(path: Path) -> Any:
    """The decoded Pillow image; Pillow, because OpenCV expands palettes and accepts truncated files."""
    check_file(path)
    image_module = require("PIL.Image")
    try:
        with image_module.open(path) as pixels:
            pixels.load()
            if pixels.format in ("JPEG", "MPO"):
                _check_jpeg(path, path.stat().st_mtime_ns)
            return pixels
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error


@cache
def _check_jpeg(path: Path, _changed_ns: int) -> None:
    """Refuse a JPEG with a part missing: libjpeg makes it up, and says so to OpenCV, but not to Pillow. Once a file, as
    it costs a quarter of reading it.

    Raises:
        DataError: it is damaged.
    """
    cv2, content = require("cv2"), np.fromfile(path, np.uint8)
    _, complaint = overheard(lambda: cv2.imdecode(content, cv2.IMREAD_REDUCED_GRAYSCALE_8))
    if complaint:
        raise DataError(f"{path}: a damaged picture ({complaint}); take it out")


def _first_channel_16(path: Path) -> npt.NDArray[np.int32]:
    """First channel of a 16-bit PNG with several; Pillow would cut it to 8 bits, OpenCV keeps it (as BGR)."""
    _decoded(path)  # finds truncation
    pixels = require("cv2").imread(str(path), -1)
    if pixels is None:
        raise DataError(f"{path}: not a readable image")
    if pixels.ndim == 2:
        return np.asarray(pixels, np.int32)
    return np.asarray(pixels[..., 2 if pixels.shape[2] >= 3 else 0], np.int32)


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write an RGB H,W,3 or grey H,W uint8 picture as PNG, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    image = require("PIL.Image").fromarray(np.ascontiguousarray(pixels))
    with written_whole(path) as temporary:
        image.save(temporary, format="PNG")
