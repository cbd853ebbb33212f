"""How a network wants its images: which mean and deviation, in which order of colours."""

from __future__ import annotations

from dataclasses import dataclass

from clst_train.config import MEAN, STD


@dataclass(frozen=True)
class Normalisation:
    """(x − mean) / std for each channel of a frame; the numbers are in the network's own order of channels."""

    mean: tuple[float, float, float] = MEAN
    """On the 0–255 scale."""
    std: tuple[float, float, float] = STD
    """On the 0–255 scale, above 0."""
    channels: str = "rgb"
    """`rgb` or `bgr`: the network's order. Frames are RGB always."""


IMAGENET = Normalisation()
