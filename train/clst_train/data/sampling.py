"""Rare-class sampling: source images are drawn by the rarest class they can show (Hoyer et al. 2022).

    P(c) ∝ exp((1 − f_c) / T),   f_c = share of class c in all labelled source pixels

Legend: I images, C classes, H and W of the model's input size.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Fit, fit_labels
from clst_runtime.system.optional import require
from clst_train.compute.bars import tqdm_options
from clst_train.config import AugmentationConfig
from clst_train.data.augment import Geometry, draw_geometry

MINIMUM_SHARE = 0.0005
"""Share of an image's pixels that a class needs for the image to be drawn for it, and of a crop's to be kept."""
TRIES = 10
"""Geometries that are tried on the label until the crop shows the class."""


@dataclass(frozen=True, kw_only=True)
class RareClasses:
    """Which class to show next, and which images can show it."""

    probabilities: npt.NDArray[np.float64]
    """C: P(c); 0 for a class without a single pixel."""
    images: tuple[npt.NDArray[np.int64], ...]
    """C arrays of the positions of the images that show the class; empty where none does."""

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """A class, and the position of an image that shows it."""
        chosen = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return chosen, int(rng.choice(self.images[chosen]))


def rare_classes(counts: npt.NDArray[np.int64], temperature: float) -> RareClasses:
    """The sampler of a data set whose images hold `counts` I,C labelled pixels.

    An image shows a class with `MINIMUM_SHARE` of its labelled pixels; where no image has so many, with any.

    Raises:
        DataError: not one pixel is labelled.
    """
    totals, sizes = counts.sum(axis=0), counts.sum(axis=1, keepdims=True)
    if not totals.any():
        raise DataError("rare-class sampling: no source pixel has a label; check the mapping, or set it to 0")
    exponents = (1.0 - totals / totals.sum()) / temperature
    weights = np.where(totals > 0, np.exp(exponents - exponents.max()), 0.0)
    images = []
    for column in range(counts.shape[1]):
        enough = np.flatnonzero(counts[:, column] >= np.maximum(1, MINIMUM_SHARE * sizes[:, 0]))
        images.append(enough if len(enough) else np.flatnonzero(counts[:, column]))
    return RareClasses(probabilities=weights / weights.sum(), images=tuple(images))


def count_classes(dataset: LabelledDataset, input_hw: tuple[int, int], fit: Fit = Fit.STRETCH) -> npt.NDArray[np.int64]:
    """I,C labelled pixels of each image brought to `input_hw` by `fit`; reads every label once, several at a time.

    Raises:
        DataError: a label is unreadable or has an id outside the map.
    """

    def count(index: int) -> npt.NDArray[np.int64]:
        labels = fit_labels(dataset.labels(index), input_hw, fit)
        return np.bincount(labels.ravel(), minlength=256)[: len(dataset.classes)]

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="counter") as pool:
        found = pool.map(count, range(len(dataset)))
        rows = list(require("tqdm").tqdm(found, "counting classes", len(dataset), unit="image", **tqdm_options()))
    return np.stack(rows).astype(np.int64)


def geometry_showing(
    rng: np.random.Generator,
    chosen: int,
    labels: npt.NDArray[np.uint8],
    settings: AugmentationConfig,
    crop_hw: tuple[int, int],
) -> Geometry:
    """A random crop of H,W labels whose crop shows class `chosen`; of `TRIES` the best, where none shows enough."""
    rows, columns = labels.shape
    best, most = None, -1
    for _ in range(TRIES):
        geometry = draw_geometry(rng, settings, (rows, columns), crop_hw)
        found = int((geometry.classes(labels) == chosen).sum())
        if found > most:
            best, most = geometry, found
        if found >= max(1, MINIMUM_SHARE * crop_hw[0] * crop_hw[1]):
            break
    assert best is not None  # noqa: S101  TRIES is at least 1
    return best
