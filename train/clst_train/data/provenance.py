"""Which files a batch was made of: the batch is made once more, and what it reads is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.data.dataset import LabelledDataset, Sample
from clst_train.data.target import TargetImages


@dataclass(frozen=True, kw_only=True)
class RecordedDataset(LabelledDataset):
    """A labelled data set that records which samples are read."""

    inner: LabelledDataset
    """The data set that is read."""
    record: Callable[[str], None]
    """Called with the path of each image."""

    def __getitem__(self, index: int) -> Sample:
        """One sample of the inner data set."""
        self.record(str(self.files[index].image))
        return self.inner[index]


@dataclass(frozen=True, kw_only=True)
class RecordedTarget(TargetImages):
    """Target images that record which of them are read."""

    inner: TargetImages
    """The images that are read."""
    record: Callable[[str], None]
    """Called with the path of each image, or with the place of a video's frame."""

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """One image of the inner ones."""
        path = self.paths[index]
        self.record(str(path) if path is not None else f"video frame {index}")
        return self.inner[index]


def recorded(
    source: LabelledDataset, target: TargetImages | None, record: Callable[[str], None]
) -> tuple[LabelledDataset, TargetImages | None]:
    """Both data sets, recording what is read."""
    if target is not None:
        target = RecordedTarget(**as_fields(TargetImages, target), inner=target, record=record)
    return RecordedDataset(**as_fields(LabelledDataset, source), inner=source, record=record), target


def as_fields(kind: type, value: Any) -> dict[str, Any]:
    """The fields of `kind`, a dataclass, with their values in `value`."""
    return {entry.name: getattr(value, entry.name) for entry in fields(kind)}
