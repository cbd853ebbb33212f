"""What the model's own camera looks like, and how far a window of frames is from it.

A window is a number of feature vectors, in order of time. Its distance is Mahalanobis' of its mean, in the reference's
spread of single frames, divided by the root of D. How far is far is asked of the reference itself: a quarter of it is
left out, mean and spread are those of the rest, and nine in ten of the left-out windows' distances are usual.
So the streets that the reference has not seen are allowed for, as far as it can know.

Legend: D numbers of a feature vector, K frames of a window, N frames of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import DataError, ModelFileError
from clst_runtime.live.monitor.features import PARTS, PERCEPTIBLE, VERSION, Vector, part_of

Matrix = npt.NDArray[np.float64]

WHOLE = "whole"
"""All parts together."""
FOLDS = 4
"""Parts of the reference, one of which is left out at a time."""
SIZES = (8, 16, 32)
"""Frames of the windows whose usual distance is stored."""
USUAL = 0.9
"""Quantile of the left-out windows' distances that is the unit; the largest one is often a single stretch's."""
LEAST_FRAMES = FOLDS * SIZES[0]
"""A smaller reference is not reliable."""
LEAST_LIMIT = 0.3
"""Usual distance, at least: a third of the spread of single frames is nothing to speak of."""
DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How far a window is from the reference, in units of what is usual for the reference itself."""

    shift: float
    """All parts together; 1 = as far as all but a tenth of the reference's own windows from the rest of it."""
    parts: Mapping[str, float]
    """The same for each part alone."""
    strongest: str
    """The number that moved most, as `part: what`."""
    strongest_spreads: float
    """By how many spreads of single frames, with its sign."""

    @property
    def part(self) -> str:
        """The part that moved most."""
        return max(self.parts, key=lambda part: self.parts[part])


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and covariance of single frames."""

    mean: Vector
    """D."""
    scale: Vector
    """D standard deviations, none smaller than `PERCEPTIBLE`."""
    correlation: Matrix
    """D,D of the scaled numbers, shrunk towards a multiple of the identity."""

    @staticmethod
    def of(prints: Matrix, names: Sequence[str]) -> Spread:
        """The spread of feature vectors N,D; shrunk as far as N frames leave the correlations uncertain."""
        floor = np.array([PERCEPTIBLE[part_of(name)] for name in names])
        mean = prints.mean(axis=0)
        scale = np.sqrt(prints.var(axis=0) + floor**2)
        return Spread(mean=mean, scale=scale, correlation=shrunk((prints - mean) / scale, floor / scale))

    def distance(self, window_mean: Vector, chosen: npt.NDArray[np.intp]) -> float:
        """Mahalanobis distance of the chosen numbers, over the root of how many they are."""
        moved = ((window_mean - self.mean) / self.scale)[chosen]
        solved = np.linalg.solve(self.correlation[np.ix_(chosen, chosen)], moved)
        return float(np.sqrt(max(0.0, float(moved @ solved)) / len(chosen)))


def shrunk(scaled: Matrix, floor: Vector) -> Matrix:
    """Ledoit and Wolf's estimate (2004, their lemma 3.2 ff.) of the second moments D,D of N,D centred numbers.

    Args:
        floor: D standard deviations of an independent part, added to the diagonal, so that it is never singular.
    """
    count, width = scaled.shape
    sample = scaled.T @ scaled / count
    level = float(sample.trace()) / width
    target = level * np.eye(width)
    distance = float(((sample - target) ** 2).sum())
    fourth = float(((scaled**2).sum(axis=1) ** 2).sum())  # Σ ‖z zᵀ‖²
    noise = (fourth / count - float((sample**2).sum())) / count
    share = 1.0 if distance == 0.0 else min(max(noise, 0.0) / distance, 1.0)
    return np.asarray(share * target + (1.0 - share) * sample + np.diag(floor**2))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The model's own camera."""

    names: tuple[str, ...]
    """D names."""
    frames: int
    """N."""
    spread: Spread
    """Of single frames."""
    limits: Mapping[int, Mapping[str, float]]
    """Usual distance by the window's size, of `WHOLE` and each part; always of the smallest of `SIZES`."""

    @staticmethod
    def of(segments: Sequence[Matrix], names: tuple[str, ...]) -> Reference:
        """Measure it.

        Args:
            segments: feature vectors N,D, each segment in order of time.
            names: of the D numbers.

        Raises:
            DataError: too few frames.
        """
        pieces = list(segments)
        if len(pieces) < FOLDS or min(map(len, pieces)) < SIZES[0]:
            pieces = np.array_split(np.concatenate(pieces), FOLDS) if pieces else []
        count = sum(len(piece) for piece in pieces)
        folds = [[pieces[place] for place in places] for places in np.array_split(np.arange(len(pieces)), FOLDS)]
        limits = _limits(folds, names)
        if SIZES[0] not in limits:
            raise DataError(
                f"{count} images of the camera are too few to know it by; at least {LEAST_FRAMES} in a row, "
                "give more with --calib"
            )
        return Reference(names=names, frames=count, spread=Spread.of(np.concatenate(pieces), names), limits=limits)

    def compare(self, window: Matrix) -> Comparison:
        """How far the mean of a window K,D is; the limit is that of the largest stored size of at most K.

        Raises:
            DataError: fewer frames than the smallest of `SIZES`.
        """
        if len(window) < SIZES[0]:
            raise DataError(f"{len(window)} frames cannot be compared; at least {SIZES[0]}")
        mean = window.mean(axis=0)
        limits = self.limits[max(size for size in self.limits if size <= len(window))]
        shifts = {part: self.spread.distance(mean, chosen) / limits[part] for part, chosen in _groups(self.names)}
        moved = (mean - self.spread.mean) / self.spread.scale
        parts = {part: shift for part, shift in shifts.items() if part != WHOLE}
        strongest = int(np.abs(moved).argmax())
        return Comparison(
            shift=shifts[WHOLE],
            parts=parts,
            strongest=self.names[strongest],
            strongest_spreads=float(moved[strongest]),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for `Manifest.domain`; of the correlation only the lower triangle."""
        triangle = self.spread.correlation[np.tril_indices(len(self.names))]
        return {
            "version": VERSION,
            "frames": self.frames,
            "names": list(self.names),
            "mean": _rounded(self.spread.mean),
            "scale": _rounded(self.spread.scale),
            "correlation": _rounded(triangle),
            "limits": {str(size): dict(limits) for size, limits in self.limits.items()},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], names: tuple[str, ...]) -> Reference:
        """Read and check what `to_json` wrote; `names` are those of the model's own feature vectors.

        Raises:
            ModelFileError: damaged, of another version, or of another model.
        """
        hint = "export the model again with --calib IMAGES"
        version = value.get("version") if isinstance(value, Mapping) else None
        if version != VERSION:
            raise ModelFileError(f"the model's reference of its camera is of version {version}, not {VERSION}; {hint}")
        try:
            if tuple(value["names"]) != names:
                raise ValueError(f"it has {len(value['names'])} numbers, the model gives {len(names)} or others")
            correlation = np.zeros((len(names), len(names)))
            correlation[np.tril_indices(len(names))] = np.array(value["correlation"], np.float64)
            correlation += np.tril(correlation, -1).T
            spread = Spread(
                mean=np.array(value["mean"], np.float64).reshape(len(names)),
                scale=np.array(value["scale"], np.float64).reshape(len(names)),
                correlation=correlation,
            )
            np.linalg.cholesky(correlation)  # positive definite
            limits = {int(size): {part: float(given[part]) for part, _ in _groups(names)}
                      for size, given in value["limits"].items()}  # fmt: skip
            if SIZES[0] not in limits or not all(v > 0.0 for given in limits.values() for v in given.values()):
                raise ValueError("its limits are not all there or not above 0")
            if not (np.isfinite(spread.mean).all() and (spread.scale > 0.0).all()):
                raise ValueError("its mean or scale is no number above 0")
            return Reference(names=names, frames=int(value["frames"]), spread=spread, limits=limits)
        except (KeyError, TypeError, ValueError, AttributeError, np.linalg.LinAlgError) as error:
            raise ModelFileError(f"the model's reference of its camera is damaged ({error}); {hint}") from error


def windows(piece: Matrix, size: int) -> list[Matrix]:
    """All windows of `size` frames, each half a window after the other."""
    return [piece[start : start + size] for start in range(0, len(piece) - size + 1, size // 2)]


def _limits(folds: Sequence[Sequence[Matrix]], names: Sequence[str]) -> dict[int, dict[str, float]]:
    """The usual distance of a left-out window from the rest, of each size that every fold has a window of."""
    spreads = []
    for left_out in range(len(folds)):
        rest = [piece for place, fold in enumerate(folds) if place != left_out for piece in fold]
        spreads.append(Spread.of(np.concatenate(rest), names) if sum(map(len, rest)) else None)
    limits = {}
    for size in SIZES:
        means = [[window.mean(axis=0) for piece in fold for window in windows(piece, size)] for fold in folds]
        if all(means):
            limits[size] = {part: _usual(spreads, means, chosen) for part, chosen in _groups(names)}
    return limits


def _usual(spreads: Sequence[Spread | None], means: Sequence[Sequence[Vector]], chosen: npt.NDArray[np.intp]) -> float:
    """The `USUAL` quantile, at least `LEAST_LIMIT`; the spread of a place is that of the other folds."""
    pairs = [(spread, mean) for spread, fold in zip(spreads, means, strict=True) for mean in fold]
    distances = [spread.distance(mean, chosen) for spread, mean in pairs if spread is not None]
    return max(LEAST_LIMIT, float(np.quantile(distances, USUAL)))


def _groups(names: Sequence[str]) -> list[tuple[str, npt.NDArray[np.intp]]]:
    """`WHOLE` and every part that occurs, each with the places of its numbers."""
    groups = [(WHOLE, np.arange(len(names), dtype=np.intp))]
    for part in PARTS:
        places = [place for place, name in enumerate(names) if part_of(name) == part]
        if places:
            groups.append((part, np.array(places, np.intp)))
    return groups


def _rounded(values: Vector) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
