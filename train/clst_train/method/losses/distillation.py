"""Distillation: the student learns to predict as another network does (Hinton et al. 2015).

Legend: N images, C classes, h rows and w columns at output stride.
"""

from __future__ import annotations

from torch import Tensor

from clst_train.compute.distributed import mean_over


def distillation_loss(logits: Tensor, taught: Tensor, counted: Tensor) -> Tensor:
    """Mean of Σ_c p_c (log p_c − log q_c) over the cells where `counted` is True, q = softmax(logits).

    Args:
        logits: N,C,h,w of the student.
        taught: N,C,h,w probabilities p of the teacher.
        counted: N,h,w bool.

    Returns a scalar; 0 (with a gradient of 0) when no cell is counted.
    """
    log_student = logits.float().log_softmax(dim=1)
    divergence = (taught * (taught.clamp_min(1e-12).log() - log_student)).sum(dim=1)  # N,h,w
    return mean_over((divergence * counted).sum(), counted.sum())
