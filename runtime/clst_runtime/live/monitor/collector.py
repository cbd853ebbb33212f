"""Frames for the next adaptation: a folder, or an MCAP file, for `clst-train --target`."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.geometry import Image
from clst_runtime.live.sinks.growing_sink import FREE_FLOOR_BYTES, give_name, unfinished_path
from clst_runtime.live.sinks.mcap_files import McapFile, taken_ns
from clst_runtime.sources.base import TimedFrame
from clst_runtime.system.files.atomic import check_can_write, write_bytes
from clst_runtime.system.optional import require

EVERY_SECONDS = 2.0
"""At least so long between two frames: neighbours teach the same."""
MOST_MIB = 2048
"""So much in the folder, with what earlier runs left there."""
COMPRESSION = 1
"""PNG's fastest; a camera's noise compresses badly at any level."""
SEQUENCE_DIGITS = 8
COLLECTED = "/clst/collected"
"""Topic of the images in an MCAP file."""


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
        self.folder, self.every_seconds, self.most_bytes = folder, every_seconds, most_mib << 20
        self.written = 0
        """Images of this run."""
        self.stopped = ""
        """Why no more are written; empty while they are."""
        self.held_bytes = 0
        """Of the folder's images."""
        self._sequence = 0
        self._last_seconds: float | None = None
        self._prepare()

    def _prepare(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{self.folder} is a file; give --collect a folder, or NAME.mcap that is not there")
        check_can_write(self.folder / "picture.png")
        held = _own_files(self.folder)
        self.held_bytes = sum(path.stat().st_size for path in held)
        self._sequence = max((int(path.name[:SEQUENCE_DIGITS]) for path in held), default=0)

    def is_due(self, seconds: float) -> bool:
        """Whether an image taken then may be written; `seconds` of any clock that the caller keeps to."""
        due = self._last_seconds is None or not 0.0 <= seconds - self._last_seconds < self.every_seconds
        return due and not self.stopped

    def save(self, timed: TimedFrame, seconds: float) -> Path | None:
        """Write a frame; None, with the reason in `stopped`, where there is no room or no disk."""
        encoded = _png(timed.rgb)
        if self.held_bytes + len(encoded) > self.most_bytes:
            self.stopped = f"{self.folder} holds {self.held_bytes >> 20} MiB, {self.most_bytes >> 20} allowed"
            return None
        try:
            place = self._place()
            place.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(place).free - len(encoded) < FREE_FLOOR_BYTES:
                self.stopped = f"less than {FREE_FLOOR_BYTES >> 20} MiB would be free on the disk of {self.folder}"
                return None
            path = self._write(encoded, timed)
        except (DataError, OSError) as error:
            self.stopped = str(error.message if isinstance(error, DataError) else error)
            return None
        self._last_seconds = seconds
        self.held_bytes += len(encoded)
        self.written += 1
        return path

    def _place(self) -> Path:
        return self.folder

    def _write(self, encoded: bytes, timed: TimedFrame) -> Path:
        sequence, stamp = self._sequence + 1, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        path = self.folder / f"{sequence:0{SEQUENCE_DIGITS}d}-{stamp}.png"
        write_bytes(path, encoded)
        self._sequence = sequence
        return path

    def close(self) -> None:
        """Finish what is held open, if anything is; a second call does nothing. Raises: DataError."""
        return


class McapCollector(Collector):
    """Writes the images into an MCAP file, as `sensor_msgs/msg/CompressedImage` of PNG with the frames' stamps.

    While it grows it is named `<stem>-unfinished.mcap`; after an end without warning every image in it is readable.
    """

    def _prepare(self) -> None:
        self._file: McapFile | None = None
        self._unfinished = self.folder
        if self.folder.exists():
            raise DataError(f"{self.folder} exists; give --collect another name")
        require("mcap.writer")
        check_can_write(self.folder)

    def _place(self) -> Path:
        return self.folder.parent

    def _write(self, encoded: bytes, timed: TimedFrame) -> Path:
        if self._file is None:
            self._unfinished = unfinished_path(self.folder)
            self._file = McapFile(self._unfinished, chunk_bytes=1)  # each image is in the file at once
        self._file.add_picture(COLLECTED, encoded, "png", taken_ns(timed), timed.frame_id)
        return self._unfinished

    def close(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.finish()
            give_name(self._unfinished, self.folder)
        except OSError as error:
            raise DataError(
                f"cannot write {self.folder}: {error.strerror or error}; {file.frames} images are kept in "
                f"{self._unfinished}"
            ) from error


def open_collector(place: Path, *, every_seconds: float = EVERY_SECONDS, most_mib: int = MOST_MIB) -> Collector:
    """The collector for a folder, or for a file `NAME.mcap`. Raises: as `Collector`; MissingDependency."""
    kind = McapCollector if place.suffix.lower() == ".mcap" and not place.is_dir() else Collector
    return kind(place, every_seconds=every_seconds, most_mib=most_mib)


def _own_files(folder: Path) -> list[Path]:
    """Images that a collector has written into the folder."""
    found = folder.glob("[0-9]" * SEQUENCE_DIGITS + "-*.png")
    return [path for path in found if path.is_file()]


def _png(rgb: Image) -> bytes:
    stream = io.BytesIO()
    require("PIL.Image").fromarray(rgb).save(stream, format="PNG", compress_level=COMPRESSION)
    return stream.getvalue()
