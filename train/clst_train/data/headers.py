"""What the heads of image files tell before hours of training: size, kind of pixels, EXIF orientation.

Legend: H rows, W columns of the upright picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clst_runtime.data.dataset import LabelledDataset, other_size
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import SIDEWAYS, orientation, png_layout
from clst_runtime.system.optional import require


@dataclass(frozen=True, kw_only=True)
class Header:
    """The head of one image file."""

    size_hw: tuple[int, int]
    """H and W of the upright picture."""
    mode: str
    """Pillow's name of its pixels: L, RGB, RGBA, P …"""
    turned: bool
    """It carries an EXIF orientation, which is applied wherever it is read."""


def read_header(path: Path) -> Header:
    """The head of an image file; its pixels are not decoded.

    Raises:
        DataError: missing, or not an image.
    """
    image_module = require("PIL.Image")
    try:
        with image_module.open(path) as picture:
            turn = orientation(path, picture)
            size_hw = picture.size if turn in SIDEWAYS else picture.size[::-1]
            return Header(size_hw=size_hw, mode=picture.mode, turned=turn > 1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error


def check_images(
    paths: Iterable[Path], *, used_hw: tuple[int, int]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Remarks on camera pictures that become `used_hw` (rows, columns): several sizes, EXIF orientations.

    Returns the remarks, and rows and columns of each picture.

    Raises:
        DataError: one is no image, has more than 8 bits a channel, or is paletted as label files are.
    """
    sizes: list[tuple[int, int]] = []
    turned = []
    for path in paths:
        header = read_header(path)
        if header.mode == "P":
            raise DataError(f"{path}: a paletted picture, as label files are; take it out, or convert it to RGB")
        if header.mode.startswith(("I", "F")) or (png_layout(path) or (8, 0))[0] == 16:
            raise DataError(f"{path}: more than 8 bits a channel; convert the images to 8 bits")
        sizes.append(header.size_hw)
        if header.turned:
            turned.append(path)
    return (*_on_sizes(Counter(sizes), used_hw), *_on_turns(turned)), tuple(sizes)


def check_pairs(dataset: LabelledDataset, *, used_hw: tuple[int, int]) -> tuple[str, ...]:
    """Remarks on labelled images that become `used_hw` (rows, columns): several sizes, EXIF orientations.

    Raises:
        DataError: one is no image, or an image and its label have different sizes.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    turned = []
    for pair in dataset.files:
        image, label = read_header(pair.image), read_header(pair.label)
        if image.size_hw != label.size_hw:
            raise DataError(other_size(pair, image.size_hw, label.size_hw))
        sizes[image.size_hw] += 1
        if image.turned:
            turned.append(pair.image)
    return (*_on_sizes(sizes, used_hw), *_on_turns(turned))


def _told(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"


def _on_sizes(sizes: Counter[tuple[int, int]], used_hw: tuple[int, int]) -> list[str]:
    if len(sizes) < 2:
        return []
    told = ", ".join(f"{_told(size)} ({count})" for size, count in sizes.most_common(5))
    return [f"images of {len(sizes)} sizes: {told}; all are brought to {_told(used_hw)}"]


def _on_turns(turned: list[Path]) -> list[str]:
    return [orientation_remark(len(turned), turned[0])] if turned else []


def orientation_remark(count: int, example: Path) -> str:
    """The remark on images that carry an EXIF orientation."""
    return (
        f"{count} images carry an EXIF orientation, which is applied (labels must fit the upright picture), "
        f"e.g. {example.name}"
    )
