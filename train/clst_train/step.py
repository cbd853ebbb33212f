"""One step of the adaptation, as the algorithm reads (the numbers are those of docs/method.md).

Legend: B images, C classes, D projection channels, K,L rows and columns of a crop, h,w at output stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clst_runtime.labels import IGNORE_ID
from clst_train.batchnorm import frozen_statistics
from clst_train.config import AdaptationConfig
from clst_train.data.augment import Geometry
from clst_train.data.loading import SourceBatch, TargetBatch
from clst_train.ensemble import TemporalEnsemble
from clst_train.losses.contrastive import contrastive_loss
from clst_train.losses.segmentation import segmentation_loss
from clst_train.models.deployable import normalise
from clst_train.models.segmenter import Segmenter
from clst_train.prototypes import ClassMeans, Prototypes, class_means, labels_at_stride


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Everything that a step reads or changes."""

    segmenter: Segmenter
    """F and C."""
    projection: nn.Module
    """g; exists in training only."""
    prototypes: Prototypes
    """q_c."""
    ensemble: TemporalEnsemble
    """Z_i."""
    settings: AdaptationConfig
    """Weights and constants."""
    device: torch.device
    """Where the network is."""
    autocast: torch.autocast
    """Precision of the forward passes; re-entrant."""

    def tensor(self, frames: np.ndarray) -> Tensor:
        """B,K,L,3 uint8 frames as normalised B,3,K,L on the device."""
        return normalise(torch.from_numpy(frames).to(self.device, non_blocking=True))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step found; tensors stay on the device until somebody reads them."""

    loss: Tensor
    """Scalar with a gradient."""
    parts: dict[str, Tensor]
    """The loss's parts and the pseudo-label statistics, detached scalars."""
    pseudo_labels: Tensor
    """B,K,L class ids of the target crops, `IGNORE_ID` under the ignore mask."""


def pseudo_labels_of(ensemble: Tensor, views: tuple[Geometry, ...]) -> Tensor:
    """arg-max ẑ of whole images B,C,h,w seen through each crop's geometry: B,K,L  (equation 3)."""
    labels = []
    for probabilities, view in zip(ensemble, views, strict=True):
        zoomed = F.interpolate(probabilities[None], size=view.zoomed_hw, mode="bilinear", align_corners=False)[0]
        rows, columns = view.crop_hw
        part = zoomed[:, view.top : view.top + rows, view.left : view.left + columns].argmax(dim=0)
        labels.append(part.flip(1) if view.mirrored else part)
    return torch.stack(labels)


def adaptation_step(learner: Learner, source: SourceBatch, target: TargetBatch, *, target_weight: float) -> StepResult:
    """Losses of one iteration; moves the ensemble and the prototypes. `target_weight` is the warm-up's 0 … 1."""
    settings, segmenter = learner.settings, learner.segmenter

    # (1) what the network says now of the whole target images, with the new camera's own batch statistics
    with torch.no_grad(), frozen_statistics(segmenter), learner.autocast:
        probabilities = segmenter(learner.tensor(target.whole)).float().softmax(dim=1)  # B,C,h,w
    # (2) what it has said of them over time, (3) read as labels: every pixel has one, no confidence threshold
    averaged = learner.ensemble.update(target.indices, probabilities)
    pseudo_labels = pseudo_labels_of(averaged, target.geometries)
    pseudo_labels[torch.from_numpy(target.ignored).to(learner.device)] = IGNORE_ID

    source_labels = torch.from_numpy(source.labels).to(learner.device).long()
    images, labels, is_target = _student_view(learner, source, target, source_labels, pseudo_labels)
    with learner.autocast:
        of_source = segmenter.training_outputs(learner.tensor(source.images))
        of_target = segmenter.training_outputs(images)
        source_means = _means(learner, of_source.features, source_labels)
        target_only = labels.masked_fill(~is_target, IGNORE_ID)
        target_means = _means(learner, of_target.features, target_only)  # (4)
    learner.prototypes.update(source_means)  # (5)

    parts = {
        "source": segmentation_loss(of_source.logits, source_labels),
        "self_training": segmentation_loss(of_target.logits, labels),
        # (6) target means are drawn to the source prototypes; source means keep the space separated by class
        "contrastive": contrastive_loss(target_means, learner.prototypes, settings.temperature)
        + contrastive_loss(source_means, learner.prototypes, settings.temperature),
    }
    loss = parts["source"] + target_weight * (  # (7)
        settings.self_training_weight * parts["self_training"] + settings.contrastive_weight * parts["contrastive"]
    )
    facts = {name: value.detach() for name, value in parts.items()}
    facts["agreement"] = (averaged.argmax(1) == probabilities.argmax(1)).float().mean()
    facts["confidence"] = averaged.amax(dim=1).mean()
    return StepResult(loss=loss, parts=facts, pseudo_labels=pseudo_labels)


def _student_view(
    learner: Learner, source: SourceBatch, target: TargetBatch, source_labels: Tensor, pseudo_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Target crops for the student: images B,3,K,L, labels B,K,L and which pixels are the target's own B,K,L."""
    images = learner.tensor(target.crops)
    own = torch.ones_like(pseudo_labels, dtype=torch.bool)
    if not learner.settings.class_mix:
        return images, pseudo_labels, own
    count = len(images)
    pasted = torch.from_numpy(source.mixing[:count]).to(learner.device)
    images = torch.where(pasted[:, None], learner.tensor(source.images[:count]), images)
    return images, torch.where(pasted, source_labels[:count], pseudo_labels), own & ~pasted


def _means(learner: Learner, features: Tensor, labels: Tensor) -> ClassMeans:
    projections = learner.projection(features)  # B,D,h,w
    at_stride = labels_at_stride(labels, (projections.shape[2], projections.shape[3]))
    return class_means(projections.float(), at_stride, learner.segmenter.class_count, learner.settings.minimum_pixels)
