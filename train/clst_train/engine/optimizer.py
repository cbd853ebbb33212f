"""One optimiser step: learning rate, loss scaling, gradients and their clipping, and a watch for what is no number.

Nothing here waits for the device: what goes wrong is noted there and read when the log is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clst_train.compute.distributed import total
from clst_train.engine.schedule import learning_rate_factor

LARGEST_NORM = 5.0
"""Gradients of a module are scaled down to this norm."""


class Descent:
    """Gradients of one or several losses, then one step of the optimiser.

    With fp16 the loss is scaled up before the backward pass so that small gradients do not vanish; a step whose
    gradients are not finite is left out, counted, and the scale halved. In the other precisions such a gradient
    would destroy the weights: its iteration is recorded as the first bad one, as for a loss that is not finite.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        modules: Sequence[nn.Module],
        device: torch.device,
        *,
        scaled: bool = False,
    ) -> None:
        self.optimiser = optimiser
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self._modules = list(modules)
        self._loss: Tensor | None = None
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a scalar loss, or of one part of it, to those of this step."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        part = loss.detach()
        self._loss = part if self._loss is None else self._loss + part

    def step(self, iteration: int) -> Tensor:
        """Clip the gradients and step; returns the sum of this step's losses, on the device.

        Raises:
            RuntimeError: there was no backward pass before.
        """
        if self._loss is None:
            raise RuntimeError("Descent.step without a backward pass before it")
        self.scaler.unscale_(self.optimiser)
        norms = [nn.utils.clip_grad_norm_(module.parameters(), LARGEST_NORM) for module in self._modules]
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        loss, self._loss = self._loss, None
        self._note(loss, torch.stack(norms), iteration)
        return loss

    def descend(self, loss: Tensor, iteration: int) -> Tensor:
        """Backward pass and step at once; returns the loss, detached."""
        self.backward(loss)
        return self.step(iteration)

    def _note(self, loss: Tensor, norms: Tensor, iteration: int) -> None:
        skipped, bad = ~torch.isfinite(norms).all(), ~torch.isfinite(total(loss))
        if self.scaler.is_enabled():
            self._skipped += skipped
        else:
            bad = bad | skipped
        self._first_bad.masked_fill_(bad & (self._first_bad < 0), iteration)

    @property
    def skipped(self) -> Tensor | None:
        """Steps left out so far, a scalar on the device; None where no step is ever left out."""
        return self._skipped if self.scaler.is_enabled() else None

    def first_bad_iteration(self) -> int | None:
        """The iteration whose loss or gradient was the first that is no finite number; waits for the device."""
        found = int(self._first_bad)
        return found if found >= 0 else None

    def state_dict(self) -> dict[str, Any]:
        """Loss scale and count, for a checkpoint; the optimiser has its own state."""
        return {"scaler": self.scaler.state_dict(), "skipped": int(self._skipped)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state; the state of a run without loss scaling changes nothing."""
        if self.scaler.is_enabled() and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self._skipped.fill_(int(state.get("skipped", 0)))


WEIGHT_DECAY = 0.01
"""AdamW's usual one."""


def adamw(
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    device: torch.device,
    weight_decay: float = WEIGHT_DECAY,
) -> torch.optim.AdamW:
    """The optimiser of both stages, all of its arithmetic in one kernel (where there is one).

    On a CPU that takes a quarter less time; on CUDA it also skips a step of fp16 on the device, where the usual one
    asks the host each time.
    """
    fused = True if device.type in ("cpu", "cuda") else None
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)


def set_rate(optimiser: torch.optim.Optimizer, peak: float, iteration: int, iterations: int) -> None:
    """Set the learning rate of one iteration: linear warm-up, then polynomial decay."""
    for group in optimiser.param_groups:
        group["lr"] = peak * learning_rate_factor(iteration, iterations)
