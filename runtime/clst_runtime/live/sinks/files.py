"""Results in files: images, masks, a line a frame. Legend: H rows, W columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clst_runtime.classes.labels import ClassList
from clst_runtime.imaging.image_files import write_png
from clst_runtime.imaging.overlay import blend
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.system.files.json_lines import JsonLines


class ImageSink(Sink):
    """One overlay image a frame."""

    name = "pictures"

    def __init__(self, folder: Path, classes: ClassList, alpha: float) -> None:
        self.folder, self.classes, self.alpha = folder, classes, alpha

    def write(self, result: Result) -> None:
        """Write `<name>.png`."""
        write_png(
            self.folder / f"{result.timed.name}.png", blend(result.timed.rgb, result.mask, self.classes, self.alpha)
        )


class MaskSink(Sink):
    """One PNG of class ids a frame, at the camera's size."""

    name = "masks"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, result: Result) -> None:
        """Write `<name>.png`."""
        write_png(self.folder / f"{result.timed.name}.png", result.mask)


class FrameLogSink(Sink):
    """One JSON line a frame: position, time of capture (CLOCK_MONOTONIC), latency and the share of each class."""

    name = "frame log"
    wants_camera_size = False

    def __init__(self, path: Path, classes: ClassList) -> None:
        self.classes = classes
        self._lines = JsonLines(path)

    def write(self, result: Result) -> None:
        classes, timed = result.classes, result.timed
        counts = np.bincount(classes.ravel(), minlength=len(self.classes))[: len(self.classes)] / classes.size
        shares = {name: round(float(share), 4) for name, share in zip(self.classes.names, counts, strict=True)}
        times = {"captured_ns": timed.captured_ns, "capture_to_mask_ms": round(result.age_ns / 1e6, 3)}
        self._lines.append({"frame": timed.index, "name": timed.name, **times, "shares": shares})

    def close(self) -> None:
        self._lines.close()
