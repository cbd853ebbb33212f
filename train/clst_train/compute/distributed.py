"""Several processes as one: every rank takes its part of a batch, and sums over ranks give what the whole batch would.

Outside `torchrun` there is one rank, and everything here is the identity. Legend: R ranks.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from clst_runtime.errors import ClstError, ConfigError, DataError
from clst_train.compute.ranks import Ranks, ranks
from clst_train.models.built_in.ddrnet import PooledNorm

_log = logging.getLogger(__name__)
TIMEOUT = timedelta(minutes=60)
"""How long ranks wait for one another: validation and the first look at a data set are the first rank's alone."""
Item = TypeVar("Item")
_ALONE: ContextVar[bool] = ContextVar("each_alone", default=False)


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the other processes, unless this one has already; leave them at the end.

    Tensors on a CUDA device go by NCCL; tensors on the CPU and messages go by gloo, so that no GPU waits for those.

    Raises:
        ConfigError: there should be others, but nothing says where they are.
    """
    here = ranks()
    if here.count == 1 or distributed.is_initialized():
        yield here
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE = {here.count} asks for several processes, but {missing[0]} is not set; start them by "
            "torchrun, or unset WORLD_SIZE and RANK"
        )
    importlib.import_module("torch._dynamo")  # a first step would import it: defaults of its arguments keep the group
    backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backends, timeout=TIMEOUT)
    try:
        yield here
    except BaseException as error:
        _free_locals(error)
        raise
    finally:
        # A network in DistributedDataParallel must not be the group's last owner: it joins gloo's threads while it
        # holds the interpreter's lock, and one of them may need that lock to free a tensor.
        gc.collect()  # the network may be in a circle of references
        distributed.destroy_process_group()


def _free_locals(error: BaseException) -> None:
    """Clear the locals of the frames that the error, its causes and its contexts keep; tracebacks print as before."""
    errors: list[BaseException] = [error]
    for each in errors:  # grows meanwhile
        traceback.clear_frames(each.__traceback__)
        errors.extend(
            reason for reason in (each.__cause__, each.__context__) if reason is not None and reason not in errors
        )


def is_split() -> bool:
    """Whether there is more than one process, and this one does not work for itself (`each_alone`)."""
    initialised = distributed.is_available() and distributed.is_initialized()
    return initialised and distributed.get_world_size() > 1 and not _ALONE.get()


@contextmanager
def each_alone() -> Iterator[None]:
    """Every rank does the same, or the first something by itself: nothing inside waits for the others."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


class _Agreed(Exception):
    """Why an error is raised on every rank."""


@contextmanager
def together() -> Iterator[None]:
    """All ranks finish the block, or all raise the error of the lowest rank that has one, so that none waits forever.

    Only errors that a user can cause (ClstError, OSError) are passed on; a bug ends its own process.

    Raises:
        ClstError: of the same kind and with the same message on every rank.
    """
    if not is_split():
        yield
        return
    failed: tuple[type[ClstError], str] | None = None
    try:
        yield
    except ClstError as error:
        failed = type(error), error.message
    except OSError as error:
        failed = DataError, f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    for report in of_all(failed):
        if report is not None:
            kind, message = report
            raise kind(message) from _Agreed()


def alike(items: Iterator[Item]) -> Iterator[Item]:
    """The items; when one cannot be had on one rank, all raise its error. Every rank has the same number of them."""
    while True:
        found: list[Item] = []
        with together():
            found.extend(itertools.islice(items, 1))
        if not found:
            return
        yield found[0]


def is_agreed(error: BaseException) -> bool:
    """Whether all ranks raise this error, so that the first can report it for all."""
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, _Agreed):
        reason = reason.__cause__
    return reason is not None


def report(line: str) -> None:
    """Log a line for people, on the first rank only."""
    if ranks().first:
        _log.info(line)


def of_all(value: Item) -> list[Item]:
    """Each rank's value of something plain, on every rank."""
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def check_alike(facts: Mapping[str, Any]) -> None:
    """Of several ranks only.

    Raises:
        ConfigError: a rank has other facts than the first one; the message names the first that differs.
    """
    first, *others = of_all(dict(facts))
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other[name] != value:
                raise ConfigError(
                    f"{name} is {other[name]!r} in process {rank} and {value!r} in the first; start all processes with "
                    "the same options, and give each machine the same images"
                )


def from_first(value: Item) -> Item:
    """The first rank's value of something plain, on every rank."""
    if not is_split():
        return value
    box: list[Any] = [value]
    distributed.broadcast_object_list(box)
    return box[0]  # type: ignore[no-any-return]


def on_any_rank(what: bool) -> bool:  # noqa: FBT001
    """Whether it holds on one of the ranks; every rank has to ask."""
    return bool(total(torch.tensor(float(what))) > 0)


def wait_for_all() -> None:
    """Wait until every rank has come here."""
    if is_split():
        distributed.all_reduce(torch.zeros(1))  # on the CPU: a barrier of NCCL would wait for the device


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


@torch.no_grad()
def moments(values: Tensor) -> tuple[int, Tensor, Tensor]:
    """How many values a channel of all ranks' batch has, their mean and their mean squared deviation, float32 each.

    `values` N,D,… is this rank's part; every rank's part has the same size. Of several ranks only.
    """
    axes = [axis for axis in range(values.dim()) if axis != 1]
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    count = values.numel() // values.shape[1] * distributed.get_world_size()
    mean = total(values.sum(axes)) / count
    shape = [1, -1, *[1] * (values.dim() - 2)]
    return count, mean, total((values - mean.view(shape)).square().sum(axes)) / count


class SynchronisedNorm(_BatchNorm):
    """BatchNorm whose batch statistics are those of all ranks' parts together, on any device, gradients included."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on."""

    def forward(self, input: Tensor) -> Tensor:
        """N,D,… to N,D,…; in eval mode the running statistics are used, where there are any."""
        if not is_split() or not (self.training or self.running_mean is None):
            return self._alone(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.numel() // values.shape[1] * distributed.get_world_size()  # every rank's part has this size
        mean = _summed(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = _summed((centred * centred).sum(axes)) / count  # biased: what normalises the batch
        # Running statistics keep the unbiased variance n/(n−1), as PyTorch's BatchNorm does
        self._move(mean.detach(), variance.detach() * (count / (count - 1)))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    def _alone(self, input: Tensor) -> Tensor:
        """As in one process. A channel with a single value has no variance and uses the running statistics."""
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False)
        return super().forward(input)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Sum(torch.autograd.Function):
    """The sum over ranks; every rank's part has the sum of all ranks' gradients."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return total(gradient.contiguous())


def _summed(values: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return summed


PLAIN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward, PooledNorm.forward)
"""What `SynchronisedNorm` computes, too; a subclass with a forward pass of its own may do anything else beside it."""


def synchronise_norms(network: nn.Module) -> None:
    """Replace every BatchNorm in place by one over all ranks; names and values of the state dict stay.

    Raises:
        ConfigError: one of them has a forward pass of its own, which nothing can replace.
    """
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent._modules.items()
        if isinstance(child, _BatchNorm) and not isinstance(child, SynchronisedNorm)
    ]
    strange = next((child for *_, child in places if type(child).forward not in PLAIN_FORWARDS), None)
    if strange is not None:
        raise ConfigError(
            f"the network's {type(strange).__name__} is a BatchNorm with a forward pass of its own, which is not for "
            "several processes together; train in one, or put torch.nn.BatchNorm2d in its place"
        )
    made: dict[_BatchNorm, SynchronisedNorm] = {}  # one layer may stand in several places
    for parent, name, child in places:
        if child not in made:
            made[child] = _synchronised(child)
        parent._modules[name] = made[child]


def _synchronised(norm: _BatchNorm) -> SynchronisedNorm:
    made = SynchronisedNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made.train(norm.training)


def averaged_over_ranks(values: dict[str, Any]) -> dict[str, Any]:
    """Logged scalars as means over ranks; one message for all of them."""
    if not is_split() or not values:
        return values
    stacked = total(torch.stack([value.float() for value in values.values()])) / distributed.get_world_size()
    return dict(zip(values, stacked, strict=True))
