"""Colour transfer: an image takes on another one's mean and spread of colours (Reinhard et al. 2001, in CIE L*a*b*).

And the distance of two cameras' colours, which decides whether the transfer is used. Legend: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable
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


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Mean and spread of the colours of a whole image."""

    mean: npt.NDArray[np.float32]
    """3: of L*, a*, b*."""
    spread: npt.NDArray[np.float32]
    """3: their standard deviations."""


def colours_of(image: Image) -> Colours:
    """The colours of an RGB image H,W,3."""
    mean, spread = require("cv2").meanStdDev(_lab(image))
    return Colours(mean=mean.reshape(3).astype(np.float32), spread=spread.reshape(3).astype(np.float32))


def with_colours(image: Image, own: Colours, other: Colours) -> Image:
    """An RGB image H,W,3, or part of one, that has the colours `own`, with the colours `other`."""
    stretch = np.maximum(other.spread, LEAST_SPREAD) / np.maximum(own.spread, LEAST_SPREAD)
    pixels = (_lab(image) - own.mean) * stretch + other.mean
    cv2 = require("cv2")
    seen = cv2.cvtColor(pixels, cv2.COLOR_LAB2RGB)
    return np.asarray(np.clip(seen * 255 + 0.5, 0, 255).astype(np.uint8))


def colour_shift(source: Iterable[Image], target: Iterable[Image]) -> npt.NDArray[np.float32]:
    """3: mean colours of the target's images minus the source's, in L*, a* and b*, in spreads of such means.

    The spread is that of the mean colours of whole images within one camera, pooled over both, and at least
    `LEAST_SPREAD`: 0 = the same camera in the same light; CamVid from day to dusk moves L* by 3.2.
    """
    old, new = (np.stack([colours_of(image).mean for image in images]) for images in (source, target))
    spread = np.sqrt((old.var(axis=0) + new.var(axis=0)) / 2)
    return np.asarray((new.mean(axis=0) - old.mean(axis=0)) / np.maximum(spread, LEAST_SPREAD), np.float32)


def _lab(image: Image) -> npt.NDArray[np.float32]:
    cv2 = require("cv2")
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))
