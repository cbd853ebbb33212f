"""May a new model take the place of an old one? Both on the same labelled images, with an interval and a verdict.

Legend: N images, S stretches (see `resampling`), C classes, R resamples. IoU is 0 … 1, changes are in points.
mIoU is the mean over the classes that the labels have, the same ones for both models: a false pixel of a class that no
image has would else move one of them by 100 / C points.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.backends.base import Backend, Classes, Prediction
from clst_runtime.classes.labels import IGNORE_ID, ClassList
from clst_runtime.data.dataset import LabelledDataset, Sample
from clst_runtime.errors import ConfigError, DataError, did_you_mean
from clst_runtime.evaluation.confusion import confusion_of, means_of_known
from clst_runtime.evaluation.evaluate import prediction_at
from clst_runtime.evaluation.reliability import Reliability
from clst_runtime.evaluation.resampling import FEWEST_STRETCHES, draws, interval, points_of, stretches_of, summed
from clst_runtime.system.numbers import finite_or_none
from clst_runtime.system.tables import format_table, percent

Values = npt.NDArray[np.float64]
Ends = tuple[float, float]
"""Of a 95 % interval."""
Models = tuple[tuple[Path, Backend], tuple[Path, Backend]]
"""The old one and the new one: its file, and what runs it."""
See = Callable[[Sample, Sequence[Prediction]], None]


class Verdict(enum.Enum):
    """Of the new model."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    NO_CHANGE = "no change"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a model must hold to take the old one's place, in points out of 100."""

    min_miou: float | None = None
    max_drop: float | None = None
    """No class may lose more IoU than this."""
    safety: tuple[str, ...] = ()
    """The classes that `max_drop` is about; empty = all that the labels have."""

    def __post_init__(self) -> None:
        if self.safety and self.max_drop is None:
            raise ConfigError("--safety names the classes that --max-drop is about; give --max-drop, too")

    def check_classes(self, classes: ClassList) -> None:
        """Refuse by ConfigError a class that the models do not have."""
        for name in self.safety:
            if name not in classes.names:
                raise ConfigError(f"--safety: no class {name!r}; {did_you_mean(name, classes.names)}")

    def miou_failure(self, miou: float) -> list[str]:
        """Empty where a mIoU 0 … 1 holds."""
        if self.min_miou is None or 100 * miou >= self.min_miou:
            return []
        return [f"mIoU is {100 * miou:.2f} %, at least {self.min_miou:g} % asked"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One model on all images."""

    iou: Values
    """C values; NaN for a class that the labels lack."""
    miou: float
    pixel_accuracy: float
    intervals: tuple[Ends | None, ...]
    """Of each class's IoU, 0 … 1; None where fewer than `FEWEST_STRETCHES` have it."""
    interval: Ends | None
    """Of mIoU, in the same way."""
    reliability: Reliability | None = None
    """Of its confidence; None where it gives none."""

    def to_json(self, classes: ClassList) -> dict[str, Any]:
        values = {
            "miou": self.miou,
            "miou_interval": self.interval,
            "pixel_accuracy": self.pixel_accuracy,
            "iou": dict(zip(classes.names, map(finite_or_none, self.iou), strict=True)),
            "iou_interval": dict(zip(classes.names, self.intervals, strict=True)),
        }
        return values if self.reliability is None else values | {"reliability": self.reliability.to_json()}


@dataclass(frozen=True, kw_only=True)
class Change:
    """An old and a new model on the same images."""

    classes: ClassList
    pixels: npt.NDArray[np.int64]
    """Labelled pixels of each class."""
    images_with: npt.NDArray[np.int64]
    """Images that have each class."""
    images: int
    stretches: int
    old: Scores
    new: Scores
    intervals: tuple[Ends | None, ...]
    """Of each class's change in points; None where fewer than `FEWEST_STRETCHES` have it, or nothing changed."""
    interval: Ends | None
    """Of the change in mIoU, in the same way."""
    verdict: Verdict

    @property
    def points(self) -> Values:
        """C changes of IoU; NaN for a class that the labels lack."""
        return 100 * (self.new.iou - self.old.iou)

    @property
    def miou_points(self) -> float:
        return 100 * (self.new.miou - self.old.miou)

    @property
    def worse_classes(self) -> list[str]:
        """Those whose whole interval is below 0."""
        each = zip(self.classes.names, self.intervals, strict=True)
        return [name for name, ends in each if ends is not None and ends[1] < 0]

    def text(self) -> str:
        """The verdict in one line."""
        return f"{self.verdict.value}: {self._reason()}{self._worse_text()}"

    def _reason(self) -> str:
        if self.verdict is Verdict.NO_CHANGE:
            return f"both models score the same on each of {self.images} images"
        change = f"mIoU changes by {self.miou_points:+.2f} points"
        if self.interval is None:
            only = f"only {self.stretches} independent stretch{'es' * (self.stretches != 1)}"
            return (
                f"{only} in {self.images} images, {FEWEST_STRETCHES} are needed; {change}; "
                "label images of more places or times"
            )
        low, high = self.interval
        what = f"{self.images} images"
        if self.stretches < self.images:
            what += f" in {self.stretches} stretches, as neighbours show the same scene"
        return f"{change} (95 % interval {low:+.2f} to {high:+.2f}), on {what}"

    def _worse_text(self) -> str:
        changes = dict(zip(self.classes.names, self.points, strict=True))
        named = ", ".join(f"{name} {changes[name]:+.2f}" for name in self.worse_classes)
        return f"; worse classes: {named}" if named else ""

    def failures(self, bounds: Bounds) -> list[str]:
        """Why the new model must not take the old one's place; empty where it may."""
        found = [self.text()] if self.verdict is Verdict.WORSE else []
        found += bounds.miou_failure(self.new.miou)
        if bounds.max_drop is None:
            return found
        for name, old, points in zip(self.classes.names, self.old.iou, self.points, strict=True):
            if name in bounds.safety and math.isnan(points):
                found.append(f"no image has {name}, so that its drop is not known; label some that have it")
            if name in (bounds.safety or self.classes.names) and points < -bounds.max_drop:
                found.append(
                    f"IoU of {name} falls by {-points:.2f} points, from {100 * old:.2f} to {100 * old + points:.2f} %; "
                    f"at most {bounds.max_drop:g} allowed"
                )
        return found

    def report(self, models: Models) -> str:
        """Which models they are, a table of all classes that the labels have, and the verdict."""
        labelled = self.pixels.sum()
        columns = (self.classes.names, self.pixels, self.images_with, self.old.iou, self.new.iou, self.points)
        rows = [
            [name, percent(pixels / labelled), str(images), percent(a), percent(b), f"{points:+.2f}", _ends_text(ends)]
            for name, pixels, images, a, b, points, ends in zip(*columns, self.intervals, strict=True)
            if pixels
        ]
        total = [percent(self.old.miou), percent(self.new.miou), f"{self.miou_points:+.2f}", _ends_text(self.interval)]
        rows.append(["mIoU", percent(1), str(self.images), *total])
        table = format_table(["class", "pixels %", "images", "old IoU %", "new IoU %", "points", "95 % interval"], rows)
        named = [f"{name}: {path}, {by.description}" for name, (path, by) in zip(("old", "new"), models, strict=True)]
        lacking = [name for name, pixels in zip(self.classes.names, self.pixels, strict=True) if not pixels]
        left_out = [f"left out, as no image has them: {', '.join(lacking)}"] if lacking else []
        return "\n".join([*named, table, *left_out, *self._calibration_text(), self.text()])

    def _calibration_text(self) -> list[str]:
        each = (("old", self.old.reliability), ("new", self.new.reliability))
        errors = [f"{name} {percent(of.ece())} %" for name, of in each if of is not None]
        return [f"expected calibration error: {', '.join(errors)}"] if errors else []

    def to_json(self, models: Models, failures: Sequence[str]) -> dict[str, Any]:
        """Everything; `failures` as `Change.failures` gives them."""
        each = zip(self.classes.names, self.pixels, self.images_with, self.points, self.intervals, strict=True)
        scores = zip(("old", "new"), (self.old, self.new), models, strict=True)
        return {
            "images": self.images,
            "stretches": self.stretches,
            **{
                name: of.to_json(self.classes) | {"model": str(path), "backend": by.description}
                for name, of, (path, by) in scores
            },
            "classes": {
                name: {
                    "pixels": int(pixels),
                    "images": int(images),
                    "change_points": finite_or_none(points),
                    "interval_points": ends,
                }
                for name, pixels, images, points, ends in each
            },
            "miou": {"change_points": self.miou_points, "interval_points": self.interval},
            "verdict": self.verdict.value,
            "worse_classes": self.worse_classes,
            "text": self.text(),
            "failures": [*failures],
        }


def _ends_text(ends: Ends | None) -> str:
    return "–" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}"


def check_comparable(old: ClassList, new: ClassList) -> None:
    """Refuse by ConfigError models that do not have the same classes; their order may differ."""
    for here, there, which in ((old, new, "new"), (new, old, "old")):
        lacking = [name for name in here.names if name not in there.names]
        if lacking:
            raise ConfigError(
                f"the {which} model has no class {lacking[0]!r}, the other one has "
                f"({len(old)} classes and {len(new)}); compare models of the same classes"
            )


def check_labels(dataset: LabelledDataset) -> None:
    """Read labels until two classes are found, which mostly is in the first.

    Raises:
        DataError: they have only one, or there are fewer than two images.
    """
    if len(dataset) < 2:
        raise DataError(f"{dataset.root}: 1 image; two models are compared on at least 2, better on 30 of many places")
    found: set[int] = set()
    for index in range(len(dataset)):
        found |= set(np.unique(dataset.labels(index)).tolist()) - {IGNORE_ID}
        if len(found) > 1:
            return
    raise DataError(
        f"{dataset.root}: its {len(dataset)} labels have {dataset.classes.names[found.pop()]} only, of which mIoU says "
        "little; label all classes, or check the label ids with clst-data check"
    )


def measure_change(
    old: Backend, new: Backend, dataset: LabelledDataset, see: See = lambda sample, found: None
) -> Change:
    """Run both on every image, which is read once; a model that is given as both runs once.

    `see` is called with each image and what the models that ran make of it, at its size and by the ids of the labels.

    Raises:
        ConfigError: their classes differ. DataError: see `check_labels`, or a file is unreadable.
    """
    check_comparable(old.manifest.classes, new.manifest.classes)
    check_labels(dataset)
    backends = (old,) if old is new else (old, new)
    names = dataset.classes.names
    orders = [np.array([names.index(name) for name in each.manifest.classes.names], np.uint8) for each in backends]
    counts, points, reliabilities = [], [], [Reliability() for _ in backends]
    for index in range(len(dataset)):
        sample = dataset[index]
        points.append(points_of(sample.labels))
        found = [
            _by_labels(prediction_at(each, sample.image), order) for each, order in zip(backends, orders, strict=True)
        ]
        counts += [sums_of(confusion_of(sample.labels, each.classes, len(names))) for each in found]
        for reliability, each in zip(reliabilities, found, strict=True):
            reliability.update(sample.labels, each.classes, each.confidence)
        see(sample, found)
    of_each = np.stack(counts).reshape(len(dataset), len(backends), 3, len(names))
    change = change_of(of_each[:, 0], of_each[:, -1], stretches_of(np.stack(points)), dataset.classes)
    return dataclasses.replace(
        change,
        old=dataclasses.replace(change.old, reliability=reliabilities[0].or_none()),
        new=dataclasses.replace(change.new, reliability=reliabilities[-1].or_none()),
    )


def _by_labels(found: Prediction, order: Classes) -> Prediction:
    """With the ids of the labels in the place of the model's own."""
    return dataclasses.replace(found, classes=order[found.classes])


def sums_of(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """3,C pixels of counts C,C (truth, prediction): hits, labelled, predicted."""
    return np.stack([np.diag(matrix), matrix.sum(1), matrix.sum(0)])


def iou_of(sums: npt.NDArray[Any]) -> Values:
    """…,C IoU of …,3,C sums; NaN for a class that is not labelled."""
    hits, labelled, predicted = np.moveaxis(sums, -2, 0)
    return np.where(labelled > 0, hits / np.maximum(labelled + predicted - hits, 1), np.nan)


def change_of(
    old: npt.NDArray[np.int64], new: npt.NDArray[np.int64], stretches: npt.NDArray[np.int64], classes: ClassList
) -> Change:
    """From the sums N,3,C of two models and the stretches N of the images."""
    labelled = old[:, 1]  # N,C; the same of both
    count = int(stretches.max()) + 1
    by_stretch = [summed(each, stretches) for each in (old, new)]  # S,3,C
    having = (by_stretch[0][:, 1] > 0).sum(0)
    drawn = draws(count).astype(np.float64)  # in which sums of pixels are exact, too, and sooner done
    before, after = (iou_of(np.tensordot(drawn, each, 1)) for each in by_stretch)  # R,C
    of_each = [_intervals(values, means_of_known(values), having, count) for values in (before, after)]
    scores = [_scores(sums.sum(0), *ends) for sums, ends in zip((old, new), of_each, strict=True)]
    equal = bool((old == new).all())
    intervals: tuple[Ends | None, ...] = (None,) * len(classes)
    of_miou = None
    if not equal:
        moved = 100 * (means_of_known(after) - means_of_known(before))
        intervals, of_miou = _intervals(100 * (after - before), moved, having, count)
    return Change(
        classes=classes,
        pixels=labelled.sum(0),
        images_with=(labelled > 0).sum(0),
        images=len(old),
        stretches=count,
        old=scores[0],
        new=scores[1],
        intervals=intervals,
        interval=of_miou,
        verdict=Verdict.NO_CHANGE if equal else _verdict(of_miou),
    )


def _verdict(ends: Ends | None) -> Verdict:
    low, high = ends or (0, 0)
    return Verdict.BETTER if low > 0 else Verdict.WORSE if high < 0 else Verdict.UNCLEAR


def _intervals(
    values: Values, means: Values, having: npt.NDArray[np.int64], stretches: int
) -> tuple[tuple[Ends | None, ...], Ends | None]:
    """Of each class by R,C values, which so many stretches have, and of their means R; None where too few have it."""
    each = tuple(
        interval(values[:, place], int(count)) if count >= FEWEST_STRETCHES else None
        for place, count in enumerate(having)
    )
    return each, interval(means, stretches) if stretches >= FEWEST_STRETCHES else None


def _scores(sums: npt.NDArray[np.int64], intervals: tuple[Ends | None, ...], of_miou: Ends | None) -> Scores:
    each = iou_of(sums)
    return Scores(
        iou=each,
        miou=float(means_of_known(each)),
        pixel_accuracy=float(sums[0].sum() / sums[1].sum()),
        intervals=intervals,
        interval=of_miou,
    )
