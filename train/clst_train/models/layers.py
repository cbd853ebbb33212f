"""Layers that every network here is made of, and how their weights begin.

N batch, C channel, H row, W column.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Generator, Tensor, nn

BATCH_NORM_MOMENTUM = 0.1


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that also trains where a channel has one value only.

    The mean of one value is the value itself and its variance is 0: normalising by them would erase the
    signal, and PyTorch refuses it. This happens with one image per batch in a globally pooled branch, or with
    very small images. Such a call normalises by the running statistics and leaves them as they are. Every
    other call is PyTorch's own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N,C,H,W to the same shape."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def convolution(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A square convolution padded so that only the stride changes the size (odd kernels)."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, dilation=dilation, bias=bias)


def resize_to(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Bilinear resize N,C,h,w to N,C,H,W; the size enters an exported graph as a constant."""
    return F.interpolate(x, size=size_hw, mode="bilinear", align_corners=False)


def size_of(x: Tensor) -> tuple[int, int]:
    """(H, W) of N,C,H,W as plain integers, also while a graph is being traced."""
    return int(x.shape[-2]), int(x.shape[-1])


def initialise(module: nn.Module, generator: Generator | None = None) -> None:
    """Kaiming-normal convolutions (fan out, ReLU), zero biases, batch normalisation as the identity.

    `generator` decides the random numbers; without it they come from PyTorch's global one.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
