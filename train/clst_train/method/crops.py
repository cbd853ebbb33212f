"""The student's crops of target images, their pseudo-labels by the same geometry, and pasted source pixels.

Legend: B images, C classes, K,L rows and columns of a crop, h,w at output stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.distributed import total
from clst_train.compute.pinning import to_device
from clst_train.data.augment import Geometry
from clst_train.method.interpolation import taps

LEAST_PROBABILITY = 1e-4
"""Smaller stored probabilities are rounding, so their logarithm is meaningless."""
LEAST_SHARE = 0.01
"""Shares below this count as this, so that a few stray pixels cannot outweigh the image."""


@dataclass(frozen=True, kw_only=True)
class StudentCrops:
    """Target crops, perhaps with classes of source images pasted into them (ClassMix)."""

    images: Tensor
    """B,3,K,L normalised."""
    own: Tensor
    """B,K,L bool: pixels of the target image itself."""
    visible: Tensor
    """B,K,L bool: those of them outside the ignore mask and the padding."""
    pasted_labels: Tensor
    """B,K,L: source labels of the pasted pixels, `IGNORE_ID` elsewhere."""

    def labels(self, pseudo_labels: Tensor) -> Tensor:
        """B,K,L: pseudo-labels B,K,L where the target is visible, source labels where pasted, else `IGNORE_ID`."""
        return torch.where(self.visible, pseudo_labels, self.pasted_labels)


def through_crops(maps: Tensor, geometries: tuple[Geometry, ...], size_hw: tuple[int, int]) -> Tensor:
    """Maps of whole images B,C,h,w cut to each crop: B,C,K,L float32 for `size_hw` K,L.

    Bilinear with half-pixel centres, just as if the whole map were enlarged to `zoomed_hw` and the crop then cut out,
    but only the crop's own pixels are computed, rows and columns each by a matrix product.
    """
    (images, classes, map_rows, map_columns), (rows, columns) = maps.shape, size_hw
    down, right = _taps_of(geometries, size_hw, (map_rows, map_columns), maps.device)  # B,K,h; B,L,w
    with torch.autocast(maps.device.type, enabled=False):
        wide = maps.float().transpose(1, 2).reshape(images, map_rows * classes, map_columns) @ right.transpose(1, 2)
        seen = down @ wide.view(images, map_rows, classes * columns)
    return seen.view(images, rows, classes, columns).transpose(1, 2)


@lru_cache(maxsize=4)  # labels and their weights go through the same crops
def _taps_of(
    geometries: tuple[Geometry, ...], size_hw: tuple[int, int], map_hw: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Weights B,K,h of a map's rows and B,L,w of its columns, for crops of `size_hw` K,L."""
    down = taps(
        size_hw[0],
        map_hw[0],
        start=[g.top for g in geometries],
        length=[g.crop_hw[0] for g in geometries],
        whole=[g.zoomed_hw[0] for g in geometries],
    )
    right = taps(
        size_hw[1],
        map_hw[1],
        start=[g.left for g in geometries],
        length=[g.crop_hw[1] for g in geometries],
        whole=[g.zoomed_hw[1] for g in geometries],
        mirrored=[g.mirrored for g in geometries],
    )
    return to_device(down.numpy(), device), to_device(right.numpy(), device)


def pseudo_labels_of(probabilities: Tensor, geometries: tuple[Geometry, ...]) -> Tensor:
    """arg-max ẑ of whole images B,C,h,w seen through each crop's geometry: B,K,L  (equation 3).

    Logarithms are interpolated, because the deployed network interpolates logits, which are logarithms of probabilities
    up to a constant. The labels are closer to those of an ensemble kept at full size than with interpolated
    probabilities (decision 8).
    """
    logarithms = probabilities.float().clamp_min(LEAST_PROBABILITY).log()
    return argmax_classes(through_crops(logarithms, geometries, geometries[0].crop_hw))


def argmax_classes(maps: Tensor) -> Tensor:
    """arg-max over the classes of maps B,C,K,L: B,K,L int64, the first one of equals.

    On a CPU a maximum without its place and a comparison take a quarter of `max`'s time with it: they are vectorised.
    """
    count = maps.shape[1]
    ranks = torch.arange(count, 0, -1, device=maps.device, dtype=torch.uint8)  # the first class's is the highest
    found = (maps == maps.amax(dim=1, keepdim=True)).view(torch.uint8) * ranks[:, None, None]
    return (count - found.amax(dim=1).long()).clamp_max(count - 1)  # the last one where a NaN is


def student_crops(crops: Tensor, ignored: Tensor, pasted: tuple[Tensor, Tensor, Tensor] | None) -> StudentCrops:
    """Make the student's crops.

    Args:
        crops: B,3,K,L normalised target crops.
        ignored: B,K,L bool, under the ignore mask or in the padding.
        pasted: source images B,3,K,L, their labels B,K,L and which of their pixels to paste B,K,L; None = none.
    """
    own, labels = torch.ones_like(ignored), torch.full_like(ignored, IGNORE_ID, dtype=torch.long)
    if pasted is not None:
        images, source_labels, mask = pasted
        crops = torch.lerp(crops, images, mask[:, None].to(crops.dtype))  # 0 and 1 give either one exactly
        labels, own = torch.where(mask, source_labels, labels), ~mask
    return StudentCrops(images=crops, own=own, visible=own & ~ignored, pasted_labels=labels)


def class_weights(labels: Tensor, class_count: int, exponent: float) -> Tensor:
    """Weights B,K,L of labels by their class's share f among them: max(f, 1 %)^−exponent; mean 1, ignored 0.

    Shares and mean are those of all ranks' labels.
    """
    flat, table = labels.flatten(), torch.zeros(IGNORE_ID + 1, device=labels.device)  # by id: nothing for the ignored
    ids = torch.zeros(IGNORE_ID + 1, dtype=torch.long, device=labels.device)
    counts = total(ids.scatter_add_(0, flat, torch.ones_like(flat))[:class_count]).float()  # C
    weights = (counts / counts.sum().clamp_min(1.0)).clamp_min(LEAST_SHARE) ** -exponent
    mean = (weights * counts).sum() / counts.sum().clamp_min(1.0)
    table[:class_count] = weights / mean.clamp_min(1e-6)
    return table.index_select(0, flat).view_as(labels)
