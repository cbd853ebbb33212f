"""A file that grows by whole pieces and is on the disk, and not only in memory, within a second."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

SYNC_SECONDS = 0.5
"""From one flush to the next at least: each takes milliseconds, and much longer on a slow disk."""


class GrowingFile:
    """Appends pieces, each whole or not at all. A thread of its own flushes, so that the writer does not wait.

    What was appended outlives the process, however that ends; a power cut takes what is not flushed yet.
    """

    def __init__(self, path: Path) -> None:
        """Begin an empty file; its folder is made.

        Raises:
            OSError: it exists (`FileExistsError`), or cannot be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._stream = path.open("xb", buffering=0)
        self._whole_bytes = 0
        self._failure: OSError | None = None
        self._grown, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._flush, name=f"flush {path.name}", daemon=True)
        self._thread.start()

    def append(self, piece: bytes) -> None:
        """Add a piece.

        Raises:
            OSError: it could not be written whole, or one before it could not be flushed; the file ends with the last
                whole piece.
        """
        if self._failure is not None:
            raise self._failure
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError:
            self._stream.truncate(self._whole_bytes)
            self._stream.seek(self._whole_bytes)
            raise
        self._whole_bytes += len(piece)
        self._grown.set()

    def replace(self, place: int, piece: bytes) -> None:
        """Write over bytes that are there already."""
        os.pwrite(self._stream.fileno(), piece, place)

    def close(self) -> None:
        """Flush and close; a second call does nothing.

        Raises:
            OSError: not everything could be flushed.
        """
        if self._stream.closed:
            return
        self._closing.set()
        self._grown.set()
        self._thread.join()
        with self._stream:
            os.fsync(self._stream.fileno())
        if self._failure is not None:
            raise self._failure

    def _flush(self) -> None:
        flush_folder(self.path.parent)
        while not self._closing.is_set():
            self._grown.wait()
            self._grown.clear()
            try:
                os.fsync(self._stream.fileno())
            except OSError as error:
                self._failure = error
                return
            self._closing.wait(SYNC_SECONDS)


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
