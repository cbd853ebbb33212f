"""Geometry between a camera's picture and a model's input: one definition for training, export and driving."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clst_runtime.optional import require


def resize_frame(frame: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """An RGB frame H,W,3 at another size, bilinear with half-pixel centres; the same array if the size fits."""
    if frame.shape[:2] == size_hw:
        return frame
    cv2 = require("cv2")
    resized = cv2.resize(frame, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def resize_classes(classes: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A class map H,W at another size: the nearest pixel by centres, so that no id is invented."""
    rows, columns = classes.shape
    if (rows, columns) == size_hw:
        return classes
    cv2 = require("cv2")
    resized = cv2.resize(classes, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)
