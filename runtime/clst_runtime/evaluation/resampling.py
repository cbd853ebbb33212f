"""How much a result depends on the choice of images. Legend: N images, P points of an image, S stretches, R resamples.

Neighbouring frames show the same street, so that frames drawn singly make an interval too narrow. What is drawn are
stretches: runs of images, in the order of their names, that are about as long as the scenes in them.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID

RESAMPLES = 2000
FEWEST_STRETCHES = 5
"""An interval over fewer says nothing."""
POINTS_PER_SIDE = 32
ALIKE = 0.1
"""Of the agreement of labels that goes beyond that of any two images, what still counts as the same scene. On drives of
CamVid it gives stretches of 9 to 17 s; from 10 s on their intervals grow no wider."""


def points_of(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """P of the class ids H,W of an image, or of what else it has, on a grid; 255 = ignore."""
    middles = 2 * np.arange(POINTS_PER_SIDE) + 1
    rows, columns = (middles * size // (2 * POINTS_PER_SIDE) for size in labels.shape)
    return labels[np.ix_(rows, columns)].ravel()


def stretches_of(points: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """N,P class ids of images in order as N numbers of equally long stretches, from 0.

    A stretch is as many images as two have to be apart until their labels agree no more than those of any two do.
    It is measured and not read from names, as frames are numbered at any rate, and images without a drive as well.
    """
    count = len(points)
    classes = np.setdiff1d(points, IGNORE_ID)
    of_class = np.array([(points == each).sum(0) for each in classes]).reshape(-1, points.shape[1])  # C,P
    labelled = of_class.sum(0)
    usual = (of_class * (of_class - 1)).sum() / max((labelled * (labelled - 1)).sum(), 1)  # of all pairs of images
    for apart in range(1, count // 2 + 1):
        one, other = points[apart:], points[:-apart]
        known = (one != IGNORE_ID) & (other != IGNORE_ID)
        if known.any() and (one == other)[known].mean() - usual < ALIKE * (1 - usual):
            return np.arange(count) * (count // apart) // count
    return np.zeros(count, np.int64)


def summed(values: npt.NDArray[Any], stretches: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """N,… values of images as S,… sums over the stretches that they are numbered by."""
    found = np.zeros((int(stretches.max()) + 1, *values.shape[1:]), values.dtype)
    np.add.at(found, stretches, values)
    return found


def draws(stretches: int) -> npt.NDArray[np.int64]:
    """R,S: how often each resample has each stretch; always the same."""
    return np.random.default_rng(0).multinomial(stretches, [1 / stretches] * stretches, size=RESAMPLES)


def interval(values: npt.NDArray[np.float64], stretches: int) -> tuple[float, float]:
    """The 95 % interval by R values of resamples of so many stretches; NaN, a resample without a value, is left out.

    Resamples of few stretches differ less than the stretches' choice does: the shares left out at the ends are those
    of a normal distribution beyond Student's t times √(S / (S − 1)) (Hesterberg 2015). Of five stretches without a
    change 8 % leave 0 outside, and 16 % would without it.
    """
    freedom = max(stretches - 1, 1)
    normal = NormalDist()
    z = normal.inv_cdf(0.975)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)  # Cornish-Fisher
    tail = 100 * normal.cdf(-math.sqrt(1 + 1 / freedom) * t)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
