"""Class maps as images. Legend: H rows, W columns; all images RGB uint8 H,W,3."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clst_runtime.classes.labels import ClassList
from clst_runtime.imaging.geometry import Image, resize_frame
from clst_runtime.system.optional import require


def colourise(classes: Image, class_list: ClassList) -> Image:
    """Class ids H,W in their colours; black for 255 and unknown ids."""
    return np.take(class_list.palette(), classes, axis=0)  # ten times as fast as indexing


def blend(frame: Image, classes: Image, class_list: ClassList, alpha: float = 0.5) -> Image:
    """Colours over the frame; where no class is (255), the frame stays as it is."""
    coloured = colourise(classes, class_list)
    mixed: Image = require("cv2").addWeighted(frame, 1.0 - alpha, coloured, alpha, 0.0)
    unknown = classes >= len(class_list)
    if unknown.any():
        mixed[unknown] = frame[unknown]
    return mixed


def write_text(image: Image, text: str, place_xy: tuple[int, int]) -> None:
    """Write white text with a dark rim into an image, in place."""
    cv2 = require("cv2")
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(image, text, place_xy, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, width, cv2.LINE_AA)


def legend(class_list: ClassList, *, width: int = 200) -> Image:
    """One row of colour and name for each class."""
    image = np.full((18 * len(class_list) + 6, width, 3), 40, np.uint8)
    for index, (name, colour) in enumerate(zip(class_list.names, class_list.colours, strict=True)):
        top = 4 + 18 * index
        image[top : top + 14, 4:28] = colour
        write_text(image, name, (34, top + 12))
    return image


def beside_legend(image: Image, class_list: ClassList) -> Image:
    """The image with the classes' colours and names to its right, higher where they need it."""
    column = legend(class_list, width=40 + 9 * max(map(len, class_list.names)))
    height, width = max(image.shape[0], column.shape[0]), image.shape[1]
    both = np.full((height, width + column.shape[1], 3), 24, np.uint8)
    both[: image.shape[0], :width] = image
    both[: column.shape[0], width:] = column
    return both


def contact_sheet(rows: Sequence[Sequence[Image]], titles: Sequence[str] = ()) -> Image:
    """Images in rows and columns, all brought to the size of the first, with a title over each column."""
    if not rows or not rows[0]:
        return np.zeros((1, 1, 3), np.uint8)
    size, gap, head = (rows[0][0].shape[0], rows[0][0].shape[1]), 4, 22 if titles else 0
    columns = max(len(row) for row in rows)
    sheet = np.full((head + len(rows) * (size[0] + gap), columns * (size[1] + gap), 3), 24, np.uint8)
    for line, row in enumerate(rows):
        for column, image in enumerate(row):
            top, left = head + line * (size[0] + gap), column * (size[1] + gap)
            sheet[top : top + size[0], left : left + size[1]] = resize_frame(image, size)
    for column, title in enumerate(titles):
        write_text(sheet, title, (column * (size[1] + gap) + 4, 16))
    return sheet
