"""One step of the adaptation, as the algorithm reads (the numbers are those of docs/method.md).

Legend: B images, C classes, D projection channels, K,L rows and columns of a crop, h,w at output stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.distributed import averaged_over_ranks
from clst_train.data.loading import SourceBatch, TargetBatch
from clst_train.method.crops import (
    UNCHANGED,
    ImageAugmentation,
    StudentCrops,
    draw_image_augmentation,
    pixel_weights,
    pseudo_labels_of,
    student_crops,
    through_crops,
)
from clst_train.method.learner import Learner
from clst_train.method.losses.contrastive import contrastive_loss
from clst_train.method.losses.distillation import distillation_loss
from clst_train.method.losses.entropy import entropy_loss
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.method.prototypes import ClassMeans, at_stride, class_means, labels_at_stride
from clst_train.method.teachers import SoftLabels, probabilities_of
from clst_train.models.segmenter import Segmenter

EXPONENT = 3.0
"""A doubtful label of probability 0.6 weighs a fifth of a sure one (decision 17)."""
CONFIDENT = 0.968
"""Probability from which `confident_share` calls a pixel sure (DACS, DAFormer)."""


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
    target_means: ClassMeans
    """Mean projections of the target crops by pseudo-label."""


def adaptation_step(
    learner: Learner,
    source: SourceBatch,
    target: TargetBatch,
    *,
    target_weight: float,
    iteration: int = 0,
    predicts: bool = True,
) -> StepResult:
    """Losses of one iteration; moves the teacher and the prototypes.

    `target_weight` is the warm-up's 0 … 1; `predicts` is whether the ensemble takes in predictions in this step.
    """
    settings, segmenter = learner.settings, learner.segmenter
    source_images, source_labels = learner.tensor(source.images), learner.plain(source.labels).long()

    crops = _student_crops_of(learner, source, target, (source_images, source_labels))
    # (1) the network's prediction of the whole target images now, (2) its average over their visits
    soft_labels = _soft_labels(learner, target, iteration, predicts=predicts)
    with learner.autocast:
        of_source, source_projections = learner.outputs_of(source_images)
        of_target, target_projections = learner.outputs_of(crops.images)
    # (3) every pixel has a pseudo-label, no confidence threshold
    labels = crops.labels(_pseudo_labels(soft_labels, target, crops))
    with learner.autocast:
        own_labels = labels.masked_fill(~crops.own, IGNORE_ID)
        source_means, target_means = _means(  # (4)
            learner, (source_projections, target_projections), (source_labels, own_labels)
        )
    learner.prototypes.update(source_means)  # (5)

    confidence = confidence_weights(learner, soft_labels, target, crops)
    balance = settings.class_balance
    weights = pixel_weights(crops, labels, segmenter.class_count, confidence=confidence, class_balance=balance)
    supervised = segmentation_loss(of_source.logits, source_labels)
    self_training = segmentation_loss(of_target.logits, labels, weights)
    # (6) pulls target means to the source prototypes; the source means keep classes apart in that space
    contrastive = contrastive_loss(target_means, learner.prototypes, settings.temperature)
    contrastive = contrastive + contrastive_loss(source_means, learner.prototypes, settings.temperature)
    terms = [
        ("self_training", settings.self_training_weight, self_training),
        ("contrastive", settings.contrastive_weight, contrastive),
        *_further_terms(learner, target, crops, of_target.logits),
    ]
    unsupervised = torch.stack([weight * term for _, weight, term in terms]).sum()
    loss = supervised + target_weight * unsupervised  # (7)
    facts = {"source": supervised.detach()} | {name: term.detach() for name, _, term in terms}
    return StepResult(loss=loss, parts=facts, pseudo_labels=labels, soft_labels=soft_labels, target_means=target_means)


def _soft_labels(learner: Learner, target: TargetBatch, iteration: int, *, predicts: bool) -> SoftLabels:
    """The teacher's probabilities of whole images; the ensemble's from its store, where the step predicts none."""
    settings, ensemble = learner.settings, learner.ensemble
    if learner.mean_teacher is not None:
        learner.mean_teacher.follow(learner.segmenter)
        taught = _predicted(learner, learner.mean_teacher.network, target)
        return SoftLabels(probabilities=taught, hidden=_covered_cells(learner, target))
    if settings.teacher == "none":
        return SoftLabels(probabilities=None)
    stored = ensemble.recall(target.indices, learner.device)
    if not predicts:
        return SoftLabels(probabilities=stored, hidden=_covered_cells(learner, target))
    augmentation = draw_image_augmentation(iteration, settings.ensemble_zoom, mirror=settings.ensemble_mirror)
    now = _predicted(learner, learner.segmenter, target, augmentation)
    averaged = ensemble.update(target.indices, now)
    return SoftLabels(probabilities=averaged, student=now, before=stored, hidden=_covered_cells(learner, target))


def _covered_cells(learner: Learner, target: TargetBatch) -> Tensor | None:
    """B,h,w bool: cells of the whole images whose middle lies under the ignore mask or in the padding; None = none."""
    if target.covered is None:
        return None
    return at_stride(learner.plain(target.covered), learner.ensemble.size_hw)


def _predicted(
    learner: Learner, network: Segmenter, target: TargetBatch, augmentation: ImageAugmentation = UNCHANGED
) -> Tensor:
    """B,C,h,w probabilities of the batch's whole images."""
    images = augmentation.apply(learner.tensor(target.whole), network.size_multiple)
    probabilities = probabilities_of(network, images, learner.autocast, learner.statistics)
    return augmentation.undo(probabilities, learner.ensemble.size_hw)


def _pseudo_labels(soft_labels: SoftLabels, target: TargetBatch, crops: StudentCrops) -> Tensor:
    if soft_labels.probabilities is None:
        return torch.full_like(crops.own, IGNORE_ID, dtype=torch.long)
    return pseudo_labels_of(soft_labels.probabilities, target.geometries)


def _student_crops_of(
    learner: Learner, source: SourceBatch, target: TargetBatch, labelled: tuple[Tensor, Tensor]
) -> StudentCrops:
    pasted, count = None, len(target.crops)
    if learner.settings.class_mix:
        pasted = (labelled[0][:count], labelled[1][:count], learner.plain(source.mixing[:count]))
    hidden = None if target.hidden is None else learner.plain(target.hidden)
    return student_crops(learner.tensor(target.crops), learner.plain(target.ignored), pasted, hidden)


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


def _further_terms(
    learner: Learner, target: TargetBatch, crops: StudentCrops, logits: Tensor
) -> Iterator[tuple[str, float, Tensor]]:
    """Name, weight and value of the enabled terms on target predictions B,C,h,w that need no pseudo-labels."""
    settings, size_hw = learner.settings, (logits.shape[2], logits.shape[3])
    cells = at_stride(crops.visible, size_hw)
    if settings.entropy_weight > 0:
        yield "entropy", settings.entropy_weight, entropy_loss(logits, cells)
    if learner.distiller is not None:
        of_images = learner.distiller.probabilities(learner.plain(target.whole), learner.autocast)
        taught = through_crops(of_images, target.geometries, size_hw)
        yield "distillation", settings.distil_weight, distillation_loss(logits, taught, cells)


def _means(learner: Learner, projections: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]) -> list[ClassMeans]:
    """Class means of both domains' projections B,D,h,w by labels B,K,L, made together."""
    both = torch.cat(projections).float()
    strided = labels_at_stride(torch.cat(labels), (both.shape[2], both.shape[3]))
    found = class_means(both, strided, learner.segmenter.class_count)
    counts = [len(each) for each in projections]
    parts = zip(torch.split(found.means, counts), torch.split(found.present, counts), strict=True)
    return [ClassMeans(means=means, present=present) for means, present in parts]
