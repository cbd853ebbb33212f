"""Several processes as one: every rank takes its part of a batch, and sums over ranks give what the whole batch would.

Outside `torchrun` there is one rank, and everything here is the identity. Legend: R ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed.nn.functional as differentiable
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clst_runtime.errors import ConfigError

PATIENCE = timedelta(minutes=60)
"""How long ranks wait for one another: validation and the first look at a data set are the first rank's alone."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which process this is, of how many."""

    rank: int = 0
    """0 … count − 1; 0 writes files."""
    count: int = 1
    """R."""
    local: int = 0
    """Number of this process on its machine, and so of its GPU."""

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def part(self, batch: int, *, where: str) -> slice:
        """This rank's places of a batch.

        Raises:
            ConfigError: the batch cannot be split evenly; `where` names its setting.
        """
        if batch % self.count:
            raise ConfigError(f"{where} = {batch} cannot be split over {self.count} processes; give a multiple of it")
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)


def ranks() -> Ranks:
    """What `torchrun` says, by its environment variables."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Ranks()
    return Ranks(rank=int(os.environ["RANK"]), count=count, local=int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes, NCCL on CUDA and gloo on the CPU; leave them at the end."""
    here = ranks()
    if here.count == 1:
        yield here
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield here
    finally:
        distributed.destroy_process_group()


def is_split() -> bool:
    """Whether there is more than one process."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def wait_for_all() -> None:
    """Go on when every rank has come here."""
    if is_split():
        distributed.barrier()


def total(values: Tensor) -> Tensor:
    """The sum over ranks, without a gradient; what came in stays as it was."""
    if not is_split():
        return values
    summed = values.detach().clone()
    distributed.all_reduce(summed)
    return summed


def mean_over(sums: Tensor, count: Tensor) -> Tensor:
    """sums / count of the whole batch, as this rank's part of it.

    DistributedDataParallel averages gradients over ranks, so a part counts R times: R · sums / Σ count, whose mean over
    ranks is Σ sums / Σ count.
    """
    if not is_split():
        return sums / count.clamp_min(1.0)
    return sums * distributed.get_world_size() / total(count).clamp_min(1.0)


class SynchronisedNorm(_BatchNorm):
    """BatchNorm whose batch statistics are those of all ranks' parts together, on any device, gradients included."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, input: Tensor) -> Tensor:
        """N,D,… to N,D,…; in eval mode the running statistics are used."""
        if not self.training or not is_split():
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        values = input.float()
        count = values.numel() // values.shape[1] * distributed.get_world_size()  # every rank's part has this size
        mean = _summed(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = _summed((centred * centred).sum(axes)) / count
        self._move(mean.detach(), variance.detach() * (count / (count - 1)))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        return (normal * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def _summed(values: Tensor) -> Tensor:
    """The sum over ranks, through which gradients go."""
    summed: Tensor = differentiable.all_reduce(values)  # type: ignore[no-untyped-call]
    return summed


def synchronise_norms(network: nn.Module) -> None:
    """Replace every BatchNorm in place by one over all ranks; names and values of the state dict stay."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, SynchronisedNorm):
            norm = SynchronisedNorm(child.num_features, child.eps, child.momentum, affine=True)
            norm.weight, norm.bias = child.weight, child.bias
            norm.running_mean, norm.running_var = child.running_mean, child.running_var
            norm.num_batches_tracked = child.num_batches_tracked
            norm.train(child.training)
            setattr(network, name, norm)
        else:
            synchronise_norms(child)


def averaged_over_ranks(values: dict[str, Any]) -> dict[str, Any]:
    """Logged scalars as means over ranks; one message for all of them."""
    if not is_split() or not values:
        return values
    stacked = total(torch.stack([value.float() for value in values.values()])) / distributed.get_world_size()
    return dict(zip(values, stacked, strict=True))
