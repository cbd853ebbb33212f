"""DDRNet-23-slim: a real-time road segmenter of two branches that exchange features.

Hong, Pan, Sun, Jia: "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road
Scenes", arXiv:2101.06085 (2021). One branch stays at stride 8 and keeps detail; the other goes down to stride 64,
where a pyramid of pooled views (DAPPM) gathers context; both are fused twice on the way and summed at the end.

Modules carry the names of the published weights (conv1, layer1 … layer5, layer3_ … layer5_, compression3, down3,
spp, final_layer), except that the published `seghead_extra` is `auxiliary_head` here.

N batch, C class, H row and W column of the image; a comment says the stride where it changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from clst_train.models.layers import BatchNorm, convolution, initialise, resize_to, size_of
from clst_train.models.segmenter import PublicNames, Segmenter, TrainingOutputs

PLANES = 32
POOLED_PLANES = 128
HEAD_PLANES = 64


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; without the last ReLU, which the caller applies where it needs it."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, channels, 3, stride=stride)
        self.bn1 = BatchNorm(channels)
        self.conv2 = convolution(channels, channels, 3)
        self.bn2 = BatchNorm(channels)
        self.downsample = _shortcut(in_channels, channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """N,in_channels,H,W → N,channels,H/stride,W/stride, before its ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return out + shortcut


class BottleneckBlock(nn.Module):
    """1×1, 3×3, 1×1 convolutions that double the channels, and a shortcut; without the last ReLU."""

    expansion = 2

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = convolution(in_channels, channels, 1)
        self.bn1 = BatchNorm(channels)
        self.conv2 = convolution(channels, channels, 3, stride=stride)
        self.bn2 = BatchNorm(channels)
        self.conv3 = convolution(channels, out_channels, 1)
        self.bn3 = BatchNorm(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """N,in_channels,H,W → N,2·channels,H/stride,W/stride, before its ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return out + shortcut


class PyramidPooling(nn.Module):
    """DAPPM: the map, three pooled views and the global mean, merged from fine to coarse.

    Kernels are fixed (5, 9, 17), so that maps of any size down to 1×1 pass; padding counts as zeros in the
    means, as in the published network.
    """

    def __init__(self, in_channels: int, branch_channels: int, out_channels: int) -> None:
        super().__init__()
        self.scale0 = _activated(in_channels, branch_channels, kernel=1)
        for level, (kernel, stride) in enumerate(((5, 2), (9, 4), (17, 8)), start=1):
            pool = nn.AvgPool2d(kernel, stride=stride, padding=kernel // 2)
            setattr(self, f"scale{level}", nn.Sequential(pool, *_activated(in_channels, branch_channels, kernel=1)))
        self.scale4 = nn.Sequential(GlobalMean(), *_activated(in_channels, branch_channels, kernel=1))
        for level in range(1, 5):
            setattr(self, f"process{level}", _activated(branch_channels, branch_channels, kernel=3))
        self.compression = _activated(branch_channels * 5, out_channels, kernel=1)
        self.shortcut = _activated(in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """N,in_channels,h,w → N,out_channels,h,w."""
        size_hw = size_of(x)
        views: list[Tensor] = [self.scale0(x)]
        for level in range(1, 5):
            pooled: Tensor = self.get_submodule(f"scale{level}")(x)
            if level < 4:  # The global mean is 1×1 and broadcasts: the same as resizing it.
                pooled = resize_to(pooled, size_hw)
            views.append(self.get_submodule(f"process{level}")(pooled + views[-1]))
        merged: Tensor = self.compression(torch.cat(views, dim=1))
        shortcut: Tensor = self.shortcut(x)
        return merged + shortcut


class GlobalMean(nn.Module):
    """Mean over the whole map: N,C,h,w → N,C,1,1."""

    def forward(self, x: Tensor) -> Tensor:
        """N,C,h,w → N,C,1,1."""
        return x.mean(dim=(2, 3), keepdim=True)


class SegmentationHead(nn.Module):
    """Batch norm, ReLU, 3×3 convolution, batch norm, ReLU (the hidden map), then the 1×1 classifier `conv2`."""

    def __init__(self, in_channels: int, hidden_channels: int, class_count: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = convolution(in_channels, hidden_channels, 3)
        self.bn2 = BatchNorm(hidden_channels)
        self.conv2 = convolution(hidden_channels, class_count, 1, bias=True)

    def hidden(self, x: Tensor) -> Tensor:
        """N,in_channels,h,w → N,hidden_channels,h,w: all but the classifier."""
        return F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """N,in_channels,h,w → N,C,h,w."""
        logits: Tensor = self.conv2(self.hidden(x))
        return logits


class DDRNet23Slim(Segmenter):
    """DDRNet-23-slim with its auxiliary head.

    F(x) is the segmentation head's hidden map (64 channels, after its ReLU): what the linear classifier sees.
    C(f) is the final 1×1 convolution alone. So a loss on F(x) moves everything but the classifier.
    """

    feature_channels = HEAD_PLANES
    output_stride = 8
    public_names = PublicNames(
        prefix="",
        heads=("final_layer.", "auxiliary_head.", "seghead_extra.", "down5.", "last_layer.", "linear.", "loss."),
        optional=("spp.",),  # Not in ImageNet classifiers.
    )

    def __init__(self, class_count: int) -> None:
        super().__init__(class_count)
        narrow, wide = PLANES * 2, PLANES * 4  # 64, 128
        self.conv1 = nn.Sequential(
            convolution(3, PLANES, 3, stride=2, bias=True),
            BatchNorm(PLANES),
            nn.ReLU(inplace=True),
            convolution(PLANES, PLANES, 3, stride=2, bias=True),
            BatchNorm(PLANES),
            nn.ReLU(inplace=True),
        )
        self.layer1 = _basic_pair(PLANES, PLANES)
        self.layer2 = _basic_pair(PLANES, narrow, stride=2)
        self.layer3 = _basic_pair(narrow, wide, stride=2)
        self.layer4 = _basic_pair(wide, PLANES * 8, stride=2)
        self.layer5 = nn.Sequential(BottleneckBlock(PLANES * 8, PLANES * 8, stride=2))
        self.layer3_ = _basic_pair(narrow, narrow)
        self.layer4_ = _basic_pair(narrow, narrow)
        self.layer5_ = nn.Sequential(BottleneckBlock(narrow, narrow))
        self.compression3 = nn.Sequential(convolution(wide, narrow, 1), BatchNorm(narrow))
        self.compression4 = nn.Sequential(convolution(PLANES * 8, narrow, 1), BatchNorm(narrow))
        self.down3 = nn.Sequential(convolution(narrow, wide, 3, stride=2), BatchNorm(wide))
        self.down4 = nn.Sequential(
            convolution(narrow, wide, 3, stride=2),
            BatchNorm(wide),
            nn.ReLU(inplace=True),
            convolution(wide, PLANES * 8, 3, stride=2),
            BatchNorm(PLANES * 8),
        )
        self.spp = PyramidPooling(PLANES * 16, POOLED_PLANES, wide)
        self.final_layer = SegmentationHead(wide, HEAD_PLANES, class_count)
        self.auxiliary_head = SegmentationHead(narrow, HEAD_PLANES, class_count)

    def features(self, x: Tensor) -> Tensor:
        """F: N,3,H,W → N,64,⌈H/8⌉,⌈W/8⌉, not negative."""
        fine, _ = self._branches(x)
        return self.final_layer.hidden(fine)

    def logits(self, features: Tensor) -> Tensor:
        """C, the final 1×1 convolution: N,64,h,w → N,C,h,w."""
        logits: Tensor = self.final_layer.conv2(features)
        return logits

    def training_outputs(self, x: Tensor) -> TrainingOutputs:
        """Features and logits, and the auxiliary logits of the fine branch after its first fusion."""
        fine, early = self._branches(x)
        features = self.final_layer.hidden(fine)
        auxiliary = None if self.auxiliary_head is None else self.auxiliary_head(early)
        return TrainingOutputs(features=features, logits=self.logits(features), auxiliary=auxiliary)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Kaiming-normal weights, as published."""
        initialise(self, generator)

    def _branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """N,3,H,W → the sum of both branches N,128,h,w, and the fine branch after its first fusion N,64,h,w."""
        shared = self.layer2(F.relu(self.layer1(self.conv1(x))))  # stride 4, then 8
        shared = F.relu(shared)
        coarse = self.layer3(shared)  # stride 16
        fine = self.layer3_(shared)  # stride 8
        size_hw = size_of(fine)
        lifted = resize_to(self.compression3(F.relu(coarse)), size_hw)
        coarse = coarse + self.down3(F.relu(fine))
        early = fine + lifted

        coarse = self.layer4(F.relu(coarse))  # stride 32
        fine = self.layer4_(F.relu(early))
        lifted = resize_to(self.compression4(F.relu(coarse)), size_hw)
        coarse = coarse + self.down4(F.relu(fine))
        fine = self.layer5_(F.relu(fine + lifted))

        context = self.spp(self.layer5(F.relu(coarse)))  # stride 64
        return fine + resize_to(context, size_hw), early


def _basic_pair(in_channels: int, channels: int, *, stride: int = 1) -> nn.Sequential:
    """Two basic blocks; the ReLU between them is `BlockReLU`'s, the one after them is the caller's."""
    return nn.Sequential(BasicBlock(in_channels, channels, stride=stride), BasicBlock(channels, channels))


def _activated(in_channels: int, out_channels: int, *, kernel: int) -> nn.Sequential:
    """Batch norm, ReLU, then a convolution without bias."""
    return nn.Sequential(BatchNorm(in_channels), nn.ReLU(inplace=True), convolution(in_channels, out_channels, kernel))


def _shortcut(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential | None:
    """A 1×1 projection where the block changes its shape; None where the input can be added as it is."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(convolution(in_channels, out_channels, 1, stride=stride), BatchNorm(out_channels))
