"""Everything that a step of the adaptation reads or changes, in one place.

Legend: B images, K,L rows and columns of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from clst_train.compute.forward_pass import ForwardPass
from clst_train.config import AdaptationConfig
from clst_train.method.batchnorm import FollowedStatistics
from clst_train.method.ensemble.temporal import TemporalEnsemble
from clst_train.method.prototypes import Prototypes
from clst_train.method.teachers import MeanTeacher
from clst_train.models.deployable import normalise_in_training
from clst_train.models.segmenter import Segmenter, TrainingOutputs


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Everything that a step reads or changes."""

    segmenter: Segmenter
    """F and C."""
    projection: nn.Module
    """g; exists in training only."""
    prototypes: Prototypes
    """q_c."""
    cells_hw: tuple[int, int]
    """Rows and columns of the cells of a whole image, each of which has a pseudo-label."""
    settings: AdaptationConfig
    """Weights and constants."""
    device: torch.device
    """Where the network is."""
    autocast: torch.autocast
    """Precision of the forward passes; re-entrant."""
    mean_teacher: MeanTeacher
    """The averaged weights: they predict whole images, and are the result."""
    statistics: FollowedStatistics | None = None
    """The new camera's BatchNorm statistics, by which whole images are labelled; None = the network's running ones."""
    ensemble: TemporalEnsemble | None = None
    """Z_i, when `settings.teacher` is `ensemble`."""
    forward_pass: nn.Module | None = None
    """`ForwardPass` over all ranks; None = in this process alone."""

    def outputs_of(self, images: Tensor) -> tuple[TrainingOutputs, Tensor]:
        """Training outputs and projections B,D,h,w of normalised images B,3,K,L."""
        forward = self.forward_pass or ForwardPass(self.segmenter, self.projection)
        outputs, projections = forward(images)
        return outputs, projections

    def tensor(self, frames: np.ndarray) -> Tensor:
        """B,K,L,3 uint8 frames as normalised B,3,K,L on the device."""
        return normalise_in_training(self.plain(frames), self.segmenter.normalisation)

    def plain(self, values: np.ndarray) -> Tensor:
        """Any array as it is, on the device."""
        return torch.from_numpy(values).to(self.device, non_blocking=True)
