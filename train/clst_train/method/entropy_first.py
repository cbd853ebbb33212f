"""The steps before self-training, which minimise the entropy of target predictions without pseudo-labels.

Self-training keeps the starting network's errors on large areas. Minimising the entropy first lets the confident part
of an area win over the rest (ADVENT's direct form, Vu et al. 2019; decision 23).
"""

from __future__ import annotations

import torch

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.data.loading import SourceBatch, TargetBatch
from clst_train.method.crops import student_crops
from clst_train.method.learner import Learner
from clst_train.method.losses.contrastive import contrastive_loss
from clst_train.method.losses.entropy import entropy_loss
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.method.prototypes import at_stride, class_means, labels_at_stride
from clst_train.method.step import StepResult
from clst_train.method.teachers import SoftLabels

WEIGHT = 0.1
"""Of the entropy."""


def entropy_step(learner: Learner, source: SourceBatch, target: TargetBatch, *, target_weight: float) -> StepResult:
    """Losses of one such step: source cross-entropy and the entropy of target crops, nothing pasted.

    `target_weight` is the warm-up's 0 … 1. The projection head learns from source pixels, and the prototypes follow the
    network.
    """
    source_labels = learner.plain(source.labels).long()
    crops = student_crops(learner.tensor(target.crops), learner.plain(target.ignored), pasted=None)
    with learner.autocast:
        of_source, projections = learner.outputs_of(learner.tensor(source.images))
        of_target, _ = learner.outputs_of(crops.images)
    cells = labels_at_stride(source_labels, (projections.shape[2], projections.shape[3]))
    learner.prototypes.update(class_means(projections, cells, learner.segmenter.class_count))
    supervised = segmentation_loss(of_source.logits, source_labels)
    contrastive = contrastive_loss(projections, cells, learner.prototypes)
    visible = at_stride(crops.visible, (of_target.logits.shape[2], of_target.logits.shape[3]))
    entropy = entropy_loss(of_target.logits, visible)
    parts = {"source": supervised, "contrastive": contrastive, "entropy": entropy}
    unsupervised = learner.settings.contrastive_weight * contrastive + WEIGHT * entropy
    return StepResult(
        loss=supervised + target_weight * unsupervised,
        parts={name: part.detach() for name, part in parts.items()},
        pseudo_labels=torch.full_like(crops.own, IGNORE_ID, dtype=torch.long),
        soft_labels=SoftLabels(probabilities=None),
        target_means=None,
    )
