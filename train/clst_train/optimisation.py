"""One optimiser step: learning rate, gradients, their clipping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clst_train.schedule import learning_rate_factor


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, modules: list[Any]) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for module in modules:
        torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    optimiser.step()


def set_rate(optimiser: torch.optim.Optimizer, peak: float, iteration: int, iterations: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = peak * learning_rate_factor(iteration, iterations)
