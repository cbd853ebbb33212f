"""Intersection over union from a confusion matrix. Legend: C classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.errors import DataError

# The SYNTHIA → Cityscapes literature reports means over 16 and over these 13 classes; the rest it leaves out.
ROAD13 = (
    "road", "sidewalk", "building", "traffic light", "traffic sign", "vegetation", "sky", "person", "rider", "car",
    "bus", "motorcycle", "bicycle",
)  # fmt: skip
ABSENT_FROM_16 = ("terrain", "truck", "train")
ABSENT_FROM_13 = (*ABSENT_FROM_16, "wall", "fence", "pole")


class ConfusionMatrix:
    """Counts of (truth, prediction) over labelled pixels."""

    def __init__(self, class_count: int) -> None:
        self.class_count = class_count
        self.matrix: npt.NDArray[np.int64] = np.zeros((class_count, class_count), np.int64)  # truth, prediction

    def update(self, labels: npt.NDArray[Any], classes: npt.NDArray[Any]) -> None:
        """Count one image: truth H,W with 255 = ignore, prediction H,W.

        Raises:
            DataError: shapes differ, or an id is not below the class count.
        """
        if labels.shape != classes.shape:
            raise DataError(f"labels have shape {labels.shape}, the prediction {classes.shape}; they must be equal")
        known = labels != IGNORE_ID
        truth, predicted = labels[known].astype(np.int64), classes[known].astype(np.int64)
        highest = max(truth.max(initial=0), predicted.max(initial=0))
        if highest >= self.class_count:
            raise DataError(f"class id {highest} occurs, but there are {self.class_count} classes")
        counts = np.bincount(truth * self.class_count + predicted, minlength=self.class_count**2)
        self.matrix += counts.reshape(self.class_count, self.class_count)

    def iou(self) -> npt.NDArray[np.float64]:
        return iou(self.matrix)

    def miou(self) -> float:
        """Mean IoU over the classes that occur; NaN when nothing was counted."""
        return mean_of_known(self.iou())

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels predicted right; NaN when nothing was counted."""
        total = int(self.matrix.sum())
        return float(np.diag(self.matrix).sum() / total) if total else float("nan")


def confusion_of(labels: npt.NDArray[Any], classes: npt.NDArray[Any], class_count: int) -> npt.NDArray[np.int64]:
    """C,C counts (truth, prediction) of one image; arguments and errors as of `ConfusionMatrix.update`."""
    confusion = ConfusionMatrix(class_count)
    confusion.update(labels, classes)
    return confusion.matrix


def iou(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """…,C values 0 … 1 of …,C,C counts (truth, prediction); NaN for a class that occurs in neither."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(-2) + counts.sum(-1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def means_of_known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """… means of …,C values, of which NaN are left out; NaN where all are."""
    known = np.isfinite(values)
    count = known.sum(-1)
    total = np.where(known, values, 0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_of_known(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Mean over the classes that occur, which are those without NaN; NaN when none does."""
    return float(means_of_known(np.asarray(values)))
