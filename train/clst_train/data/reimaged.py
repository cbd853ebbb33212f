"""A data set through another camera, written in the folder layout."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.data.dataset import LabelledDataset, open_dataset
from clst_runtime.data.formats import FORMATS, PARTS, Format, files_of_split, find_format
from clst_runtime.data.headers import check_sizes
from clst_runtime.data.inputs import LAYOUTS, InputImages, images_of, names_below
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import read_image, write_png
from clst_runtime.system.files.atomic import folder_written_whole, write_bytes, write_text
from clst_runtime.system.files.paths import check_folder, check_new_folder
from clst_runtime.system.optional import require
from clst_train.compute.bars import tqdm_options
from clst_train.synthetic.camera_model import Camera, camera_toml, naming
from clst_train.synthetic.reimaging import encode, geometry_of, noise_of, take, take_labels

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of one split that is re-imaged."""

    images: tuple[Path, ...]
    names: list[str]
    """A name of its own for each."""
    dataset: LabelledDataset | None
    """The same images with their labels; None = they have none."""

    def read(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        """Image H,W,3 and labels H,W."""
        if self.dataset is None:
            return read_image(self.images[index]), None
        sample = self.dataset[index]
        return sample.image, sample.labels


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written of one split."""

    images: int
    labelled: bool
    outside: float
    """Share of the pixels that look past the old image's border: black, and ignored in labels."""


def reimage_folder(
    root: Path,
    out: Path,
    camera: Camera,
    *,
    name: str = "the camera",
    splits: Sequence[str] = (),
    format: str | None = None,
    seed: int = 1,
) -> dict[str, Written]:
    """Write a labelled data set or a folder of images as the camera would have taken it, with the camera beside it.

    Args:
        name: the camera's name or file, for messages.
        splits: of the data set, empty = those of train and val that are there; of a folder without splits the one to
            write, empty = train.
        format: a name from `formats.FORMATS`; None = recognise it.
        seed: of noise and compression, which each file has its own of.

    Raises:
        DataError: `out` is in use; there is no image; a label is missing or of another size. ConfigError: the camera
            does not fit images of this size; no such format.
    """
    if root.is_file():
        raise DataError(f"{root}: a file; give a folder of images (of a video: ffmpeg -i VIDEO FOLDER/%05d.png)")
    check_folder(root)
    check_new_folder(out, hint="give another folder")
    parts = _parts(root, splits, format)
    with folder_written_whole(out) as made:
        with naming(name):
            written = {split: _write(made, split, part, camera, seed) for split, part in parts.items()}
        write_text(made / "camera.toml", f"# {root.resolve().name}, seed {seed}\n\n{camera_toml(camera)}")
        labelled = [part.dataset for part in parts.values() if part.dataset is not None]
        if labelled:
            write_text(made / "classes.json", json.dumps(labelled[0].classes.to_json(), indent=1) + "\n")
    return written


def _write(made: Path, split: str, part: Part, camera: Camera, seed: int) -> Written:
    pixels = outside = 0
    for index, name in enumerate(require("tqdm").tqdm(part.names, desc=split, unit="image", **tqdm_options())):
        image, labels = part.read(index)
        rng = noise_of(seed, f"{split}/{name}")
        content, suffix = encode(camera, take(camera, image, rng), rng)
        write_bytes(made / "images" / split / f"{name}{suffix}", content)
        if labels is not None:
            write_png(made / "labels" / split / f"{name}.png", take_labels(camera, labels))
        past = geometry_of(camera, (image.shape[0], image.shape[1])).outside
        pixels, outside = pixels + past.size, outside + int(past.sum())
    return Written(images=len(part.names), labelled=part.dataset is not None, outside=outside / pixels)


def _parts(root: Path, splits: Sequence[str], format: str | None) -> dict[str, Part]:
    """The splits that are asked for, or those of `PARTS` that are there.

    Raises:
        DataError: one has no image, or only some of its images have a label.
    """
    try:
        form = find_format(root, format)
    except DataError:  # no known layout with labels
        return _unlabelled(root, splits)
    found = splits or [split for split in PARTS if form.files(root, split)] or PARTS
    return {split: _part(form, root, split) for split in found}


def _part(form: Format, root: Path, split: str) -> Part:
    files = files_of_split(form, root, split)
    if not any(pair.label.is_file() for pair in files):
        return _without_labels(tuple(pair.image for pair in files))
    dataset = open_dataset(root, split=split, format=form.name)
    check_sizes(dataset)
    return Part(images=tuple(pair.image for pair in dataset.files), names=dataset.own_names(), dataset=dataset)


def _unlabelled(root: Path, splits: Sequence[str]) -> dict[str, Part]:
    """Images of a layout whose labels are not there, or of any folder."""
    inside = next((formats for inner, formats in LAYOUTS if (root / inner).is_dir()), None)
    if inside is None:
        if len(splits) > 1:
            raise DataError(f"{root}: a folder without splits; give one --split, the one to write")
        return {(splits or PARTS)[0]: _found(images_of(root))}
    found = splits or [split for split in PARTS if any(FORMATS[name].files(root, split) for name in inside)] or PARTS
    return {split: _found(images_of(root, split=split)) for split in found}


def _found(images: InputImages) -> Part:
    for remark in images.remarks:
        _log.info(f"note: {remark}")
    return _without_labels(images.paths)


def _without_labels(images: tuple[Path, ...]) -> Part:
    return Part(images=images, names=names_below(images), dataset=None)
