"""Is a model right as often as it says? Legend: H rows, W columns of an image, L the 256 levels of a confidence.

A confidence is calibrated where it is the share of right pixels: of those with 80 %, 80 % are right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.errors import DataError
from clst_runtime.system.numbers import finite_or_none

LEVELS = 256
BINS = 15
"""Of equal width, as usual (Guo et al. 2017); each is 17 of the levels."""


class Reliability:
    """Labelled pixels by the confidence that a model gave them, and how many of them it has right."""

    def __init__(self) -> None:
        self.pixels, self.right = (np.zeros(LEVELS, np.int64) for _ in range(2))  # L

    def update(
        self, labels: npt.NDArray[Any], classes: npt.NDArray[np.uint8], confidence: npt.NDArray[np.uint8] | None
    ) -> None:
        """Count one image: truth H,W with 255 = ignore, prediction H,W, its confidence H,W; nothing without one.

        Raises:
            DataError: shapes differ.
        """
        if confidence is None:
            return
        if not labels.shape == classes.shape == confidence.shape:
            shapes = f"labels have shape {labels.shape}, the prediction {classes.shape}, confidence {confidence.shape}"
            raise DataError(f"{shapes}; they must be equal")
        known = labels != IGNORE_ID
        said = confidence[known]
        self.pixels += np.bincount(said, minlength=LEVELS)
        self.right += np.bincount(said[classes[known] == labels[known]], minlength=LEVELS)

    def or_none(self) -> Reliability | None:
        """None where nothing was counted, as of a model without that output."""
        return self if self.pixels.any() else None

    def bins(self) -> npt.NDArray[np.float64]:
        """BINS,3: pixels, their mean confidence 0 … 1 and the share that is right; NaN where there are no pixels."""
        which = np.minimum(np.arange(LEVELS) * BINS // (LEVELS - 1), BINS - 1)
        said = self.pixels * np.arange(LEVELS) / (LEVELS - 1)
        pixels, sure, right = (np.bincount(which, each, BINS) for each in (self.pixels, said, self.right))
        with np.errstate(invalid="ignore"):
            return np.stack([pixels, sure / pixels, right / pixels], axis=1)

    def ece(self) -> float:
        """Expected calibration error 0 … 1: by how much confidence and share of right pixels differ in a bin, on
        average of all pixels; NaN when nothing was counted."""
        pixels, sure, right = self.bins().T
        with np.errstate(invalid="ignore"):
            return float(np.nansum(pixels * np.abs(sure - right)) / pixels.sum())

    def to_json(self) -> dict[str, Any]:
        """ECE, and the bins that have pixels."""
        return {
            "ece": finite_or_none(self.ece()),
            "bins": [
                {"pixels": int(pixels), "confidence": float(sure), "right": float(right)}
                for pixels, sure, right in self.bins()
                if pixels
            ],
        }
