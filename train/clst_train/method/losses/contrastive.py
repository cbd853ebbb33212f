"""Contrastive alignment of class-wise mean projections with the global source prototypes.

Legend: N images, C classes, D projection channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clst_train.compute.distributed import mean_over
from clst_train.method.prototypes import ClassMeans, Prototypes


def contrastive_loss(batch: ClassMeans, prototypes: Prototypes, temperature: float) -> Tensor:
    """L_CL = −1/|A| Σ_{(i,c)∈A} log( exp(m_ic·q_c/τ) / Σ_k exp(m_ic·q_k/τ) )  (equation 6).

    A holds the (image, class) pairs that are present and whose prototype has been seen; prototypes never seen
    stay out of the denominator. Returns a scalar, 0 (with a gradient of 0) when A is empty.
    """
    class_count = prototypes.seen.shape[0]
    logits = batch.means @ prototypes.vectors().to(batch.means.dtype).T / temperature  # N,C,C
    logits = logits.float().masked_fill(~prototypes.seen, -1e9)
    labels = torch.arange(class_count, device=logits.device)
    per_pair = F.cross_entropy(logits.flatten(0, 1), labels.repeat(batch.means.shape[0]), reduction="none")  # N·C
    pairs = (batch.present & prototypes.seen).flatten().to(per_pair.dtype)
    return mean_over((per_pair * pairs).sum(), pairs.sum())
