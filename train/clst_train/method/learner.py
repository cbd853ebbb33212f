"""Everything that a step of the adaptation reads or changes, in one place.

Legend: B images, K,L rows and columns of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from clst_train.compute.passes import Passes
from clst_train.config import AdaptationConfig
from clst_train.method.alignment import DistributionAlignment
from clst_train.method.batchnorm import FollowedStatistics
from clst_train.method.ensemble.temporal import TemporalEnsemble
from clst_train.method.prototypes import Prototypes
from clst_train.method.start_weights import StartWeights
from clst_train.method.teachers import Distiller, MeanTeacher
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
    ensemble: TemporalEnsemble
    """Z_i."""
    settings: AdaptationConfig
    """Weights and constants."""
    device: torch.device
    """Where the network is."""
    autocast: torch.autocast
    """Precision of the forward passes; re-entrant."""
    statistics: FollowedStatistics | None = None
    """BatchNorm statistics by which whole images are predicted; None = the network's running ones."""
    mean_teacher: MeanTeacher | None = None
    """Speaks in the ensemble's place when `settings.teacher` says so."""
    alignment: DistributionAlignment | None = None
    """Holds the class shares of what the teacher says; None = they go where they go."""
    distiller: Distiller | None = None
    """Another adapted network to learn from as well."""
    start: StartWeights | None = None
    """What self-training begins with, for the result; None = the result is what it ends with."""
    passes: nn.Module | None = None
    """`Passes` over all ranks; None = in this process alone."""

    def passed(self, images: Tensor) -> tuple[TrainingOutputs, Tensor]:
        """Training outputs and projections B,D,h,w of normalised images B,3,K,L."""
        passes = self.passes if self.passes is not None else Passes(self.segmenter, self.projection)
        outputs, projections = passes(images)
        return outputs, projections

    def tensor(self, frames: np.ndarray) -> Tensor:
        """B,K,L,3 uint8 frames as normalised B,3,K,L on the device."""
        return normalise_in_training(self.plain(frames))

    def plain(self, values: np.ndarray) -> Tensor:
        """Any array as it is, on the device."""
        return torch.from_numpy(values).to(self.device, non_blocking=True)
