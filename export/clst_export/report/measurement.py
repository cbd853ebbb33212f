"""What only labelled images show: the comparison, confusion, the worst and the most changed images, and whether the
confidence means what it says.

Legend: N images, S stretches (see `resampling`), C classes, R resamples, L levels of confidence (0 … 255).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_export.report.document import Picture
from clst_export.report.evidence import Evidence
from clst_runtime.backends import open_model
from clst_runtime.backends.base import Backend, Classes, Prediction
from clst_runtime.classes.labels import ClassList
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
WORST, CHANGED = 4, 3
"""Images that are shown: the worst, and of the most changed so many each way."""
PANEL_WIDTH, QUALITY = 480, 80
"""Of an image in the report; JPEG."""
OVERLAY = 0.6
"""How strongly classes lie over an image."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of each class a share of pixels, 0 … 1, and its interval; NaN and None where there is none."""

    values: Values
    """C."""
    intervals: tuple[Ends | None, ...]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Intervals of what `Reliability.to_json` says."""

    error: Ends | None
    """Of the expected calibration error."""
    bins: tuple[Ends | None, ...]
    """Of the share that is right, in each of its bins that has pixels."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image with what both networks see."""

    title: str
    pictures: tuple[Picture, ...]


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
    stretches: Counts
    """N, from 0."""
    comparison: Mapping[str, Any]
    """As `Change.to_json` gives it; of one network alone both sides are that one."""
    mious: Values
    """2,N: of each image by the old and the new network, over the classes that it has."""
    by_stretch: Values
    """2,S: the same of stretches."""
    confusion: Counts
    """C,C of the new network (truth, prediction)."""
    found: Rates
    """Of the labelled pixels of each class, those that the new network finds."""
    right: Rates
    """Of the pixels that it takes for each class, those that are."""
    worst: tuple[Shown, ...]
    lost: tuple[Shown, ...]
    gained: tuple[Shown, ...]
    calibration: Calibration | None
    """None where the network gives no confidence."""


def measure(evidence: Evidence, dataset: LabelledDataset, data: str) -> Measured:
    """Run the network and the one before it on all images.

    Raises:
        DataError: too few labels, or a file is unreadable. What opening raises.
    """
    _log.info(f"measuring on the {len(dataset)} images of {data}")
    with ExitStack() as opened:
        new = opened.enter_context(open_model(evidence.path))
        old = new if evidence.old is None else opened.enter_context(open_model(evidence.old))
        tally = _Tally(len(dataset.classes))
        change = measure_change(old, new, dataset, tally.see)
        paths = (evidence.old or evidence.path, evidence.path)
        models = ((Path(paths[0].name), old), (Path(paths[1].name), new))
        comparison = json.loads(json.dumps(change.to_json(models, [])))
        sums, stretches = np.stack(tally.sums), stretches_of(np.stack(tally.points))  # N,2,3,C and N
        mious = _mious(sums)
        shown = _Pictures(dataset, [new] if old is new else [old, new], mious)
        moved = mious[1] - mious[0]
        return Measured(
            data=data,
            files_sha256=files_sha256(dataset),
            in_training=seen_in_training(evidence, dataset),
            remarks=dataset.remarks,
            names=tuple(tally.names),
            stretches=stretches,
            comparison=comparison,
            mious=mious,
            by_stretch=_mious(summed(sums, stretches)),
            confusion=tally.confusion,
            found=rates(sums[:, 1, 0], sums[:, 1, 1], stretches),
            right=rates(sums[:, 1, 0], sums[:, 1, 2], stretches),
            worst=shown.of(extreme(mious[1], stretches, WORST)),
            lost=() if old is new else shown.of(extreme(np.where(moved < 0, moved, np.nan), stretches, CHANGED)),
            gained=() if old is new else shown.of(extreme(np.where(moved > 0, -moved, np.nan), stretches, CHANGED)),
            calibration=calibration_intervals(np.stack(tally.levels), stretches) if tally.levels else None,
        )


class _Tally:
    """What is kept of each image while both networks run."""

    def __init__(self, class_count: int) -> None:
        self.confusion: Counts = np.zeros((class_count, class_count), np.int64)
        self.sums: list[Counts] = []  # of each image 2,3,C
        self.levels: list[Counts] = []  # of each image 2,L, if the new network gives a confidence
        self.points: list[Classes] = []
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


def _mious(sums: Counts) -> Values:
    """2,N of N,2,3,C."""
    return np.asarray(means_of_known(iou_of(sums)).T)


def rates(hits: Counts, of: Counts, stretches: Counts) -> Rates:
    """Shares of N,C pixels in as many others, of all images together."""
    pairs = summed(np.stack([hits, of], 1), stretches)  # S,2,C
    some = np.tensordot(draws(len(pairs)), pairs, 1)  # R,2,C
    return Rates(values=_share(pairs.sum(0)), intervals=intervals(_share(some), (pairs[:, 1] > 0).sum(0)))


def _share(pairs: Counts) -> Values:
    """…,C of …,2,C; NaN of nothing."""
    return np.asarray(pairs[..., 0, :] / np.where(pairs[..., 1, :] > 0, pairs[..., 1, :], np.nan))


def intervals(resampled: Values, having: Counts) -> tuple[Ends | None, ...]:
    """Of each column of R,C, which so many stretches have."""
    return tuple(
        interval(resampled[:, place], int(count)) if count >= FEWEST_STRETCHES else None
        for place, count in enumerate(having)
    )


def extreme(values: Values, stretches: Counts, count: int) -> list[int]:
    """Positions of the smallest of N values, smallest first; one of each stretch before a second one; never of NaN."""
    order = [int(place) for place in np.argsort(values, kind="stable") if np.isfinite(values[place])]
    firsts = list({int(stretches[place]): place for place in reversed(order)}.values())  # of each stretch the smallest
    firsts.sort(key=order.index)
    rest = [place for place in order if place not in firsts]
    return sorted((firsts + rest)[:count], key=order.index)


class _Pictures:
    """Images with their labels and the networks' classes, as JPEG."""

    def __init__(self, dataset: LabelledDataset, backends: Sequence[Backend], mious: Values) -> None:
        self.dataset, self.backends, self.mious = dataset, backends, mious

    def of(self, places: Sequence[int]) -> tuple[Shown, ...]:
        return tuple(map(self._one, places))

    def _one(self, place: int) -> Shown:
        sample, classes = self.dataset[place], self.dataset.classes
        rows, columns = sample.labels.shape
        size_hw = (max(1, round(PANEL_WIDTH * rows / columns)), PANEL_WIDTH)
        frame = resize_frame(sample.image, size_hw)
        scores = [f"{100 * self.mious[which, place]:.1f} %" for which in range(2)][-len(self.backends) :]
        kinds = ["network"] if len(self.backends) == 1 else ["old network", "adapted network"]
        panels = [("camera", frame), ("labels", blend(frame, resize_classes(sample.labels, size_hw), classes, OVERLAY))]
        for kind, score, backend in zip(kinds, scores, self.backends, strict=True):
            seen = resize_classes(_ids(backend, sample.image, classes), size_hw)
            panels.append((f"{kind}, mIoU {score}", blend(frame, seen, classes, OVERLAY)))
        return Shown(
            title=sample.name,
            pictures=tuple(Picture(title=title, kind="jpeg", content=jpeg(image)) for title, image in panels),
        )


def _ids(backend: Backend, image: Image, classes: ClassList) -> Classes:
    """A class map by the ids of the labels."""
    order = np.array([classes.names.index(name) for name in backend.manifest.classes.names], np.uint8)
    return np.asarray(order[predict_at(backend, image)])


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


def seen_in_training(evidence: Evidence, dataset: LabelledDataset) -> tuple[tuple[str, int | None], ...]:
    """How many of the images the training has read, by their paths; None where what it has read is no longer there, or
    was a video.
    """
    if evidence.config is None:
        return ()
    own = {pair.image.resolve() for pair in dataset.files}
    found: list[tuple[str, int | None]] = []
    for what, paths in {"learned from": _source_images, "adapted to": _target_images}.items():
        try:
            found.append((what, len(own & {path.resolve() for path in paths(evidence.config.data)})))
        except ClstError:
            found.append((what, None))
    return tuple(found)


def _source_images(data: DataConfig) -> list[Path]:
    root = Path(data.source)
    return [pair.image for pair in files_of_split(find_format(root, None), root, data.source_split)]


def _target_images(data: DataConfig) -> list[Path]:
    return [path for place in data.target for path in images_of(Path(place), split="train").paths]


def calibration_intervals(of_images: Counts, stretches: Counts) -> Calibration:
    """Of N,2,L pixels of each confidence and those of them that are right."""
    by_stretch = summed(of_images, stretches)  # S,2,L
    resampled = [_counted(pair) for pair in np.tensordot(draws(len(by_stretch)), by_stretch, 1)]  # R
    having = np.stack([_counted(pair).bins()[:, 0] > 0 for pair in by_stretch]).sum(0)  # BINS
    right = np.stack([one.bins()[:, 2] for one in resampled])  # R,BINS
    errors = np.array([[one.ece()] for one in resampled])
    return Calibration(
        error=intervals(errors, np.array([len(by_stretch)]))[0],
        bins=tuple(ends for ends, count in zip(intervals(right, having), having, strict=True) if count),
    )


def _counted(pair: Counts) -> Reliability:
    """Of 2,L pixels and those that are right."""
    found = Reliability()
    found.pixels, found.right = pair
    return found
