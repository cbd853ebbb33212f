"""Colour transfer: an image takes on another one's mean and spread of colours (Reinhard et al. 2001, in CIE L*a*b*).

And the distance of two cameras' colours, which decides whether the transfer is used. Legend: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clst_runtime.system.optional import require

LEAST_SPREAD = 1.0
"""L*a*b* units; a channel that varies less is not stretched further, lest noise become a pattern."""
LEAST_SHIFT = 2.0
"""Spreads; below it source images keep their colours: day to dusk is 3.2, India to England 1.2 (decision 14)."""
CHANNELS = ("L*", "a*", "b*")
Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Mean and spread of the colours of an image."""

    mean: npt.NDArray[np.float32]
    """3: of L*, a*, b*."""
    spread: npt.NDArray[np.float32]
    """3: their standard deviations."""


def pixels_of(image: Image, ignored: Mask | None) -> Image:
    """1,P,3 the pixels of an image H,W,3 that are not ignored; the image itself where none or each is."""
    return image if ignored is None or ignored.all() else image[~ignored][None]


def colours_of(image: Image) -> Colours:
    """The colours of an RGB image H,W,3."""
    return _colours(_lab(image))


def with_colours(image: Image, other: Colours) -> Image:
    """An RGB image H,W,3 with the colours `other`."""
    cv2, lab = require("cv2"), _lab(image)
    own = _colours(lab)
    stretch = np.maximum(other.spread, LEAST_SPREAD) / np.maximum(own.spread, LEAST_SPREAD)
    moved = cv2.transform(lab, np.column_stack([np.diag(stretch), other.mean - own.mean * stretch]))
    return np.asarray(cv2.multiply(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB), (255.0,) * 4, dtype=cv2.CV_8U))


def colour_shift(source: Sequence[Colours], target: Sequence[Colours]) -> npt.NDArray[np.float32]:
    """3: mean colours of the target's images minus the source's, in L*, a* and b*, in spreads of such means.

    The spread is that of the mean colours of whole images within one camera, pooled over both, and at least
    `LEAST_SPREAD`: 0 = the same camera in the same light; CamVid from day to dusk moves L* by 3.2.
    """
    old, new = (np.stack([each.mean for each in colours]) for colours in (source, target))
    spread = np.sqrt((old.var(axis=0) + new.var(axis=0)) / 2)
    return np.asarray((new.mean(axis=0) - old.mean(axis=0)) / np.maximum(spread, LEAST_SPREAD), np.float32)


def _colours(lab: npt.NDArray[np.float32]) -> Colours:
    mean, spread = require("cv2").meanStdDev(lab)
    return Colours(mean=mean.reshape(3).astype(np.float32), spread=spread.reshape(3).astype(np.float32))


def _lab(image: Image) -> npt.NDArray[np.float32]:
    cv2 = require("cv2")
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
