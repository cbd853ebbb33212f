"""Is a new model better on images that nobody has labelled? An estimate with an interval, and a verdict.

What a model makes of a street should not depend on the distance: one that is right sees the same classes in an image
made smaller. And it should find classes about as often as the old camera's labels have them. A model that is ahead in
both is the better one, unless the images are of other things than those labels. By how much it is ahead, times how
much the two models disagree at all, is in proportion to the change in mIoU. All constants are fitted on networks and
cameras with labels (decision 46).
Legend: H,W rows and columns of an image, C classes. IoU is 0 … 1, changes are in points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.backends.base import Backend, Classes
from clst_runtime.classes.labels import IGNORE_ID, ClassList
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.errors import DataError
from clst_runtime.evaluation.change import Models, Verdict, check_comparable
from clst_runtime.evaluation.confusion import confusion_of, iou, means_of_known
from clst_runtime.evaluation.evaluate import predict_at
from clst_runtime.imaging.geometry import Image, resize_classes
from clst_runtime.system.numbers import finite_or_none
from clst_runtime.system.optional import require
from clst_runtime.system.tables import format_table, percent

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
MOST_IMAGES, MOST_LABELS = 40, 400
SMALLER = 0.75
"""Of both sides of an image: what the smaller one has."""
FEWEST_SCENES, SAME_SCENE = 10, 0.95
"""So many images have to differ from one another: thumbnails that correlate more show the same scene. Of 40 that are
spread over a drive of minutes 34 to 40 differ, over 7 seconds in a city 15 to 18, over 9 on a highway 6 to 10, and of a
camera that stands still one."""
THUMBNAIL_HW = (24, 32)
RAREST = 1e-3
"""Of all pixels: shares below count as this one."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one model makes of some images, in counts of pixels."""

    agreement: Counts
    """C,C: class in the image, class in the image made smaller."""
    predicted: Counts
    """C: pixels of each class."""

    @classmethod
    def of(cls, whole: Classes, small: Classes, classes: int) -> Seen:
        """Of one image: its classes H,W and those in the smaller image, at that one's size; 255 = ignore."""
        matrix = confusion_of(resize_classes(whole, (small.shape[0], small.shape[1])), small, classes)
        return cls(agreement=matrix, predicted=np.bincount(whole[whole != IGNORE_ID], minlength=classes))

    @classmethod
    def nothing(cls, classes: int) -> Seen:
        return cls(agreement=np.zeros((classes, classes), np.int64), predicted=np.zeros(classes, np.int64))

    def __add__(self, other: Seen) -> Seen:
        return Seen(agreement=self.agreement + other.agreement, predicted=self.predicted + other.predicted)

    @property
    def agreements(self) -> Values:
        """C: IoU of each class between images and smaller ones; NaN for a class that it finds in neither."""
        return iou(self.agreement)

    def deviations(self, labelled: npt.NDArray[Any]) -> Values:
        """C: |ln| of each class's share of pixels by that of C labelled pixels of the old camera."""
        shares = [np.maximum(each / each.sum(), RAREST) for each in (self.predicted, labelled)]
        return np.asarray(np.abs(np.log(shares[0] / shares[1])))


def predictions(model: Backend, image: Image) -> tuple[Classes, Classes]:
    """Classes in an image, H,W, and in the image made smaller, at that one's size."""
    return predict_at(model, image), inner(predict_at(model, made_smaller(image)))


def made_smaller(image: Image, share: float = SMALLER) -> Image:
    """H,W,3: the image at that share of both sides in the middle, its mirror image around it."""
    cv2 = require("cv2")
    rows, columns = inner_hw(image.shape[:2], share)
    small = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    below, right = image.shape[0] - rows - top, image.shape[1] - columns - left
    return np.asarray(cv2.copyMakeBorder(small, top, below, left, right, cv2.BORDER_REFLECT_101), np.uint8)


def inner_hw(size_hw: tuple[int, ...], share: float = SMALLER) -> tuple[int, int]:
    """Rows and columns of the smaller image inside H,W."""
    return max(1, round(share * size_hw[0])), max(1, round(share * size_hw[1]))


def inner(array: npt.NDArray[Any], share: float = SMALLER) -> npt.NDArray[Any]:
    """The smaller image's part of what was made of `made_smaller`."""
    rows, columns = inner_hw(array.shape[:2], share)
    top, left = (array.shape[0] - rows) // 2, (array.shape[1] - columns) // 2
    return array[top : top + rows, left : left + columns]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a change in the two signs is in points, times the models' disagreement 0 … 1."""

    agreement: float
    """Points for each by which the new model's agreement is larger."""
    shares: float
    """Points for each ln by which its shares of classes deviate less."""
    of_estimate: float
    """Standard error in parts of the estimate …"""
    of_disagreement: float
    """… and in points of disagreement."""

    def estimate(self, disagreement: Any, agreement: Any, shares: Any) -> Any:
        """Change in points."""
        return disagreement * (self.agreement * agreement + self.shares * shares)

    def interval(self, disagreement: float, points: float) -> tuple[float, float]:
        """That 95 % of networks and cameras like the calibration's lie in, in points."""
        half = 1.96 * math.hypot(self.of_estimate * points, self.of_disagreement * disagreement)
        return (points - half, points + half)


OF_MIOU = Calibration(agreement=1.55, shares=5.9, of_estimate=0.20, of_disagreement=15.5)
OF_CLASS = Calibration(agreement=0.82, shares=1.4, of_estimate=1.05, of_disagreement=24.4)
SLIGHT = 1.5
"""An estimated change by fewer points decides nothing."""
MOST_OFF = 2.5
"""Factor by which both models' shares of classes may be off those of the old camera's labels. Beyond it the images show
other things, such as one stretch of road, and both signs are often wrong."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An old and a new model on the same images without labels."""

    classes: ClassList
    images: int
    disagreement: float
    """0 … 1: 1 − mIoU between what the two predict."""
    of_classes: Values
    """C: 1 − IoU between them of each class; NaN for a class that neither predicts."""
    agreements: tuple[Values, Values]
    """C of the old and the new model: IoU between images and smaller ones."""
    deviations: tuple[Values, Values]
    """C of the old and the new model: |ln| of the share of pixels by that of the old camera's labels."""
    shares: tuple[Values, Values]
    """C of the old and the new model: of all pixels."""

    @property
    def ahead(self) -> tuple[float, float]:
        """In points and in ln: by what the new model's agreement is larger, and its shares deviate less."""
        (old, new), (before, after) = (
            [means_of_known(of) for of in each] for each in (self.agreements, self.deviations)
        )
        return 100 * float(new - old), float(before - after)

    @property
    def points(self) -> float:
        """Estimated change in mIoU."""
        return float(OF_MIOU.estimate(self.disagreement, *self.ahead))

    @property
    def interval(self) -> tuple[float, float]:
        return OF_MIOU.interval(self.disagreement, self.points)

    @property
    def class_points(self) -> Values:
        """C estimated changes of IoU; NaN for a class that neither predicts."""
        old, new = map(np.nan_to_num, self.agreements)
        before, after = self.deviations
        return np.asarray(OF_CLASS.estimate(self.of_classes, 100 * (new - old), before - after))

    @property
    def class_intervals(self) -> list[tuple[float, float] | None]:
        """Of each class; None for one that neither predicts."""
        each = zip(self.class_points, self.of_classes, strict=True)
        return [None if math.isnan(points) else OF_CLASS.interval(differ, points) for points, differ in each]

    @property
    def off(self) -> tuple[float, float]:
        """Of the old and the new model: factor by which its classes' shares are off, from 1 on."""
        before, after = (math.exp(float(means_of_known(each))) for each in self.deviations)
        return before, after

    @property
    def verdict(self) -> Verdict:
        """By both signs, where the images are not of other things than the labels of the old camera."""
        if self.disagreement == 0:
            return Verdict.NO_CHANGE
        return self.by_signs if min(self.off) < MOST_OFF else Verdict.UNCLEAR

    @property
    def by_signs(self) -> Verdict:
        """Where they point the same way; the interval tells how large a change is."""
        if min(self.ahead) > 0 and self.points >= SLIGHT:
            return Verdict.BETTER
        return Verdict.WORSE if max(self.ahead) < 0 and self.points <= -SLIGHT else Verdict.UNCLEAR

    def text(self) -> str:
        """The verdict in one line, with its reasons."""
        if self.verdict is Verdict.NO_CHANGE:
            return f"{self.verdict.value}: both models predict the same on each of {self.images} images"
        low, high = self.interval
        old, new = (100 * float(means_of_known(each)) for each in self.agreements)
        before, after = self.off
        doubt = ""
        if self.by_signs is not self.verdict:
            doubt = (
                f"both signs say {self.by_signs.value}, but these images show other things than the old camera's "
                f"labels: in both models the classes' shares of pixels are off by a factor of {MOST_OFF} or more, "
                "where the signs are often wrong; look at the pictures, give drives in other places, or label a few "
                "frames; "
            )
        return (
            f"{self.verdict.value}: {doubt}mIoU changes by about {self.points:+.1f} points (95 % interval {low:+.1f} "
            f"to {high:+.1f}), estimated without labels on {self.images} images; the new model sees {new:.1f} % of the "
            f"same in images made smaller, the old one {old:.1f} %; its classes' shares of pixels are off those of the "
            f"old camera's labels by a factor of {after:.2f}, the old one's of {before:.2f}"
        )

    def failures(self) -> list[str]:
        """Why the new model must not take the old one's place; empty where nothing is known against it."""
        return [self.text()] if self.verdict is Verdict.WORSE else []

    def report(self, models: Models) -> str:
        """Which models they are, a table of all classes that one of them predicts, and the verdict."""
        columns = (*self.shares, *self.agreements, self.class_points, self.class_intervals)
        rows = [
            [name, percent(a), percent(b), percent(c), percent(d), f"{points:+.1f}", _ends_text(ends)]
            for name, a, b, c, d, points, ends in zip(self.classes.names, *columns, strict=True)
            if ends is not None
        ]
        same = [percent(float(means_of_known(each))) for each in self.agreements]
        rows.append(["mIoU", "", "", *same, f"{self.points:+.1f}", _ends_text(self.interval)])
        headers = ["class", "pixels % old", "new", "same if smaller % old", "new", "points", "95 % interval"]
        named = [f"{name}: {path}, {by.description}" for name, (path, by) in zip(("old", "new"), models, strict=True)]
        return "\n".join([*named, format_table(headers, rows), self.text()])

    def to_json(self, models: Models) -> dict[str, Any]:
        """Everything."""
        each = zip(self.agreements, self.shares, self.deviations, models, strict=True)
        return {
            "images": self.images,
            "disagreement": self.disagreement,
            "shares_off": min(self.off),
            **{
                name: {
                    "model": str(path),
                    "backend": by.description,
                    "agreement": self._named(same),
                    "shares": self._named(shares),
                    "deviations": self._named(deviation),
                }
                for name, (same, shares, deviation, (path, by)) in zip(("old", "new"), each, strict=True)
            },
            "classes": {
                name: {"change_points": finite_or_none(points), "interval_points": ends}
                for name, points, ends in zip(self.classes.names, self.class_points, self.class_intervals, strict=True)
            },
            "miou": {"change_points": self.points, "interval_points": self.interval},
            "verdict": self.verdict.value,
            "text": self.text(),
            "failures": self.failures(),
        }

    def _named(self, values: Values) -> dict[str, float | None]:
        return dict(zip(self.classes.names, map(finite_or_none, values), strict=True))


def _ends_text(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.1f} to {ends[1]:+.1f}"


class NoEstimate(DataError):
    """Images or labels show too little."""


def labelled_pixels(dataset: LabelledDataset) -> Counts:
    """C labelled pixels of the old camera, of labels that are evenly spread.

    Raises:
        NoEstimate: they have fewer than two classes, whose shares say nothing.
    """
    found: Counts = np.zeros(len(dataset.classes), np.int64)
    for place in evenly_spread(len(dataset), MOST_LABELS):
        labels = dataset.labels(place)
        found += np.bincount(labels[labels != IGNORE_ID], minlength=len(found))
    if np.count_nonzero(found) < 2:
        named = ", ".join(name for name, count in zip(dataset.classes.names, found, strict=True) if count)
        raise NoEstimate(
            f"{dataset.root}: the labels of the old camera have {named or 'nothing'} only, so that shares of classes "
            "say nothing; label all classes, or check the label ids with clst-data check"
        )
    return found


def estimate_change(
    old: Backend, new: Backend, images: Sequence[tuple[Image, npt.NDArray[np.bool_] | None]], labelled: Counts
) -> Estimate:
    """Run both on images H,W,3 of the new camera and on each made smaller, if these show enough.

    Args:
        old: the old model.
        new: the new one; the order of its classes may differ.
        images: each with its pixels H,W that do not count; None = all do.
        labelled: C pixels of each class of the old model that the old camera's labels have.

    Raises:
        ConfigError: their classes differ. NoEstimate: fewer than `FEWEST_SCENES` of the images differ.
    """
    check_comparable(old.manifest.classes, new.manifest.classes)
    check_scenes([visible(*each) for each in images])
    classes = old.manifest.classes
    count = len(classes)
    order = np.array([classes.names.index(name) for name in new.manifest.classes.names], np.uint8)
    before, after = Seen.nothing(count), Seen.nothing(count)
    between = np.zeros((count, count), np.int64)
    for image, ignored in images:
        whole, small = predictions(old, image)
        other, other_small = (order[each] for each in predictions(new, image))
        if ignored is not None:
            whole, other = (np.where(ignored, np.uint8(IGNORE_ID), each) for each in (whole, other))
        before += Seen.of(whole, small, count)
        after += Seen.of(other, other_small, count)
        between += confusion_of(whole, other, count)
    return estimate_of(before, after, between, labelled, classes, len(images))


def estimate_of(old: Seen, new: Seen, between: Counts, labelled: Counts, classes: ClassList, images: int) -> Estimate:
    """From what both models saw, the counts C,C of pixels by both predictions, and `labelled` as above."""
    of_classes = 1 - iou(between)
    return Estimate(
        classes=classes,
        images=images,
        disagreement=float(means_of_known(of_classes)),
        of_classes=of_classes,
        agreements=(old.agreements, new.agreements),
        deviations=(old.deviations(labelled), new.deviations(labelled)),
        shares=(old.predicted / old.predicted.sum(), new.predicted / new.predicted.sum()),
    )


def check_scenes(images: Sequence[Image]) -> None:
    """Look whether enough images H,W,3 differ from one another.

    Raises:
        NoEstimate: fewer than `FEWEST_SCENES` do.
    """
    count = differing(images)
    if count < FEWEST_SCENES:
        raise NoEstimate(
            f"{count} of {len(images)} images differ from one another, {FEWEST_SCENES} are needed; give more of other "
            "places or times, as a camera that stands still shows too little"
        )


def visible(image: Image, ignored: npt.NDArray[np.bool_] | None) -> Image:
    """H,W,3 for `differing`: pixels H,W that do not count have the mean colour of the others; None = all count."""
    if ignored is None or ignored.all():
        return image
    return np.where(ignored[..., None], image[~ignored].mean(0).round().astype(np.uint8), image)


def differing(images: Iterable[Image]) -> int:
    """How many of the images H,W,3 differ from all that came before them."""
    cv2 = require("cv2")
    kept: list[Values] = []
    for image in images:
        # Averages of areas: single pixels would be noise, by which one scene differs from itself
        grey = cv2.resize(image, THUMBNAIL_HW[::-1], interpolation=cv2.INTER_AREA).mean(2).ravel()
        centred = grey - grey.mean()
        length = float(np.linalg.norm(centred))
        unit = centred / length if length > 1e-3 else np.ones_like(grey) / math.sqrt(grey.size)  # all flat ones alike
        if all(float(unit @ each) < SAME_SCENE for each in kept):
            kept.append(unit)
    return len(kept)
