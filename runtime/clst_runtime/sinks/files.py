"""Results in files: video, pictures, masks, a line a frame. Legend: H rows, W columns."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.errors import DataError
from clst_runtime.images import write_png
from clst_runtime.json_lines import JsonLines
from clst_runtime.labels import ClassList
from clst_runtime.media import name_for_opencv
from clst_runtime.optional import require
from clst_runtime.overlay import blend
from clst_runtime.results import Result
from clst_runtime.sinks.base import Sink

FREE_FLOOR_BYTES = 64 << 20
"""A recording ends while so much of the disk is still free: room to finish the video, and for everybody else."""


class VideoSink(Sink):
    """The overlay as a video; it takes its name when it is finished and every frame can be read back.

    OpenCV's writer reports no error when the disk is full, so free space is looked at before each frame.
    """

    name = "video"

    def __init__(self, path: Path, classes: ClassList, fps: float | Callable[[], float], alpha: float) -> None:
        """Args: fps: frames a second, or what tells them at the first frame, when a camera has been opened."""
        self.path, self.classes, self.fps, self.alpha = path, classes, fps, alpha
        self._temporary = path.with_name(f".{path.stem}-unfinished{path.suffix}")
        self._writer: Any = None
        self._size: tuple[int, int] | None = None
        self._frames = 0

    def write(self, result: Result) -> None:
        """Append one frame; the first one fixes the size.

        Raises:
            DataError: the disk is nearly full; what was recorded so far is finished by `close`.
        """
        cv2 = require("cv2")
        rows, columns = result.timed.size_hw
        size = (columns, rows)
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            fps = self.fps() if callable(self.fps) else self.fps
            with name_for_opencv(self._temporary) as name:
                self._writer, self._size = cv2.VideoWriter(name, code, fps, size), size
            if not self._writer.isOpened():
                raise DataError(f"{self.path}: this OpenCV cannot write the video (folder writable? codec mp4v?)")
        if shutil.disk_usage(self.path.parent).free < FREE_FLOOR_BYTES:
            raise DataError(
                f"{self.path.parent}: less than {FREE_FLOOR_BYTES >> 20} MiB free on the disk; recording ended after "
                f"{self._frames} frames, free some space or give another --out"
            )
        overlay = blend(result.timed.rgb, result.mask, self.classes, self.alpha)
        if size != self._size:
            overlay = cv2.resize(overlay, self._size)
        self._writer.write(np.ascontiguousarray(overlay[..., ::-1]))
        self._frames += 1

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            DataError: the finished file does not hold every frame (disk full, quota); it is removed.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        try:
            whole = self._frames == readable_frames(self._temporary)
            if whole:
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)
        if not whole and self._frames:
            raise DataError(
                f"cannot write {self.path}: the video is not whole (disk full, or a quota?); it was removed"
            )


def readable_frames(path: Path) -> int:
    """Frames that a finished video announces; 0 if it cannot be opened or its last frame cannot be read."""
    cv2 = require("cv2")
    if not path.is_file() or path.stat().st_size == 0:
        return 0
    with name_for_opencv(path) as name:
        capture = cv2.VideoCapture(name)
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.set(cv2.CAP_PROP_POS_FRAMES, max(count - 1, 0))
        return count if count > 0 and capture.read()[0] else 0
    finally:
        capture.release()


class PictureSink(Sink):
    """One overlay picture a frame."""

    name = "pictures"

    def __init__(self, folder: Path, classes: ClassList, alpha: float) -> None:
        self.folder, self.classes, self.alpha = folder, classes, alpha

    def write(self, result: Result) -> None:
        """Write `<name>.png`."""
        write_png(
            self.folder / f"{result.timed.name}.png", blend(result.timed.rgb, result.mask, self.classes, self.alpha)
        )

    def close(self) -> None:
        """Nothing is held open."""


class MaskSink(Sink):
    """One PNG of class ids a frame, at the camera's size."""

    name = "masks"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, result: Result) -> None:
        """Write `<name>.png`."""
        write_png(self.folder / f"{result.timed.name}.png", result.mask)

    def close(self) -> None:
        """Nothing is held open."""


class FrameLogSink(Sink):
    """One JSON line a frame: position, time of capture (CLOCK_MONOTONIC), latency and the share of each class."""

    name = "frame log"
    wants_camera_size = False

    def __init__(self, path: Path, classes: ClassList) -> None:
        self.classes = classes
        self._lines = JsonLines(path)

    def write(self, result: Result) -> None:
        """Append one line.

        Raises:
            DataError: it could not be written whole; the file ends with the line before.
        """
        classes, timed = result.prediction.classes, result.timed
        counts = np.bincount(classes.ravel(), minlength=len(self.classes))[: len(self.classes)] / classes.size
        shares = {name: round(float(share), 4) for name, share in zip(self.classes.names, counts, strict=True)}
        times = {"captured_ns": timed.captured_ns, "capture_to_mask_ms": round(result.age_ns / 1e6, 3)}
        self._lines.append({"frame": timed.index, "name": timed.name, **times, "shares": shares})

    def close(self) -> None:
        """Finish the file."""
        self._lines.close()
