"""Networks that know nothing of this project, as users bring them; small, each with 10 classes or as many as asked."""

from __future__ import annotations

import functools
import os  # a module whose functions no checkpoint may have called  # noqa: F401

import torch
from torch import nn
from torch.nn import functional as F


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Three levels; enlarges by a fixed factor, as many do, and so fails where a size is no multiple of 4."""

    def __init__(self, classes: int, *, width: int = 4) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = block(3, width), block(width, 2 * width), block(2 * width, 4 * width)
        self.up2, self.up1 = block(6 * width, 2 * width), block(3 * width, width)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine = self.down1(images)
        middle = self.down2(F.max_pool2d(fine, 2))
        coarse = self.down3(F.max_pool2d(middle, 2))
        middle = self.up2(torch.cat([F.interpolate(coarse, scale_factor=2), middle], dim=1))
        return self.classifier(self.up1(torch.cat([F.interpolate(middle, scale_factor=2), fine], dim=1)))


class TwoHeads(nn.Module):
    """As torchvision's: a dict of `out` and `aux`, both at full size; the auxiliary head is called last."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3, stride=8, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.classifier = nn.Sequential(nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, classes, 1))
        self.aux_classifier = nn.Conv2d(6, classes, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features, size = self.backbone(images), images.shape[-2:]
        out = F.interpolate(self.classifier(features), size=size, mode="bilinear")
        return {"out": out, "aux": F.interpolate(self.aux_classifier(features), size=size, mode="bilinear")}


class Plain(nn.Module):
    """One convolution to features at stride 4, one to logits, and what a subclass makes of them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.classifier = nn.Conv2d(6, classes, 1)

    def forward(self, images: torch.Tensor) -> object:
        return self.classifier(torch.relu(self.features(images)))


class Enlarged(Plain):
    """Enlarges by a fixed factor: logits of an odd size are larger than the image."""

    def forward(self, images: torch.Tensor) -> object:
        return F.interpolate(super().forward(images), scale_factor=4)  # type: ignore[arg-type]


class Softmax(Plain):
    def forward(self, images: torch.Tensor) -> object:
        return super().forward(images).softmax(dim=1)  # type: ignore[attr-defined]


class InAList(Plain):
    def forward(self, images: torch.Tensor) -> object:
        return [super().forward(images)]


class OneSize(Plain):
    def forward(self, images: torch.Tensor) -> object:
        return F.interpolate(super().forward(images), size=(8, 12))  # type: ignore[arg-type]


class OnlyAt64x96(Plain):
    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.position = nn.Parameter(torch.zeros(1, classes, 16, 24))

    def forward(self, images: torch.Tensor) -> object:
        return super().forward(images) + self.position  # type: ignore[operator]


class Folded(nn.Module):
    """Its classifier gives four times the classes' channels, which become pixels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features, self.last = nn.Conv2d(3, 6, 3, stride=8, padding=1), nn.Conv2d(6, 4 * classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(self.last(self.features(images)), 2)


class DropoutUNet(UNet):
    """Draws random numbers in training, and has parts that the logits do not depend on, or that are frozen."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.unused = nn.Linear(3, 2)
        self.down1[0].weight.requires_grad_(False)  # type: ignore[union-attr]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(F.dropout(images, 0.2, self.training))


class ChannelsLast(Plain):
    """Its classifier is a linear layer on N,h,w,D."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.classifier = nn.Linear(6, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WithoutBatchNorm(Plain):
    """Nothing whose statistics could be estimated."""


def unet(classes: int, width: int = 4) -> nn.Module:
    return UNet(classes, width=width)


def one_class_more(classes: int) -> nn.Module:
    return Plain(classes + 1)


def broken(classes: int) -> nn.Module:
    raise ZeroDivisionError("no weights for that many classes")


def no_module(classes: int) -> object:
    return [classes]


not_callable = 3
made_already = Plain(3)
small_unet = functools.partial(UNet, width=2)
