"""Bare frames that another program writes into a pipe. Legend: H rows, W columns."""

from __future__ import annotations

import os
import select
import time
from typing import Any, NoReturn, cast

import numpy as np

from clst_runtime.errors import DataError
from clst_runtime.imaging.array_pool import Pool
from clst_runtime.imaging.geometry import Image
from clst_runtime.sources.address import LiveAddress
from clst_runtime.sources.base import FRAMES_HELD, Source, SourceEnded, TimedFrame

CUT = "raw frames: the pipe ended within a frame; is the size right?"


class _Pipe:
    """Another program's pipe, waited for no longer than asked, also where that program has made it non-blocking."""

    def __init__(self, descriptor: int) -> None:
        """Args: descriptor: closed by `close`."""
        self._stream = os.fdopen(descriptor, "rb", buffering=0)
        self._ready = select.poll()
        self._ready.register(self._stream, select.POLLIN)

    def read_into(self, rest: memoryview, seconds: float | None) -> int | None:
        """Read some bytes: how many, 0 at the end of the pipe, None if there were none in time (None = for ever).

        Raises:
            DataError: it cannot be read.
        """
        if not self._ready.poll(None if seconds is None else 1000 * seconds):
            return None
        try:
            return self._stream.readinto(rest)
        except OSError as error:
            raise DataError(f"raw frames cannot be read from standard input: {error.strerror}") from error

    def close(self) -> None:
        self._stream.close()


def _shape_of(address: LiveAddress) -> tuple[int, ...]:
    if address.size_hw is None:
        raise DataError("raw frames need their size, as raw:1280x720")
    return address.layout.shape(address.size_hw)


def _bytes_of(image: Image) -> memoryview:
    return memoryview(cast(Any, image)).cast("B")


class RawCapture:
    """Frames of a known size and layout, with the few methods of `cv2.VideoCapture` that are used here."""

    def __init__(self, address: LiveAddress) -> None:
        """Args: address: its place is a file descriptor, closed by `release`.

        Raises:
            DataError: no size was given, or one that its layout cannot have.
        """
        self.shape, self.fps = _shape_of(address), address.fps or 0.0
        self._pipe = _Pipe(int(address.place))
        self._begun = False
        self._first = bytearray(1)

    def isOpened(self) -> bool:  # noqa: N802  OpenCV's name
        """A pipe always is."""
        return True

    def get(self, _: int) -> float:
        """Frames a second."""
        return self.fps

    def grab(self) -> bool:
        """Wait for the first byte of a frame, whose arrival is its time of capture; a frame not retrieved is skipped.

        Raises:
            EOFError: the writer has closed the pipe; within a frame, with a message. DataError: it cannot be read.
        """
        if self._begun:
            self.retrieve()
        self._begun = self._fill(memoryview(self._first))
        if not self._begun:
            raise EOFError
        return True

    def retrieve(self, image: Image | None = None) -> tuple[bool, Image]:
        """The rest of the frame. Raises: EOFError: the pipe ended within it. DataError: it cannot be read."""
        self._begun = False
        if image is None or image.shape != self.shape:
            image = np.empty(self.shape, np.uint8)
        flat = _bytes_of(image)
        flat[:1] = self._first
        if not self._fill(flat[1:]):
            raise EOFError(CUT)
        return True, image

    def _fill(self, rest: memoryview) -> bool:
        """Wait until every byte is there; False when the pipe ends before."""
        while rest:
            count = self._pipe.read_into(rest, None)
            if count == 0:
                return False
            rest = rest[count or 0 :]
        return True

    def release(self) -> None:
        self._pipe.close()


class RawSource(Source):
    """Every raw frame of a pipe, without loss: the writer waits. Made as `RawCapture` is."""

    def __init__(self, address: LiveAddress) -> None:
        super().__init__()
        self.fps = address.fps
        self._layout, self._shape = address.layout, _shape_of(address)
        self._pipe, self._pool = _Pipe(int(address.place)), Pool(FRAMES_HELD)
        self._image = self._pool.take(self._shape)
        self._place = self._next = self._captured_ns = 0

    def take(self, timeout_seconds: float) -> TimedFrame | None:
        """The next frame; None when it is not whole in time, and what there is of it is kept."""
        end = time.monotonic() + timeout_seconds
        flat = _bytes_of(self._image)
        while self._place < len(flat):
            count = self._pipe.read_into(flat[self._place :], max(0.0, end - time.monotonic()))
            if count == 0:
                self._end()
            if count and self._place == 0:
                self._captured_ns = time.monotonic_ns()
            self._place += count or 0
            if self._place < len(flat) and time.monotonic() >= end:
                return None
        index, image = self._next, self._image
        self._next, self._place, self._image = index + 1, 0, self._pool.take(self._shape)
        return TimedFrame(
            index=index, image=image, layout=self._layout, captured_ns=self._captured_ns, name=f"{index:06d}"
        )

    def _end(self) -> NoReturn:
        if self._place:
            self._place = 0
            self.warnings.append(CUT)
        raise SourceEnded

    def close(self) -> None:
        self._pipe.close()
