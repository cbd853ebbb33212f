"""One step of the adaptation, as the algorithm reads (the numbers are those of docs/method.md).

Legend: B images, C classes, D projection channels, K,L rows and columns of a crop, h,w at output stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.data.loading import SourceBatch, TargetBatch
from clst_train.method.crops import StudentCrops, class_weights, pseudo_labels_of, student_crops
from clst_train.method.labelling import soft_labels_of
from clst_train.method.learner import Learner
from clst_train.method.losses.contrastive import contrastive_loss
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.method.prototypes import ClassMeans, class_means, labels_at_stride
from clst_train.method.teachers import SoftLabels


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step found; tensors stay on the device until somebody reads them."""

    loss: Tensor
    """Scalar with a gradient."""
    parts: dict[str, Tensor]
    """The loss's parts, detached scalars."""
    pseudo_labels: Tensor
    """B,K,L class ids of the target crops, `IGNORE_ID` under the ignore mask and in the padding."""
    soft_labels: SoftLabels
    """What the pseudo-labels are taken from."""
    target_means: ClassMeans | None
    """Mean projections of the target crops by pseudo-label; None where there are no labels."""


def adaptation_step(
    learner: Learner, source: SourceBatch, target: TargetBatch, *, target_weight: float, predicts: bool = True
) -> StepResult:
    """Losses of one iteration; moves the ensemble and the prototypes.

    `target_weight` is the warm-up's 0 … 1; `predicts` is whether the ensemble takes in predictions in this step.
    """
    settings, count = learner.settings, learner.segmenter.class_count
    source_images, source_labels = learner.tensor(source.images), learner.plain(source.labels).long()
    crops = _student_crops_of(learner, source, target, (source_images, source_labels))

    # (1) the averaged weights' prediction of the whole target images now, (2) its average over their visits
    soft_labels = soft_labels_of(learner, target, predicts=predicts)
    labels = torch.full_like(crops.own, IGNORE_ID, dtype=torch.long)
    if soft_labels.probabilities is not None:  # (3) every pixel has a pseudo-label, no confidence threshold
        labels = pseudo_labels_of(soft_labels.probabilities, target.geometries)
    labels = crops.labels(labels)
    with learner.autocast:
        of_source, source_projections = learner.outputs_of(source_images)
        of_target, target_projections = learner.outputs_of(crops.images)
    size_hw = (source_projections.shape[2], source_projections.shape[3])
    source_cells = labels_at_stride(source_labels, size_hw)
    target_cells = labels_at_stride(labels.masked_fill(~crops.own, IGNORE_ID), size_hw)
    learner.prototypes.update(class_means(source_projections, source_cells, count))  # (4), (5)

    supervised = segmentation_loss(of_source.logits, source_labels)
    weights = class_weights(labels, count, settings.class_balance) if settings.class_balance > 0 else None
    self_training = segmentation_loss(of_target.logits, labels, weights)
    # (6) pulls target pixels to the source prototypes; the source's keep classes apart in that space
    contrastive = contrastive_loss(target_projections, target_cells, learner.prototypes)
    contrastive = contrastive + contrastive_loss(source_projections, source_cells, learner.prototypes)
    unsupervised = settings.self_training_weight * self_training + settings.contrastive_weight * contrastive
    parts = {"source": supervised, "self_training": self_training, "contrastive": contrastive}
    loss = supervised + target_weight * unsupervised  # (7)
    target_means = class_means(target_projections.detach(), target_cells, count)
    return StepResult(
        loss=loss, parts={name: part.detach() for name, part in parts.items()}, pseudo_labels=labels,
        soft_labels=soft_labels, target_means=target_means,
    )  # fmt: skip


def _student_crops_of(
    learner: Learner, source: SourceBatch, target: TargetBatch, labelled: tuple[Tensor, Tensor]
) -> StudentCrops:
    pasted, count = None, len(target.crops)
    if learner.settings.class_mix:
        pasted = (labelled[0][:count], labelled[1][:count], learner.plain(source.mixing[:count]))
    return student_crops(learner.tensor(target.crops), learner.plain(target.ignored), pasted)
