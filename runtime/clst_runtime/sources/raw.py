"""Bare frames that another program writes into a pipe. Legend: H rows, W columns."""

from __future__ import annotations

import os
import time
from typing import Any, cast

import numpy as np

from clst_runtime.errors import DataError
from clst_runtime.frames import Picture
from clst_runtime.pool import Pool
from clst_runtime.sources.address import LiveAddress
from clst_runtime.sources.base import Source, SourceEnded, TimedFrame

FRAMES_HELD = 8
"""Frames that may be held at a time without new memory."""


class RawCapture:
    """Frames of a known size and layout, with the few methods of `cv2.VideoCapture` that are used here."""

    def __init__(self, address: LiveAddress) -> None:
        """Args: address: its place is a file descriptor.

        Raises:
            DataError: no size was given, or one that its layout cannot have.
        """
        if address.size_hw is None:
            raise DataError("raw frames need their size, as raw:1280x720")
        self.shape, self.fps = address.layout.shape(address.size_hw), address.fps or 0.0
        self._stream = os.fdopen(os.dup(int(address.place)), "rb", buffering=0)
        self._begun = False
        self._first = b""

    def isOpened(self) -> bool:  # noqa: N802  OpenCV's name
        """A pipe always is."""
        return True

    def get(self, _: int) -> float:
        """Frames a second."""
        return self.fps

    def grab(self) -> bool:
        """Wait for the first byte of a frame, whose arrival is its time of capture; a frame not retrieved is skipped.

        Raises:
            EOFError: the writer has closed the pipe.
        """
        if self._begun:
            self.retrieve()
        self._first = self._stream.read(1)
        if not self._first:
            raise EOFError
        self._begun = True
        return True

    def retrieve(self, picture: Picture | None = None) -> tuple[bool, Picture]:
        """The rest of the frame; False when the pipe ends within it."""
        self._begun = False
        if picture is None or picture.shape != self.shape:
            picture = np.empty(self.shape, np.uint8)
        flat = memoryview(cast(Any, picture)).cast("B")
        flat[0], place = self._first[0], 1
        while place < len(flat):
            count = self._stream.readinto(flat[place:])
            if not count:
                return False, picture
            place += count
        return True, picture

    def release(self) -> None:
        """Close this end."""
        self._stream.close()


class RawSource(Source):
    """Every raw frame of a pipe, without loss: the writer waits."""

    def __init__(self, address: LiveAddress) -> None:
        super().__init__()
        self.fps = address.fps
        self._layout, self._capture = address.layout, RawCapture(address)
        self._pool, self._next = Pool(FRAMES_HELD), 0

    def take(self, timeout_seconds: float) -> TimedFrame:
        """The next frame, however long it takes."""
        try:
            self._capture.grab()
        except EOFError:
            raise SourceEnded from None
        captured_ns, index = time.monotonic_ns(), self._next
        whole, picture = self._capture.retrieve(self._pool.take(self._capture.shape))
        if not whole:
            self.warnings.append(f"raw frames: the pipe ended within frame {index}; is the size right?")
            raise SourceEnded
        self._next += 1
        return TimedFrame(
            index=index, picture=picture, layout=self._layout, captured_ns=captured_ns, name=f"{index:06d}"
        )

    def close(self) -> None:
        """Close this end of the pipe."""
        self._capture.release()
