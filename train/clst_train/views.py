"""What the student sees: a crop of a target image, its pseudo-labels through the same geometry, pasted source pixels.

Legend: B images, C classes, K,L rows and columns of a crop, h,w at output stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clst_runtime.labels import IGNORE_ID
from clst_train.data.augment import Geometry


@dataclass(frozen=True, kw_only=True)
class StudentView:
    """Target crops, perhaps with classes of source images pasted into them (ClassMix)."""

    images: Tensor
    """B,3,K,L normalised."""
    labels: Tensor
    """B,K,L: pseudo-labels, source labels where pasted, `IGNORE_ID` where neither."""
    own: Tensor
    """B,K,L bool: pixels of the target image itself."""
    visible: Tensor
    """B,K,L bool: those of them that the ignore mask does not cover."""


def pseudo_labels_of(probabilities: Tensor, views: tuple[Geometry, ...]) -> Tensor:
    """arg-max ẑ of whole images B,C,h,w seen through each crop's geometry: B,K,L  (equation 3)."""
    labels = []
    for whole, view in zip(probabilities, views, strict=True):
        zoomed = F.interpolate(whole[None], size=view.zoomed_hw, mode="bilinear", align_corners=False)[0]
        rows, columns = view.crop_hw
        part = zoomed[:, view.top : view.top + rows, view.left : view.left + columns].argmax(dim=0)
        labels.append(part.flip(1) if view.mirrored else part)
    return torch.stack(labels)


def student_view(
    crops: Tensor, pseudo_labels: Tensor, ignored: Tensor, pasted: tuple[Tensor, Tensor, Tensor] | None
) -> StudentView:
    """Put a view together.

    Args:
        crops: B,3,K,L normalised target crops.
        pseudo_labels: B,K,L.
        ignored: B,K,L bool, under the ignore mask.
        pasted: source images B,3,K,L, their labels B,K,L and which of their pixels to paste B,K,L; None = none.
    """
    labels = pseudo_labels.masked_fill(ignored, IGNORE_ID)
    own = torch.ones_like(ignored)
    if pasted is not None:
        images, source_labels, mask = pasted
        crops = torch.where(mask[:, None], images, crops)
        labels, own = torch.where(mask, source_labels, labels), ~mask
    return StudentView(images=crops, labels=labels, own=own, visible=own & ~ignored)
