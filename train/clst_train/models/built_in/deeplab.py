"""DeepLabV2 with ResNet-101 at output stride 8, the network of the adaptation literature.

The backbone's modules carry torchvision's names, so that its ImageNet weights load from a file.
Legend: N images, H rows, W columns of the input; P = 64 planes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from clst_train.models.segmenter import Segmenter, TrainingOutputs, initialise

ASPP_DILATIONS = (6, 12, 18, 24)
PLANES, EXPANSION = 64, 4
BLOCKS = (3, 4, 23, 3)
"""Of each of the four layers of ResNet-101."""


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions with a shortcut; the stride sits on the 3×3 as in torchvision."""

    def __init__(self, inputs: int, planes: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, features: Tensor) -> Tensor:
        """N,D,h,w to N,4P,h/stride,w/stride."""
        out = F.relu(self.bn1(self.conv1(features)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(features))


def _layer(inputs: int, planes: int, count: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = Bottleneck(inputs, planes, stride=stride, dilation=dilation)
    rest = [Bottleneck(planes * EXPANSION, planes, stride=1, dilation=dilation) for _ in range(count - 1)]
    return nn.Sequential(first, *rest)


class DeepLabV2(Segmenter):
    """F is ResNet-101 without its last two strides (2048 features at stride 8), C the sum of four dilated 3×3."""

    output_stride = 8

    def __init__(self, class_count: int) -> None:
        super().__init__()
        p, wide = PLANES, PLANES * EXPANSION
        self.class_count, self.feature_channels = class_count, 8 * wide
        self.conv1, self.bn1 = nn.Conv2d(3, p, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(p)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _layer(p, p, BLOCKS[0])
        self.layer2 = _layer(wide, 2 * p, BLOCKS[1], stride=2)
        self.layer3 = _layer(2 * wide, 4 * p, BLOCKS[2], dilation=2)
        self.layer4 = _layer(4 * wide, 8 * p, BLOCKS[3], dilation=4)
        self.classifier = nn.ModuleList(
            nn.Conv2d(self.feature_channels, class_count, 3, padding=rate, dilation=rate) for rate in ASPP_DILATIONS
        )
        initialise(self)
        for branch in self.classifier:
            if isinstance(branch, nn.Conv2d):
                nn.init.normal_(branch.weight, std=0.01)

    def training_outputs(self, images: Tensor) -> TrainingOutputs:
        """Features N,2048,H/8,W/8 and logits of normalised images; there is no auxiliary head."""
        out = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits = self.classifier[0](features)
        for branch in list(self.classifier)[1:]:
            logits = logits + branch(features)
        return TrainingOutputs(features=features, logits=logits, auxiliary=None)
