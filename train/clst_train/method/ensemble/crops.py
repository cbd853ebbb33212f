"""Between the cells of a whole image and those of a crop of it: zoom, offset and mirror.

A cell stands for its centre. A cell of the whole image is covered by a crop when its centre lies inside it.
Legend: B images, C channels, h,w cells of the whole image, k,l cells of the crop, both at their output stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from clst_train.compute.pinning import to_device
from clst_train.data.augment import Geometry

Places = npt.NDArray[np.float64]
_ENOUGH = 0.999
"""Weight of valid crop cells that an interpolated value needs: all of it, up to rounding."""


@dataclass(frozen=True, kw_only=True)
class FromCrops:
    """Predictions of crops, carried to the cells of their whole images."""

    values: Tensor
    """B,C,h,w; undefined outside `covered`."""
    covered: Tensor
    """B,h,w bool: the cell's centre lies in the crop and every crop cell its value is taken from is valid."""


def onto_images(crops: Tensor, geometries: Sequence[Geometry], valid: Tensor, size_hw: tuple[int, int]) -> FromCrops:
    """Carry B,C,k,l of crops to the whole images' cells B,C,h,w, bilinearly; `valid` is B,k,l bool."""
    rows = np.stack([_into_crop(size_hw[0], v.zoomed_hw[0], v.top, v.crop_hw[0]) for v in geometries])  # B,h in 0…1
    columns = np.stack([_into_crop(size_hw[1], v.zoomed_hw[1], v.left, v.crop_hw[1]) for v in geometries])  # B,w
    inside = _inside(rows)[:, :, None] & _inside(columns)[:, None, :]
    columns = np.where(_mirrored(geometries), 1.0 - columns, columns)
    grid = _grid(rows, columns, crops.device)
    valid_only = _sample(valid[:, None].to(crops.dtype), grid)[:, 0] >= _ENOUGH
    return FromCrops(values=_sample(crops, grid), covered=valid_only & to_device(inside, crops.device))


def onto_crops(whole: Tensor, visited: Tensor, geometries: Sequence[Geometry], crop_cells: tuple[int, int]) -> Tensor:
    """Cut B,C,h,w of whole images to their crops: B,C,k,l, bilinearly between visited cells (B,h,w bool) only.

    Zero where no visited cell is near.
    """
    rows = np.stack([_onto_image(crop_cells[0], v.zoomed_hw[0], v.top, v.crop_hw[0]) for v in geometries])  # B,k
    columns = np.stack([_onto_image(crop_cells[1], v.zoomed_hw[1], v.left, v.crop_hw[1]) for v in geometries])
    columns = np.where(_mirrored(geometries), columns[:, ::-1], columns)
    grid = _grid(rows, columns, whole.device)
    weight = _sample(visited[:, None].to(whole.dtype), grid)
    return _sample(whole * visited[:, None], grid) / weight.clamp_min(1e-6)


def _into_crop(cells: int, zoomed: int, offset: int, extent: int) -> Places:
    """Centres of a whole image's cells, as fractions of the crop's extent (outside 0…1: not in the crop)."""
    return ((np.arange(cells) + 0.5) * zoomed / cells - offset) / extent


def _onto_image(cells: int, zoomed: int, offset: int, extent: int) -> Places:
    """Centres of a crop's cells, as fractions of the whole image's extent."""
    return ((np.arange(cells) + 0.5) * extent / cells + offset) / zoomed


def _inside(places: Places) -> npt.NDArray[np.bool_]:
    return (places >= 0.0) & (places < 1.0)


def _mirrored(geometries: Sequence[Geometry]) -> npt.NDArray[np.bool_]:
    return np.array([[g.mirrored] for g in geometries])  # B,1


def _grid(rows: Places, columns: Places, device: torch.device) -> Tensor:
    """B,rows,columns,2 in the −1…1 of `grid_sample`, x before y."""
    y, x = to_device(2.0 * rows - 1.0, device), to_device(2.0 * columns - 1.0, device)
    shape = (len(rows), rows.shape[1], columns.shape[1])
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3).float()


def _sample(values: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
