"""Pixels where ONNX Runtime and PyTorch differ, and how many of them are ties. Legend: H rows, W columns, C classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clst_runtime.backends.base import Backend, Frame
from clst_train.models.deployable import Deployable

FP32_TIE = 1e-4
"""Of the largest logit: float32 rounding through a network of this depth stays below it."""


@dataclass(frozen=True, kw_only=True)
class Ties:
    """How many pixels of two class maps differ, and how many of those are ties."""

    frames: int
    """Frames compared."""
    agreement: float
    """Share of equal pixels, 0 … 1."""
    differing_pixels: int
    """Pixels that differ."""
    worst_margin: float
    """Largest difference of PyTorch's two logits in question over the differing pixels."""
    tie_margin: float
    """Margin up to which rounding decides."""
    untied_pixels: int
    """Pixels that differ by more than that."""
    pixels: int
    """Pixels compared."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without `pixels`."""
        values = dataclasses.asdict(self)
        del values["pixels"]
        return values


@torch.inference_mode()
def count_ties(
    deployable: Deployable, backend: Backend, frames: Sequence[Frame], *, tie_fraction: float = FP32_TIE
) -> Ties:
    """Compare class maps on frames H,W,3; a differing pixel's margin is the gap of PyTorch's logits there.

    Up to `tie_fraction` of the largest logit such a gap counts as a tie.
    """
    total, largest = 0, 1.0
    margins = [torch.zeros(0)]
    for frame in frames:
        logits = deployable.logits(torch.from_numpy(frame.copy())[None])[0]  # C,H,W
        classes = logits.argmax(dim=0)
        other = torch.from_numpy(backend.predict(frame).classes.astype(np.int64))
        gap = logits.gather(0, classes[None])[0] - logits.gather(0, other[None])[0]
        margins.append(gap[classes != other])
        largest = max(largest, float(logits.abs().max()))
        total += classes.numel()
    found = torch.cat(margins)
    return Ties(
        frames=len(frames),
        agreement=1.0 - found.numel() / max(1, total),
        differing_pixels=found.numel(),
        worst_margin=float(found.max()) if found.numel() else 0.0,
        tie_margin=largest * tie_fraction,
        untied_pixels=int((found > largest * tie_fraction).sum()),
        pixels=total,
    )
