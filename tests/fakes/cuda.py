"""A GPU made of NumPy arrays: copies and engines are only queued, and run when the stream is waited for."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from clst_runtime.backends.cuda.device import GraphFailed, Mapped, cuda_failure
from clst_runtime.errors import ClstError, MissingDependency
from tests.fakes import behaviour

MEMORY: dict[int, np.ndarray] = {}
STREAMS: dict[int, list[Callable[[], float | None]]] = {}
_numbers = itertools.count(1)


class FakeMark:
    time_ms: float | None = None


class FakeGraph:
    def __init__(self, operations) -> None:
        self.operations = operations


class FakeCuda:
    """A `CudaDevice`; every queued operation takes a millisecond, or as many as it returns.

    Like the real one it refuses other threads than its own, and waiting while it records.
    """

    library = "cuda-python"
    opened: ClassVar[list[FakeCuda]] = []

    def __init__(self, name: str = "Orin", compute_capability: str = "8.7", multiprocessors: int = 16) -> None:
        self.name, self.compute_capability, self.multiprocessors = name, compute_capability, multiprocessors
        self.cuda_version = behaviour.current.cuda
        self.stream_handle = 7000 + next(_numbers)
        self.queue: list[Callable[[], float | None]] = []
        STREAMS[self.stream_handle] = self.queue
        self.allocations = 0
        self.addresses: list[int] = []
        self.closed = False
        self.clock_ms = 0.0
        self.fails_with: str | None = None
        self.thread, self.recording, self.graphs_held = threading.get_ident(), False, 0
        self.integrated = behaviour.current.integrated
        FakeCuda.opened.append(self)

    def check_thread(self):
        if threading.get_ident() != self.thread:
            raise ClstError("a GPU was used from another thread than the one that opened it; use it from that one")

    def pinned(self, shape):
        self.check_thread()
        self.allocations += 1
        return np.full(shape, 77, np.uint8)

    def mapped(self, shape):
        host = self.pinned(shape)
        address = next(_numbers) << 20
        MEMORY[address] = host.reshape(-1)
        self.addresses.append(address)
        return Mapped(host=host, address=address)

    def allocate(self, size_bytes):
        self.allocations += 1
        address = next(_numbers) << 20
        MEMORY[address] = np.full(size_bytes, 66, np.uint8)
        self.addresses.append(address)
        return address

    def copy_in(self, address, host):
        self.check_thread()

        def copy():
            MEMORY[address][: host.size] = host.reshape(-1)

        self.queue.append(copy)

    def copy_out(self, host, address):
        def copy():
            host.reshape(-1)[:] = MEMORY[address][: host.size]

        self.queue.append(copy)

    def create_event(self):
        self.allocations += 1
        return FakeMark()

    def record(self, event):
        def take():
            event.time_ms = self.clock_ms

        self.queue.append(take)

    def elapsed_ms(self, start, end):
        return end.time_ms - start.time_ms

    def record_graph(self, queue):
        """What is queued meanwhile, with the addresses that TensorRT has then."""
        told = behaviour.current
        if not told.has_graphs:
            raise MissingDependency("this library has no CUDA graphs")
        assert not self.queue, "the stream was not empty"
        self.recording = True
        try:
            queue()
        except ClstError as error:
            raise GraphFailed(error.message) from error
        finally:
            self.recording = False
            operations = list(self.queue)
            self.queue.clear()
        if told.graph_fails is not None:
            raise GraphFailed(told.graph_fails)
        told.graphs += 1
        self.graphs_held += 1
        return FakeGraph(operations)

    def release_graph(self, graph):
        behaviour.current.calls.append("release graph")
        self.graphs_held -= 1

    def launch(self, graph):
        behaviour.current.calls.append("launch")
        change = behaviour.current.graph_change

        def alter():
            for address in self.addresses:
                MEMORY[address][:] += np.uint8(change)

        if change != -1:
            self.queue.extend(graph.operations)
        if change > 0:
            self.queue.append(alter)

    def synchronise(self):
        self.check_thread()
        if self.recording:
            raise ClstError("CUDA cannot record a graph while waiting for the GPU (900); open the model without one")
        behaviour.current.calls.append("synchronise")
        if self.fails_with is not None:
            raise cuda_failure("waiting for the GPU", self.fails_with)
        for operation in self.queue:
            taken_ms = operation()
            self.clock_ms += 1.0 if taken_ms is None else taken_ms
        self.queue.clear()

    def close(self):
        if not self.closed:
            assert self.graphs_held == 0, "a graph outlived its engine"
            self.closed = True
            for address in self.addresses:
                del MEMORY[address]
            del STREAMS[self.stream_handle]
            assert not self.queue or self.fails_with, "memory was freed that queued work uses"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
