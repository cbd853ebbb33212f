"""Video files that are playable however the program ends: H.264 by PyAV, or Motion JPEG without it.

Legend: H rows, W columns.
"""

from __future__ import annotations

import struct
import time
from abc import ABC, abstractmethod
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.errors import MissingDependency
from clst_runtime.imaging.geometry import Image
from clst_runtime.live.sinks.growing_file import GrowingFile
from clst_runtime.system.optional import require

FRAGMENT_SECONDS = 1.0
"""What a fragment of MP4 holds, and so what an end without warning loses: of the video, and of the time it took."""
HIGHEST_RATE = Fraction(60)
"""Frames a second that the stream announces to decoders; the real times are those of `tick`."""
JPEG_QUALITY = 75
H264_OPTIONS = {
    "preset": "ultrafast",
    "tune": "zerolatency",  # each frame comes out of the encoder at once, and none is held by it
    "crf": "23",
    "g": "100000",  # key frames come when a fragment is due, and at no other time
    "forced-idr": "1",
    "x264-params": "colorprim=smpte170m:transfer=smpte170m:colormatrix=smpte170m",  # what the conversion gives
}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}


class VideoFile(ABC):
    """A video that grows; what `frames` counts stays readable whatever happens to the program."""

    frames = 0
    """Frames that are in the file."""
    given = 0
    """Frames that were added; what a fragment still lacks is not in the file yet."""

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)

    @abstractmethod
    def add(self, image: Image, ticks: int) -> None:
        """Append RGB H,W,3 with its time, later than the one before. Raises: OSError: the file cannot grow."""

    @abstractmethod
    def finish(self) -> None:
        """Write what is still held and close; the file is closed also when that fails. Raises: OSError."""


def video_suffix() -> str:
    """`.mp4` where PyAV is there with its H.264 encoder, else `.mkv`."""
    try:
        return ".mp4" if "libx264" in require("av").codecs_available else ".mkv"
    except MissingDependency:
        return ".mkv"


def begin_video(path: Path, size_hw: tuple[int, int], tick: Fraction) -> VideoFile:
    """A new video, in the format of its suffix.

    Args:
        path: must not exist.
        size_hw: of every frame.
        tick: unit of the frames' times in seconds; of a steady rate the time of one frame.

    Raises:
        MissingDependency: MP4 without PyAV. OSError: the file cannot be made.
    """
    return (JpegVideo if path.suffix == ".mkv" else H264Video)(path, size_hw, tick)


class H264Video(VideoFile):
    """H.264 in fragmented MP4, which browsers play. FFmpeg writes into memory; whole fragments go to the file."""

    def __init__(self, path: Path, size_hw: tuple[int, int], tick: Fraction) -> None:
        self._av, self._tick = require("av"), tick
        self._begun_ticks, self._begun_seconds = 0, 0.0
        self._written = bytearray()
        self._container = self._av.open(_Memory(self._written), "w", format="mp4", options=FRAGMENTS)
        rate = min(1 / tick, HIGHEST_RATE)
        self._stream = self._container.add_stream("libx264", rate=rate, options=H264_OPTIONS)
        # two columns share a colour, and so do two rows: an odd edge is repeated
        self._stream.height, self._stream.width = (length + length % 2 for length in size_hw)
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = tick
        super().__init__(path)

    def add(self, image: Image, ticks: int) -> None:
        rows, columns = image.shape[:2]
        if rows % 2 or columns % 2:
            image = np.pad(image, ((0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = ticks, self._tick
        due = self._is_due(ticks)
        if due:
            frame.pict_type = self._av.video.frame.PictureType.I
        self._encode(frame)
        if due and self.given:
            self._pass_on()
        self.given += 1

    def _is_due(self, ticks: int) -> bool:
        """Whether a new fragment begins."""
        now = time.monotonic()
        passed = max(now - self._begun_seconds, float((ticks - self._begun_ticks) * self._tick))
        due = self.given == 0 or passed >= FRAGMENT_SECONDS
        if due:
            self._begun_ticks, self._begun_seconds = ticks, now
        return due

    def _encode(self, frame: Any) -> None:
        """At a key frame FFmpeg writes the fragment of the frames before it."""
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except self._av.error.FFmpegError as error:
            raise OSError(f"FFmpeg: {error}") from error

    def _pass_on(self) -> None:
        self._file.append(bytes(self._written))
        self._written.clear()
        self.frames = self.given

    def finish(self) -> None:
        try:
            if self.given:
                self._encode(None)
            self._container.close()
            self._pass_on()
        finally:
            self._file.close()


class _Memory:
    """What FFmpeg takes for a file; paths never reach it, and so it cannot misread one as an address."""

    def __init__(self, written: bytearray) -> None:
        self._written = written

    def write(self, piece: bytes) -> int:
        self._written += piece
        return len(piece)


class JpegVideo(VideoFile):
    """Motion JPEG in Matroska (RFC 9559): needs no more than OpenCV, is larger, and no browser plays it.

    Each frame is a cluster of its own, so that the file is whole after every one.
    """

    def __init__(self, path: Path, size_hw: tuple[int, int], tick: Fraction) -> None:
        super().__init__(path)
        self._tick, self._milliseconds = tick, 0
        rows, columns = size_hw
        kind = _element(0x4282, b"matroska") + _number(0x4287, 4) + _number(0x4285, 2)  # version written, and to read
        # TimestampScale: times are milliseconds; Duration comes last, where `finish` finds it
        facts = _number(0x2AD7B1, 1_000_000) + _element(0x4D80, b"clst") + _element(0x5741, b"clst")
        facts += _element(0x4489, struct.pack(">d", 0.0))
        size = _number(0xB0, columns) + _number(0xBA, rows)
        track = _number(0xD7, 1) + _number(0x73C5, 1) + _number(0x83, 1) + _element(0x86, b"V_MJPEG")
        track += _element(0xE0, size)
        begin = _element(0x1A45DFA3, kind) + b"\x18\x53\x80\x67\x01" + b"\xff" * 7  # a segment of unknown length
        begin += _element(0x1549A966, facts)
        self._duration_at = len(begin) - 8
        self._head = begin + _element(0x1654AE6B, _element(0xAE, track))
        """Goes before the first frame."""

    def add(self, image: Image, ticks: int) -> None:
        cv2 = require("cv2")
        self._milliseconds = round(ticks * self._tick * 1000)
        coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        block = _element(0xA3, b"\x81\x00\x00\x80" + coded[1].tobytes())  # track 1, at the cluster's time, key frame
        self._file.append(self._head + _element(0x1F43B675, _number(0xE7, self._milliseconds) + block))
        self._head = b""
        self.frames = self.given = self.frames + 1

    def finish(self) -> None:
        try:
            if self.frames:
                self._file.replace(self._duration_at, struct.pack(">d", self._milliseconds))
        finally:
            self._file.close()


def _element(name: int, body: bytes) -> bytes:
    """An element of Matroska: its name, the length in eight bytes, the body."""
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 56 | len(body)).to_bytes(8, "big") + body


def _number(name: int, value: int) -> bytes:
    return _element(name, value.to_bytes(8, "big"))
