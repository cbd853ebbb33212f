"""Distribution alignment: the pseudo-labels keep the class shares that the starting network gave the new camera.

Self-training moves the shares of classes: what is rare dies out in the labels or, where rare classes weigh more,
spreads over its neighbours, because each error is the next step's label. Legend: B images, C classes, h,w at output
stride.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from clst_train.compute.distributed import total
from clst_train.method.teachers import Lesson

MOMENTUM = 0.98
"""Of the share that labels have now, per step: a mean over some 50 batches."""
LEAST = 1e-4
"""Added to every share, so that a class that was or is hardly there does not move by chance."""
MOST = 4.0
"""A class's probability is raised or lowered by this factor at most."""


class DistributionAlignment:
    """The class shares of the pseudo-labels, at the start and now, on the device.

    After Berthelot et al., ReMixMatch (2020, https://arxiv.org/abs/1911.09785, section 3.1), who align with the
    labelled data's shares; another country's or hour's differ, so here it is with what the starting network predicts
    on the target.
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
    def aligned(self, lesson: Lesson) -> Lesson:
        """The lesson with the shares held; moves the shares of now by its own, as they were before, on all ranks."""
        averaged = lesson.averaged
        if averaged is None:
            return lesson
        ids = torch.arange(len(self.now), device=averaged.device)
        labelled = averaged.argmax(dim=1)[:, None] == ids[:, None, None]  # B,C,h,w
        if lesson.hidden is not None:
            labelled = labelled & ~lesson.hidden[:, None]
        counts = total(labelled.sum((0, 2, 3)).float())
        shares = torch.where(counts.sum() > 0, counts / counts.sum().clamp_min(1.0), self.now)
        self.now.lerp_(shares, 1.0 - MOMENTUM)
        factors = ((self.start + LEAST) / (self.now + LEAST)) ** self.strength
        held = averaged * factors.clamp(1.0 / MOST, MOST)[:, None, None].to(averaged.dtype)
        return dataclasses.replace(lesson, averaged=held / held.sum(dim=1, keepdim=True).clamp_min(1e-12))

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs to go on exactly."""
        return {"start": self.start, "now": self.now}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's state."""
        for name in ("start", "now"):
            getattr(self, name).copy_(state[name])
