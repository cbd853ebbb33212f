"""A labelled data set, whatever its layout: images with class ids of the model's own list.

Legend: H rows, W columns of the image as it lies on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID, ClassList, LabelMapping, load_mapping, relate, unrelated
from clst_runtime.data.formats import Files, Format, files_of_split, find_format, shared_labels
from clst_runtime.data.inputs import names_below
from clst_runtime.data.prelabels import refuse_prelabels
from clst_runtime.data.subsets import Subset, evenly_spread
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import is_turned, read_image
from clst_runtime.system.files.json_values import read_json_object


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled image."""

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
    form: Format
    files: tuple[Files, ...]
    """Images and labels, sorted."""
    classes: ClassList
    """The classes that the ids in `Sample.labels` mean."""
    mapping: LabelMapping
    """Raw ids to those."""
    remarks: tuple[str, ...] = ()
    """What the data set's classes and the model's do not have in common; commands print it."""

    def __len__(self) -> int:
        return len(self.files)

    def labels(self, index: int) -> npt.NDArray[np.uint8]:
        """Class ids H,W of one sample, without its image.

        Raises:
            DataError: unreadable, or a label id is outside the map.
        """
        path = self.files[index].label
        return self.mapping.apply(self.form.read(self.root, path, self.mapping), where=str(path))

    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DataError: unreadable, sizes differ, or a label id is outside the map.
        """
        pair = self.files[index]
        image = read_image(pair.image)
        labels = self.labels(index)
        if image.shape[:2] != labels.shape:
            raise DataError(other_size(pair, image.shape[:2], labels.shape))
        name = str(pair.image.relative_to(self.root))
        return Sample(name=name, image=image, labels=labels)

    def own_names(self) -> list[str]:
        """A name of its own for each sample, for files that are made of it."""
        return names_below([pair.image for pair in self.files])

    def spread(self, count: int) -> LabelledDataset:
        """At most `count` of the samples, evenly spread.

        Raises:
            DataError: none of them has a labelled pixel.
        """
        part = replace(self, files=tuple(Subset(self.files, evenly_spread(len(self), count))))
        part.check_labelled()
        return part

    def check_labelled(self) -> None:
        """Read labels until one has a labelled pixel, which mostly is the first.

        Raises:
            DataError: no pixel of all of them carries a class, or a file is unreadable.
        """
        if all((self.labels(index) == IGNORE_ID).all() for index in range(len(self))):
            raise DataError(
                f"{self.root}: no pixel of its {len(self)} labels carries one of the classes "
                f"({', '.join(self.classes.names)}); check the label ids with clst-data check, or give --mapping"
            )


def other_size(pair: Files, image_hw: tuple[int, ...], label_hw: tuple[int, ...]) -> str:
    """The message about an image and a label of different sizes."""
    turned = is_turned(pair.image)
    upright = " when upright by its EXIF orientation," if turned else ""
    hint = "; label the upright image, or remove the orientation" if turned else ""
    sizes = [f"{rows}x{columns}" for rows, columns in (image_hw, label_hw)]
    text = f"{pair.image} is {sizes[0]}{upright} but {pair.label} is {sizes[1]}"
    return f"{text}; image and label must have the same size{hint}"


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
        split: `train`, `val`, `test` …
        format: a name from `formats.FORMATS`; None = recognise it.
        classes: the model's classes; None = the data set's own.
        mapping_file: JSON that relates the data set's classes to `classes`; None = by equal names.

    Raises:
        DataError: missing folder, empty split, images without labels, labels that are still predictions, or not one
            labelled pixel.
        ConfigError: the classes do not fit.
    """
    form = find_format(root, format)
    wanted, mapping, remarks = classes_and_mapping(form, root, classes, mapping_file)
    files = files_of_split(form, root, split)
    if shared := shared_labels(files):
        raise DataError(shared[0])
    missing = [pair for pair in files if not pair.label.is_file()]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {len(files)} images in split {split!r} have no label, "
            f"e.g. {missing[0].image.name} needs {missing[0].label}"
        )
    dataset = LabelledDataset(
        root=root, form=form, files=tuple(files), classes=wanted, mapping=mapping, remarks=remarks
    )
    dataset.check_labelled()
    refuse_prelabels(root, files, lambda path: form.read(root, path, mapping))
    return dataset


def check_dataset(root: Path, *, split: str, format: str | None = None, mapping_file: Path | None = None) -> None:
    """Look whether there is such a data set, before a model is opened that knows the classes.

    Raises:
        DataError: as `open_dataset`; the mapping is no file of JSON. ConfigError: no such format.
    """
    open_dataset(root, split=split, format=format)
    if mapping_file is not None:
        read_json_object(mapping_file)
