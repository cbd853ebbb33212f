"""The temporal ensemble: a moving average of the predictions of each target image (Laine & Aila 2017).

    Z_i ← α·Z_i + (1−α)·p_i,   ẑ_i = Z_i / (1 − α^t)      (equation 2)

Z_i starts at 0, so after t visits its weights sum to 1 − α^t only; the division corrects this bias. Stored is ẑ itself,
in its running form  m ← m + (1−α)/(1−α^t) · (p − m), so that a reader needs no t. At t = 1 the gain is 1: the first
prediction replaces the empty cell. t is counted per cell, because a crop reaches only some of them. The cells lie in
the coordinates of the whole image at the network's output stride (`method/ensemble/store.py`).

Nothing here waits for the device: cells go there from pinned memory, come back without blocking, and are written into
the store at a later call, when they have arrived; `flush` waits for all.
Legend: I target images, C classes, h rows and w columns at output stride, B images of a batch, k,l a crop's cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clst_train.compute.pinning import to_device
from clst_train.data.augment import Geometry
from clst_train.method.ensemble.cells import MOST_VISITS, Cells, decode, encode, replaced
from clst_train.method.ensemble.crops import onto_crops, onto_images
from clst_train.method.ensemble.store import EnsembleStore

Indices = npt.NDArray[np.int64]
_MOST_UNDER_WAY = 2
"""Updates whose cells may still be on their way back from the device."""


@dataclass(frozen=True, kw_only=True)
class _UnderWay:
    indices: Indices
    cells: Cells
    """In host memory, complete once `arrival` has happened."""
    arrival: torch.cuda.Event | None
    """None where nothing has to arrive: the device is the CPU."""


class TemporalEnsemble:
    """Class probabilities of each whole target image, averaged over its visits with momentum α."""

    def __init__(self, store: EnsembleStore, momentum: float) -> None:
        self.store = store
        self.momentum = momentum
        visits = np.arange(1, MOST_VISITS + 1, dtype=np.float64)
        gains = (1.0 - momentum) / (1.0 - momentum**visits)
        self._gains = torch.from_numpy(np.concatenate([[0.0], gains])).float()  # by visits 0 … 255
        self._under_way: list[_UnderWay] = []
        self.visited: npt.NDArray[np.bool_] = store.visits > 0
        """I: images that some rank has predicted; every rank keeps its own copy, in step with its own work.
        The store's visits may be ahead of it, since another rank may be ahead."""

    @property
    def visits(self) -> npt.NDArray[np.int64]:
        """I: updates that each image took part in."""
        return self.store.visits.astype(np.int64)

    @torch.no_grad()
    def update(self, indices: Indices, probabilities: Tensor) -> Tensor:
        """Average in predictions B,C,h,w of the images `indices` (B, each at most once); returns ẑ B,C,h,w float32."""
        old = self._fetch(indices, probabilities.device)
        visits = _counted(old)
        mean = self._moved(self._decoded(old), visits, probabilities.detach().float())
        self._send(indices, encode(mean, visits.to(torch.uint8), self.store.layout.top_k))
        return mean

    @torch.no_grad()
    def update_crops(
        self, indices: Indices, probabilities: Tensor, geometries: Sequence[Geometry], valid: Tensor
    ) -> Tensor:
        """Average predictions of crops into the cells of the whole images that they cover; other cells stay bit-exact.

        Args:
            indices: B images, each at most once.
            probabilities: B,C,k,l predictions of the crops at their output stride.
            geometries: B, how each crop was cut out of its whole image.
            valid: B,k,l bool; False where the crop does not show the image (pasted over, ignored).

        Returns:
            ẑ seen through the same geometries, B,C,k,l float32; zeros where no cell has been visited yet.
        """
        crops = probabilities.detach().float()
        seen = onto_images(crops, geometries, valid, self.store.layout.size_hw)
        old = self._fetch(indices, crops.device)
        visits = torch.where(seen.covered, _counted(old), old.visits.to(torch.int64))
        before = self._decoded(old)
        mean = torch.where(seen.covered[:, None], self._moved(before, visits, seen.values), before)
        new = encode(mean, visits.to(torch.uint8), self.store.layout.top_k)
        self._send(indices, replaced(old, new, seen.covered))
        return onto_crops(mean, visits > 0, geometries, (crops.shape[2], crops.shape[3]))

    def recall(self, indices: Indices, device: torch.device) -> Tensor:
        """ẑ of the images `indices` as stored, B,C,h,w float32 on the device; zeros in cells never visited."""
        return self._decoded(self._fetch(indices, device))

    def read(self, indices: Indices) -> npt.NDArray[np.float32]:
        """`recall` as an array."""
        return self.recall(indices, torch.device("cpu")).numpy()

    def flush(self) -> None:
        """Wait until every update is in the store."""
        while self._under_way:
            self._land_first()

    def _moved(self, mean: Tensor, visits: Tensor, probabilities: Tensor) -> Tensor:
        if self._gains.device != probabilities.device:
            self._gains = self._gains.to(probabilities.device)
        return mean + self._gains[visits][:, None] * (probabilities - mean)  # (2)

    def _decoded(self, cells: Cells) -> Tensor:
        return decode(cells, self.store.layout.classes)

    def _fetch(self, indices: Indices, device: torch.device) -> Cells:
        """The images' cells on the device, after every earlier update of them."""
        while self._under_way:
            arrival = self._under_way[0].arrival
            has_room = len(self._under_way) <= _MOST_UNDER_WAY
            if arrival is not None and has_room and not arrival.query():  # type: ignore[no-untyped-call]
                break
            self._land_first()
        while any(np.isin(indices, update.indices).any() for update in self._under_way):
            self._land_first()
        records = self.store.records
        return Cells(
            values=to_device(records["values"][indices], device),
            classes=None if self.store.layout.top_k is None else to_device(records["classes"][indices], device),
            visits=to_device(records["visits"][indices], device),
        )

    def _send(self, indices: Indices, cells: Cells) -> None:
        """Start the cells' way back into the store."""
        if len(np.unique(indices)) != len(indices):
            raise ValueError(f"an image occurs twice in one update: {indices.tolist()}")
        self.store.visits[indices] += 1
        on_host = Cells(
            values=_to_host(cells.values),
            classes=None if cells.classes is None else _to_host(cells.classes),
            visits=_to_host(cells.visits),
        )
        self._under_way.append(
            _UnderWay(indices=indices.copy(), cells=on_host, arrival=self._arrival(cells.values.device))
        )

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
        records = self.store.records
        records["values"][update.indices] = update.cells.values.numpy()
        records["visits"][update.indices] = update.cells.visits.numpy()
        if update.cells.classes is not None:
            records["classes"][update.indices] = update.cells.classes.numpy()


def _counted(cells: Cells) -> Tensor:
    return (cells.visits.to(torch.int64) + 1).clamp_max(MOST_VISITS)


def _to_host(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return host.copy_(tensor, non_blocking=True)
