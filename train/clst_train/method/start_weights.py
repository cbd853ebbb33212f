"""The result averages the weights at the start of self-training with those at its end.

Self-training learns the new camera and forgets a part of what the network knew. A network between the two recovers that
part and loses little of what was learnt (weight-space interpolation, WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903;
measured in decision 24).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class StartWeights:
    """A network's weights of some moment, on the CPU, and their share in what it becomes later."""

    def __init__(self, share: float) -> None:
        """`share`: of the remembered weights in the result, 0 … 1; the rest are the network's own."""
        self.share = share
        self._weights: dict[str, Tensor] = {}

    def begin(self, network: nn.Module) -> None:
        """Remember its weights as they are now, and nothing that does not train."""
        self._weights = {name: value.detach().cpu().clone() for name, value in network.named_parameters()}

    @torch.no_grad()
    def join(self, network: nn.Module) -> None:
        """Set each weight to `share` times the remembered one + (1 − `share`) times its own.

        Nothing happens where none were ever remembered. BatchNorm statistics stay; they want to be estimated anew.
        """
        weights = dict(network.named_parameters())
        for name, kept in self._weights.items():
            weights[name].lerp_(kept.to(weights[name].device), self.share)

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return dict(self._weights)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """As `state_dict` gave it."""
        self._weights = dict(state)
