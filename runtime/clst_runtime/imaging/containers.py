"""What the outermost layer of a video file says about its length: MP4 and MOV, Matroska and WebM, AVI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_MATROSKA, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def is_mp4(path: Path) -> bool:
    """Whether it is an MP4 or MOV file."""
    with path.open("rb") as stream:
        return stream.read(8)[4:] in (b"ftyp", b"moov", b"wide", b"mdat", b"free", b"skip")


def is_cut(path: Path) -> bool:
    """Whether a file ends before its outermost parts do; False where these name no length, as in MPEG-TS."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(4)
        if is_mp4(path):
            return _end_of_boxes(stream, size) > size
        if head == _MATROSKA:
            return _end_of_segment(stream) > size
        if head == b"RIFF":
            return 8 + int.from_bytes(stream.read(4), "little") > size
    return False


def _end_of_boxes(stream: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 file would end; one of size 0 ends with the file, one of size 1 has a long size."""
    place = 0
    while place + 8 <= size:
        stream.seek(place)
        head = stream.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            return size
        place += length
    return place


def _end_of_segment(stream: BinaryIO) -> int:
    """Where Matroska's segment would end; 0 where it has no known size, as in a recording that goes on."""
    stream.seek(4)
    header = _variable(stream)
    stream.seek(header or 0, os.SEEK_CUR)
    if header is None or stream.read(4) != _SEGMENT:
        return 0
    length = _variable(stream)
    return 0 if length is None else stream.tell() + length


def _variable(stream: BinaryIO) -> int | None:
    """A size whose leading zero bits say how many bytes it has; None where all others are set: unknown."""
    first = stream.read(1)
    if not first or first == b"\0":
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + stream.read(length - 1), "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value
