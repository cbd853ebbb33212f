"""IoU from counts per image, and whether a difference is more than the choice of test images. Legend: C classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.confusion import ConfusionMatrix, iou, mean_of_known
from clst_runtime.system.numbers import finite_or_none

RESAMPLES = 2000
Counts = npt.NDArray[np.int64]


def confusions(checkpoint: Path, test: Any, *, most: int | None = None) -> Counts:
    """Images,C,C counts (truth, prediction) of a checkpoint on a labelled set, at the labels' own size.

    Of all images, or of at most `most`, evenly spread.
    """
    from clst_runtime.evaluation.evaluate import predict_at
    from clst_train.models.checkpoint_backend import open_checkpoint

    with open_checkpoint(checkpoint) as backend:
        data = test.open(backend.manifest.classes)
        found = []
        for index in evenly_spread(len(data), most):
            sample, confusion = data[index], ConfusionMatrix(len(data.classes))
            confusion.update(sample.labels, predict_at(backend, sample.image))
            found.append(confusion.matrix)
    return np.stack(found)


def mean_iou(matrix: Counts, classes: Sequence[int]) -> float:
    """Mean over some classes, 0 … 1, leaving out those that do not occur."""
    return mean_of_known(iou(matrix)[list(classes)])


def per_class(matrix: Counts, names: Sequence[str]) -> dict[str, float | None]:
    """IoU by name, 0 … 1; None for a class that does not occur."""
    return dict(zip(names, map(finite_or_none, iou(matrix)), strict=True))


def merged(matrix: Counts, groups: Sequence[Sequence[int]]) -> Counts:
    """Counts …,C,C of classes as …,G,G of groups of them: what lies in one group is right."""
    of_class = np.zeros((matrix.shape[-1], len(groups)), np.int64)
    for place, members in enumerate(groups):
        of_class[list(members), place] = 1
    return np.asarray(of_class.T @ matrix @ of_class, np.int64)


def bootstrap_difference(
    ours: Sequence[Counts], theirs: Sequence[Counts], classes: Sequence[int], *, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """How many points of mIoU `ours` is ahead: the mean over seeds, and 95 % of it over resampled test images.

    Both are lists over the same seeds of images,C,C counts of the same images; each resample takes the same images for
    both and for all seeds, so that what is hard for both cancels. `seeds` are the differences of the single seeds,
    whose pairs share a source network; `low` and `high` know nothing of how far those scatter.
    """
    rng, count = np.random.default_rng(0), len(ours[0])

    def differences(weights: npt.NDArray[np.int64]) -> list[float]:
        sums = [(np.tensordot(weights, a, 1), np.tensordot(weights, b, 1)) for a, b in zip(ours, theirs, strict=True)]
        return [100 * (mean_iou(a, classes) - mean_iou(b, classes)) for a, b in sums]

    means = [
        float(np.mean(differences(np.bincount(rng.integers(count, size=count), minlength=count))))
        for _ in range(resamples)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    seeds = differences(np.ones(count, np.int64))
    return {"mean": float(np.mean(seeds)), "low": float(low), "high": float(high), "seeds": seeds}
