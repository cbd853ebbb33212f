"""What only labelled images show: the comparison, confusion, the worst and the most changed images, and whether the
confidence means what it says.

Legend: N images, S stretches (see `resampling`), C classes, R resamples, L levels of confidence (0 … 255).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_export.report.document import Picture
from clst_runtime.backends import open_model
from clst_runtime.backends.base import Backend, Prediction
from clst_runtime.data.dataset import LabelledDataset, Sample
from clst_runtime.data.formats import files_of_split, find_format
from clst_runtime.data.inputs import images_of
from clst_runtime.errors import ClstError
from clst_runtime.evaluation.change import Ends, Values, iou_of, measure_change, sums_of
from clst_runtime.evaluation.confusion import confusion_of, means_of_known
from clst_runtime.evaluation.evaluate import predict_at
from clst_runtime.evaluation.reliability import Reliability
from clst_runtime.evaluation.resampling import FEWEST_STRETCHES, draws, interval, points_of, stretches_of, summed
from clst_runtime.imaging.geometry import Image, resize_classes, resize_frame
from clst_runtime.imaging.overlay import blend
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.optional import require
from clst_train.config import DataConfig

_log = logging.getLogger(__name__)
Counts = npt.NDArray[np.int64]
Shown = tuple[str, tuple[Picture, ...]]
"""Name of an image, and what both networks see in it."""
WORST, CHANGED = 4, 3
"""Images that are shown: the worst, and of the most changed so many each way."""
PANEL_WIDTH, QUALITY = 480, 80
"""Of an image in the report; JPEG."""
OVERLAY = 0.6
"""How strongly classes lie over an image."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that was found on one labelled data set."""

    data: str
    """Name and split."""
    files_sha256: str
    """Over the hashes of all images and labels, with their names."""
    in_training: tuple[tuple[str, int | None], ...]
    """See `seen_in_training`."""
    remarks: tuple[str, ...]
    """What labels and model do not have in common."""
    names: tuple[str, ...]
    """N."""
    comparison: dict[str, Any]
    """As `Change.to_json` gives it; of one network alone both sides are that one."""
    mious: Values
    """2,N: of each image by the old and the new network, over the classes that it has."""
    confusion: Counts
    """C,C of the new network (truth, prediction)."""
    worst: tuple[Shown, ...]
    lost: tuple[Shown, ...]
    gained: tuple[Shown, ...]
    calibration: Ends | None
    """Interval of the expected calibration error; None where the network gives no confidence, or there is none."""


def measure(
    path: Path, before: Path | None, trained_on: DataConfig | None, dataset: LabelledDataset, data: str
) -> Measured:
    """Run the network of `path` and, where there is one, that from `before` its adaptation on all images.

    `trained_on` is what its run has read, where that is known; `data` is what the images are called.

    Raises:
        DataError: too few labels, or a file is unreadable. What opening raises.
    """
    _log.info(f"measuring on the {len(dataset)} images of {data}")
    with ExitStack() as opened:
        new = opened.enter_context(open_model(path))
        old = new if before is None else opened.enter_context(open_model(before))
        tally = _Tally(len(dataset.classes))
        change = measure_change(old, new, dataset, tally.see)
        models = ((Path((before or path).name), old), (Path(path.name), new))
        sums, stretches = np.stack(tally.sums), stretches_of(np.stack(tally.points))  # N,2,3,C and N
        mious = np.asarray(means_of_known(iou_of(sums)).T)  # 2,N
        moved = mious[1] - mious[0]
        networks = {"network": new} if old is new else {"old network": old, "adapted network": new}

        def shown(values: Values, count: int) -> tuple[Shown, ...]:
            places = extreme(values, stretches, count)
            return tuple(_shown(dataset[place], networks, mious[-len(networks) :, place], dataset) for place in places)

        return Measured(
            data=data,
            files_sha256=files_sha256(dataset),
            in_training=seen_in_training(trained_on, dataset),
            remarks=dataset.remarks,
            names=tuple(tally.names),
            comparison=json.loads(json.dumps(change.to_json(models, []))),
            mious=mious,
            confusion=tally.confusion,
            worst=shown(mious[1], WORST),
            lost=shown(np.where(moved < 0, moved, np.nan), CHANGED),
            gained=shown(np.where(moved > 0, -moved, np.nan), CHANGED),
            calibration=calibration_interval(np.stack(tally.levels), stretches) if tally.levels else None,
        )


class _Tally:
    """What is kept of each image while both networks run."""

    def __init__(self, class_count: int) -> None:
        self.confusion: Counts = np.zeros((class_count, class_count), np.int64)
        self.sums: list[Counts] = []  # of each image 2,3,C
        self.levels: list[Counts] = []  # of each image 2,L, if the new network gives a confidence
        self.points: list[npt.NDArray[np.uint8]] = []
        self.names: list[str] = []

    def see(self, sample: Sample, found: Sequence[Prediction]) -> None:
        counts = [confusion_of(sample.labels, each.classes, len(self.confusion)) for each in found]
        self.confusion += counts[-1]
        self.sums.append(np.stack([sums_of(counts[0]), sums_of(counts[-1])]))
        self.points.append(points_of(sample.labels))
        self.names.append(sample.name)
        if found[-1].confidence is not None:
            reliability = Reliability()
            reliability.update(sample.labels, found[-1].classes, found[-1].confidence)
            self.levels.append(np.stack([reliability.pixels, reliability.right]))


def extreme(values: Values, stretches: Counts, count: int) -> list[int]:
    """Positions of the smallest of N values, smallest first; one of each stretch before a second one; never of NaN."""
    order = [int(place) for place in np.argsort(values, kind="stable") if np.isfinite(values[place])]
    firsts = {int(stretches[place]): place for place in reversed(order)}  # of each stretch the smallest
    firsts_first = sorted(order, key=lambda place: firsts[int(stretches[place])] != place)
    return sorted(firsts_first[:count], key=order.index)


def _shown(sample: Sample, networks: dict[str, Backend], mious: Values, dataset: LabelledDataset) -> Shown:
    """An image with its labels and the networks' classes over it."""
    classes, (rows, columns) = dataset.classes, sample.labels.shape
    maps = {"labels": sample.labels}
    for (name, backend), miou in zip(networks.items(), mious, strict=True):
        order = np.array([classes.names.index(each) for each in backend.manifest.classes.names], np.uint8)
        maps[f"{name}, mIoU {100 * miou:.1f} %"] = order[predict_at(backend, sample.image)]
    size_hw = (max(1, round(PANEL_WIDTH * rows / columns)), PANEL_WIDTH)
    frame = resize_frame(sample.image, size_hw)
    panels = {name: blend(frame, resize_classes(ids, size_hw), classes, OVERLAY) for name, ids in maps.items()}
    return sample.name, tuple(Picture(name, jpeg(image)) for name, image in ({"camera": frame} | panels).items())


def jpeg(image: Image) -> bytes:
    """An RGB image H,W,3 as a JPEG file."""
    stream = io.BytesIO()
    require("PIL.Image").fromarray(image).save(stream, format="JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


def files_sha256(dataset: LabelledDataset) -> str:
    """SHA-256 over a line of hash and name for each image and label, in order."""
    digest = hashlib.sha256()
    for pair in dataset.files:
        for path in (pair.image, pair.label):
            digest.update(f"{file_sha256(path)}  {path.relative_to(dataset.root).as_posix()}\n".encode())
    return digest.hexdigest()


def seen_in_training(trained_on: DataConfig | None, dataset: LabelledDataset) -> tuple[tuple[str, int | None], ...]:
    """How many of the images the training has read, by their paths; None where what it has read is no longer there, or
    was a video.
    """
    if trained_on is None:
        return ()
    own = {pair.image.resolve() for pair in dataset.files}
    found: list[tuple[str, int | None]] = []
    for what, paths in {"learned from": _source_images, "adapted to": _target_images}.items():
        try:
            found.append((what, len(own & {path.resolve() for path in paths(trained_on)})))
        except ClstError:
            found.append((what, None))
    return tuple(found)


def _source_images(data: DataConfig) -> list[Path]:
    root = Path(data.source)
    return [pair.image for pair in files_of_split(find_format(root, None), root, data.source_split)]


def _target_images(data: DataConfig) -> list[Path]:
    return [path for place in data.target for path in images_of(Path(place), split="train").paths]


def calibration_interval(of_images: Counts, stretches: Counts) -> Ends | None:
    """Of the expected calibration error, by N,2,L pixels of each confidence and those of them that are right."""
    by_stretch = summed(of_images, stretches)  # S,2,L
    if len(by_stretch) < FEWEST_STRETCHES:
        return None
    resampled, errors = Reliability(), []
    for resampled.pixels, resampled.right in np.tensordot(draws(len(by_stretch)), by_stretch, 1):  # R
        errors.append(resampled.ece())
    return interval(np.array(errors), len(by_stretch))
