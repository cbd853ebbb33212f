"""BatchNorm statistics: whose images they describe is decided here, deliberately; they are what gets exported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def _layers(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace all running statistics by their mean over `batches` (each N,3,H,W, normalised); no weight changes.

    Returns the number of batches seen; with none the statistics stay as they were, and so do those of a layer that
    never had two values a channel (pooling of a single image).
    """
    layers, was_training, count = _layers(network), network.training, 0
    momenta = [layer.momentum for layer in layers]
    before: list[dict[str, Tensor]] = []
    network.train()
    for batch in batches:
        if count == 0:
            before = [{name: value.clone() for name, value in layer.named_buffers()} for layer in layers]
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # cumulative mean
        network(batch)
        count += 1
    for layer, values in zip(layers, before, strict=True) if count else ():
        if not layer.num_batches_tracked:
            layer.load_state_dict(values, strict=False)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.train(was_training)
    return count


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise by each batch's own statistics (training mode) without moving the running ones."""
    layers, was_training = _layers(network), network.training
    momenta = [layer.momentum for layer in layers]
    network.train()
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        network.train(was_training)
