"""Diagnostics of the self-training: pseudo-labels, their changes, prototypes; and a warning when it collapses.

Counters stay on the device and are read every n steps; nothing here changes what is learnt.
With several processes the counters are those of all: every rank holds the same.
Legend: B images of a batch, C classes, D projection channels, h,w at output stride.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.distributed import total
from clst_train.compute.ranks import ranks
from clst_train.method.prototypes import ClassMeans, Prototypes, at_stride
from clst_train.method.teachers import SoftLabels, probabilities_of
from clst_train.models.segmenter import Segmenter

MEANS = ("flip_rate", "agreement", "confidence", "own_cosine", "other_cosine", "separation")
"""What is logged as a mean over the steps since the last reading; NaN when nothing was counted."""
START_IMAGES = 64
"""Target images, at most, that the starting network is asked for."""


class Diagnostics:
    """Counters since the last reading, on the device.

    flip_rate: share of cells whose pseudo-label a further prediction of the image changes.
    agreement: share of cells where the pseudo-label is what the averaged weights predict now.
    confidence: mean probability of the pseudo-labels.
    own_cosine, other_cosine: of a target class mean with its own prototype, and with the nearest other one.
    separation: cosine distance of a prototype from the nearest other one.
    """

    def __init__(self, class_count: int, device: torch.device) -> None:
        self.start = torch.zeros(class_count, device=device)  # C: shares that the starting network predicted
        self.counts = torch.zeros(class_count, device=device)  # C: cells by pseudo-label
        self.images = 0
        self.sums = torch.zeros(len(MEANS), 2, device=device)  # of each mean: sum and weight

    def cells_of(self, probabilities: Tensor, hidden: Tensor | None = None) -> Tensor:
        """B,h,w uint8: arg-max of B,C,h,w, `IGNORE_ID` where they are `hidden` B,h,w."""
        classes = probabilities.max(dim=1).indices.to(torch.uint8)
        return classes if hidden is None else classes.masked_fill(hidden, IGNORE_ID)

    def shares_of(self, cells: Tensor) -> Tensor:
        """C: cells by class."""
        return (cells.flatten()[:, None] == torch.arange(len(self.counts), device=cells.device)).sum(0).float()

    @torch.no_grad()
    def begin(
        self, network: Segmenter, batches: Iterable[tuple[Tensor, Tensor | None]], autocast: torch.autocast
    ) -> None:
        """Note what the starting network predicts on whole target images, batches N,3,H,W.

        Beside each, which of its pixels N,H,W do not count (ignore mask, padding); None = all do.
        """
        for images, covered in batches:
            predicted = probabilities_of(network, images, autocast)
            hidden = None if covered is None else at_stride(covered, (predicted.shape[2], predicted.shape[3]))
            self.start += self.shares_of(self.cells_of(predicted, hidden))
        self.start /= self.start.sum().clamp_min(1.0)

    @torch.no_grad()
    def see(self, soft_labels: SoftLabels, target: ClassMeans | None, prototypes: Prototypes) -> None:
        """Take in one step: the soft labels of its images, and the target's class means."""
        sums, counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        if target is not None:
            self._see_prototypes(target, prototypes, sums)
        if soft_labels.probabilities is not None:
            self._count_labels(soft_labels, soft_labels.probabilities, sums, counts)
        found = total(torch.cat([sums.flatten(), counts]))
        self.sums += found[: sums.numel()].view_as(sums)
        self.counts += found[sums.numel() :]

    def _count_labels(self, soft_labels: SoftLabels, averaged: Tensor, sums: Tensor, counts: Tensor) -> None:
        cells = self.cells_of(averaged, soft_labels.hidden)
        visible = cells != IGNORE_ID
        counts += self.shares_of(cells)
        self.images += len(averaged) * ranks().count
        _add(sums, "confidence", averaged.amax(dim=1), visible)
        if soft_labels.now is not None:
            _add(sums, "agreement", (self.cells_of(soft_labels.now, soft_labels.hidden) == cells).float(), visible)
        if soft_labels.before is not None:
            known = soft_labels.before.amax(dim=1) > 0
            changed = self.cells_of(soft_labels.before) != averaged.max(dim=1).indices
            _add(sums, "flip_rate", changed.float(), visible & known)

    def _see_prototypes(self, target: ClassMeans, prototypes: Prototypes, sums: Tensor) -> None:
        vectors, seen = prototypes.vectors(), prototypes.seen  # C,D and C
        itself = torch.eye(len(seen), dtype=torch.bool, device=seen.device)
        several = seen & (seen.sum() > 1)  # else there is no nearest other one
        cosines = target.means.float() @ vectors.T  # N,C,C
        pairs = target.present & seen
        _add(sums, "own_cosine", cosines.diagonal(dim1=1, dim2=2), pairs)
        _add(sums, "other_cosine", _largest(cosines, itself | ~seen), pairs & several)
        _add(sums, "separation", 1.0 - _largest(vectors @ vectors.T, itself | ~seen), several)

    def read(self) -> tuple[dict[str, float], list[float], int]:
        """The means by name, the pseudo-labels' class shares (C) and the images they come of; starts afresh."""
        numbers = torch.cat([self.sums[:, 0] / self.sums[:, 1], self.counts / self.counts.sum()]).tolist()
        images, self.images = self.images, 0
        self.sums.zero_()
        self.counts.zero_()
        return dict(zip(MEANS, numbers, strict=False)), numbers[len(MEANS) :], images

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs for the log to go on exactly."""
        kept = {name: getattr(self, name) for name in ("start", "counts", "sums")}
        return {**kept, "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        for name in ("start", "counts", "sums"):
            getattr(self, name).copy_(state[name])
        self.images = int(state["images"])


def _add(sums: Tensor, name: str, values: Tensor, counted: Tensor) -> None:
    """Sum and weight of the values that are counted, into the row of their name."""
    counted = counted.expand_as(values)
    sums[MEANS.index(name)] += torch.stack([torch.where(counted, values, 0.0).sum(), counted.sum().to(values.dtype)])


def _largest(cosines: Tensor, barred: Tensor) -> Tensor:
    return cosines.masked_fill(barred, -1.0).amax(dim=-1)


class CollapseWatch:
    """Warns, once for each kind, that the self-training amplifies its own errors."""

    IMAGES = 64
    """Images between two checks: a few images may really lack a class, and their labels may change by chance."""
    NOTABLE, VANISHED = 0.005, 0.02
    """A class counts that the start saw on this share of the cells; it is gone below this part of that."""
    DOMINANT = 0.9
    RESTLESS, CHECKS = 0.25, 5
    """A mean flip rate above this, in so many checks in a row."""

    def __init__(self, names: Sequence[str], start: Sequence[float]) -> None:
        self.names, self.start = names, start
        self.reported: set[str] = set()
        self.shares, self.images = [0.0] * len(names), 0
        self.flips: list[float] = []
        self.restless = 0

    def warnings(self, flip_rate: float, shares: Sequence[float], images: int) -> list[str]:
        """New warnings after a reading of `Diagnostics` on so many images, one line each; mostly none."""
        if images and not math.isnan(sum(shares)):
            self.shares = [old + images * new for old, new in zip(self.shares, shares, strict=True)]
            self.images += images
        if not math.isnan(flip_rate):
            self.flips.append(flip_rate)
        if self.images < self.IMAGES:
            return []
        lines = self._of_shares([share / self.images for share in self.shares]) | self._of_flips()
        self.shares, self.images, self.flips = [0.0] * len(self.names), 0, []
        fresh = [f"warning: {line}" for kind, line in lines.items() if kind not in self.reported]
        self.reported |= lines.keys()
        return fresh

    def _of_flips(self) -> dict[str, str]:
        if not self.flips:
            return {}
        rate = sum(self.flips) / len(self.flips)
        self.restless = self.restless + 1 if rate > self.RESTLESS else 0
        if self.restless < self.CHECKS:
            return {}
        return {
            "restless": f"{100 * rate:.0f} % of the pseudo-labels still change from visit to visit; "
            "lower adaptation.learning_rate or raise adaptation.ensemble_momentum"
        }

    def _of_shares(self, shares: Sequence[float]) -> dict[str, str]:
        lines = {}
        gone = [
            f"{name} ({100 * before:.1f} % at the start)"
            for name, before, now in zip(self.names, self.start, shares, strict=True)
            if before >= self.NOTABLE and now < self.VANISHED * before
        ]
        if gone:
            lines["vanished"] = (
                f"{', '.join(gone)} vanished from the pseudo-labels; train the source model longer, or lower "
                "adaptation.self_training_weight"
            )
        most = max(range(len(shares)), key=lambda index: shares[index])
        if shares[most] > self.DOMINANT >= self.start[most]:
            lines["dominant"] = (
                f"{self.names[most]} is {100 * shares[most]:.0f} % of the pseudo-labels "
                f"({100 * self.start[most]:.0f} % at the start); train the source model longer, or lower "
                "adaptation.learning_rate or adaptation.self_training_weight"
            )
        return lines
