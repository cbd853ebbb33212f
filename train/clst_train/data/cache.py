"""Decoded images kept in memory at the size that training reads them in, because every epoch asks for them again.

Legend: H and W rows and columns of the model's input.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.imaging.geometry import Fit
from clst_train.data.fitting import FittedSample, fitted
from clst_train.data.target import TargetImages

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class CachedDataset(LabelledDataset):
    """A labelled data set whose first `room` samples are kept, resized, from their first reading on."""

    input_hw: tuple[int, int]
    """Rows and columns that images and labels are brought to."""
    fit: Fit = Fit.STRETCH
    """How."""
    room: int
    """Samples that may be kept."""
    kept: dict[int, FittedSample] = field(default_factory=dict)
    """Those read so far, by position."""

    def __getitem__(self, index: int) -> FittedSample:
        """One sample: image H,W,3 and labels H,W, not to be written to."""
        if index in self.kept:
            return self.kept[index]
        sample = fitted(super().__getitem__(index), self.input_hw, self.fit)
        if index < self.room:
            self.kept[index] = sample
        return sample


@dataclass(frozen=True, kw_only=True)
class CachedTarget(TargetImages):
    """Target images whose first `room` ones are kept from their first reading on."""

    room: int
    """Images that may be kept."""
    kept: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """Those read so far, by position."""

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """The whole image H,W,3, not to be written to."""
        if index in self.kept:
            return self.kept[index]
        image = super().image(index)
        if index < self.room and self.paths[index] is not None:
            self.kept[index] = image
        return image


def cached(
    source: LabelledDataset,
    target: TargetImages | None,
    *,
    mib: int,
    input_hw: tuple[int, int],
    fit: Fit = Fit.STRETCH,
) -> tuple[LabelledDataset, TargetImages | None]:
    """Both data sets with what fits into `mib` MiB kept in memory, source samples first; unchanged with 0."""
    if mib == 0:
        return source, target
    size = 4 * input_hw[0] * input_hw[1]  # 3 bytes of image and 1 of label each
    room = min(len(source), mib * MIB // size)
    source = CachedDataset(**as_fields(LabelledDataset, source), input_hw=input_hw, fit=fit, room=room)
    if target is not None:
        left = mib * MIB - room * size
        target = CachedTarget(
            **as_fields(TargetImages, target), room=left // (3 * target.input_hw[0] * target.input_hw[1])
        )
    return source, target


def cache_bytes(source: LabelledDataset, target: TargetImages | None) -> int:
    """Bytes that the kept samples will take once all of them have been read."""
    total = 0
    if isinstance(source, CachedDataset):
        total += 4 * source.input_hw[0] * source.input_hw[1] * source.room
    if isinstance(target, CachedTarget):
        files = sum(path is not None for path in target.paths[: target.room])
        total += 3 * target.input_hw[0] * target.input_hw[1] * files
    return total


def as_fields(kind: type, value: Any) -> dict[str, Any]:
    """The fields of `kind`, a dataclass, with their values in `value`."""
    return {entry.name: getattr(value, entry.name) for entry in fields(kind)}
