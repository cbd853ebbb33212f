"""Networks that label target images and are not trained on them.

Legend: B images, C classes, H and W of the whole image, h and w at output stride.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clst_train.method.batchnorm import FollowedStatistics
from clst_train.models.segmenter import Segmenter

MOMENTUM = 0.99
"""Of the mean teacher's weights, per step."""


@dataclass(frozen=True, kw_only=True)
class SoftLabels:
    """A teacher's class probabilities of whole target images; the pseudo-labels are the arg-max."""

    probabilities: Tensor | None
    """B,C,h,w: ẑ; None without a teacher."""
    now: Tensor | None = None
    """B,C,h,w: the prediction of this step; None where it made none."""
    before: Tensor | None = None
    """B,C,h,w: ẑ before this step's prediction was averaged in, zeros for a first one; None where none was."""
    hidden: Tensor | None = None
    """B,h,w bool: cells without a visible target pixel (ignore mask, padding); None = none."""


@torch.no_grad()
def probabilities_of(
    network: Segmenter,
    images: Tensor,
    autocast: torch.autocast,
    statistics: FollowedStatistics | None = None,
) -> Tensor:
    """Class probabilities B,C,h,w float32 of normalised whole images B,3,H,W, as the deployed network would give them.

    BatchNorm uses `statistics` and moves them; without, it uses the network's running ones, which stay. Never the
    batch's alone: a few images do not describe a camera (decision 10).
    """
    if statistics is None:
        was_training = network.training
        network.eval()
        with autocast:
            probabilities = network(images).float().softmax(dim=1)
        network.train(was_training)
        return probabilities  # type: ignore[no-any-return]
    # The class's own forward pass: compiled code ignores hooks that are added later
    with statistics.used_by(network), autocast:
        return type(network).forward(network, images).float().softmax(dim=1)


class MeanTeacher:
    """A network whose weights are a moving average of the student's (Tarvainen & Valpola 2017).

    θ' ← m_t θ' + (1 − m_t) θ with m_t = min(1 − 1/(t+1), m): a copy at t = 0, then a plain mean, at last momentum m.
    Its buffers are the student's; BatchNorm uses `FollowedStatistics` while it trains.
    """

    def __init__(self, student: Segmenter, momentum: float = MOMENTUM) -> None:
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.momentum = momentum
        self.steps = 0

    @torch.no_grad()
    def follow(self, student: Segmenter) -> None:
        """Average in the student's current weights."""
        momentum = min(1.0 - 1.0 / (self.steps + 1), self.momentum)
        # One call for many tensors: a fast GPU waits for calls
        torch._foreach_lerp_(list(self.network.parameters()), list(student.parameters()), 1.0 - momentum)
        buffers = list(zip(self.network.buffers(), student.buffers(), strict=True))
        for kind in {own.dtype for own, _ in buffers}:
            alike = [pair for pair in buffers if pair[0].dtype == kind]
            torch._foreach_copy_([own for own, _ in alike], [new for _, new in alike])
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly."""
        return {"steps": self.steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.steps = int(state["steps"])
        self.network.load_state_dict(state["network"])
