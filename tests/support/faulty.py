"""Networks of users that cannot be trained, copied or exported, each by one fault that shows in one pass only."""

from __future__ import annotations

import threading

import torch
from torch import nn
from torch.nn import functional as F

from tests.support.foreign import Plain


class NotANumber(Plain):
    def forward(self, images: torch.Tensor) -> object:
        return super().forward(images) * float("nan")  # type: ignore[operator]


class NotANumberInTraining(Plain):
    def forward(self, images: torch.Tensor) -> object:
        return super().forward(images) * (float("nan") if self.training else 1.0)  # type: ignore[operator]


class Random(Plain):
    def forward(self, images: torch.Tensor) -> object:
        return super().forward(F.dropout(images, 0.5))


class InPlace(Plain):
    def forward(self, images: torch.Tensor) -> object:
        features = self.features(images).sigmoid()
        logits = self.classifier(features * features)
        features.mul_(2)
        return logits


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(context: object, values: torch.Tensor) -> torch.Tensor:
        return values * 2


class WithoutBackward(Plain):
    def forward(self, images: torch.Tensor) -> object:
        return self.classifier(_Doubled.apply(self.features(images)))


class OnlyToItsSize(Plain):
    """As one with a table of positions."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.positions = Positions()

    def forward(self, images: torch.Tensor) -> object:
        return super().forward(self.positions(images))


class Positions(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] > 64:
            raise IndexError("no position there")
        return images


class OnlyInFloat32(Plain):
    def forward(self, images: torch.Tensor) -> object:
        logits = super().forward(images)
        filled = torch.zeros(logits.shape, device=logits.device)  # type: ignore[attr-defined]
        filled[:, torch.arange(filled.shape[1])] = logits  # type: ignore[call-overload]
        return filled


class NotCopied(Plain):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.lock = threading.Lock()


class ByItsPixels(Plain):
    def forward(self, images: torch.Tensor) -> object:
        logits = super().forward(images)
        return logits if images.mean() > 0 else -logits  # type: ignore[operator]


def half_frozen(classes: int) -> nn.Module:
    network = Plain(classes)
    network.features.requires_grad_(False)
    return network
