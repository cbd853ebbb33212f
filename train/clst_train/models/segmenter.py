"""The small interface that every network has: features, logits, and what training needs beside them.

Legend: N images, H rows, W columns of the input; D feature channels, C classes, h,w = H,W / output stride.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class TrainingOutputs:
    """One forward pass of training."""

    features: Tensor
    """N,D,h,w: f = F(x)."""
    logits: Tensor
    """N,C,h,w: C(f)."""
    auxiliary: Tensor | None
    """N,C,h,w logits of the auxiliary head, for networks that have one."""


class Segmenter(nn.Module, ABC):
    """Feature extractor F and classifier C. Modules named `auxiliary_head` exist in training only."""

    feature_channels: int
    """D."""
    output_stride: int
    """H / h."""
    class_count: int
    """C."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """f = F(x): normalised images N,3,H,W to features N,D,h,w."""

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """C(f): features N,D,h,w to class logits N,C,h,w."""

    @abstractmethod
    def training_outputs(self, images: Tensor) -> TrainingOutputs:
        """Features, logits and auxiliary logits of one pass over images N,3,H,W."""

    def forward(self, images: Tensor) -> Tensor:
        """C(F(x)): images N,3,H,W to logits N,C,h,w."""
        return self.logits(self.features(images))


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
