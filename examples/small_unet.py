"""A small U-Net; nothing in it knows of CLST."""

import torch
from torch import nn
from torch.nn import functional as F


def block(inputs, outputs, stride=1):
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def joined(coarse, fine):
    return torch.cat([F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear"), fine], dim=1)


class SmallUNet(nn.Module):
    def __init__(self, classes, width=16):
        super().__init__()
        self.down1, self.down2 = block(3, width, 2), block(width, 2 * width, 2)
        self.down3 = block(2 * width, 4 * width, 2)
        self.up2, self.up1 = block(6 * width, 2 * width), block(3 * width, width)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, images):  # N,3,H,W
        fine = self.down1(images)
        middle = self.down2(fine)
        middle = self.up2(joined(self.down3(middle), middle))
        return self.classifier(self.up1(joined(middle, fine)))  # N,classes,H/2,W/2
