"""Checks of image headers before hours of training: size, kind of pixels, EXIF orientation.

Legend: H rows, W columns of the upright image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clst_runtime.data.dataset import LabelledDataset, other_size
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import SIDEWAYS, orientation, png_layout
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
        DataError: missing, or not an image.
    """
    image_module = require("PIL.Image")
    try:
        with image_module.open(path) as image:
            exif = orientation(path, image)
            size_hw = image.size if exif in SIDEWAYS else image.size[::-1]
            return Header(size_hw=size_hw, mode=image.mode, rotated=exif > 1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error}); take it out, or replace it") from error


def check_images(
    paths: Iterable[Path], *, used_hw: tuple[int, int]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Remarks on camera images that become `used_hw` (rows, columns): several sizes, EXIF orientations.

    Returns the remarks, and rows and columns of each image.

    Raises:
        DataError: one is no image, has more than 8 bits a channel, or is paletted as label files are.
    """
    sizes: list[tuple[int, int]] = []
    rotated = []
    for path in paths:
        header = read_header(path)
        if header.mode == "P":
            raise DataError(f"{path}: a paletted image, as label files are; take it out, or convert it to RGB")
        if header.mode.startswith(("I", "F")) or (png_layout(path) or (8, 0))[0] == 16:
            raise DataError(f"{path}: more than 8 bits a channel; convert the images to 8 bits")
        sizes.append(header.size_hw)
        if header.rotated:
            rotated.append(path)
    return (*_on_sizes(Counter(sizes), used_hw), *orientation_remarks(rotated)), tuple(sizes)


def check_pairs(dataset: LabelledDataset, *, used_hw: tuple[int, int]) -> tuple[str, ...]:
    """Remarks on labelled images that become `used_hw` (rows, columns): several sizes, EXIF orientations.

    Raises:
        DataError: one is no image, or an image and its label have different sizes.
    """
    headers = check_sizes(dataset)
    rotated = [pair.image for pair, header in zip(dataset.files, headers, strict=True) if header.rotated]
    return (*_on_sizes(Counter(header.size_hw for header in headers), used_hw), *orientation_remarks(rotated))


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


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"


def _on_sizes(sizes: Counter[tuple[int, int]], used_hw: tuple[int, int]) -> list[str]:
    if len(sizes) < 2:
        return []
    listed = ", ".join(f"{_size(size)} ({count})" for size, count in sizes.most_common(5))
    return [f"images of {len(sizes)} sizes: {listed}; all are brought to {_size(used_hw)}"]


def orientation_remarks(rotated: Sequence[Path]) -> list[str]:
    """The remark on images that carry an EXIF orientation, if there are any."""
    note = "images carry an EXIF orientation, which is applied (labels must fit the upright image)"
    return [f"{len(rotated)} {note}, e.g. {rotated[0].name}"] if rotated else []
