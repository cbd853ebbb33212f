"""Page-locked memory, from where a CUDA device fetches batches and small arrays while it computes."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

Batch = TypeVar("Batch")


def pinned(batch: Batch) -> Batch:
    """A copy of a batch whose arrays lie in page-locked memory; for the loader threads.

    A batch is a dataclass with NumPy arrays among its fields, or a tuple of such.
    """
    if isinstance(batch, tuple):
        return tuple(pinned(part) for part in batch)  # type: ignore[return-value]
    assert dataclasses.is_dataclass(batch)  # noqa: S101 - a fault of ours
    arrays = {
        entry.name: _pinned_array(value)
        for entry in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, entry.name), np.ndarray)
    }
    return dataclasses.replace(batch, **arrays)  # type: ignore[type-var]


def to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array on the device; the copy is queued in the current stream, and the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _pinned_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return torch.from_numpy(array).pin_memory().numpy()
