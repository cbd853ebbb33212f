"""IoU from counts, and whether a difference is more than the choice of test images or of seeds.

Legend: N images, S stretches of drives, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.confusion import ConfusionMatrix, iou, means_of_known
from clst_runtime.evaluation.resampling import draws, interval, summed
from clst_runtime.system.numbers import finite_or_none

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def confusions(checkpoint: Path, test: Any, *, most: int | None = None) -> Counts:
    """N,C,C counts (truth, prediction) of a checkpoint on a labelled set, at the labels' own size.

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


def mean_iou(counts: Counts, classes: Sequence[int]) -> Values:
    """Points of mIoU of counts …,C,C over some classes, leaving out those that do not occur; NaN where none does."""
    return 100 * means_of_known(iou(counts)[..., list(classes)])


def per_class(matrix: Counts, names: Sequence[str]) -> dict[str, float | None]:
    """IoU by name, 0 … 1; None for a class that does not occur."""
    return dict(zip(names, map(finite_or_none, iou(matrix)), strict=True))


def merged(counts: Counts, groups: Sequence[Sequence[int]]) -> Counts:
    """Counts …,C,C of classes as …,G,G of groups of them: what lies in one group is right."""
    of_class = np.zeros((counts.shape[-1], len(groups)), np.int64)
    for place, members in enumerate(groups):
        of_class[list(members), place] = 1
    return np.asarray(of_class.T @ counts @ of_class, np.int64)


def by_stretch(counts: Counts, stretches: Sequence[str]) -> Counts:
    """Counts N,C,C of images, each of which belongs to a stretch, as S,C,C in the order of their names."""
    return summed(counts, np.unique(stretches, return_inverse=True)[1])


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n − 1); None of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def difference(ours: Mapping[int, Counts], theirs: Mapping[int, Counts], classes: Sequence[int]) -> dict[str, Any]:
    """How many points of mIoU `ours` is ahead, over the seeds that both have.

    Both are S,C,C counts by seed, of the same stretches. `seeds` are the single seeds' differences, whose networks
    share a source network, `mean` and `std` theirs. `low` to `high` holds 95 % of the mean over resampled stretches:
    neighbouring frames show the same street, so frames would make it too narrow. Each resample takes the same
    stretches of both and of all seeds.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    count = len(ours[seeds[0]])

    def ahead(weights: npt.NDArray[Any]) -> Values:
        """Of each seed and row of weights."""
        ways = [[mean_iou(np.tensordot(weights, each[seed], 1), classes) for seed in seeds] for each in (ours, theirs)]
        return np.asarray(ways[0]) - np.asarray(ways[1])

    each = ahead(np.ones((1, count), np.int64))[:, 0].tolist()
    low, high = interval(ahead(draws(count)).mean(0), count)
    return {"mean": float(np.mean(each)), "std": spread(each), "seeds": each, "low": low, "high": high}


def recovered(values: Mapping[str, Mapping[int, float]], name: str, oracle: str) -> float | None:
    """(row − source) / (oracle − source), of means over the seeds that all three have."""
    if not all(each in values for each in (oracle, "source", name)):
        return None
    seeds = values[name].keys() & values["source"].keys() & values[oracle].keys()
    if not seeds:
        return None
    source, best, reached = (np.mean([values[each][seed] for seed in seeds]) for each in ("source", oracle, name))
    return float((reached - source) / (best - source)) if best > source else None


def score(counts: Mapping[str, Mapping[int, Counts]], classes: Sequence[int]) -> dict[str, dict[str, Any]]:
    """mIoU of each row and seed in points, mean and spread, from counts S,C,C by row and seed."""
    found = {}
    for name, seeds in counts.items():
        values = [float(mean_iou(each.sum(0), classes)) for each in seeds.values()]
        found[name] = {"miou": values, "miou_mean": float(np.mean(values)), "miou_std": spread(values)}
    return found


def compared(
    counts: Mapping[str, Mapping[int, Counts]], classes: Sequence[int], oracle: str
) -> dict[str, dict[str, Any]]:
    """`score`, what each row recovers of the way to the oracle, and how far CLST is ahead of it."""
    found = score(counts, classes)
    values = {name: dict(zip(counts[name], each["miou"], strict=True)) for name, each in found.items()}
    for name, each in found.items():
        each["recovery"] = recovered(values, name, oracle)
        if name != "clst" and counts[name].keys() & counts.get("clst", {}).keys():
            each["clst_ahead"] = difference(counts["clst"], counts[name], classes)
    return found
