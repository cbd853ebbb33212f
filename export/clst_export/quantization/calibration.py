"""Calibration: the range of each activation on real frames, by three methods, in two passes over them at most.

Legend: H rows, W columns of the model's input; B bins of a histogram of |x|, L levels that INT8 gives to |x|.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clst_export.quantization.activations import stream_activations
from clst_runtime.backends.base import Frame
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import SHAPE_TOLERANCE, Fit
from clst_train.data.target import TargetImages, open_target

LEVELS = 128  # int8 gives |x| the values 0 … 127
BINS = 2048  # of the histograms of |x|
CUT_PERCENTILE = 99.99  # method `percentile` cuts the rest
USUAL_COUNT = 64
T = TypeVar("T")


class Method(enum.Enum):
    """How much of a tensor's tail is cut off, to have finer steps for the rest."""

    MAX = "max"
    """Nothing: the largest |x| seen."""
    PERCENTILE = "percentile"
    """All but a fixed share of the values keep their place."""
    ENTROPY = "entropy"
    """Where the quantised histogram has the smallest Kullback-Leibler divergence from the real one."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a tensor's values are represented between; always holds 0, so that 0 stays exact."""

    low: float
    """Smallest value, at most 0."""
    high: float
    """Largest value, at least 0."""

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low <= 0.0 <= self.high):
            raise ValueError(f"a range must be finite and hold 0, not {self.low} … {self.high}")

    @property
    def largest(self) -> float:
        """The symmetric range's half width: largest |x|."""
        return max(-self.low, self.high)

    def cut(self, threshold: float) -> Range:
        """Both sides limited to |x| ≤ threshold."""
        return Range(low=max(self.low, -threshold), high=min(self.high, threshold))

    def joined(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(low=min(self.low, other.low), high=max(self.high, other.high))


def calibrate(
    model: Any, frames: Sequence[Frame], tensors: Iterable[str], methods: Iterable[Method] = tuple(Method)
) -> dict[Method, dict[str, Range]]:
    """Measure ranges of float tensors; one frame's tensors and one histogram each are in memory, never more.

    `max` needs one pass over the frames, the other two share a second one.

    Args:
        model: the float32 graph as an ONNX ModelProto; it is not changed.
        frames: H,W,3 frames of the model's input size.
        tensors: names, e.g. `precision.int8.activations(model)`.
        methods: which to compute.

    Raises:
        DataError: there are no frames, or a tensor became infinite or NaN on one of them.
    """
    names, wanted = list(dict.fromkeys(tensors)), list(dict.fromkeys(methods))
    if not frames:
        raise DataError("no calibration images; give --calib a folder or a video of the target camera")
    seen = dict.fromkeys(names, Range(low=0.0, high=0.0))
    for index, values in enumerate(stream_activations(model, names, frames)):
        for name in names:
            seen[name] = seen[name].joined(_range_of(values[name], name, index))
    result = {Method.MAX: seen} if Method.MAX in wanted else {}
    rest = [method for method in wanted if method is not Method.MAX]
    if not rest:
        return result
    histograms = {name: np.zeros(BINS, np.int64) for name in names}
    for values in stream_activations(model, names, frames):
        for name in names:
            histograms[name] += histogram(values[name], seen[name].largest, BINS)
    for method in rest:
        result[method] = {
            name: seen[name].cut(_threshold(method, histograms[name]) * seen[name].largest) for name in names
        }
    return {method: result[method] for method in wanted}


def _range_of(values: npt.NDArray[np.float32], name: str, frame: int) -> Range:
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not np.isfinite([low, high]).all():
        raise DataError(f"tensor {name} is infinite or NaN on calibration image {frame}; is the checkpoint sound?")
    return Range(low=low, high=high)


def histogram(values: npt.NDArray[np.float32], largest: float, bins: int) -> npt.NDArray[np.int64]:
    """Counts of |x| in B equal bins over 0 … `largest`; the last bin holds its upper edge."""
    if largest == 0.0:
        counts = np.zeros(bins, np.int64)
        counts[0] = values.size
        return counts
    places = (np.abs(values.ravel()) * np.float32(bins / largest)).astype(np.int32)
    return np.bincount(np.minimum(places, bins - 1), minlength=bins)


def _threshold(method: Method, counts: npt.NDArray[np.int64]) -> float:
    """Where to cut, as a share 0 … 1 of the largest |x|."""
    return entropy_threshold(counts) if method is Method.ENTROPY else percentile_threshold(counts, CUT_PERCENTILE)


def percentile_threshold(counts: npt.NDArray[np.int64], percentile: float) -> float:
    """Upper edge of the bin in which `percentile` per cent of B counts are reached, as a share of the last edge."""
    needed = percentile / 100.0 * counts.sum() * (1.0 - 1e-12)  # 99.99 % of 10,000 is 9,999 also in binary
    reached = np.searchsorted(np.cumsum(counts), needed)
    return float(min(int(reached) + 1, len(counts)) / len(counts))


def entropy_threshold(counts: npt.NDArray[np.int64], levels: int = LEVELS) -> float:
    """The cut of B counts whose quantised form has the smallest divergence from the real one, as a share 0 … 1.

    For each candidate cut the values beyond it move into the last bin kept (as saturation moves them); the bins are
    then merged into L levels, each level's count spread evenly over its bins that held something. The count of the
    first bin is left out of both: it holds every exact zero that a ReLU leaves, which any cut represents exactly.
    """
    bins = len(counts)
    real = counts.astype(np.float64)
    real[0] = 0.0
    if real.sum() == 0.0:
        return 1.0
    beyond = real.sum() - np.cumsum(real)  # beyond[i]: values above bin i
    candidates = np.unique(np.linspace(levels, bins, 1 + (bins - levels) // 8).astype(int))
    divergences = [_divergence(real[:end], beyond[end - 1], levels) for end in candidates]
    best = len(candidates) - 1 - int(np.argmin(divergences[::-1]))  # of equals, the one that cuts least
    return float(candidates[best] / bins)


def _divergence(kept: npt.NDArray[np.float64], beyond: float, levels: int) -> float:
    """Kullback-Leibler divergence of the kept bins quantised to L levels from the real ones with their saturation."""
    held = kept > 0.0
    starts = np.arange(levels) * len(kept) // levels
    occupied = np.add.reduceat(held.astype(np.float64), starts)
    mean = np.add.reduceat(kept, starts) / np.maximum(occupied, 1.0)
    quantised = np.where(held, np.repeat(mean, np.diff(np.append(starts, len(kept)))), 0.0)
    reference = kept.copy()
    reference[-1] += beyond
    if quantised.sum() == 0.0:
        return float("inf")
    share, guess = reference / reference.sum(), quantised / quantised.sum()
    known = share > 0.0
    floor = 1e-4 / len(kept)  # a bin that only saturation fills has no quantised count; it must cost, not be infinite
    return float(np.sum(share[known] * np.log(share[known] / np.maximum(guess[known], floor))))


def frames_digest(frames: Iterable[Frame]) -> str:
    """SHA-256 over the frames' sizes and pixels, in order."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(repr((frame.shape, frame.dtype.name)).encode())
        digest.update(np.ascontiguousarray(frame).tobytes())
    return digest.hexdigest()


def split_frames(frames: Sequence[T], *, held_out: int) -> tuple[list[T], list[T]]:
    """(calibration, held-out): every n-th frame is held out, so that both see the whole drive; no chance involved.

    Raises:
        DataError: nothing would be left to calibrate on, or to compare on.
    """
    if not 1 <= held_out < len(frames):
        raise DataError(
            f"{held_out} of {len(frames)} frames cannot be held out to compare calibrations; "
            "at least one must be on each side: add images"
        )
    chosen = set(evenly_spread(len(frames), held_out, centred=True))
    return (
        [frame for index, frame in enumerate(frames) if index not in chosen],
        [frame for index, frame in enumerate(frames) if index in chosen],
    )


def calibration_frames(
    places: Sequence[str],
    input_hw: tuple[int, int],
    count: int | None = None,
    expected_aspect: float | None = None,
    fit: Fit = Fit.STRETCH,
) -> TargetImages:
    """`count` frames H,W,3, evenly spaced over folders, images and videos of the target camera.

    Args:
        places: image folders, single images, video files.
        input_hw: rows and columns of the model's input.
        count: how many frames are wanted; None = all, at most 64.
        expected_aspect: columns / rows of the camera the model was trained for; None = the first image's.
        fit: how an image becomes a frame.

    Raises:
        DataError: nothing there, fewer frames than asked, or an image of another shape (another camera).
    """
    if count is not None and count < 1:
        raise DataError(f"{count} calibration images asked; give --calib-count at least 1")
    images = open_target(places, input_hw=input_hw, fit=fit, choose=lambda total: _evenly(total, count))
    for origin, (rows, columns) in dict(zip(images.origins, images.sizes, strict=True)).items():
        expected = expected_aspect or images.sizes[0][1] / images.sizes[0][0]
        if abs(columns / rows / expected - 1.0) > SHAPE_TOLERANCE:
            raise DataError(
                f"{origin} is {columns}×{rows} (aspect {columns / rows:.3f}), the model's camera has aspect "
                f"{expected:.3f}; calibrate on images of the camera it will drive with"
            )
    return images


def _evenly(total: int, count: int | None) -> list[int]:
    """`count` positions of `total`; None = all, at most 64."""
    if total < (count or 0):
        raise DataError(f"{count} calibration images asked, {total} found; add images or lower --calib-count")
    return evenly_spread(total, count or USUAL_COUNT, centred=True)
