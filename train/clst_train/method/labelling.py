"""What the target's pixels are labelled with (equations 1 and 2).

Legend: B images, C classes, h,w at output stride.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clst_train.data.loading import TargetBatch
from clst_train.method.learner import Learner
from clst_train.method.losses.contrastive import prototype_logits
from clst_train.method.prototypes import at_stride
from clst_train.method.teachers import SoftLabels, outputs_of_whole

SHARE = 0.5
"""β: how much the prototypes count beside the classifier (decision 51)."""
LEAST_PROBABILITY = 1e-6
"""Of a class by the prototypes, so that they alone exclude none."""


def soft_labels_of(learner: Learner, target: TargetBatch, *, predicts: bool) -> SoftLabels:
    """The teacher's probabilities of whole images; the ensemble's from its store, where the step predicts none."""
    if learner.settings.teacher == "none":
        return SoftLabels(probabilities=None)
    if learner.ensemble is None:
        taught = _predicted(learner, target)
        return SoftLabels(probabilities=taught, hidden=_covered_cells(learner, target))
    stored = learner.ensemble.recall(target.indices, learner.device)
    if not predicts:
        return SoftLabels(probabilities=stored, hidden=_covered_cells(learner, target))
    now = _predicted(learner, target)  # (1)
    averaged = learner.ensemble.update(target.indices, now)  # (2)
    return SoftLabels(probabilities=averaged, now=now, before=stored, hidden=_covered_cells(learner, target))


def _covered_cells(learner: Learner, target: TargetBatch) -> Tensor | None:
    """B,h,w bool: cells of the whole images whose middle lies under the ignore mask or in the padding; None = none."""
    if target.covered is None:
        return None
    return at_stride(learner.plain(target.covered), learner.cells_hw)


def _predicted(learner: Learner, target: TargetBatch) -> Tensor:
    """B,C,h,w: what classifier and prototypes say of whole images; without the contrast the classifier alone."""
    images = learner.tensor(target.whole)
    outputs = outputs_of_whole(learner.mean_teacher.network, images, learner.autocast, learner.statistics)
    probabilities = _at_cells(outputs.logits.float().softmax(dim=1), learner.cells_hw)
    if learner.settings.contrastive_weight == 0:  # nothing trains the projection head
        return probabilities
    with torch.no_grad(), learner.autocast:
        projections = learner.projection(outputs.features)
    likelihoods = prototype_logits(projections, learner.prototypes).softmax(dim=1)
    return agreed(probabilities, _at_cells(likelihoods, learner.cells_hw), learner.prototypes.seen)


def agreed(probabilities: Tensor, likelihoods: Tensor, seen: Tensor) -> Tensor:
    """B,C,h,w: P'_c in proportion to P_c S_c^β among the classes `seen` (C bool), which keep what they have together.

    P: the classifier's `probabilities`, S: the prototypes' `likelihoods`, both B,C,h,w. A class without a prototype
    keeps its probability.
    """
    known = seen[:, None, None]
    product = torch.where(known, probabilities * likelihoods.clamp_min(LEAST_PROBABILITY) ** SHARE, 0.0)
    together = torch.where(known, probabilities, 0.0).sum(dim=1, keepdim=True)
    product = product * (together / product.sum(dim=1, keepdim=True).clamp_min(1e-12))
    return torch.where(known, product, probabilities)


def _at_cells(maps: Tensor, cells_hw: tuple[int, int]) -> Tensor:
    """Maps B,C,h,w at the cells' size."""
    if maps.shape[-2:] == cells_hw:
        return maps
    return F.interpolate(maps, size=cells_hw, mode="bilinear", align_corners=False)
