"""EfficientNet-Lite with a light decoder: EfficientNet (Tan & Le 2019, arXiv:1905.11946), ReLU6 instead of swish.

The encoder's modules carry the names of the published PyTorch weights, so that those load by name.
Legend: N images, H rows, W columns of the input; D = 96 channels of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clst_train.models.built_in.ddrnet import resize_like
from clst_train.models.segmenter import Segmenter, TrainingOutputs, initialise

STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
"""Of Lite0: kernel, stride of the first block, expansion, channels, blocks."""
STEM = 32
SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
"""Factors of width and depth; the stem's channels, and the number of blocks in the first and last stage, stay."""
DECODER = 96
EPSILON = 1e-3
"""Of BatchNorm, as the weights were trained with."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding: zeros before and after, so that ceil(size / stride) values come out.

    An odd zero goes behind. Equal padding on both sides would shift a stride of 2 by half a pixel.
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv(nn.Conv2d):
    """A convolution without bias and with TensorFlow's "same" padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """N,D,h,w to N,D',ceil(h/stride),ceil(w/stride)."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        top, bottom = same_padding(int(features.shape[2]), kernel, stride)
        left, right = same_padding(int(features.shape[3]), kernel, stride)
        padding = (top, left)
        if (top, left) != (bottom, right):
            features, padding = F.pad(features, (left, right, top, bottom)), (0, 0)
        return F.conv2d(features, self.weight, None, self.stride, padding, 1, self.groups)


class InvertedResidual(nn.Module):
    """1×1 expansion, depthwise convolution, 1×1 projection without activation; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self._expands, self._adds = expansion != 1, stride == 1 and inputs == outputs
        if self._expands:
            self._expand_conv, self._bn0 = SameConv(inputs, wide, 1), nn.BatchNorm2d(wide, eps=EPSILON)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride=stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=EPSILON)
        self._project_conv, self._bn2 = SameConv(wide, outputs, 1), nn.BatchNorm2d(outputs, eps=EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        """N,D,h,w to N,D',ceil(h/stride),ceil(w/stride)."""
        out = F.relu6(self._bn0(self._expand_conv(features))) if self._expands else features
        out = F.relu6(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        return torch.add(out, features) if self._adds else out


class EfficientNetLite(nn.Module):
    """The encoder, without the last 1×1 convolution and the classifier of ImageNet."""

    def __init__(self, width: float, depth: float) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, STEM, 3, stride=2), nn.BatchNorm2d(STEM, eps=EPSILON)
        blocks: list[nn.Module] = []
        taken, inputs, last = [0], STEM, len(STAGES) - 1
        for index, (kernel, stride, expansion, channels, count) in enumerate(STAGES):
            outputs = _scaled(channels, width)
            for block in range(count if index in (0, last) else math.ceil(count * depth)):
                step = stride if block == 0 else 1
                if step == 2:
                    taken.append(len(blocks) - 1)
                blocks.append(InvertedResidual(inputs, outputs, kernel=kernel, stride=step, expansion=expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._taken = (*taken[-3:], len(blocks) - 1)  # the last block at each of the strides 4, 8, 16 and 32
        self.channels = tuple(int(blocks[index]._bn2.num_features) for index in self._taken)  # type: ignore[union-attr, arg-type]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images N,3,H,W to the maps at stride 4, 8, 16 and 32, with `channels` channels."""
        out, maps = F.relu6(self._bn0(self._conv_stem(images))), []
        for index, block in enumerate(self._blocks):
            out = block(out)
            if index in self._taken:
                maps.append(out)
        return maps


def _scaled(channels: int, width: float) -> int:
    """A number of channels times `width`, to the nearest multiple of 8; never below nine tenths of it."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _normed(convolution: nn.Conv2d, *rest: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), *rest)


class Decoder(nn.Module):
    """Maps at three strides to one of D channels at stride 8: from coarse to fine, enlarged and added."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.fine, self.middle, self.coarse = (
            _normed(nn.Conv2d(count, DECODER, 1, bias=False)) for count in channels[1:]
        )
        self.joined = nn.Sequential(
            nn.Conv2d(DECODER, DECODER, 3, padding=1, groups=DECODER, bias=False),
            *_normed(nn.Conv2d(DECODER, DECODER, 1, bias=False), nn.ReLU()),
        )
        self.last = _normed(nn.Conv2d(DECODER, DECODER, 3, padding=1, bias=False), nn.ReLU())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps at stride 4, 8, 16 and 32 to features N,D,H/8,W/8."""
        _, fine, middle, coarse = maps
        joined = self.joined(F.relu(self.middle(middle) + resize_like(F.relu(self.coarse(coarse)), middle)))
        return self.last(F.relu(self.fine(fine) + resize_like(joined, fine)))  # type: ignore[no-any-return]


class EfficientNetLiteSegmenter(Segmenter):
    """F is the encoder and the decoder (96 features at stride 8), C a 1×1 convolution."""

    output_stride = 8

    def __init__(self, network: str, class_count: int) -> None:
        super().__init__()
        self.class_count, self.feature_channels = class_count, DECODER
        self.encoder = EfficientNetLite(*SCALES[network])
        self.decoder = Decoder(self.encoder.channels)
        self.classifier = nn.Conv2d(DECODER, class_count, 1)
        initialise(self)

    def training_outputs(self, images: Tensor) -> TrainingOutputs:
        """Features N,96,H/8,W/8 and logits of normalised images; there is no auxiliary head."""
        features = self.decoder(self.encoder(images))
        return TrainingOutputs(features=features, logits=self.classifier(features), auxiliary=None)
