"""Headers of image files, before any is decoded: size, kind of pixels, EXIF orientation.

Legend: H rows, W columns of the upright image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clst_runtime.data.dataset import LabelledDataset, other_size
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import SIDEWAYS, check_end, orientation
from clst_runtime.system.optional import require


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of one image file."""

    size_hw: tuple[int, int]
    """H and W of the upright image."""
    mode: str
    """Pillow's name of its pixels: L, RGB, RGBA, P …"""
    rotated: bool
    """It carries an EXIF orientation, which is applied wherever it is read."""


def read_header(path: Path) -> Header:
    """The head of an image file; its pixels are not decoded.

    Raises:
        DataError: missing, not an image, or cut off.
    """
    image_module = require("PIL.Image")
    try:
        with image_module.open(path) as image:
            exif = orientation(path, image)
            check_end(path)
            size_hw = image.size if exif in SIDEWAYS else image.size[::-1]
            return Header(size_hw=size_hw, mode=image.mode, rotated=exif > 1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error}); take it out, or replace it") from error


def check_sizes(dataset: LabelledDataset) -> list[Header]:
    """The headers of the images.

    Raises:
        DataError: one is no image, or an image and its label have different sizes.
    """
    images = []
    for pair in dataset.files:
        image, label = read_header(pair.image), read_header(pair.label)
        if image.size_hw != label.size_hw:
            raise DataError(other_size(pair, image.size_hw, label.size_hw))
        images.append(image)
    return images
