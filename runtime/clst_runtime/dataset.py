"""A labelled data set, whatever its layout: images with class ids of the model's own list.

Legend: H rows, W columns of the picture as it lies on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import DataError
from clst_runtime.formats import Files, Format, find_format
from clst_runtime.images import read_image
from clst_runtime.labels import ClassList, LabelMapping, load_mapping, read_json_object, relate, unrelated


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled picture."""

    name: str
    """Path of the image below the data set's folder."""
    image: npt.NDArray[np.uint8]
    """H,W,3 RGB."""
    labels: npt.NDArray[np.uint8]
    """H,W class ids, 255 = ignore."""


@dataclass(frozen=True, kw_only=True)
class LabelledDataset:
    """Images and labels of one split, read when asked for."""

    root: Path
    """Its folder."""
    form: Format
    """Its layout."""
    files: tuple[Files, ...]
    """Images and labels, sorted."""
    classes: ClassList
    """The classes that the ids in `Sample.labels` mean."""
    mapping: LabelMapping
    """Raw ids to those."""
    remarks: tuple[str, ...] = ()
    """What the data set's classes and the model's do not have in common, in words; commands print it."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: unreadable, sizes differ, or a label id is outside the map.
        """
        pair = self.files[index]
        image = read_image(pair.image)
        raw = self.form.read(pair.label)
        if image.shape[:2] != raw.shape:
            raise DataError(
                f"{pair.image} is {image.shape[0]}x{image.shape[1]} but {pair.label} is {raw.shape[0]}x{raw.shape[1]}; "
                "image and label must have the same size"
            )
        name = str(pair.image.relative_to(self.root))
        return Sample(name=name, image=image, labels=self.mapping.apply(raw, where=str(pair.label)))


def classes_and_mapping(
    form: Format, root: Path, classes: ClassList | None, mapping_file: Path | None
) -> tuple[ClassList, LabelMapping, tuple[str, ...]]:
    """The classes that labels become (`classes`, else the data set's own), the raw ids' way there, what is left out.

    Raises:
        ConfigError: the two lists do not fit. DataError: a file is unreadable.
    """
    own = form.classes(root)
    wanted = classes or own
    mapping = form.mapping(own)
    if mapping_file is None and wanted.names == own.names:
        return wanted, mapping, ()
    related = load_mapping(mapping_file, own, wanted) if mapping_file is not None else relate(own, wanted)
    return wanted, mapping.then(related), tuple(unrelated(own, wanted, related))


def open_dataset(
    root: Path,
    *,
    split: str,
    format: str | None = None,
    classes: ClassList | None = None,
    mapping_file: Path | None = None,
) -> LabelledDataset:
    """Open one split of a labelled data set.

    Args:
        root: its folder.
        split: `train`, `val`, `test` …
        format: a name from `formats.FORMATS`; None = recognise it.
        classes: the model's classes; None = the data set's own.
        mapping_file: JSON that relates the data set's classes to `classes`; None = by equal names.

    Raises:
        DataError: missing folder, empty split, images without labels. ConfigError: the classes do not fit.
    """
    form = find_format(root, format)
    wanted, mapping, remarks = classes_and_mapping(form, root, classes, mapping_file)
    files = form.files(root, split)
    if not files:
        raise DataError(f"{root}: no images in split {split!r} of the {form.name} layout")
    missing = [pair for pair in files if not pair.label.is_file()]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(files)} images in split {split!r} have no label, "
            f"e.g. {missing[0].image.name} needs {missing[0].label}"
        )
    return LabelledDataset(root=root, form=form, files=tuple(files), classes=wanted, mapping=mapping, remarks=remarks)


def check_dataset(root: Path, *, split: str, format: str | None = None, mapping_file: Path | None = None) -> None:
    """Look whether there is such a data set, before a model is opened that knows the classes.

    Raises:
        DataError: as `open_dataset`; the mapping is no file of JSON. ConfigError: no such format.
    """
    open_dataset(root, split=split, format=format)
    if mapping_file is not None:
        read_json_object(mapping_file)
