"""Bilinear interpolation as matrix products, with half-pixel centres as `interpolate(align_corners=False)` has them.

A product's gradient is another product. On a CPU that takes half of interpolate's time; on CUDA it is deterministic,
which interpolate's gradient is not. For training only: an exported graph has PyTorch's own interpolate.
Legend: N images, C channels, h,w rows and columns of the maps, H,W of what is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def taps(
    count: int,
    cells: int,
    *,
    start: float | Sequence[float] = 0,
    length: float | Sequence[float] = 1,
    whole: float | Sequence[float] = 1,
    mirrored: bool | Sequence[bool] = False,
) -> Tensor:
    """count,cells weights of the cells along one axis for `count` places, or N,count,cells where N are asked for.

    The places divide a part of `length` from `start` on evenly; the cells divide the `whole` evenly. The weight of a
    cell falls from 1 at its centre to 0 at its neighbours' centres; beyond the outermost centres theirs is 1.
    """
    first = torch.tensor(start, dtype=torch.float32)[..., None]
    step, scale = (torch.tensor(each, dtype=torch.float64)[..., None] for each in (length, whole))
    step, scale = (step / count).float(), (cells / scale).float()
    places = (first + (torch.arange(count) + 0.5) * step) * scale - 0.5
    places = torch.where(torch.tensor(mirrored)[..., None], places.flip(-1), places)
    distance = (places.clamp(0, cells - 1)[..., None] - torch.arange(cells)).abs()
    return (1.0 - distance).clamp_min(0.0)


def resize_by_matmul(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps N,C,h,w float32 at another size: N,C,H,W for `size_hw` H,W."""
    vertical = _whole_taps(size_hw[0], maps.shape[2], maps.device)
    across = _whole_taps(size_hw[1], maps.shape[3], maps.device)
    with torch.autocast(maps.device.type, enabled=False):
        return vertical @ (maps.float() @ across.T)


@lru_cache(maxsize=64)
def _whole_taps(count: int, cells: int, device: torch.device) -> Tensor:
    """Kept on the device: sending them in each step would make the host wait."""
    # Lengths are counted in places, so that equal sizes give weights of exactly 1 and 0
    return taps(count, cells, length=count, whole=count).to(device)
