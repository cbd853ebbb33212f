"""How a training image is varied: one geometry for image and labels, colours for the image alone.

Legend: H rows, W columns of the model's input size; K rows, L columns of the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.imaging.geometry import resize_classes, resize_frame
from clst_runtime.system.optional import require
from clst_train.config import AugmentationConfig

Image = npt.NDArray[np.uint8]
MIRRORED = 0.5
"""Share of crops that are mirrored: a street's mirror image is a street."""
BLURRED = 0.3
"""Share of images that are blurred: another lens is less sharp, but most views should stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A zoom of the whole image, a crop of the zoomed one, and perhaps a mirror."""

    zoomed_hw: tuple[int, int]
    """Size of the whole image after the zoom."""
    top: int
    """First row of the crop in the zoomed image."""
    left: int
    """First column of the crop in the zoomed image."""
    crop_hw: tuple[int, int]
    """Size of the crop."""
    mirrored: bool
    """Whether the crop is mirrored left to right."""

    def crop(self, zoomed: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Cut the crop out of a zoomed array whose first two axes are rows and columns."""
        rows, columns = self.crop_hw
        part = zoomed[self.top : self.top + rows, self.left : self.left + columns]
        return np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)

    def image(self, image: Image) -> Image:
        """An RGB image: bilinear zoom, crop, mirror."""
        return self.crop(resize_frame(image, self.zoomed_hw))

    def classes(self, classes: Image) -> Image:
        """A class map: nearest-pixel zoom, crop, mirror."""
        return self.crop(resize_classes(classes, self.zoomed_hw))


def draw_geometry(
    rng: np.random.Generator, settings: AugmentationConfig, input_hw: tuple[int, int], crop_hw: tuple[int, int]
) -> Geometry:
    """A random crop; the zoom is never so small that the crop would not fit."""
    low, high = settings.scale
    zoom = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    zoom = max(zoom, crop_hw[0] / input_hw[0], crop_hw[1] / input_hw[1])
    zoomed = (max(crop_hw[0], round(input_hw[0] * zoom)), max(crop_hw[1], round(input_hw[1] * zoom)))
    return Geometry(
        zoomed_hw=zoomed,
        top=int(rng.integers(zoomed[0] - crop_hw[0] + 1)),
        left=int(rng.integers(zoomed[1] - crop_hw[1] + 1)),
        crop_hw=crop_hw,
        mirrored=bool(rng.random() < MIRRORED),
    )


def vary_colours(rng: np.random.Generator, image: Image, strength: float) -> Image:
    """Random brightness, contrast, saturation, colour balance and blur of an RGB image H,W,3."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    balance = rng.uniform(1 - strength / 3, 1 + strength / 3, 3) * brightness
    blurred, sigma = strength > 0 and rng.random() < BLURRED, rng.uniform(0.3, 1.3)
    cv2 = require("cv2")
    if strength > 0:
        # All of it is one affine map of a pixel's colour, so that it is rounded and clipped once.
        towards_grey = saturation * np.eye(3) + (1 - saturation) / 3  # 3,3
        centre = np.mean(np.array(cv2.mean(image)[:3]) * balance)
        shift = np.full((3, 1), (1 - contrast) * centre)
        image = np.asarray(cv2.transform(image, np.hstack([contrast * towards_grey * balance, shift])))
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma)) if blurred else image


def mixing_mask(rng: np.random.Generator, labels: Image, ignore_id: int) -> npt.NDArray[np.bool_]:
    """K,L: the pixels of a random half of the classes in a source label (ClassMix); no labels, no pixels."""
    cv2 = require("cv2")
    seen = np.flatnonzero(cv2.calcHist([labels], [0], None, [256], [0, 256]))
    present = [value for value in seen if value != ignore_id]
    chosen = np.zeros(256, np.uint8)
    chosen[rng.permutation(present)[: (len(present) + 1) // 2].astype(int)] = 1
    return np.asarray(cv2.LUT(labels, chosen)).view(np.bool_)
