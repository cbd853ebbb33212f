"""Frames with a model's predictions as labels to correct: a data set in the folder layout, and the same for CVAT.

    images/val/000_NAME.png    the frame as the camera gave it
    labels/val/000_NAME.png    the prediction: class ids, 255 where it is left open
    classes.json
    prelabelled.txt            which labels nobody has corrected
    picked.csv                 where each frame is from
    cvat/labels.json           the classes, for the task's labels (Raw)
    cvat/prelabels.zip         the predictions in the format "Segmentation mask 1.1"

What CVAT exports in that format may be put into labels/val as it is: the colours are those of classes.json.
Legend: H rows, W columns, C classes.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.backends.base import Backend, Frame
from clst_runtime.classes.labels import IGNORE_ID, ClassList, distinct_colours
from clst_runtime.data.inputs import own_names
from clst_runtime.data.prelabels import write_prelabelled
from clst_runtime.evaluation.evaluate import predict_at
from clst_runtime.imaging.image_files import write_png
from clst_runtime.imaging.overlay import colourise
from clst_runtime.system.files.atomic import folder_written_whole, write_text
from clst_runtime.system.optional import require
from clst_train.inspection.picking import Place, images_at

SPLIT = "val"
LEAST_SHARE = 0.001
"""Of a frame's pixels a class has to have to be in it."""
Labels = npt.NDArray[np.uint8]
BLACK = (0, 0, 0)
"""CVAT's colour of what is not labelled."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written of one frame."""

    place: Place
    labels: Labels
    """H,W class ids, 255 where they are left open."""
    classes: tuple[str, ...]
    """Those that the model predicts."""


def write_prelabelled_folder(
    out: Path, places: Sequence[Place], model: Backend, old: Backend | None = None
) -> dict[str, Written]:
    """Write frames with the model's predictions to `out`, which is new; what was written, by name.

    With the old model a pixel that it takes for another class is left open: a wrong prelabel that nobody corrects
    counts for the model that it comes from.

    Raises:
        DataError: it cannot be written, or a frame cannot be read.
    """
    classes = with_own_colours(model.manifest.classes)
    with folder_written_whole(out) as made:
        written: dict[str, Written] = {}
        for number, (place, image) in enumerate(images_at(places)):
            name = f"{number:03d}_{name_of(place)}"
            written[name] = each = prelabelled(place, image, model, old)
            write_png(made / "images" / SPLIT / f"{name}.png", image)
            write_png(made / "labels" / SPLIT / f"{name}.png", each.labels)
        labels = {name: each.labels for name, each in written.items()}
        write_text(made / "classes.json", json.dumps(classes.to_json(), indent=1) + "\n")
        write_prelabelled(made, {made / "labels" / SPLIT / f"{name}.png": each for name, each in labels.items()})
        write_text(made / "picked.csv", table_of(written))
        (made / "cvat").mkdir()
        write_text(made / "cvat" / "labels.json", json.dumps(cvat_labels(classes), indent=1) + "\n")
        write_cvat(made / "cvat" / "prelabels.zip", labels, classes)
    return written


def prelabelled(place: Place, image: Frame, model: Backend, old: Backend | None) -> Written:
    """A frame H,W,3 with its labels."""
    names, labels = model.manifest.classes.names, predict_at(model, image)
    shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    if old is not None:
        order = np.array([names.index(name) for name in old.manifest.classes.names], np.uint8)
        labels = np.where(order[predict_at(old, image)] == labels, labels, np.uint8(IGNORE_ID))
    seen = tuple(name for name, share in zip(names, shares, strict=True) if share >= LEAST_SHARE)
    return Written(place=place, labels=labels, classes=seen)


def name_of(place: Place) -> str:
    """Of a frame, from its file's."""
    path = place.path
    return own_names([Path(path.name if place.frame is None else f"{path.stem}_{place.frame:06d}")])[0]


def table_of(written: Mapping[str, Written]) -> str:
    """`picked.csv`: where each frame is from, and what is in it."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "source", "frame", "time_s", "open_percent", "classes"])
    for name, each in written.items():
        place, left = each.place, 100 * np.mean(each.labels == IGNORE_ID)
        rows.writerow([name, place.path, place.frame, place.time_s, f"{left:.1f}", ", ".join(each.classes)])
    return text.getvalue()


def with_own_colours(classes: ClassList) -> ClassList:
    """The classes, each of a colour that no other has and that is not black; others are chosen where it is not so."""
    colours = classes.colours
    if len({*colours, BLACK}) <= len(classes):
        colours = distinct_colours(len(classes))
    return ClassList(name=classes.name, names=classes.names, colours=colours)


def cvat_labels(classes: ClassList) -> list[dict[str, object]]:
    """The labels of a CVAT task."""
    each = zip(classes.names, classes.colours, strict=True)
    return [{"name": name, "color": "#{:02x}{:02x}{:02x}".format(*colour), "attributes": []} for name, colour in each]


def write_cvat(path: Path, labels: Mapping[str, Labels], classes: ClassList) -> None:
    """Class ids H,W by the image's name as an archive that CVAT imports as "Segmentation mask 1.1".

    Each class of an image is one object. Without objects CVAT takes black for a class of its own.
    """
    listed = list(zip(classes.names, classes.colours, strict=True))
    if "background" not in classes.names:
        listed.insert(0, ("background", BLACK))
    lines = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in listed]
    with zipfile.ZipFile(path, "w") as archive:
        _add(archive, "labelmap.txt", ("# label:color_rgb:parts:actions\n" + "".join(lines)).encode())
        _add(archive, "ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in labels).encode())
        for name, ids in labels.items():
            _add(archive, f"SegmentationClass/{name}.png", png(colourise(ids, classes)))
            _add(archive, f"SegmentationObject/{name}.png", png(OBJECTS[np.where(ids == IGNORE_ID, 0, ids + 1)]))


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An image H,W,3 as a file."""
    content = io.BytesIO()
    require("PIL.Image").fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def object_colours() -> npt.NDArray[np.uint8]:
    """256,3 RGB by an object's number, as Pascal VOC has them: every third bit of it is of one channel, the lowest the
    highest. 0, which is no object, is black.
    """
    number, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((number >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


OBJECTS = object_colours()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), content)  # of a fixed date: the same frames give the same file
