"""Distribution alignment: the pseudo-labels keep the class shares that the starting network predicts on the new camera.

Self-training shifts class shares, because each error becomes the next step's label: rare classes vanish or, where they
weigh more, spread over their neighbours. Legend: B images, C classes, h,w at output stride.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from clst_train.compute.distributed import total
from clst_train.method.teachers import SoftLabels

MOMENTUM = 0.98
"""Of the share that labels have now, per step: a mean over some 50 batches."""
LEAST = 1e-4
"""Added to every share, so that the ratio of two tiny shares does not depend on chance."""
MOST = 4.0
"""Largest factor by which a class's probability is raised or lowered."""


class DistributionAlignment:
    """The class shares of the pseudo-labels, at the start and now, on the device.

    After Berthelot et al., ReMixMatch (2020, https://arxiv.org/abs/1911.09785, section 3.1). They align with the
    labelled data's shares; those differ in another country or at another hour, so this aligns with what the starting
    network predicts on the target.
    """

    def __init__(self, strength: float, class_count: int, device: torch.device) -> None:
        self.strength = strength
        self.start = torch.zeros(class_count, device=device)  # C
        self.now = torch.zeros(class_count, device=device)  # C

    def begin(self, shares: Tensor) -> None:
        """Note the shares C that the starting network predicts on target images; they sum to 1."""
        self.start.copy_(shares)
        self.now.copy_(shares)

    @torch.no_grad()
    def aligned(self, soft_labels: SoftLabels) -> SoftLabels:
        """Soft labels with the class shares of the start; first averages their own shares into `now`, on all ranks."""
        probabilities = soft_labels.probabilities
        if probabilities is None:
            return soft_labels
        ids = torch.arange(len(self.now), device=probabilities.device)
        labelled = probabilities.argmax(dim=1)[:, None] == ids[:, None, None]  # B,C,h,w
        if soft_labels.hidden is not None:
            labelled = labelled & ~soft_labels.hidden[:, None]
        counts = total(labelled.sum((0, 2, 3)).float())
        shares = torch.where(counts.sum() > 0, counts / counts.sum().clamp_min(1.0), self.now)
        self.now.lerp_(shares, 1.0 - MOMENTUM)
        factors = ((self.start + LEAST) / (self.now + LEAST)) ** self.strength
        held = probabilities * factors.clamp(1.0 / MOST, MOST)[:, None, None].to(probabilities.dtype)
        return dataclasses.replace(soft_labels, probabilities=held / held.sum(dim=1, keepdim=True).clamp_min(1e-12))

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs to go on exactly."""
        return {"start": self.start, "now": self.now}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's state."""
        for name in ("start", "now"):
            getattr(self, name).copy_(state[name])
