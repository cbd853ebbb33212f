"""Checks of image headers before hours of training: size, kind of pixels, EXIF orientation.

Legend: H rows, W columns of the upright image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.headers import check_sizes, read_header
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import png_layout


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
