"""BatchNorm statistics: which images they describe. A network normalises by them, and they are exported with it.

In adaptation a batch mixes source crops, target crops and pasted pixels, so the running averages of training describe
neither camera. Statistics are therefore estimated on whole images of one camera: before the first step, where labels
begin, and after the last one, because the weights have changed since and the activations with them; in between they are
followed from batch to batch. Where the new camera's are estimated to make the network worse, those that it came with
stay, in training too (decision 10).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from clst_train.compute.distributed import is_split, moments

STATISTICS_IMAGES = 256
"""Images of the new camera, at most, that its statistics are estimated on."""
MOMENTUM = 0.1
"""How far a batch moves the statistics that whole images are predicted by; its own alone were worse (decision 10)."""


def statistics_layers(network: nn.Module) -> list[_BatchNorm]:
    """The layers whose running statistics predictions are made with; one that keeps none normalises by each image."""
    return [each for each in network.modules() if isinstance(each, _BatchNorm) and each.running_mean is not None]


def _running(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Mean and variance of a layer that has them."""
    assert layer.running_mean is not None and layer.running_var is not None  # noqa: S101, PT018 - statistics_layers
    return layer.running_mean, layer.running_var


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace all running statistics by their mean over `batches` (each N,3,H,W, normalised); no weight changes.

    Each layer averages over the batches with equal weight (momentum None), the others work as in prediction. Returns
    the number of batches; with none, or no such layer, all stays as it was, and so do the statistics of a layer that
    never had two values a channel (pooling of one image).
    """
    layers, was_training, count = statistics_layers(network), network.training, 0
    momenta = [layer.momentum for layer in layers]
    before: list[dict[str, Tensor]] = []
    network.eval()  # dropout would change what the layers see
    for layer in layers:
        layer.train()
    for batch in batches if layers else ():
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


def keep_statistics(network: nn.Module) -> None:
    """Have a network in training normalise by its running statistics, which stay, until it is set to training anew."""
    for layer in statistics_layers(network):
        layer.eval()


class FollowedStatistics:
    """Statistics of one camera's images, separate from the network's running ones, which describe all that it sees.

    A batch first moves them by `momentum`, then is normalised by them. They describe many images, unlike the batch's
    own statistics. With several ranks a batch is all ranks' parts together.
    """

    def __init__(self, network: nn.Module, momentum: float = MOMENTUM) -> None:
        """Begin with the network's running statistics."""
        self.momentum = momentum
        running = [_running(layer) for layer in statistics_layers(network)]
        self.means = [mean.clone() for mean, _ in running]
        self.variances = [variance.clone() for _, variance in running]

    def begin_anew(self, network: nn.Module) -> None:
        """Take the network's running statistics again."""
        self.load_state_dict(FollowedStatistics(network, self.momentum).state_dict())

    @torch.no_grad()
    def give(self, network: nn.Module) -> None:
        """Make them the network's running statistics."""
        for layer, mean, variance in zip(statistics_layers(network), self.means, self.variances, strict=True):
            for own, value in zip(_running(layer), (mean, variance), strict=True):
                own.copy_(value)

    @contextmanager
    def used_by(self, network: nn.Module) -> Iterator[None]:
        """Inside, the network predicts with these statistics and moves them; its own stay as they are."""
        layers, was_training = statistics_layers(network), network.training
        own = [(layer.running_mean, layer.running_var) for layer in layers]
        network.eval()
        hooks = []
        for place, layer in enumerate(layers):
            hooks.append(layer.register_forward_pre_hook(partial(self._take_in, place)))
        try:
            yield
        finally:
            for layer, kept, hook in zip(layers, own, hooks, strict=True):
                hook.remove()
                layer.running_mean, layer.running_var = kept
            network.train(was_training)

    def _take_in(self, place: int, layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        """Move a layer's statistics by what it is about to normalise, and give it those to normalise by."""
        mean, variance = self.means[place], self.variances[place]
        self._move(mean, variance, layer, inputs)
        layer.running_mean, layer.running_var = mean, variance

    def _move(self, mean: Tensor, variance: Tensor, layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0]
        if not is_split():
            if values.numel() > values.shape[1]:
                # Training mode updates the statistics in one kernel; its normalised output is not used
                F.batch_norm(values, mean, variance, training=True, momentum=self.momentum, eps=layer.eps)
            return
        count, of_batch, square = moments(values)
        if count > 1:
            mean.lerp_(of_batch, self.momentum)
            variance.lerp_(square * (count / (count - 1)), self.momentum)

    def state_dict(self) -> dict[str, list[Tensor]]:
        """What a checkpoint needs to go on exactly."""
        return {"means": self.means, "variances": self.variances}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from a checkpoint's state."""
        for own, values in ((self.means, state["means"]), (self.variances, state["variances"])):
            for mine, value in zip(own, values, strict=True):
                mine.copy_(value)
