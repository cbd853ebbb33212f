"""What the target's pixels are labelled with (equations 1 and 2).

Legend: B images, C classes, h,w at output stride.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clst_train.data.loading import TargetBatch
from clst_train.method.learner import Learner
from clst_train.method.prototypes import at_stride
from clst_train.method.teachers import SoftLabels, probabilities_of


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
    """B,C,h,w probabilities of the batch's whole images."""
    images = learner.tensor(target.whole)
    found = probabilities_of(learner.mean_teacher.network, images, learner.autocast, learner.statistics)
    if found.shape[-2:] == learner.cells_hw:
        return found
    return F.interpolate(found, size=learner.cells_hw, mode="bilinear", align_corners=False)
