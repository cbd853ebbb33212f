"""A frame as a few numbers that depend on the camera more than on the scene.

Measured on what the model sees, at its input's size but without padding, so that export and driving measure the same
thing. Legend: H rows, W columns of the camera's image in the model's input; D numbers of a feature vector; C classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clst_runtime.backends.base import Frame, Prediction
from clst_runtime.system.optional import require

Vector = npt.NDArray[np.float64]

VERSION = 1
"""Of what is measured; numbers of another version are not compared."""
COLOUR, BRIGHTNESS, SHARPNESS, CLASSES, CONFIDENCE = PARTS = (
    "colour", "brightness", "sharpness", "classes", "confidence",
)  # fmt: skip
IMAGE_PARTS = (COLOUR, BRIGHTNESS, SHARPNESS)
SMALL_HW = (64, 96)
"""Rows and columns that colour and brightness are measured at."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TILE = 16
"""Edge of the squares; the flattest ones measure the noise."""
FLATTEST = 0.1
"""Share of the squares that counts as flat."""
CLIPPED = (8, 247)
"""Brightness, 0 … 255, outside of which a sensor shows no noise."""
PERCEPTIBLE = {COLOUR: 1.0, BRIGHTNESS: 2.0, SHARPNESS: 0.05, CLASSES: 0.03, CONFIDENCE: 0.02}
"""Difference of a number, in its own unit, that is nothing to speak of however alike the reference's frames are."""
UNSURE = 128
"""Confidence, of 255, below which a pixel counts as unsure."""
NOTHING = 0.05
"""Added to grey levels before the logarithm, so that nothing is minus infinity."""


def feature_names(classes: tuple[str, ...], *, has_confidence: bool) -> tuple[str, ...]:
    """Names of a feature vector's D numbers, each as `part: what`."""
    names = [f"{COLOUR}: {what}" for what in ("mean a", "mean b", "spread of a", "spread of b")]
    names += [f"{BRIGHTNESS}: quantile {quantile}" for quantile in QUANTILES]
    names += [f"{SHARPNESS}: {what}" for what in ("fine edges", "coarse edges", "noise")]
    names += [f"{CLASSES}: {name}" for name in classes]
    if has_confidence:
        names += [f"{CONFIDENCE}: {what}" for what in ("mean", "unsure")]
    return tuple(names)


def part_of(name: str) -> str:
    """The part that a number belongs to."""
    return name.partition(":")[0]


def brightness_range(values: Vector) -> float:
    """Between the darkest and the brightest twentieth of a feature vector's image, in L*: 0 … 100."""
    return float(values[8] - values[4])


def frame_features(frame: Frame, prediction: Prediction, class_count: int) -> Vector:
    """D numbers of a frame H,W,3 RGB and the model's prediction for it, in the order of `feature_names`."""
    parts = [*_colour_and_brightness(frame), _sharpness(frame), _class_shares(prediction, class_count)]
    if prediction.confidence is not None:
        parts.append(_confidence(prediction.confidence))
    return np.concatenate(parts)


def thumbnail(frame: Frame) -> Frame:
    """The frame at `SMALL_HW`, each pixel a mean, so that noise and single objects hardly count."""
    small = require("cv2").resize(frame, SMALL_HW[::-1], interpolation=require("cv2").INTER_AREA)
    return np.asarray(small, np.uint8)


def _colour_and_brightness(frame: Frame) -> tuple[Vector, Vector]:
    """Mean and spread of a* and b*; quantiles of L*, 0 … 100."""
    cv2 = require("cv2")
    lab = cv2.cvtColor(thumbnail(frame).astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    colours = lab[:, 1:]
    colour = np.concatenate([colours.mean(axis=0), colours.std(axis=0)]).astype(np.float64)
    return colour, np.quantile(lab[:, 0], QUANTILES).astype(np.float64)


def _sharpness(frame: Frame) -> Vector:
    """Logarithms of the edges' strength at the input's size, at half of it, and of the noise in flat squares."""
    cv2 = require("cv2")
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    half = cv2.resize(grey, (max(1, grey.shape[1] // 2), max(1, grey.shape[0] // 2)), interpolation=cv2.INTER_AREA)
    edges = [float(np.abs(cv2.Laplacian(image, cv2.CV_16S, ksize=1)).mean()) for image in (grey, half)]
    return np.log(NOTHING + np.array([*edges, _noise(grey)]))


_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6.0
"""Blind to planes and straight edges; its response to white noise has the noise's standard deviation."""


def _noise(grey: npt.NDArray[np.uint8]) -> float:
    """Standard deviation of the noise in grey levels, by the flattest squares that are not clipped."""
    cv2 = require("cv2")
    tiles = (max(1, grey.shape[1] // TILE), max(1, grey.shape[0] // TILE))
    response = np.abs(cv2.filter2D(grey, cv2.CV_32F, _IMMERKAER))
    strength = cv2.resize(response, tiles, interpolation=cv2.INTER_AREA)
    level = cv2.resize(grey, tiles, interpolation=cv2.INTER_AREA)
    usable = strength[(level >= CLIPPED[0]) & (level <= CLIPPED[1])]
    if usable.size == 0:
        return 0.0
    return float(np.quantile(usable, FLATTEST) * np.sqrt(np.pi / 2))


def histogram(values: npt.NDArray[np.uint8]) -> Vector:
    """Shares of the values 0 … 255."""
    counts = require("cv2").calcHist([values], [0], None, [256], [0, 256]).ravel()
    return np.asarray(counts, np.float64) / max(1, values.size)


def _class_shares(prediction: Prediction, class_count: int) -> Vector:
    """Roots of the C shares: they vary about alike for frequent and rare classes."""
    return np.asarray(np.sqrt(histogram(prediction.classes)[:class_count]))


def _confidence(confidence: npt.NDArray[np.uint8]) -> Vector:
    """Mean, 0 … 1, and root of the share of unsure pixels."""
    shares = histogram(confidence)
    return np.array([shares @ np.arange(256) / 255.0, np.sqrt(shares[:UNSURE].sum())])
