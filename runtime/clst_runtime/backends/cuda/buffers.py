"""The memory through which frames reach an engine and results come back. Legend: H rows, W columns of its input.

Every buffer is made once, and so is every address that TensorRT gets: it never changes from frame to frame. A result is
borrowed from a slot, whose memory is not written again while the result is alive.

- `CopiedBuffers`: the GPU has memory of its own. Its copy engine brings H·W·3 bytes in and H·W back, straight into the
  slot of the result.
- `MappedBuffers`: the GPU reads the frame and writes the class map in the processor's memory. The class map is then
  copied once, by the processor, into the slot of the result. The other way would be to give TensorRT the address of
  another slot for each frame. It saves H·W bytes of copying, tens of microseconds, and costs more than that: a CUDA
  graph fixes the addresses it was recorded with, and we keep to one execution context, with its memory, for each
  graph; and results would lie in page-locked memory, which some Jetsons do not cache for the processor that reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from clst_runtime.backends.base import Frame, Prediction
from clst_runtime.backends.cuda.device import AUTO, Bytes, CudaDevice
from clst_runtime.backends.cuda.options import COPY, MAPPED
from clst_runtime.imaging.array_pool import BorrowableArray

RESULTS_BORROWED = 4
"""Results that may be held at a time without a copy; who holds more gets copies in ordinary memory."""

NO_CLASS = 255
"""What a class map never contains, by the artifact contract."""


class ResultSlot:
    """Buffers H,W of one result. Arrays of them are borrowed; none is written again while any of those is alive."""

    def __init__(self, hosts: list[Bytes]) -> None:
        self.hosts = hosts
        self._borrowed = [BorrowableArray(host) for host in hosts]

    @property
    def is_free(self) -> bool:
        return all(borrowed.is_free for borrowed in self._borrowed)

    def borrow(self) -> Prediction:
        """The buffers as read-only arrays."""
        arrays = [borrowed.borrow() for borrowed in self._borrowed]
        return Prediction(classes=arrays[0], confidence=arrays[1] if len(arrays) > 1 else None)

    def copied(self) -> Prediction:
        """The buffers' content in ordinary memory."""
        arrays = [np.array(host) for host in self.hosts]
        return Prediction(classes=arrays[0], confidence=arrays[1] if len(arrays) > 1 else None)


class Buffers(ABC):
    """A frame's way in and a result's way out."""

    io: str
    """Of `options.IO_NAMES`."""
    host_frame: Bytes
    """H,W,3: where the next frame is written."""
    frame_address: int
    """Where the GPU finds it once `queue_in` has run."""
    addresses: list[int]
    """Where the GPU writes each output."""

    def __init__(self, slots: list[ResultSlot]) -> None:
        self._slots, self._spare = slots[:-1], slots[-1]

    def take(self) -> ResultSlot:
        """A slot that nobody holds; the spare one when all others are held."""
        return next((slot for slot in self._slots if slot.is_free), self._spare)

    def give(self, slot: ResultSlot) -> Prediction:
        """A filled slot's result: borrowed, or copied if it is the spare one."""
        return slot.copied() if slot is self._spare else slot.borrow()

    def put(self, frame: Frame) -> None:
        """Write the next frame; only while the GPU does nothing."""
        np.copyto(self.host_frame, frame)

    def queue_in(self) -> None:
        """Queue what brings the frame to the GPU, where it does not read it in place."""
        return

    def queue_out(self, slot: ResultSlot) -> None:
        """Queue what brings the result back, where the GPU does not write it in place."""
        return

    def finish(self, slot: ResultSlot) -> None:
        """Fill the slot, after the GPU has been waited for, where `queue_out` has not."""
        return

    @abstractmethod
    def poison(self) -> None:
        """Fill the outputs with `NO_CLASS`, so that work that does not happen is seen."""


class CopiedBuffers(Buffers):
    """The GPU's own memory, and page-locked memory on the other side."""

    io = COPY

    def __init__(self, device: CudaDevice, input_hw: tuple[int, int], outputs: int) -> None:
        rows, columns = input_hw
        self._device = device
        self.frame_address = device.allocate(rows * columns * 3)
        # Page-locked: from ordinary memory the driver would copy twice, and the call would wait for it.
        self.host_frame = device.pinned((rows, columns, 3))
        self.addresses = [device.allocate(rows * columns) for _ in range(outputs)]
        super().__init__([
            ResultSlot([device.pinned((rows, columns)) for _ in range(outputs)]) for _ in range(RESULTS_BORROWED + 1)
        ])  # fmt: skip

    def queue_in(self) -> None:
        self._device.copy_in(self.frame_address, self.host_frame)

    def queue_out(self, slot: ResultSlot) -> None:
        for host, address in zip(slot.hosts, self.addresses, strict=True):
            self._device.copy_out(host, address)

    def poison(self) -> None:
        for host, address in zip(self._spare.hosts, self.addresses, strict=True):
            host[...] = NO_CLASS
            self._device.copy_in(address, host)
        self._device.synchronise()


class MappedBuffers(Buffers):
    """Page-locked memory that the GPU reads and writes in place; results are copied once into ordinary memory."""

    io = MAPPED

    def __init__(self, device: CudaDevice, input_hw: tuple[int, int], outputs: int) -> None:
        rows, columns = input_hw
        frame = device.mapped((rows, columns, 3))
        self.host_frame, self.frame_address = frame.host, frame.address
        mapped = [device.mapped((rows, columns)) for _ in range(outputs)]
        self._outputs, self.addresses = [each.host for each in mapped], [each.address for each in mapped]
        # Ordinary memory: callers keep and read results, and mapped memory may be uncached for the processor.
        slots = range(RESULTS_BORROWED + 1)
        super().__init__([ResultSlot([np.zeros((rows, columns), np.uint8) for _ in range(outputs)]) for _ in slots])

    def finish(self, slot: ResultSlot) -> None:
        for host, output in zip(slot.hosts, self._outputs, strict=True):
            np.copyto(host, output)

    def poison(self) -> None:
        """Overwrite the outputs; the GPU does nothing now."""
        for output in self._outputs:
            output[...] = NO_CLASS


def make_buffers(device: CudaDevice, io: str, input_hw: tuple[int, int], outputs: int) -> Buffers:
    """Buffers of the kind `io`; `auto` = mapped on an integrated GPU, else copy.

    Raises:
        ClstError: too little memory.
    """
    mapped = io == MAPPED or (io == AUTO and device.integrated)
    return (MappedBuffers if mapped else CopiedBuffers)(device, input_hw, outputs)
