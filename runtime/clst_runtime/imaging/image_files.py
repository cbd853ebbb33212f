"""Image files: read with their surprises named, written whole. Legend: H rows, W columns."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import DataError
from clst_runtime.imaging.decoder_messages import overheard
from clst_runtime.imaging.media import name_for_opencv
from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.files.paths import check_file
from clst_runtime.system.optional import require

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_ENDS = {b"\xff\xd8": b"\xff\xd9", _PNG_MAGIC[:2]: b"IEND\xaeB`\x82"}
"""First bytes of a JPEG or PNG file → its last ones."""
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange rows and columns."""
_EXIF_ORIENTATION = 274
_UPRIGHT = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation → Pillow's number of the transposition that makes the image upright."""


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """An upright RGB image H,W,3 uint8: EXIF orientation is applied, grey repeated to RGB, transparency dropped.

    Raises:
        DataError: missing, unreadable, truncated, or not 8 bits a channel.
    """
    pixels, _ = _decoded(path)
    if pixels.mode.startswith(("I", "F")) or (png_layout(path) or (8, 0))[0] == 16:  # Pillow cuts 16-bit RGB silently
        raise DataError(f"{path}: {pixels.mode} pixels (more than 8 bits a channel); convert the images to 8 bits")
    return np.array(_rgb(pixels))  # a copy: Pillow's own memory is read-only


def _rgb(pixels: Any) -> Any:
    """Without transparency, of which Pillow would warn on standard error."""
    pixels.info.pop("transparency", None)
    return pixels.convert("RGB")


def read_label(path: Path, known: Collection[int] = range(256)) -> npt.NDArray[np.int32]:
    """Raw label ids H,W of a file without loss, upright: grey values, palette indices, or a 16-bit first channel.

    Fewer than 8 bits and palettes of greys can be read in two ways: as they are stored, and as the 8-bit grey values
    that an optimiser of PNG files packed. The way that gives ids in `known` alone is meant.

    Raises:
        DataError: missing, unreadable, truncated, lossy, a colour image, or two ways give known ids.
    """
    layout = png_layout(path)
    pixels, as_stored = _decoded(path)
    if layout in ((16, 2), (16, 4), (16, 6)):
        return _first_channel_16(path, turned=pixels is not as_stored)
    _check_exact(path, as_stored)
    if pixels.mode == "LA" and pixels.getchannel("A").getextrema() == (255, 255):
        pixels = pixels.getchannel("L")
    if pixels.mode not in ("L", "P", "1", "I", "I;16", "I;16B"):
        raise DataError(
            f"{path}: a {pixels.mode} colour image, not label ids; give a grey or paletted PNG of class ids"
        )
    values = np.asarray(pixels).astype(np.int32)
    if pixels.mode == "P":
        return _of_palette(path, values, _rgb(pixels), known)
    bits = 1 if pixels.mode == "1" else _bits(layout, as_stored)
    if bits >= 8:
        return values
    step = 255 // (2**bits - 1)
    stored = values if pixels.mode == "1" else values // step
    return _meant(path, stored, stored * step, known, f"{bits}-bit greys")


def _check_exact(path: Path, pixels: Any) -> None:
    """Refuse what changes values: compression with loss, and TIFF files whose zero is white."""
    if pixels.format in ("JPEG", "MPO", "JPEG2000") or str(pixels.info.get("compression")).endswith("jpeg"):
        raise DataError(f"{path}: JPEG changes label ids at every edge; give the labels as PNG")
    if pixels.format == "TIFF" and pixels.tag_v2.get(262) == 0:  # PhotometricInterpretation
        raise DataError(f"{path}: a TIFF file that stores greys inverted; give the labels as PNG")


def _bits(layout: tuple[int, int] | None, pixels: Any) -> int:
    """Bits of a grey value in the file."""
    if layout is not None:
        return layout[0]
    return int(pixels.tag_v2.get(258, (8,))[0]) if pixels.format == "TIFF" else 8  # BitsPerSample


def _of_palette(
    path: Path, indices: npt.NDArray[np.int32], coloured: Any, known: Collection[int]
) -> npt.NDArray[np.int32]:
    """The indices of a palette of colours; of one of greys the greys, if these are ids and not just black and white."""
    colours = np.asarray(coloured)
    greys = colours[..., 0].astype(np.int32)
    used = set(np.unique(greys).tolist())
    if (colours != colours[..., :1]).any() or len(used) < len(np.unique(indices)):  # an optimiser repeats no colour
        return indices
    if used <= set(known) and not used <= {0, 255}:
        return greys
    return _meant(path, indices, greys, known, "a palette of greys")


def _meant(
    path: Path, stored: npt.NDArray[np.int32], packed: npt.NDArray[np.int32], known: Collection[int], what: str
) -> npt.NDArray[np.int32]:
    """Which of two readings has known ids alone; the stored one where none has, so that its ids are told."""
    ids = [set(np.unique(each).tolist()) for each in (stored, packed)]
    able = [each <= set(known) for each in ids]
    if all(able) and not np.array_equal(stored, packed):
        text = " or ".join(", ".join(map(str, sorted(each))) for each in ids)
        raise DataError(f"{path}: {what}, whose ids may be {text}; write the labels as 8-bit grey PNG")
    return packed if able == [False, True] else stored


def png_layout(path: Path) -> tuple[int, int] | None:
    """Bit depth and colour type of a PNG's header (0 grey, 2 RGB, 3 palette, 4 grey+alpha, 6 RGBA), else None."""
    try:
        with path.open("rb") as stream:
            head = stream.read(26)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    return struct.unpack("BB", head[24:26]) if head.startswith(_PNG_MAGIC) and len(head) == 26 else None


def is_turned(path: Path) -> bool:
    """Whether an image file carries an EXIF orientation, which reading applies."""
    with require("PIL.Image").open(path) as pixels:
        return orientation(path, pixels) > 1


def orientation(path: Path, pixels: Any) -> int:
    """EXIF orientation of an open Pillow image, 1 … 8; 1 (upright as stored) where there is none or it is damaged.

    A PNG without any is not decoded for it.

    Raises:
        DataError: a TIFF file that lies on its side, which Pillow garbles.
    """
    if pixels.format == "PNG" and not _may_have_exif(path):
        return 1
    try:
        found = int(pixels.getexif().get(_EXIF_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return 1
    if found in SIDEWAYS and pixels.format == "TIFF":
        raise DataError(f"{path}: a TIFF file that lies on its side by its orientation; convert it to PNG")
    return found if found in _UPRIGHT else 1


def _may_have_exif(path: Path) -> bool:
    """Whether a PNG holds a chunk that Pillow may find an orientation in."""
    with path.open("rb") as stream:
        stream.seek(len(_PNG_MAGIC))
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf" or (kind in (b"tEXt", b"zTXt", b"iTXt") and stream.read(3) in (b"Raw", b"XML")):
                return True
            stream.seek(length + 4 - (3 if kind in (b"tEXt", b"zTXt", b"iTXt") else 0), 1)
    return False


def _decoded(path: Path) -> tuple[Any, Any]:
    """The Pillow image upright, and as it is stored; Pillow, as OpenCV expands palettes and accepts truncated files."""
    check_file(path)
    image_module = require("PIL.Image")
    try:
        with image_module.open(path) as pixels:
            if pixels.format == "TIFF":
                orientation(path, pixels)  # refuses; what is left Pillow turns while it decodes
            pixels.load()
            if pixels.format in ("JPEG", "MPO"):
                _check_jpeg(path, path.stat().st_mtime_ns)
            turn = _UPRIGHT[orientation(path, pixels)]
            return (pixels if turn is None else pixels.transpose(turn)), pixels
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error}); take it out, or replace it") from error


def check_end(path: Path) -> None:
    """Refuse a JPEG or PNG file that is cut off, as by a copy that broke off; one that has its end is not decoded.

    Raises:
        DataError: it is cut off.
    """
    with path.open("rb") as stream:
        end = _ENDS.get(stream.read(2))
        stream.seek(max(stream.seek(0, os.SEEK_END) - 512, 0))
        ended = end is None or stream.read().rstrip(b"\0").endswith(end)  # some cameras fill files up with zeros
    if not ended:
        _decoded(path)  # whole all the same where a maker's bytes stand behind the end


@cache
def _check_jpeg(path: Path, _changed_ns: int) -> None:
    """Refuse a JPEG with a part missing: libjpeg makes it up, and says so to OpenCV, but not to Pillow. Once a file, as
    it costs a quarter of reading it.
    """
    cv2, content = require("cv2"), np.fromfile(path, np.uint8)
    _, complaint = overheard(lambda: cv2.imdecode(content, cv2.IMREAD_REDUCED_GRAYSCALE_8))
    if complaint:
        raise DataError(f"{path}: a damaged image ({complaint}); take it out")


def _first_channel_16(path: Path, *, turned: bool) -> npt.NDArray[np.int32]:
    """First channel of a 16-bit PNG with several; Pillow would cut it to 8 bits, OpenCV keeps it (as BGR)."""
    if turned:
        raise DataError(f"{path}: a 16-bit label with an EXIF orientation; store it upright")
    with name_for_opencv(path) as name:
        pixels = require("cv2").imread(name, -1)
    if pixels is None:
        raise DataError(f"{path}: not a readable image; take it out, or replace it")
    if pixels.ndim == 2:
        return np.asarray(pixels, np.int32)
    return np.asarray(pixels[..., 2 if pixels.shape[2] >= 3 else 0], np.int32)


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write an RGB H,W,3 or grey H,W uint8 image as PNG, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    image = require("PIL.Image").fromarray(np.ascontiguousarray(pixels))
    with written_whole(path) as temporary:
        image.save(temporary, format="PNG")
