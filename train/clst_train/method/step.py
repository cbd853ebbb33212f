"""One step of the adaptation, as the algorithm reads (the numbers are those of docs/method.md).

Legend: B images, C classes, D projection channels, K,L rows and columns of a crop, h,w at output stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.distributed import averaged_over_ranks
from clst_train.data.loading import SourceBatch, TargetBatch
from clst_train.method.learner import Learner
from clst_train.method.losses.contrastive import contrastive_loss
from clst_train.method.losses.distillation import distillation_loss
from clst_train.method.losses.entropy import entropy_loss
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.method.prototypes import ClassMeans, at_stride, class_means, labels_at_stride
from clst_train.method.teachers import Lesson, probabilities_of
from clst_train.method.views import (
    PLAIN,
    StudentView,
    WholeView,
    labels_of_crops,
    pixel_weights,
    pseudo_labels_of,
    seen_through,
    student_view,
    whole_view,
)
from clst_train.models.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step found; tensors stay on the device until somebody reads them."""

    loss: Tensor
    """Scalar with a gradient."""
    parts: dict[str, Tensor]
    """The loss's parts, detached scalars."""
    pseudo_labels: Tensor
    """B,K,L class ids of the target crops, `IGNORE_ID` under the ignore mask and in the padding."""
    lesson: Lesson
    """What the pseudo-labels come of."""
    target_means: ClassMeans
    """Mean projections of the target crops by pseudo-label."""


def adaptation_step(
    learner: Learner, source: SourceBatch, target: TargetBatch, *, target_weight: float, iteration: int = 0
) -> StepResult:
    """Losses of one iteration; moves the teacher and the prototypes. `target_weight` is the warm-up's 0 … 1."""
    settings, segmenter = learner.settings, learner.segmenter
    source_images, source_labels = learner.tensor(source.images), learner.plain(source.labels).long()

    view = _student_view(learner, source, target, (source_images, source_labels))
    # (1) what the network says now of the target images, (2) what it has said of them over time
    lesson = _lesson_on_whole(learner, target, iteration)
    with learner.autocast:
        of_source, source_projections = learner.passed(source_images)
        of_target, target_projections = learner.passed(view.images)
    if lesson is None:
        lesson = _lesson_on_crops(learner, target, view, of_target.logits)
    if learner.alignment is not None:
        lesson = learner.alignment.aligned(lesson)
    labels = view.labels(_pseudo_labels(lesson, target, view))  # (3) every pixel has one, no confidence threshold
    with learner.autocast:
        own_labels = labels.masked_fill(~view.own, IGNORE_ID)
        source_means, target_means = _means(  # (4)
            learner, (source_projections, target_projections), (source_labels, own_labels)
        )
    learner.prototypes.update(source_means)  # (5)

    trust = trust_of(learner, lesson, target, view)
    weights = pixel_weights(view, labels, segmenter.class_count, trust=trust, class_balance=settings.class_balance)
    supervised = segmentation_loss(of_source.logits, source_labels)
    self_training = segmentation_loss(of_target.logits, labels, weights)
    if of_source.auxiliary is not None and of_target.auxiliary is not None and settings.auxiliary_weight > 0:
        supervised = supervised + settings.auxiliary_weight * segmentation_loss(of_source.auxiliary, source_labels)
        auxiliary = segmentation_loss(of_target.auxiliary, labels, weights)
        self_training = self_training + settings.auxiliary_weight * auxiliary
    # (6) target means are drawn to the source prototypes; source means keep the space separated by class
    contrastive = contrastive_loss(target_means, learner.prototypes, settings.temperature)
    contrastive = contrastive + contrastive_loss(source_means, learner.prototypes, settings.temperature)
    terms = [
        ("self_training", settings.self_training_weight, self_training),
        ("contrastive", settings.contrastive_weight, contrastive),
        *_further_terms(learner, target, view, of_target.logits),
    ]
    unsupervised = torch.stack([weight * term for _, weight, term in terms]).sum()
    loss = supervised + target_weight * unsupervised  # (7)
    facts = {"source": supervised.detach()} | {name: term.detach() for name, _, term in terms}
    return StepResult(loss=loss, parts=facts, pseudo_labels=labels, lesson=lesson, target_means=target_means)


def _lesson_on_whole(learner: Learner, target: TargetBatch, iteration: int) -> Lesson | None:
    """Ask the teacher that the settings name; the ensemble is moved, or only read where its turn is not now.

    None where the ensemble takes in the student's own crops, which are still to be predicted. What is asked is the
    same on all ranks, which predict together: it goes by the whole batch.
    """
    settings, ensemble = learner.settings, learner.ensemble
    if learner.mean_teacher is not None:
        learner.mean_teacher.follow(learner.segmenter)
        said = _said_of(learner, learner.mean_teacher.network, target)
        return Lesson(averaged=said, renewed=True, hidden=_covered_cells(learner, target))
    if settings.teacher == "none":
        return Lesson(averaged=None)
    if settings.ensemble_view == "crops":
        return None
    if iteration % settings.ensemble_every and bool(ensemble.visited[target.shared_indices].all()):
        averaged = ensemble.recall(target.indices, learner.device)
        return Lesson(averaged=averaged, hidden=_covered_cells(learner, target))
    view = whole_view(iteration, settings.ensemble_zoom, mirror=settings.ensemble_mirror)
    now = _said_of(learner, learner.segmenter, target, view)
    ensemble.visited[target.shared_indices] = True
    averaged = ensemble.update(target.indices, now)
    return Lesson(averaged=averaged, current=now, renewed=True, hidden=_covered_cells(learner, target))


def _covered_cells(learner: Learner, target: TargetBatch) -> Tensor | None:
    """B,h,w bool: cells of the whole images whose middle lies under the ignore mask or in the padding; None = none."""
    if target.covered is None:
        return None
    return at_stride(learner.plain(target.covered), learner.ensemble.store.layout.size_hw)


def _said_of(learner: Learner, network: Segmenter, target: TargetBatch, view: WholeView = PLAIN) -> Tensor:
    images = view.seen(learner.tensor(target.whole), network.output_stride)
    said = probabilities_of(network, images, learner.autocast, learner.statistics)
    return view.back(said, learner.ensemble.store.layout.size_hw)


def _lesson_on_crops(learner: Learner, target: TargetBatch, view: StudentView, logits: Tensor) -> Lesson:
    """The ensemble moved by the student's own predictions B,C,k,l, in the cells where it sees the target itself."""
    now = logits.detach().float().softmax(dim=1)
    visible = at_stride(view.shown, (now.shape[2], now.shape[3]))
    averaged = learner.ensemble.update_views(target.indices, now, target.geometries, visible)
    return Lesson(averaged=averaged, current=now, hidden=~visible, of_crops=True)


def _pseudo_labels(lesson: Lesson, target: TargetBatch, view: StudentView) -> Tensor:
    if lesson.averaged is None:
        return torch.full_like(view.own, IGNORE_ID, dtype=torch.long)
    if lesson.of_crops:
        return labels_of_crops(lesson.averaged, (view.own.shape[1], view.own.shape[2]))
    return pseudo_labels_of(lesson.averaged, target.geometries)


def _student_view(
    learner: Learner, source: SourceBatch, target: TargetBatch, labelled: tuple[Tensor, Tensor]
) -> StudentView:
    pasted, count = None, len(target.crops)
    if learner.settings.class_mix:
        pasted = (labelled[0][:count], labelled[1][:count], learner.plain(source.mixing[:count]))
    hidden = None if target.hidden is None else learner.plain(target.hidden)
    return student_view(learner.tensor(target.crops), learner.plain(target.ignored), pasted, hidden)


def trust_of(learner: Learner, lesson: Lesson, target: TargetBatch, view: StudentView) -> Tensor | None:
    """Weight of the target's own pixels, a scalar or B,K,L; None = 1.

    Either each pixel's by the probability that the teacher gives its label, or of all alike the share of the batch's
    cells that the teacher is sure of; neither those under the ignore mask nor padding are asked for there.
    """
    settings = learner.settings
    if settings.pseudo_label_weighting == "none" or lesson.averaged is None:
        return None
    probability = lesson.averaged.amax(dim=1)  # B,h,w
    if settings.pseudo_label_weighting == "probability":
        size_hw = (view.own.shape[1], view.own.shape[2])
        if lesson.of_crops:
            shown = F.interpolate(probability[:, None].float(), size=size_hw, mode="bilinear", align_corners=False)
        else:
            shown = seen_through(probability[:, None], target.geometries, size_hw)
        return shown[:, 0] ** settings.probability_exponent
    sure = probability > settings.confidence_threshold
    if lesson.of_crops:
        covered = at_stride(learner.plain(target.ignored), (sure.shape[1], sure.shape[2]))
    else:
        covered = torch.zeros_like(sure) if lesson.hidden is None else lesson.hidden
    share = (sure & ~covered).float().sum() / (~covered).sum().clamp_min(1)
    return averaged_over_ranks({"sure": share})["sure"]  # type: ignore[no-any-return]


def _further_terms(
    learner: Learner, target: TargetBatch, view: StudentView, logits: Tensor
) -> Iterator[tuple[str, float, Tensor]]:
    """Name, weight and value of the terms on target predictions B,C,h,w that need no pseudo-labels, where asked for."""
    settings, size_hw = learner.settings, (logits.shape[2], logits.shape[3])
    cells = at_stride(view.visible, size_hw)
    if settings.entropy_weight > 0:
        yield "entropy", settings.entropy_weight, entropy_loss(logits, cells)
    if learner.distiller is not None:
        temperature, whole = settings.distil_temperature, learner.tensor(target.whole)
        said = learner.distiller.probabilities(whole, temperature, learner.autocast)
        taught = seen_through(said, target.geometries, size_hw)
        yield "distillation", settings.distil_weight, distillation_loss(logits, taught, cells, temperature)


def _means(learner: Learner, projections: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]) -> list[ClassMeans]:
    """Class means of both domains' projections B,D,h,w by labels B,K,L, made together."""
    both = torch.cat(projections).float()
    strided = labels_at_stride(torch.cat(labels), (both.shape[2], both.shape[3]))
    found = class_means(both, strided, learner.segmenter.class_count, learner.settings.minimum_pixels)
    counts = [len(each) for each in projections]
    parts = zip(torch.split(found.means, counts), torch.split(found.present, counts), strict=True)
    return [ClassMeans(means=means, present=present) for means, present in parts]
