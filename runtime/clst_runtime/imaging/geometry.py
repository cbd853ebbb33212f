"""Geometry and colour between a camera's image and a model's input: one definition for training, export and driving.

Legend: H,W rows and columns of the camera's image; H',W' of the model's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.errors import DataError
from clst_runtime.system.optional import require

Image = npt.NDArray[np.uint8]
Array = TypeVar("Array", bound=npt.NDArray[Any])
PADDING_RGB = (124, 116, 104)
"""What a letterbox is filled with: ImageNet's mean colour, so that padding is about 0 after normalisation."""
SHAPE_TOLERANCE = 0.02
"""By how much two aspect ratios may differ and still count as the same."""


class Fit(str, Enum):
    """How a camera's image H,W becomes the model's H',W'."""

    STRETCH = "stretch"
    """Rows and columns each by a factor of their own: nothing is wasted, shapes change with the aspect."""
    LETTERBOX = "letterbox"
    """Both by the smaller factor, in the middle, the rest filled with `PADDING_RGB`: shapes stay."""


def fit_named(name: object) -> Fit:
    """The fit of that name.

    Raises:
        ValueError: there is none, or it is no name.
    """
    known = [fit.value for fit in Fit]
    if name not in known:
        raise ValueError(f"fit {name!r} is unknown; known are {', '.join(known)}")
    return Fit(name)


@dataclass(frozen=True)
class Content:
    """The part of the model's H',W' that shows the camera's image; the rest is padding."""

    top: int
    left: int
    rows: int
    """Rows, at least 1."""
    columns: int
    """Columns, at least 1."""

    @property
    def size_hw(self) -> tuple[int, int]:
        return (self.rows, self.columns)

    def of(self, array: Array) -> Array:
        """A view of that part of an array whose first two axes are H',W'."""
        return cast(Array, array[self.top : self.top + self.rows, self.left : self.left + self.columns])

    def padding(self, input_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """H',W' bool: everything else."""
        outside = np.ones(input_hw, bool)
        self.of(outside)[:] = False
        return outside


def content_of(size_hw: tuple[int, int], input_hw: tuple[int, int], fit: Fit) -> Content:
    """Where an image H,W lies in H',W'.

    A letterbox scales by min(H'/H, W'/W); the other edge is rounded (halves up) to whole pixels, at least 1, and
    centred, where an odd row or column of padding is one at the bottom or right.
    """
    (rows, columns), (input_rows, input_columns) = size_hw, input_hw
    if fit is Fit.STRETCH:
        return Content(0, 0, input_rows, input_columns)
    if input_rows * columns <= input_columns * rows:  # H'/H ≤ W'/W; in whole numbers, so that nothing is lost
        shown = (input_rows, max(1, (2 * columns * input_rows + rows) // (2 * rows)))
    else:
        shown = (max(1, (2 * rows * input_columns + columns) // (2 * columns)), input_columns)
    return Content((input_rows - shown[0]) // 2, (input_columns - shown[1]) // 2, *shown)


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
        """Shape of the array of an image H,W.

        Raises:
            DataError: an odd edge where two pixels share a colour.
        """
        rows, columns = size_hw
        if (self is Layout.NV12 and rows % 2) or (self in (Layout.NV12, Layout.YUYV) and columns % 2):
            raise DataError(
                f"an image of {rows}x{columns} cannot be {self.value}: its colours are those of pixel pairs"
            )
        return {
            Layout.RGB: (rows, columns, 3),
            Layout.BGR: (rows, columns, 3),
            Layout.NV12: (rows * 3 // 2, columns),
            Layout.YUYV: (rows, columns, 2),
        }[self]

    def size_hw(self, image: Image) -> tuple[int, int]:
        """H, W of an image in this layout."""
        rows, columns = image.shape[:2]
        return (rows * 2 // 3 if self is Layout.NV12 else rows, columns)


def resize_frame(
    frame: npt.NDArray[np.uint8], size_hw: tuple[int, int], out: Image | None = None
) -> npt.NDArray[np.uint8]:
    """An image H,W,3 at another size, bilinear with half-pixel centres; the same array if the size fits."""
    if frame.shape[:2] == size_hw:
        return frame
    cv2 = require("cv2")
    resized = cv2.resize(frame, (size_hw[1], size_hw[0]), dst=out, interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def resize_classes(
    classes: npt.NDArray[np.uint8], size_hw: tuple[int, int], out: Image | None = None
) -> npt.NDArray[np.uint8]:
    """A class map H,W at another size: the nearest pixel by centres, so that no id is invented."""
    rows, columns = classes.shape
    if (rows, columns) == size_hw:
        return classes
    cv2 = require("cv2")
    resized = cv2.resize(classes, (size_hw[1], size_hw[0]), dst=out, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, np.uint8)


def fit_frame(frame: Image, input_hw: tuple[int, int], fit: Fit) -> Image:
    """A camera's RGB image H,W,3 as the model's frame H',W',3; the same array if the size fits."""
    content = content_of(frame.shape[:2], input_hw, fit)
    shown = resize_frame(frame, content.size_hw)
    return shown if content.size_hw == input_hw else _padded(shown, content, input_hw, PADDING_RGB)


def fit_labels(labels: Image, input_hw: tuple[int, int], fit: Fit) -> Image:
    """Class ids H,W of an image as those of its frame, H',W'; padding has none, which is 255."""
    rows, columns = labels.shape
    content = content_of((rows, columns), input_hw, fit)
    shown = resize_classes(labels, content.size_hw)
    return shown if content.size_hw == input_hw else _padded(shown, content, input_hw, IGNORE_ID)


def _padded(shown: Image, content: Content, input_hw: tuple[int, int], value: tuple[int, int, int] | int) -> Image:
    whole = np.empty((*input_hw, *shown.shape[2:]), np.uint8)
    whole[:] = value
    content.of(whole)[:] = shown
    return whole


def classes_to_camera(classes: Image, size_hw: tuple[int, int], fit: Fit, out: Image | None = None) -> Image:
    """The model's map H',W' (class ids or confidence) as that of the camera's image, H,W.

    Padding is cut off first, so that no pixel of the result comes of it.
    """
    rows, columns = classes.shape
    return resize_classes(content_of(size_hw, (rows, columns), fit).of(classes), size_hw, out)


def to_rgb(image: Image, layout: Layout, out: Image | None = None) -> Image:
    """A camera's image as RGB H,W,3; the same array if it is that already.

    YUV is video range of BT.601, as cameras give it.
    """
    if layout is Layout.RGB:
        return image
    return np.asarray(require("cv2").cvtColor(image, _code(layout), dst=out), np.uint8)


def _code(layout: Layout) -> Any:
    cv2 = require("cv2")
    return {
        Layout.BGR: cv2.COLOR_BGR2RGB,
        Layout.NV12: cv2.COLOR_YUV2RGB_NV12,
        Layout.YUYV: cv2.COLOR_YUV2RGB_YUY2,
    }[layout]


class Fitter:
    """Brings images to a model's input, in arrays of its own that it uses again."""

    def __init__(self, input_hw: tuple[int, int], fit: Fit = Fit.STRETCH) -> None:
        """Args: input_hw: H',W'. fit: how images of another size get there."""
        self.input_hw, self.manner = input_hw, fit
        self.content = Content(0, 0, *input_hw)
        """Where the last image lies in its frame."""
        self._small, self._frame = (np.empty((*input_hw, 3), np.uint8) for _ in range(2))
        self._whole: Image | None = None
        self._size_hw: tuple[int, int] | None = None

    def fit(self, image: Image, layout: Layout) -> Image:
        """RGB H',W',3; good until the next call.

        BGR is brought to size first, because swapping channels of fewer pixels costs less and gives the same.
        """
        size_hw = layout.size_hw(image)
        if size_hw != self._size_hw:
            self._begin(size_hw)
        shown = self._shown(image, layout, size_hw)
        if self.content.size_hw == self.input_hw:
            return shown
        if layout is Layout.RGB and self.content.size_hw == size_hw:  # nothing has written into the frame
            np.copyto(self.content.of(self._frame), shown)
        return self._frame

    def _begin(self, size_hw: tuple[int, int]) -> None:
        """A camera of another size: a new place, and clean padding around it."""
        self._size_hw, self.content = size_hw, content_of(size_hw, self.input_hw, self.manner)
        self._frame[:] = PADDING_RGB

    def _shown(self, image: Image, layout: Layout, size_hw: tuple[int, int]) -> Image:
        """RGB h,w,3 of the content, where anything had to be done in the frame itself."""
        small, frame, content_hw = self.content.of(self._small), self.content.of(self._frame), self.content.size_hw
        if layout is Layout.RGB:
            return resize_frame(image, content_hw, frame)
        if layout is Layout.BGR:
            return to_rgb(resize_frame(image, content_hw, small), layout, frame)
        if size_hw == content_hw:
            return to_rgb(image, layout, frame)
        if self._whole is None or self._whole.shape[:2] != size_hw:
            self._whole = np.empty((*size_hw, 3), np.uint8)
        return resize_frame(to_rgb(image, layout, self._whole), content_hw, frame)
