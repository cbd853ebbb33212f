"""Entropy of predictions, to be minimised directly on images without labels (the direct form of Vu et al. 2019).

Legend: N images, C classes, h rows and w columns at output stride.
"""

from __future__ import annotations

import math

from torch import Tensor

from clst_train.compute.distributed import mean_over


def entropy_loss(logits: Tensor, counted: Tensor) -> Tensor:
    """Mean of −Σ_c p_c log p_c / log C over the cells where `counted` is True: 0 (sure) … 1 (uniform).

    Args:
        logits: N,C,h,w, C ≥ 2.
        counted: N,h,w bool.

    Returns a scalar; 0 (with a gradient of 0) when no cell is counted.
    """
    log_probabilities = logits.float().log_softmax(dim=1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1) / math.log(max(2, logits.shape[1]))  # N,h,w
    return mean_over((entropy * counted).sum(), counted.sum())
