"""Ignore masks: which pixels of a camera show the bonnet, a lens border or black bars. Legend: H rows, W columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import SHAPE_TOLERANCE, resize_classes
from clst_runtime.imaging.image_files import read_image

SIZES_KEPT = 8


class IgnoreMask:
    """An ignore mask as stored; its size may differ from the camera's images, its aspect ratio may not."""

    def __init__(self, path: Path) -> None:
        """Read an image whose non-zero pixels are to be ignored.

        Raises:
            DataError: it is no image of 8 bits, or every pixel of it is non-zero.
        """
        self.path = path
        self.hidden: npt.NDArray[np.uint8] = np.where(read_image(path).max(axis=2) > 0, IGNORE_ID, 0).astype(np.uint8)
        """H,W: 255 where the camera's image is ignored, else 0."""
        if self.hidden.all():
            raise DataError(f"{path}: the ignore mask covers every pixel; non-zero means ignore")
        self._sizes: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}

    def check(self, camera_hw: tuple[int, int]) -> None:
        """Raises: DataError: the camera's images have another aspect ratio."""
        (rows, columns), (camera_rows, camera_columns) = self.hidden.shape, camera_hw
        if abs(rows * camera_columns / (columns * camera_rows) - 1) > SHAPE_TOLERANCE:
            raise DataError(
                f"{self.path}: the ignore mask is {columns}×{rows}, the camera's images are "
                f"{camera_columns}×{camera_rows}; draw it on an image of this camera"
            )

    def at(self, size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """`hidden` at another size, by the nearest pixel."""
        if size_hw not in self._sizes:
            if len(self._sizes) == SIZES_KEPT:  # a folder may have images of any size
                self._sizes.clear()
            self._sizes[size_hw] = resize_classes(self.hidden, size_hw)
        return self._sizes[size_hw]
