"""Geometry and colour between a camera's picture and a model's input: one definition for training, export and driving.

Legend: H rows, W columns.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import DataError
from clst_runtime.optional import require

Picture = npt.NDArray[np.uint8]


class Layout(str, Enum):
    """How a camera hands over its pixels."""

    RGB = "rgb"
    """H,W,3."""
    BGR = "bgr"
    """H,W,3."""
    NV12 = "nv12"
    """H·3/2,W: the plane of Y, then one of interleaved U and V at half size."""
    YUYV = "yuyv"
    """H,W,2: Y0 U Y1 V for two neighbours."""

    def shape(self, size_hw: tuple[int, int]) -> tuple[int, ...]:
        """Shape of the array of a picture H,W.

        Raises:
            DataError: an odd edge where two pixels share a colour.
        """
        rows, columns = size_hw
        if (self is Layout.NV12 and rows % 2) or (self in (Layout.NV12, Layout.YUYV) and columns % 2):
            raise DataError(
                f"a picture of {rows}x{columns} cannot be {self.value}: its colours are those of pixel pairs"
            )
        return {
            Layout.RGB: (rows, columns, 3),
            Layout.BGR: (rows, columns, 3),
            Layout.NV12: (rows * 3 // 2, columns),
            Layout.YUYV: (rows, columns, 2),
        }[self]

    def size_hw(self, picture: Picture) -> tuple[int, int]:
        """H, W of a picture in this layout."""
        rows, columns = picture.shape[:2]
        return (rows * 2 // 3 if self is Layout.NV12 else rows, columns)


def resize_frame(
    frame: npt.NDArray[np.uint8], size_hw: tuple[int, int], out: Picture | None = None
) -> npt.NDArray[np.uint8]:
    """A picture H,W,3 at another size, bilinear with half-pixel centres; the same array if the size fits."""
    if frame.shape[:2] == size_hw:
        return frame
    cv2 = require("cv2")
    resized = cv2.resize(frame, (size_hw[1], size_hw[0]), dst=out, interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def resize_classes(
    classes: npt.NDArray[np.uint8], size_hw: tuple[int, int], out: Picture | None = None
) -> npt.NDArray[np.uint8]:
    """A class map H,W at another size: the nearest pixel by centres, so that no id is invented."""
    rows, columns = classes.shape
    if (rows, columns) == size_hw:
        return classes
    cv2 = require("cv2")
    resized = cv2.resize(classes, (size_hw[1], size_hw[0]), dst=out, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def to_rgb(picture: Picture, layout: Layout, out: Picture | None = None) -> Picture:
    """A camera's picture as RGB H,W,3; the same array if it is that already.

    YUV is video range of BT.601, as cameras give it.
    """
    if layout is Layout.RGB:
        return picture
    return np.asarray(require("cv2").cvtColor(picture, _code(layout), dst=out), np.uint8)


def _code(layout: Layout) -> Any:
    cv2 = require("cv2")
    return {
        Layout.BGR: cv2.COLOR_BGR2RGB,
        Layout.NV12: cv2.COLOR_YUV2RGB_NV12,
        Layout.YUYV: cv2.COLOR_YUV2RGB_YUY2,
    }[layout]


class Fitter:
    """Brings pictures to a model's input, in arrays of its own that it uses again."""

    def __init__(self, input_hw: tuple[int, int]) -> None:
        self.input_hw = input_hw
        self._small, self._frame = (np.empty((*input_hw, 3), np.uint8) for _ in range(2))
        self._whole: Picture | None = None

    def fit(self, picture: Picture, layout: Layout) -> Picture:
        """RGB H,W,3 of the model's size; good until the next call.

        BGR is brought to size first, because swapping channels of fewer pixels costs less and gives the same.
        """
        if layout in (Layout.RGB, Layout.BGR):
            return to_rgb(resize_frame(picture, self.input_hw, self._small), layout, self._frame)
        size_hw = layout.size_hw(picture)
        if size_hw == self.input_hw:
            return to_rgb(picture, layout, self._frame)
        if self._whole is None or self._whole.shape[:2] != size_hw:
            self._whole = np.empty((*size_hw, 3), np.uint8)
        return resize_frame(to_rgb(picture, layout, self._whole), self.input_hw, self._frame)
