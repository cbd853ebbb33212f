"""What the target's pixels are labelled with, and how much each counts (equations 1 to 3).

Legend: B images, C classes, K,L rows and columns of a crop, h,w at output stride.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clst_train.compute.distributed import averaged_over_ranks
from clst_train.data.loading import TargetBatch
from clst_train.method.crops import StudentCrops, pixel_weights, through_crops
from clst_train.method.learner import Learner
from clst_train.method.prototypes import at_stride
from clst_train.method.teachers import SoftLabels, probabilities_of
from clst_train.models.segmenter import Segmenter

EXPONENT = 3.0
"""A doubtful label of probability 0.6 weighs a fifth of a sure one (decision 17)."""
CONFIDENT = 0.968
"""Probability from which `confident_share` calls a pixel sure (DACS, DAFormer)."""


def soft_labels_of(learner: Learner, target: TargetBatch, *, predicts: bool) -> SoftLabels:
    """The teacher's probabilities of whole images; the ensemble's from its store, where the step predicts none."""
    if learner.mean_teacher is not None:
        learner.mean_teacher.follow(learner.segmenter)
        taught = _predicted(learner, learner.mean_teacher.network, target)
        return SoftLabels(probabilities=taught, hidden=_covered_cells(learner, target))
    if learner.ensemble is None:
        return SoftLabels(probabilities=None)
    stored = learner.ensemble.recall(target.indices, learner.device)
    if not predicts:
        return SoftLabels(probabilities=stored, hidden=_covered_cells(learner, target))
    now = _predicted(learner, learner.segmenter, target)  # (1)
    averaged = learner.ensemble.update(target.indices, now)  # (2)
    return SoftLabels(probabilities=averaged, student=now, before=stored, hidden=_covered_cells(learner, target))


def _covered_cells(learner: Learner, target: TargetBatch) -> Tensor | None:
    """B,h,w bool: cells of the whole images whose middle lies under the ignore mask or in the padding; None = none."""
    if target.covered is None:
        return None
    return at_stride(learner.plain(target.covered), learner.cells_hw)


def _predicted(learner: Learner, network: Segmenter, target: TargetBatch) -> Tensor:
    """B,C,h,w probabilities of the batch's whole images."""
    found = probabilities_of(network, learner.tensor(target.whole), learner.autocast, learner.statistics)
    if found.shape[-2:] == learner.cells_hw:
        return found
    return F.interpolate(found, size=learner.cells_hw, mode="bilinear", align_corners=False)


def weights_of(
    learner: Learner, soft_labels: SoftLabels, target: TargetBatch, crops: StudentCrops, labels: Tensor
) -> Tensor | None:
    """B,K,L: how much each pixel of the student's crops with `labels` B,K,L counts; None = 1."""
    confidence = confidence_weights(learner, soft_labels, target, crops)
    balance = learner.settings.class_balance
    return pixel_weights(crops, labels, learner.segmenter.class_count, confidence=confidence, class_balance=balance)


def confidence_weights(
    learner: Learner, soft_labels: SoftLabels, target: TargetBatch, crops: StudentCrops
) -> Tensor | None:
    """Weight of the target's own pixels, a scalar or B,K,L; None = 1.

    Either per pixel the teacher's probability of its label, or for all pixels the share of the batch's cells above the
    confidence threshold, without those under the ignore mask and in the padding.
    """
    settings = learner.settings
    if settings.pseudo_label_weighting == "none" or soft_labels.probabilities is None:
        return None
    probability = soft_labels.probabilities.amax(dim=1)  # B,h,w
    if settings.pseudo_label_weighting == "probability":
        size_hw = (crops.own.shape[1], crops.own.shape[2])
        shown = through_crops(probability[:, None], target.geometries, size_hw)
        return shown[:, 0] ** EXPONENT
    confident = probability > CONFIDENT
    covered = torch.zeros_like(confident) if soft_labels.hidden is None else soft_labels.hidden
    share = (confident & ~covered).float().sum() / (~covered).sum().clamp_min(1)
    return averaged_over_ranks({"share": share})["share"]  # type: ignore[no-any-return]
