"""Problems of a labelled data set, as messages, and a contact sheet. Legend: H rows, W columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID, ClassList, LabelMapping
from clst_runtime.data.dataset import classes_and_mapping, other_size
from clst_runtime.data.formats import files_of_split, find_format, shared_labels
from clst_runtime.data.prelabels import refuse_prelabels
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import is_turned, read_image
from clst_runtime.imaging.overlay import blend, contact_sheet
from clst_train.data.headers import orientation_remarks

SHEET_IMAGES = 12


@dataclass(kw_only=True)
class Inspection:
    """What a look at one split found."""

    form: str
    """Layout."""
    classes: ClassList
    """The classes that the labels are mapped to."""
    images: int = 0
    """Images found."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many images have which H,W."""
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels of each class id; 255 = ignored."""
    unknown_ids: Counter[int] = field(default_factory=Counter)
    """Pixels of each label id outside the map."""
    problems: list[str] = field(default_factory=list)
    """What must be corrected."""
    remarks: list[str] = field(default_factory=list)
    """What one should know."""
    examples: list[list[npt.NDArray[np.uint8]]] = field(default_factory=list)
    """Image and overlay of some samples."""

    def sheet(self) -> npt.NDArray[np.uint8]:
        """Image/label overlays, two samples a row."""
        pairs = self.examples
        rows = [pairs[i] + (pairs[i + 1] if i + 1 < len(pairs) else []) for i in range(0, len(pairs), 2)]
        return contact_sheet(rows, ["image", "labels"] * 2)


def inspect(
    root: Path,
    *,
    split: str,
    format: str | None = None,
    classes: ClassList | None = None,
    mapping_file: Path | None = None,
) -> Inspection:
    """Look at every image and label of a split.

    Raises:
        DataError: there is no folder, no known layout or no image at all. ConfigError: the classes do not fit.
    """
    form = find_format(root, format)
    wanted, mapping, remarks = classes_and_mapping(form, root, classes, mapping_file)
    found = Inspection(form=form.name, classes=wanted, remarks=list(remarks))
    files = files_of_split(form, root, split)
    found.problems.extend(shared_labels(files))
    try:
        refuse_prelabels(root, files, lambda path: form.read(root, path, mapping))
    except DataError as error:
        found.problems.append(error.message)
    rotated: list[Path] = []
    every = max(1, len(files) // SHEET_IMAGES)
    for index, pair in enumerate(files):
        found.images += 1
        try:
            image = read_image(pair.image)
            found.sizes[image.shape[0], image.shape[1]] += 1
            if is_turned(pair.image):
                rotated.append(pair.image)
            raw = form.read(root, pair.label, mapping)
        except DataError as error:
            found.problems.append(error.message)
            continue
        if raw.shape != image.shape[:2]:
            found.problems.append(other_size(pair, image.shape[:2], raw.shape))
            continue
        labels = _count(found, mapping, raw)
        if index % every == 0 and len(found.examples) < SHEET_IMAGES:
            found.examples.append([image, blend(image, labels, wanted)])
    _conclude(found)
    found.remarks.extend(orientation_remarks(rotated))
    return found


def _count(found: Inspection, mapping: LabelMapping, raw: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Count a label's classes and unknown ids; unknown ones are ignored in the returned class ids H,W."""
    unknown = mapping.unknown_ids(raw)
    found.unknown_ids.update(unknown)
    known = ~np.isin(raw, list(unknown))
    labels = np.full(raw.shape, IGNORE_ID, np.uint8)
    labels[known] = mapping.table[raw[known]]
    found.pixels += np.bincount(labels.ravel(), minlength=256)
    return labels


def _conclude(found: Inspection) -> None:
    if found.unknown_ids:
        listed = ", ".join(f"{value} ({count} pixels)" for value, count in sorted(found.unknown_ids.items())[:12])
        found.problems.append(f"label ids outside the map: {listed}")
    empty = [name for index, name in enumerate(found.classes.names) if found.pixels[index] == 0]
    if len(empty) == len(found.classes) and found.pixels.any():
        found.problems.append("no pixel carries any of the classes")
    elif empty:
        found.remarks.append(f"classes without a single pixel: {', '.join(empty)}")
    if len(found.sizes) > 1:
        listed = ", ".join(f"{rows}x{columns} ({count})" for (rows, columns), count in found.sizes.most_common(5))
        found.remarks.append(f"images of {len(found.sizes)} sizes: {listed}")
