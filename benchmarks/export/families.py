"""Small networks of the families that people bring, each a plain `torch.nn.Module`: images N,3,H,W to logits N,C,h,w.

None knows of this project. They are built of the layers that decide whether a graph can be exported: transposed
convolutions and Concat (U-Net), squeeze-and-excitation with Hardswish (MobileNetV3 with LR-ASPP), LayerNorm over the
last axis with GELU (ConvNeXt), GroupNorm with SiLU, and attention (SegFormer).
Legend: N images, H rows, W columns of the input, C classes, h,w = H,W / output stride.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions 3×3 with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for given in (inputs, outputs):
        layers += [nn.Conv2d(given, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net of four levels; sizes must be multiples of 8."""

    def __init__(self, class_count: int, width: int = 16, *, transposed: bool = True) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(_double(given, own) for given, own in zip([3, *widths], widths, strict=False))
        pairs = list(zip(widths[1:], widths, strict=False))[::-1]
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(given, own, 2, stride=2) if transposed else nn.Conv2d(given, own, 1)
            for given, own in pairs
        )
        self.up = nn.ModuleList(_double(2 * own, own) for _, own in pairs)
        self.head = nn.Conv2d(width, class_count, 1)
        self.transposed = transposed

    def forward(self, images: Tensor) -> Tensor:
        kept = []
        x = images
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for enlarge, block, skip in zip(self.enlarge, self.up, kept[-2::-1], strict=True):
            x = enlarge(x)
            if not self.transposed:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([skip, x], dim=1))
        logits: Tensor = self.head(x)
        return logits


class _SqueezeExcite(nn.Module):
    """Channels scaled by what the whole image says of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = (
            nn.Conv2d(channels, max(4, channels // 4), 1),
            nn.Conv2d(max(4, channels // 4), channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class _Inverted(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze-and-excitation, project."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = 4 * inputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.Hardswish(),
            nn.Conv2d(inner, inner, 5, stride, 2, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.Hardswish(),
            _SqueezeExcite(inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class MobileLraspp(nn.Module):
    """MobileNetV3-like encoder with the LR-ASPP head: a gate from pooled maps, and a skip from stride 8."""

    def __init__(self, class_count: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish())
        self.low = nn.Sequential(
            _Inverted(width, 2 * width, 2), _Inverted(2 * width, 2 * width, 1), _Inverted(2 * width, 3 * width, 2)
        )
        self.high = nn.Sequential(_Inverted(3 * width, 4 * width, 2), _Inverted(4 * width, 4 * width, 1))
        self.project = nn.Sequential(nn.Conv2d(4 * width, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4 * width, 64, 1, bias=False), nn.Sigmoid())
        self.low_classifier, self.high_classifier = nn.Conv2d(3 * width, class_count, 1), nn.Conv2d(64, class_count, 1)

    def forward(self, images: Tensor) -> Tensor:
        low = self.low(self.stem(images))
        high = self.high(low)
        x = self.project(high) * self.gate(high)
        x = F.interpolate(x, size=low.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.low_classifier(low) + self.high_classifier(x)
        return logits


class _LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of N,D,H,W."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class _ConvNextBlock(nn.Module):
    """Depthwise 7×7, then LayerNorm and two linear layers with GELU over the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand, self.project = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(F.gelu(self.expand(y)))
        result: Tensor = x + y.permute(0, 3, 1, 2)
        return result


class ConvNext(nn.Module):
    """ConvNeXt-like encoder to stride 8 with a 1×1 classifier."""

    def __init__(self, class_count: int, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 4, 4),
            _LayerNorm2d(width),
            _ConvNextBlock(width),
            _ConvNextBlock(width),
            _LayerNorm2d(width),
            nn.Conv2d(width, 2 * width, 2, 2),
            _ConvNextBlock(2 * width),
            _ConvNextBlock(2 * width),
            _LayerNorm2d(2 * width),
        )
        self.head = nn.Conv2d(2 * width, class_count, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


class GroupSilu(nn.Module):
    """Residual convolutions with GroupNorm and SiLU to stride 4, an instance-normalised stem."""

    def __init__(self, class_count: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.InstanceNorm2d(width, affine=True), nn.SiLU())
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(4, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(4, width),
            )
            for _ in range(3)
        )
        self.head = nn.Conv2d(width, class_count, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.stem(images))
        for block in self.blocks:
            x = F.silu(x + block(x))
        logits: Tensor = self.head(x)
        return logits


def unet(class_count: int) -> nn.Module:
    """With transposed convolutions."""
    return UNet(class_count)


def unet_resized(class_count: int) -> nn.Module:
    """With F.interpolate(scale_factor=2)."""
    return UNet(class_count, transposed=False)


def mobile_lraspp(class_count: int) -> nn.Module:
    """MobileNetV3-like with LR-ASPP."""
    return MobileLraspp(class_count)


def convnext(class_count: int) -> nn.Module:
    """ConvNeXt-like."""
    return ConvNext(class_count)


def group_silu(class_count: int) -> nn.Module:
    """GroupNorm and SiLU."""
    return GroupSilu(class_count)


def segformer_b0(class_count: int) -> nn.Module:
    """SegFormer-B0 of the package transformers, with random weights."""
    transformers: Any = importlib.import_module("transformers")
    network: nn.Module = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(num_labels=class_count)
    )
    return network
