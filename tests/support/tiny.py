"""A network, batches and a learner so small that a step's numbers can be counted by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from clst_train.config import AdaptationConfig
from clst_train.data.augment import Geometry
from clst_train.data.loading import SourceBatch, TargetBatch
from clst_train.inspection.diagnostics import Diagnostics
from clst_train.method.batchnorm import FollowedStatistics
from clst_train.method.ensemble.temporal import TemporalEnsemble
from clst_train.method.learner import Learner
from clst_train.method.prototypes import Prototypes
from clst_train.method.step import StepResult
from clst_train.method.teachers import MeanTeacher
from clst_train.models.projection import ProjectionHead
from clst_train.models.segmenter import Segmenter, TrainingOutputs

CPU = torch.device("cpu")
CLASSES, SIZE_HW = 3, (4, 6)


class TinySegmenter(Segmenter):
    """F: BatchNorm and a 1×1 convolution to 4 features at stride 1; C: a 1×1 convolution."""

    feature_channels, output_stride, class_count = 4, 1, CLASSES

    def __init__(self, *, with_auxiliary: bool = False) -> None:
        super().__init__()
        self.norm, self.body = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)
        self.head = nn.Conv2d(4, CLASSES, 1)
        self.auxiliary_head = nn.Conv2d(4, CLASSES, 1) if with_auxiliary else None

    def training_outputs(self, images):
        features = torch.relu(self.body(self.norm(images)))
        auxiliary = self.auxiliary_head(features) if self.auxiliary_head is not None else None
        return TrainingOutputs(features=features, logits=self.head(features), auxiliary=auxiliary)


def batches(*, seed: int = 0, size: int = 2, ignored: bool = False) -> tuple[SourceBatch, TargetBatch]:
    """Random pictures; the target's crops are its whole images."""
    rng = np.random.default_rng(seed)
    shape = (size, *SIZE_HW)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for _ in range(2)]
    labels = rng.integers(0, CLASSES, shape).astype(np.uint8)
    whole = Geometry(zoomed_hw=SIZE_HW, top=0, left=0, crop_hw=SIZE_HW, mirrored=False)
    covered = np.full(shape, ignored)
    return (
        SourceBatch(images=images[0], labels=labels, mixing=labels == 1),
        TargetBatch(
            indices=np.arange(size),
            whole=images[1],
            crops=images[1].copy(),
            ignored=covered,
            geometries=(whole,) * size,
        ),
    )


def observed(one: Learner, *results: StepResult) -> Diagnostics:
    """The counters after these steps."""
    found = Diagnostics(CLASSES, one.device)
    for result in results:
        found.see(result.soft_labels, result.target_means, one.prototypes)
    return found


def learner(
    *, seed: int = 0, images: int = 2, with_auxiliary: bool = False, device: torch.device = CPU, **settings: object
) -> Learner:
    """A learner of the tiny network."""
    torch.manual_seed(seed)
    segmenter, values = TinySegmenter(with_auxiliary=with_auxiliary).train().to(device), AdaptationConfig(**settings)
    store, visits = np.zeros((images, CLASSES, *SIZE_HW), np.uint16), np.zeros(images, np.int64)
    ensemble = TemporalEnsemble(store, visits, values.ensemble_momentum) if values.teacher == "ensemble" else None
    return Learner(
        segmenter=segmenter,
        projection=ProjectionHead(4, 5, 5).to(device),
        prototypes=Prototypes(CLASSES, 5, device),
        cells_hw=SIZE_HW,
        settings=values,
        device=device,
        autocast=torch.autocast(device.type, dtype=torch.bfloat16, enabled=False),
        statistics=FollowedStatistics(segmenter),
        ensemble=ensemble,
        mean_teacher=MeanTeacher(segmenter),
    )
