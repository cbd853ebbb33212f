"""The temporal ensemble: what the network has said of each target image over time (Laine & Aila 2017).

    Z_i ← α·Z_i + (1−α)·p_i,   ẑ_i = Z_i / (1 − α^t)      (equation 2)

is stored in its running form  m ← m + (1−α)/(1−α^t) · (p − m), which is ẑ itself, so nothing needs correction
when it is read. The store keeps every class at the network's output stride as 16-bit fixed point.
Legend: I target images, C classes, h rows and w columns at output stride, B images of a batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_FULL_SCALE = 65535.0


class TemporalEnsemble:
    """Class probabilities of each whole target image, averaged over its visits."""

    def __init__(self, image_count: int, class_count: int, size_hw: tuple[int, int], momentum: float) -> None:
        self.momentum = momentum
        self.store: npt.NDArray[np.uint16] = np.zeros((image_count, class_count, *size_hw), np.uint16)  # I,C,h,w
        self.visits: npt.NDArray[np.int64] = np.zeros(image_count, np.int64)  # I

    def update(self, indices: npt.NDArray[np.int64], probabilities: Tensor) -> Tensor:
        """Take in predictions B,C,h,w of the images `indices` (B, each at most once); returns ẑ B,C,h,w float32."""
        predicted = probabilities.detach().float().cpu().numpy()
        self.visits[indices] += 1
        gain = (1.0 - self.momentum) / (1.0 - self.momentum ** self.visits[indices].astype(np.float64))
        mean = self.store[indices].astype(np.float32) / _FULL_SCALE
        mean += gain.astype(np.float32)[:, None, None, None] * (predicted - mean)
        self.store[indices] = np.rint(np.clip(mean, 0.0, 1.0) * _FULL_SCALE).astype(np.uint16)
        return torch.from_numpy(mean).to(probabilities.device)

    def read(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """ẑ of the images `indices` as B,C,h,w; zeros for an image never visited."""
        return np.asarray(self.store[indices] / _FULL_SCALE, np.float32)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs to go on exactly (the 16 bits are carried as int16)."""
        return {"store": torch.from_numpy(self.store.view(np.int16)), "visits": torch.from_numpy(self.visits)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's state."""
        self.store = state["store"].numpy().view(np.uint16).copy()
        self.visits = state["visits"].numpy().copy()
