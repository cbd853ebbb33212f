"""Videos written byte by byte, so that they can be what a test wants: AVI of Motion JPEG, uncompressed Matroska."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def jpeg(image: np.ndarray) -> bytes:
    """An RGB image H,W,3 as JPEG."""
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]))[1])


def plain(value: int, size_hw: tuple[int, int] = (16, 32)) -> np.ndarray:
    """A grey image H,W,3 of one value, but for its left half, which is black."""
    image = np.full((*size_hw, 3), value, np.uint8)
    image[:, : size_hw[1] // 2] = 0
    return image


def write_avi(path: Path, packets: Sequence[bytes], size_hw: tuple[int, int] = (16, 32), fps: int = 25) -> Path:
    """Write an AVI file with these packets as its frames."""
    height, width = size_hw
    main = struct.pack("<14I", 1_000_000 // fps, 0, 0, 16, len(packets), 0, 1, 0, width, height, 0, 0, 0, 0)
    stream = b"vidsMJPG" + struct.pack("<3I5I2I4H", 0, 0, 0, 1, fps, 0, len(packets), 0, 0, 0, 0, 0, width, height)
    layout = struct.pack("<3I2H", 40, width, height, 1, 24) + b"MJPG" + struct.pack("<5I", 0, 0, 0, 0, 0)
    headers = _chunk(b"avih", main) + _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", layout))
    frames, index = b"", b""
    for packet in packets:
        index += b"00dc" + struct.pack("<3I", 16, 4 + len(frames), len(packet))
        frames += _chunk(b"00dc", packet)
    body = b"AVI " + _list(b"hdrl", headers) + _list(b"movi", frames) + _chunk(b"idx1", index)
    path.write_bytes(_chunk(b"RIFF", body))
    return path


def write_mkv(
    path: Path, images: Sequence[np.ndarray], *, fps: int = 25, interlaced: bool = False, seconds: float | None = None
) -> Path:
    """Write a Matroska file of uncompressed images; `seconds` is how long it says it is, None = as long as it is."""
    height, width = images[0].shape[:2]
    ticks = 1000 * (len(images) / fps if seconds is None else seconds)
    video = _element(0xB0, _number(width)) + _element(0xBA, _number(height)) + _element(0x2EB524, b"I420")
    video += _element(0x9A, _number(1 if interlaced else 2)) + (_element(0x9D, _number(1)) if interlaced else b"")
    track = _element(0xD7, _number(1)) + _element(0x73C5, _number(1)) + _element(0x83, _number(1))
    track += _element(0x86, b"V_UNCOMPRESSED") + _element(0x23E383, _number(10**9 // fps)) + _element(0xE0, video)
    blocks = b"".join(
        _element(0xA3, b"\x81" + struct.pack(">hB", 1000 * place // fps, 0x80) + _planes(image))
        for place, image in enumerate(images)
    )
    body = _element(0x1549A966, _element(0x2AD7B1, _number(10**6)) + _element(0x4489, struct.pack(">d", ticks)))
    body += _element(0x1654AE6B, _element(0xAE, track)) + _element(0x1F43B675, _element(0xE7, _number(0)) + blocks)
    path.write_bytes(_element(0x1A45DFA3, _element(0x4282, b"matroska")) + _element(0x18538067, body))
    return path


def _planes(image: np.ndarray) -> bytes:
    return cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).tobytes()


def _element(name: int, content: bytes) -> bytes:
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 56 | len(content)).to_bytes(8, "big") + content


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _list(kind: bytes, content: bytes) -> bytes:
    return _chunk(b"LIST", kind + content)
