"""Contrast of pixels' projections with the global source prototypes.

Legend: N images, C classes, D projection channels, h rows and w columns of the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.distributed import mean_over, total
from clst_train.method.prototypes import MINIMUM_PIXELS, Prototypes

TEMPERATURE = 0.1
"""τ."""


def contrastive_loss(projections: Tensor, labels: Tensor, prototypes: Prototypes) -> Tensor:
    """L_CL = −1/|A| Σ_{c∈A} 1/|P_c| Σ_{p∈P_c} log( exp(z_p·q_c/τ) / Σ_k exp(z_p·q_k/τ) )  (equation 6).

    P_c are the batch's pixels with label c; A holds the classes with at least `MINIMUM_PIXELS` of them whose prototype
    has been seen. So small classes count as much as large ones. Prototypes never seen stay out of the denominator.

    Args:
        projections: N,D,h,w unit vectors z.
        labels: N,h,w class ids; `IGNORE_ID` counts for no class.
        prototypes: q.

    Returns a scalar, 0 (with a gradient of 0) when A is empty.
    """
    count = len(prototypes.seen)
    similarities = torch.einsum("ndhw,cd->nchw", projections, prototypes.vectors().to(projections.dtype))
    logits = (similarities.float() / TEMPERATURE).masked_fill(~prototypes.seen[:, None, None], -1e9)
    known = (labels < count) & prototypes.seen[labels.clamp_max(count - 1)]
    terms = F.cross_entropy(logits, labels.masked_fill(~known, IGNORE_ID), ignore_index=IGNORE_ID, reduction="none")
    sums, counts = (torch.zeros(count + 1, device=terms.device) for _ in range(2))
    place = labels.masked_fill(~known, count).flatten()  # the last place is for none
    sums = sums.index_add(0, place, terms.flatten())[:count]
    counts = counts.index_add(0, place, torch.ones_like(terms.flatten()))[:count]
    present = (total(counts) >= MINIMUM_PIXELS).to(terms.dtype)  # C
    return (mean_over(sums, counts) * present).sum() / present.sum().clamp_min(1.0)
