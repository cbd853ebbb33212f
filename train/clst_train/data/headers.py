"""What the heads of image files tell before hours of training: size, kind of pixels, EXIF rotation.

Legend: H rows, W columns as the file stores them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clst_runtime.dataset import LabelledDataset
from clst_runtime.errors import DataError
from clst_runtime.images import png_layout
from clst_runtime.labels import IGNORE_ID
from clst_runtime.optional import require

_EXIF_ORIENTATION, _AS_STORED = 274, 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """The head of one image file."""

    size_hw: tuple[int, int]
    """H and W as stored."""
    mode: str
    """Pillow's name of its pixels: L, RGB, RGBA, P …"""
    turned: bool
    """It carries an EXIF rotation or mirror. None is applied anywhere: labels and live frames have none either."""


def read_header(path: Path) -> Header:
    """The head of an image file; its pixels are not decoded.

    Raises:
        DataError: missing, or not an image.
    """
    image_module = require("PIL.Image")
    try:
        with image_module.open(path) as picture:
            columns, rows = picture.size
            exif = picture.getexif() if picture.format in ("JPEG", "MPO", "WEBP", "TIFF") else {}
            turned = exif.get(_EXIF_ORIENTATION, _AS_STORED) not in (0, _AS_STORED)
            return Header(size_hw=(rows, columns), mode=picture.mode, turned=turned)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from error


def check_pictures(
    paths: Iterable[Path], *, used_hw: tuple[int, int]
) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """Remarks on camera pictures that become `used_hw` (rows, columns): several sizes, EXIF rotations.

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
    """Remarks on labelled images that become `used_hw` (rows, columns): several sizes, EXIF rotations.

    Raises:
        DataError: one is no image, or an image and its label have different sizes.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    turned = []
    for pair in dataset.files:
        image, label = read_header(pair.image), read_header(pair.label)
        if image.size_hw != label.size_hw:
            cure = "; its EXIF rotation is not applied, labels must fit it as stored" if image.turned else ""
            raise DataError(
                f"{pair.image} is {_told(image.size_hw)} but {pair.label} is {_told(label.size_hw)}; "
                f"image and label must have the same size{cure}"
            )
        sizes[image.size_hw] += 1
        if image.turned:
            turned.append(pair.image)
    return (*_on_sizes(sizes, used_hw), *_on_turns(turned))


def check_something_is_labelled(dataset: LabelledDataset) -> None:
    """Read labels until one has a labelled pixel, which mostly is the first.

    Raises:
        DataError: no pixel of the whole data set carries a class, or a file is unreadable.
    """
    for index in range(len(dataset)):
        if (dataset[index].labels != IGNORE_ID).any():
            return
    raise DataError(
        f"{dataset.root}: no pixel of its {len(dataset)} labels carries one of the classes "
        f"({', '.join(dataset.classes.names)}); check the label ids with clst-data check, or give --mapping"
    )


def _told(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"


def _on_sizes(sizes: Counter[tuple[int, int]], used_hw: tuple[int, int]) -> list[str]:
    if len(sizes) < 2:
        return []
    told = ", ".join(f"{_told(size)} ({count})" for size, count in sizes.most_common(5))
    return [f"images of {len(sizes)} sizes: {told}; all are brought to {_told(used_hw)}"]


def _on_turns(turned: list[Path]) -> list[str]:
    if not turned:
        return []
    return [
        f"{len(turned)} images carry an EXIF rotation, which is not applied: they are taken as stored, "
        f"e.g. {turned[0].name}"
    ]
