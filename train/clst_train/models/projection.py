"""The projection head g: exists in training only. Legend: N images, D features, P projection channels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 128
"""Channels of the projection space and of the head's hidden layer."""


class ProjectionHead(nn.Module):
    """1×1 convolution, ReLU, 1×1 convolution, L2-normalised output (equation 4)."""

    def __init__(self, inputs: int, hidden: int = WIDTH, outputs: int = WIDTH) -> None:
        super().__init__()
        self.hidden, self.output = nn.Conv2d(inputs, hidden, 1), nn.Conv2d(hidden, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """g(f): N,D,h,w to unit vectors N,P,h,w in float32."""
        return F.normalize(self.output(F.relu(self.hidden(features))).float(), dim=1, eps=1e-6)
