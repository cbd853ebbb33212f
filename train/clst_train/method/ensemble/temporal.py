"""The temporal ensemble: a moving average of the predictions of each target image (Laine & Aila 2017).

    Z_i ← α·Z_i + (1−α)·p_i,   ẑ_i = Z_i / (1 − α^t)      (equation 2)

Z_i starts at 0, so after t visits its weights sum to 1 − α^t only; the division corrects this bias. Stored is ẑ itself,
in its running form  m ← m + (1−α)/(1−α^t) · (p − m): at t = 1 the gain is 1, and the first prediction is the average.

Nothing here waits for the device: averages go there from pinned memory, come back without blocking, and are written
into the store at a later call, when they have arrived; `flush` waits for all.
Legend: I target images, B images of a batch, C classes, h rows and w columns at output stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clst_train.compute.pinning import to_device
from clst_train.method.ensemble.store import FULL_SCALE, Store, Visits

Indices = npt.NDArray[np.int64]
_MOST_UNDER_WAY = 2
"""Updates whose averages may still be on their way back from the device."""


@dataclass(frozen=True, kw_only=True)
class _UnderWay:
    indices: Indices
    values: Tensor
    """B,C,h,w in host memory, complete once `arrival` has happened."""
    arrival: torch.cuda.Event | None
    """None where nothing has to arrive: the device is the CPU."""


class TemporalEnsemble:
    """Class probabilities of each whole target image of this process, averaged over its visits with momentum α."""

    def __init__(self, store: Store, visits: Visits, momentum: float, *, processes: int = 1) -> None:
        """`visits` are changed in place, `store` is; image i is in row i // `processes`."""
        self.store, self.visits, self.momentum, self.processes = store, visits, momentum, processes
        self._under_way: list[_UnderWay] = []

    @torch.no_grad()
    def update(self, indices: Indices, probabilities: Tensor) -> Tensor:
        """Average in predictions B,C,h,w of the images `indices` (B, each at most once); returns ẑ B,C,h,w float32."""
        if len(np.unique(indices)) != len(indices):
            raise ValueError(f"an image occurs twice in one update: {indices.tolist()}")
        before = self.recall(indices, probabilities.device)
        gains = (1.0 - self.momentum) / (1.0 - self.momentum ** (self.visits[indices] + 1.0))
        gains = gains.astype(np.float32)[:, None, None, None]
        mean = before + to_device(gains, before.device) * (probabilities.detach().float() - before)  # (2)
        values = (mean.clamp(0.0, 1.0) * FULL_SCALE).round().to(torch.int32).to(torch.int16)  # keeps the 16 bits
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.device.type == "cuda")
        host.copy_(values, non_blocking=True)
        self._under_way.append(_UnderWay(indices=indices.copy(), values=host, arrival=self._arrival(values.device)))
        self.visits[indices] += 1
        return mean

    @torch.no_grad()
    def recall(self, indices: Indices, device: torch.device) -> Tensor:
        """ẑ of the images `indices`, after every earlier update: B,C,h,w float32; zeros for one never visited."""
        while self._under_way:
            arrival = self._under_way[0].arrival
            has_room = len(self._under_way) <= _MOST_UNDER_WAY
            if arrival is not None and has_room and not arrival.query():  # type: ignore[no-untyped-call]
                break
            self._land_first()
        while any(np.isin(indices, update.indices).any() for update in self._under_way):
            self._land_first()
        stored = self.store[indices // self.processes].view(np.int16)  # PyTorch lacks most operations of uint16
        values = to_device(stored, device)
        return (values.to(torch.int32) & FULL_SCALE).float() / FULL_SCALE

    def read(self, indices: Indices) -> npt.NDArray[np.float32]:
        """`recall` as an array."""
        return self.recall(indices, torch.device("cpu")).numpy()

    def flush(self) -> None:
        """Wait until every update is in the store."""
        while self._under_way:
            self._land_first()

    def _arrival(self, device: torch.device) -> torch.cuda.Event | None:
        if device.type != "cuda":
            return None
        event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event

    def _land_first(self) -> None:
        update = self._under_way.pop(0)
        if update.arrival is not None:
            update.arrival.synchronize()
        self.store[update.indices // self.processes] = update.values.numpy().view(np.uint16)
