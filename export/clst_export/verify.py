"""ONNX Runtime against PyTorch on real frames. Legend: H rows, W columns, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from clst_runtime.backends.base import Backend, Frame
from clst_train.models.deployable import Deployable

TIE_FRACTION = 1e-4  # of the largest logit: float32 rounding through a network of this depth stays below it


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two class maps agree, and whether the rest are ties."""

    frames: int
    """Pictures compared."""
    agreement: float
    """Share of equal pixels, 0 … 1."""
    differing_pixels: int
    """Pixels that differ."""
    worst_margin: float
    """Largest difference of PyTorch's two logits in question over the differing pixels."""
    tie_margin: float
    """Margin below which float32 rounding decides."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "frames": self.frames,
            "agreement": self.agreement,
            "differing_pixels": self.differing_pixels,
            "worst_margin": self.worst_margin,
            "tie_margin": self.tie_margin,
        }


@torch.inference_mode()
def verify(deployable: Deployable, backend: Backend, frames: Sequence[Frame]) -> Agreement:
    """Compare class maps on frames H,W,3; a differing pixel's margin is the gap of PyTorch's logits there."""
    different = total = 0
    worst = largest = 0.0
    for frame in frames:
        logits = deployable.logits(torch.from_numpy(frame.copy())[None])[0]  # C,H,W
        classes = logits.argmax(dim=0)
        other = torch.from_numpy(backend.predict(frame).classes).long()
        differ = classes != other
        largest = max(largest, float(logits.abs().max()))
        total += differ.numel()
        if differ.any():
            gap = logits.gather(0, classes[None])[0] - logits.gather(0, other[None])[0]
            worst = max(worst, float(gap[differ].max()))
            different += int(differ.sum())
    return Agreement(
        frames=len(frames),
        agreement=1.0 - different / max(1, total),
        differing_pixels=different,
        worst_margin=worst,
        tie_margin=max(1.0, largest) * TIE_FRACTION,
    )
