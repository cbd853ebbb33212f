"""What a run will take of memory, worked out before its first step.

Legend: K rows, L columns of a crop; H rows, W columns of the model's input; C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of one stage."""

    stage: str
    """Its name in messages."""
    crops: int
    """Crops whose activations are held at once."""
    weights: int
    """Parameters and statistics, their gradients, AdamW's two moments; averaged parameters, too."""
    activations: int
    """What the forward passes keep for the backward pass."""
    batches: int
    """Batches prepared ahead, in the computer's memory."""
    ensemble: int
    """The temporal ensemble of all target images: a file in the run folder, mapped into memory, which gives way."""
    frames: int
    """Frames of target videos: a file on the disk, of which the system keeps in memory what has room."""

    def on_device(self) -> int:
        """Bytes that lie where the network is."""
        return self.weights + self.activations

    def on_host(self) -> int:
        """Bytes that lie in the computer's own memory even when the network is on a GPU."""
        return self.batches

    def line(self) -> str:
        """The plan in one line."""
        parts = {
            "weights, gradients and optimiser": self.weights,
            f"activations of {self.crops} crops": self.activations,
            "batches ahead": self.batches,
        }
        listed = ", ".join(f"{name} {amount(size)}" for name, size in parts.items() if size)
        files = {"the ensemble": self.ensemble, "frames of videos": self.frames}
        stored = "".join(f", and a file of {amount(size)} for {name}" for name, size in files.items() if size)
        return f"{self.stage}: about {amount(self.on_device() + self.on_host())} ({listed}){stored}"


def amount(size: int) -> str:
    """Bytes in the unit a person would take."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def parameter_bytes(modules: list[nn.Module]) -> int:
    """The parameters alone, as those of averaged weights."""
    return sum(p.nbytes for module in modules for p in module.parameters())


def weight_bytes(modules: list[nn.Module]) -> int:
    """Parameters, gradients and AdamW's two moments of each, and the buffers."""
    return 4 * parameter_bytes(modules) + sum(b.nbytes for module in modules for b in module.buffers())


def saved_bytes(forward: Callable[[], Tensor], modules: list[nn.Module]) -> int:
    """Bytes that autograd holds between a forward pass and its backward pass, weights left out.

    `forward` computes a scalar loss; its backward pass is run too, because some devices lack a kernel only there.
    """
    seen = {p.untyped_storage().data_ptr() for module in modules for p in [*module.parameters(), *module.buffers()]}
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())  # the graph keeps it alive, so that no other gets its address
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    loss.backward()  # type: ignore[no-untyped-call]
    return total


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; for the CPU, within the limits of a container; None where the system reports none."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return least_free(Path("/proc/meminfo"), _CGROUP)


def least_free(meminfo: Path, cgroup: Path) -> int | None:
    """The smaller of what the system calls available and what a container's limit leaves, in bytes."""
    found = []
    if meminfo.is_file():
        rows = [line.split() for line in meminfo.read_text().splitlines()]
        found += [int(row[1]) * 1024 for row in rows if row and row[0] == "MemAvailable:"]
    limit, used = (_number(cgroup / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        found.append(max(0, limit - used))
    return min(found, default=None)


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None
