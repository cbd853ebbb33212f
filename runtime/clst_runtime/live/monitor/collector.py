"""Frames for the next adaptation: a folder for `clst-train --target`. Legend: H rows, W columns of the camera."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.geometry import Image
from clst_runtime.live.sinks.video import FREE_FLOOR_BYTES
from clst_runtime.system.files.atomic import check_can_write, write_bytes
from clst_runtime.system.optional import require

EVERY_SECONDS = 2.0
"""At least so long between two frames: neighbours teach the same."""
MOST_MIB = 2048
"""So much in the folder, with what earlier runs left there."""
COMPRESSION = 1
"""PNG's fastest; a camera's noise compresses badly at any level."""
SEQUENCE_DIGITS = 8


class Collector:
    """Writes images `<sequence>-<UTC time>.png` as long as there is room; the sequence goes on from earlier runs.

    Lossless, because the noise and sharpness of the camera are what is to be learned.
    """

    def __init__(self, folder: Path, *, every_seconds: float = EVERY_SECONDS, most_mib: int = MOST_MIB) -> None:
        """Args: every_seconds: least time between two images. most_mib: MiB that the folder may hold in all.

        Raises:
            ConfigError: a bound below 0, or none left. DataError: the folder is a file or cannot be written.
        """
        if every_seconds < 0 or most_mib < 1:
            raise ConfigError(f"collect every {every_seconds} s, at most {most_mib} MiB; give at least 0 s and 1 MiB")
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; give --collect a folder")
        check_can_write(folder / "picture.png")
        self.folder, self.every_seconds, self.most_bytes = folder, every_seconds, most_mib << 20
        self.written = 0
        """Images of this run."""
        self.stopped = ""
        """Why no more are written; empty while they are."""
        held = _own_files(folder)
        self.held_bytes = sum(path.stat().st_size for path in held)
        """Of the folder's images."""
        self._sequence = max((int(path.name[:SEQUENCE_DIGITS]) for path in held), default=0)
        self._last_seconds: float | None = None

    def is_due(self, seconds: float) -> bool:
        """Whether an image taken then may be written; `seconds` of any clock that the caller keeps to."""
        due = self._last_seconds is None or not 0.0 <= seconds - self._last_seconds < self.every_seconds
        return due and not self.stopped

    def save(self, rgb: Image, seconds: float) -> Path | None:
        """Write an image H,W,3 RGB; None, with the reason in `stopped`, where there is no room or no disk."""
        encoded = _png(rgb)
        if self.held_bytes + len(encoded) > self.most_bytes:
            self.stopped = f"{self.folder} holds {self.held_bytes >> 20} MiB, {self.most_bytes >> 20} allowed"
            return None
        sequence = self._sequence + 1
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = self.folder / f"{sequence:0{SEQUENCE_DIGITS}d}-{stamp}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free - len(encoded) < FREE_FLOOR_BYTES:
                self.stopped = f"less than {FREE_FLOOR_BYTES >> 20} MiB would be free on the disk of {self.folder}"
                return None
            write_bytes(path, encoded)
        except (DataError, OSError) as error:
            self.stopped = str(error.message if isinstance(error, DataError) else error)
            return None
        self._sequence, self._last_seconds = sequence, seconds
        self.held_bytes += len(encoded)
        self.written += 1
        return path


def _own_files(folder: Path) -> list[Path]:
    """Images that a collector has written into the folder."""
    found = folder.glob("[0-9]" * SEQUENCE_DIGITS + "-*.png")
    return [path for path in found if path.is_file()]


def _png(rgb: Image) -> bytes:
    stream = io.BytesIO()
    require("PIL.Image").fromarray(rgb).save(stream, format="PNG", compress_level=COMPRESSION)
    return stream.getvalue()
