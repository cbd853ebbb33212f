"""The small interface that every network has: logits, and what training needs beside them.

Legend: N images, H rows, W columns of the input; D feature channels, C classes, h,w = H,W / output stride.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from clst_train.models.normalisation import IMAGENET, Normalisation


@dataclass(frozen=True, kw_only=True)
class TrainingOutputs:
    """One forward pass of training."""

    features: Tensor
    """N,D,h,w: f = F(x)."""
    logits: Tensor
    """N,C,…: C(f), at h,w or finer."""
    auxiliary: Tensor | None
    """N,C,… logits of the auxiliary head, for networks that have one."""


class Segmenter(nn.Module, ABC):
    """Feature extractor F and classifier C. Modules named `auxiliary_head` exist in training only."""

    feature_channels: int
    """D."""
    output_stride: int
    """H / h."""
    class_count: int
    """C."""
    normalisation: Normalisation = IMAGENET
    """How a camera frame becomes one of its images."""
    temperature: float = 1.0
    """By how much logits are divided where they become the confidence of what is deployed; training does not."""

    @property
    def size_multiple(self) -> int:
        """What H and W have to be multiples of."""
        return self.output_stride

    def cells_hw(self, input_hw: tuple[int, int], logits_hw: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the cells that pseudo-labels are kept in: the logits', or the features' where coarser."""
        rows, columns = (-(-size // self.output_stride) for size in input_hw)
        return min(rows, logits_hw[0]), min(columns, logits_hw[1])

    @abstractmethod
    def training_outputs(self, images: Tensor) -> TrainingOutputs:
        """Features, logits and auxiliary logits of one pass over normalised images N,3,H,W."""

    def forward(self, images: Tensor) -> Tensor:
        """C(F(x)): images N,3,H,W to logits N,C,…."""
        return self.training_outputs(images).logits


def initialise(network: nn.Module) -> None:
    """Kaiming-normal convolutions, unit BatchNorm."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
