"""Cells of the temporal ensemble as they are stored, and as class probabilities.

A cell keeps either all classes or the k most probable ones, as unsigned 16-bit fixed point: its steps of
1/65535 are even over 0 … 1, where float16's grow to 1/2048 near 1. The probability that the k values leave to 1 is
divided evenly among the other classes, each getting at most the smallest stored value.
A cell that was never visited has probability 0 for every class.
Legend: B images, C classes, k stored classes (C where all are), h rows and w columns at output stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FULL_SCALE = 65535
"""The 16-bit value that stands for probability 1."""
MOST_VISITS = 255
"""Largest count of a cell, which has 8 bits. Later visits use the gain of visit 255, (1−α)/(1−α^255): equal to 1−α in
float32 up to α = 0.93, 0.02 % above it at α = 0.967, 8 % above it (an α of 0.989) at α = 0.99."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Stored cells of some images, on any device."""

    values: Tensor
    """B,k,h,w int16: the bits of unsigned 16-bit fixed point; with top-k, largest first."""
    classes: Tensor | None
    """B,k,h,w uint8 class ids of the values; None where all C classes are stored in order."""
    visits: Tensor
    """B,h,w uint8: how often a prediction reached the cell, at most `MOST_VISITS`."""


def decode(cells: Cells, class_count: int) -> Tensor:
    """Class probabilities B,C,h,w float32."""
    values = (cells.values.to(torch.int32) & FULL_SCALE).float() / FULL_SCALE  # B,k,h,w
    if cells.classes is None:
        return values
    unlisted = class_count - values.shape[1]
    rest = (1.0 - values.sum(dim=1, keepdim=True)).clamp_min(0.0) / max(unlisted, 1)
    rest = torch.minimum(rest, values[:, -1:])  # B,1,h,w; 0 in a cell never visited
    return rest.repeat(1, class_count, 1, 1).scatter_(1, cells.classes.long(), values)


def encode(mean: Tensor, visits: Tensor, top_k: int | None) -> Cells:
    """Probabilities B,C,h,w float32 and visits B,h,w uint8 as stored; `top_k` None keeps every class."""
    classes = None
    if top_k is not None:
        mean, order = mean.topk(top_k, dim=1)
        classes = order.to(torch.uint8)
    values = (
        (mean.clamp(0.0, 1.0) * FULL_SCALE).round().to(torch.int32).to(torch.int16)
    )  # int16 keeps the bits: PyTorch has no uint16 arithmetic
    return Cells(values=values, classes=classes, visits=visits)


def replaced(old: Cells, new: Cells, where: Tensor) -> Cells:
    """`new` in the cells where B,h,w is True, `old` bit-exact in the others."""
    classes = None
    if old.classes is not None and new.classes is not None:
        classes = torch.where(where[:, None], new.classes, old.classes)
    return Cells(
        values=torch.where(where[:, None], new.values, old.values),
        classes=classes,
        visits=torch.where(where, new.visits, old.visits),
    )
