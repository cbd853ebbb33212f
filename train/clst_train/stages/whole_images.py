"""Batches of whole images, for BatchNorm statistics and a first look at what a network predicts.

Legend: N images, H rows and W columns of the model's input size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from clst_runtime.data.subsets import evenly_spread
from clst_runtime.imaging.geometry import Image
from clst_train.engine.run import Run, needed
from clst_train.inspection.diagnostics import START_IMAGES
from clst_train.method.batchnorm import STATISTICS_IMAGES
from clst_train.models.deployable import normalise
from clst_train.models.normalisation import Normalisation


def target_batches(run: Run) -> Iterator[Tensor]:
    """Whole target images as normalised batches for BatchNorm statistics, on the run's device."""
    settings = run.config.adaptation
    batches = statistics_batches(
        run.segmenter.normalisation, needed(run.target), count=STATISTICS_IMAGES, size=settings.batch
    )
    return (batch.to(run.device) for batch in batches)


class Images(Protocol):
    """Whole images, all of one size."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Image: ...


def statistics_batches(by: Normalisation, target: Images, *, count: int, size: int) -> Iterator[Tensor]:
    """At most `count` whole images, evenly spread over the set, as normalised batches size,3,H,W of at least two.

    In a fixed random order: consecutive frames of a drive are nearly equal, so a batch of them would not represent the
    camera.
    """
    for chosen in _groups(len(target), count, size):
        yield normalise(torch.stack([torch.from_numpy(target[index]) for index in chosen]), by)


def _groups(length: int, count: int, size: int) -> Iterator[list[int]]:
    """The positions of `statistics_batches`."""
    size, places = max(2, size), evenly_spread(length, count)
    count = len(places)
    chosen = [places[place] for place in np.random.default_rng(0).permutation(count)]
    for start in range(0, max(1, count - count % size), size):
        yield chosen[start : start + size]


def start_batches(run: Run) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Target images for `Diagnostics.begin`, on the run's device, with the pixels that are never learned from."""
    target, size_hw = needed(run.target), run.config.model.input_hw
    for chosen in _groups(len(target), START_IMAGES, run.config.adaptation.batch):
        frames = torch.stack([torch.from_numpy(target[index]) for index in chosen])
        ignored = [target.ignored(index) for index in chosen]
        covered = None
        if any(each is not None for each in ignored):
            whole = [np.zeros(size_hw, bool) if each is None else each for each in ignored]
            covered = torch.from_numpy(np.stack(whole)).to(run.device)
        yield normalise(frames.to(run.device), run.segmenter.normalisation), covered
