"""DDRNet-23-slim (Hong et al. 2021, arXiv:2101.06085): two branches of different resolution that exchange features.

Module names follow the published weights, so that those load by name.
Legend: N images, H rows, W columns of the input; P = 32 planes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clst_train.models.segmenter import Segmenter, TrainingOutputs, initialise

PLANES, SPP_PLANES, HEAD_PLANES = 32, 128, 64


class PooledNorm(nn.BatchNorm2d):
    """BatchNorm that uses its running statistics where a batch has a single value per channel."""

    def forward(self, features: Tensor) -> Tensor:
        """N,D,h,w to N,D,h,w."""
        if self.training and features.shape[0] * features.shape[2] * features.shape[3] == 1:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, False)
        return super().forward(features)


def convolution(inputs: int, outputs: int, size: int, *, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size at stride 1."""
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


def resize_like(features: Tensor, reference: Tensor) -> Tensor:
    """Bilinear resize to another map's size, half-pixel centres, as one ONNX Resize with a constant size."""
    size = (int(reference.shape[-2]), int(reference.shape[-1]))
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut."""

    def __init__(self, inputs: int, planes: int, *, stride: int = 1, last_relu: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, planes, 3, stride=stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = convolution(planes, planes, 3), nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)
        self.last_relu = last_relu

    def forward(self, features: Tensor) -> Tensor:
        """N,D,h,w to N,P,h/stride,w/stride."""
        out = F.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out)) + self.downsample(features)
        return F.relu(out) if self.last_relu else out


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions with a shortcut, twice as wide at the end."""

    def __init__(self, inputs: int, planes: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = convolution(planes, planes, 3, stride=stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = convolution(planes, 2 * planes, 1), nn.BatchNorm2d(2 * planes)
        self.downsample = _shortcut(inputs, 2 * planes, stride)

    def forward(self, features: Tensor) -> Tensor:
        """N,D,h,w to N,2P,h/stride,w/stride; no ReLU after the sum."""
        out = F.relu(self.bn1(self.conv1(features)))
        out = F.relu(self.bn2(self.conv2(out)))
        return torch.add(self.bn3(self.conv3(out)), self.downsample(features))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(convolution(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs))


def _layer(inputs: int, planes: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, planes, stride=stride), BasicBlock(planes, planes, last_relu=False))


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling: averages over growing windows, added one into the next."""

    def __init__(self, inputs: int, planes: int, outputs: int) -> None:
        super().__init__()

        def scale(pool: nn.Module | None) -> nn.Sequential:
            norm = nn.BatchNorm2d(inputs) if pool is None else PooledNorm(inputs)
            parts = [norm, nn.ReLU(), convolution(inputs, planes, 1)]
            return nn.Sequential(*(parts if pool is None else [pool, *parts]))

        def process() -> nn.Sequential:
            return nn.Sequential(nn.BatchNorm2d(planes), nn.ReLU(), convolution(planes, planes, 3))

        self.scale0 = scale(None)
        self.scale1 = scale(nn.AvgPool2d(5, stride=2, padding=2))
        self.scale2 = scale(nn.AvgPool2d(9, stride=4, padding=4))
        self.scale3 = scale(nn.AvgPool2d(17, stride=8, padding=8))
        self.scale4 = scale(nn.AdaptiveAvgPool2d(1))
        self.process1, self.process2, self.process3, self.process4 = process(), process(), process(), process()
        self.compression = nn.Sequential(nn.BatchNorm2d(5 * planes), nn.ReLU(), convolution(5 * planes, outputs, 1))
        self.shortcut = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), convolution(inputs, outputs, 1))

    def forward(self, features: Tensor) -> Tensor:
        """N,D,h,w to N,4P,h,w."""
        maps = [self.scale0(features)]
        branches = (
            (self.scale1, self.process1),
            (self.scale2, self.process2),
            (self.scale3, self.process3),
            (self.scale4, self.process4),
        )
        for scale, process in branches:
            maps.append(process(resize_like(scale(features), features) + maps[-1]))
        return torch.add(self.compression(torch.cat(maps, dim=1)), self.shortcut(features))


class SegmentationHead(nn.Module):
    """BN, ReLU, 3×3 convolution to the head's features; BN, ReLU, 1×1 convolution to logits."""

    def __init__(self, inputs: int, planes: int, class_count: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), convolution(inputs, planes, 3)
        self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, class_count, 1)

    def features(self, fused: Tensor) -> Tensor:
        """N,4P,h,w to N,64,h,w."""
        return F.relu(self.bn2(self.conv1(F.relu(self.bn1(fused)))))

    def forward(self, fused: Tensor) -> Tensor:
        """N,D,h,w to logits N,C,h,w."""
        return self.conv2(self.features(fused))  # type: ignore[no-any-return]


class DDRNetSlim(Segmenter):
    """DDRNet-23-slim; F ends with the head's 64 features at stride 8, C is its last 1×1 convolution."""

    feature_channels = HEAD_PLANES
    output_stride = 8
    published_names: ClassVar[dict[str, str]] = {"seghead_extra": "auxiliary_head"}
    """Parts of names in the published weights that are called otherwise here."""

    def __init__(self, class_count: int) -> None:
        super().__init__()
        p = PLANES
        self.class_count = class_count
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, p, 3, stride=2, padding=1), nn.BatchNorm2d(p), nn.ReLU(),
            nn.Conv2d(p, p, 3, stride=2, padding=1), nn.BatchNorm2d(p), nn.ReLU(),
        )  # fmt: skip
        self.layer1, self.layer2 = _layer(p, p), _layer(p, 2 * p, stride=2)
        self.layer3, self.layer4 = _layer(2 * p, 4 * p, stride=2), _layer(4 * p, 8 * p, stride=2)
        self.layer5 = nn.Sequential(Bottleneck(8 * p, 8 * p, stride=2))
        self.layer3_, self.layer4_ = _layer(2 * p, 2 * p), _layer(2 * p, 2 * p)
        self.layer5_ = nn.Sequential(Bottleneck(2 * p, 2 * p))
        self.compression3 = nn.Sequential(convolution(4 * p, 2 * p, 1), nn.BatchNorm2d(2 * p))
        self.compression4 = nn.Sequential(convolution(8 * p, 2 * p, 1), nn.BatchNorm2d(2 * p))
        self.down3 = nn.Sequential(convolution(2 * p, 4 * p, 3, stride=2), nn.BatchNorm2d(4 * p))
        self.down4 = nn.Sequential(
            convolution(2 * p, 4 * p, 3, stride=2), nn.BatchNorm2d(4 * p), nn.ReLU(),
            convolution(4 * p, 8 * p, 3, stride=2), nn.BatchNorm2d(8 * p),
        )  # fmt: skip
        self.spp = DAPPM(16 * p, SPP_PLANES, 4 * p)
        self.final_layer = SegmentationHead(4 * p, HEAD_PLANES, class_count)
        self.auxiliary_head = SegmentationHead(2 * p, HEAD_PLANES, class_count)
        initialise(self)

    def _fused(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images N,3,H,W to the fused map N,4P,H/8,W/8 and the auxiliary head's input N,2P,H/8,W/8."""
        stem = F.relu(self.layer2(F.relu(self.layer1(self.conv1(images)))))
        low, high = self.layer3(stem), self.layer3_(stem)
        low_next = low + self.down3(F.relu(high))
        high = high + resize_like(self.compression3(F.relu(low)), high)
        auxiliary = high
        low, high = self.layer4(F.relu(low_next)), self.layer4_(F.relu(high))
        low_next = low + self.down4(F.relu(high))
        high = high + resize_like(self.compression4(F.relu(low)), high)
        high = self.layer5_(F.relu(high))
        context = resize_like(self.spp(self.layer5(F.relu(low_next))), high)
        return high + context, auxiliary

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images N,3,H,W to logits N,C,H/8,W/8."""
        return self.final_layer(self._fused(images)[0])  # type: ignore[no-any-return]

    def training_outputs(self, images: Tensor) -> TrainingOutputs:
        """Features, logits and the auxiliary head's logits, all at stride 8."""
        fused, auxiliary = self._fused(images)
        features = self.final_layer.features(fused)
        logits = self.final_layer.conv2(features)
        return TrainingOutputs(features=features, logits=logits, auxiliary=self.auxiliary_head(auxiliary))
