"""Frames of videos in a file without a name, decoded once and read when asked for: no memory holds a long video.

Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Fit, fit_frame, to_rgb
from clst_runtime.imaging.video_frames import Video
from clst_runtime.imaging.videos import open_video

Image = npt.NDArray[np.uint8]
GIB = 2**30
DISK = Path("/var/tmp")
"""Where the file lies unless TMPDIR is set; /tmp is memory on many systems."""


class FrameFile(Mapping[int, Image]):
    """Frames H,W,3 by their positions; any number of threads may read them."""

    def __init__(self, count: int, size_hw: tuple[int, int], first: int, hint: str) -> None:
        """Make the file.

        Args:
            count: frames that it may come to hold.
            size_hw: H, W.
            first: position of the first one.
            hint: what to do where the disk has no room, for the message.

        Raises:
            DataError: it has none.
        """
        self._shape, self._first, self._count = (*size_hw, 3), first, 0
        self._bytes = int(np.prod(self._shape))
        folder = _folder()
        try:
            free = shutil.disk_usage(folder).free
            if free < count * self._bytes:
                raise DataError(
                    f"{count} frames of videos need {count * self._bytes / GIB:.1f} GiB in {folder}, which has "
                    f"{free / GIB:.1f} GiB free; {hint}, or set TMPDIR to a folder with room"
                )
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  as long as the frames
        except OSError as error:
            raise DataError(f"{folder}: no place for frames of videos ({error.strerror}); set TMPDIR") from error

    def append(self, frame: Image) -> None:
        """Add one frame.

        Raises:
            DataError: the disk is full.
        """
        try:
            self._file.write(np.ascontiguousarray(frame).data)
            self._file.flush()
        except OSError as error:
            raise DataError(f"{_folder()}: no room for frames of videos ({error.strerror}); set TMPDIR") from error
        self._count += 1

    def __getitem__(self, position: int) -> Image:
        """The frame H,W,3, read anew."""
        if position not in range(self._first, self._first + self._count):
            raise KeyError(position)
        frame = np.empty(self._shape, np.uint8)
        rest, place = memoryview(cast(Any, frame)).cast("B"), (position - self._first) * self._bytes
        while rest:
            read = os.preadv(self._file.fileno(), [rest], place)
            if read == 0:
                raise DataError("frames of videos were cut off on the disk")
            rest, place = rest[read:], place + read
        return frame

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._first, self._first + self._count))

    def __len__(self) -> int:
        return self._count


def decode(
    path: Path, wanted: Sequence[int], file: FrameFile, input_hw: tuple[int, int], fit: Fit
) -> tuple[list[tuple[int, int]], int, list[str]]:
    """Put a video's frames into a file at the model's input size, in one pass; for a damaged one the next serves.

    Args:
        path: the video.
        wanted: positions, ascending.
        file: what takes them.
        input_hw: H, W.
        fit: how a frame becomes that.

    Returns:
        Rows and columns of each frame taken as the camera gave it, how many frames were gone through, and what is wrong
        with the video.

    Raises:
        DataError: it cannot be read, or the disk is full.
    """
    sizes: list[tuple[int, int]] = []
    video, last = open_video(path), -1
    try:
        for frame in frames_at(video, wanted):
            last = video.position
            file.append(fit_frame(to_rgb(frame, video.layout), input_hw, fit))
            sizes.append(video.layout.size_hw(frame))
        ended = bool(wanted) and last < wanted[-1]
        return sizes, video.position + 1, video.warnings(ended=ended)
    finally:
        video.close()


def frames_at(video: Video, wanted: Sequence[int]) -> Iterator[Image]:
    """Frames in `video.layout` at some positions, ascending, in one pass; for a damaged one the next serves. Each may
    lie where the one before lay, and `video.position` is its own.

    Raises:
        DataError: it cannot be read.
    """
    next_wanted, frame = 0, None
    while next_wanted < len(wanted):
        video.skip_to(wanted[next_wanted])
        frame = video.read(frame)
        if frame is None:
            return
        yield frame
        while next_wanted < len(wanted) and wanted[next_wanted] <= video.position:
            next_wanted += 1


def _folder() -> Path:
    if os.environ.get("TMPDIR") or not os.access(DISK, os.W_OK):
        return Path(tempfile.gettempdir())
    return DISK
