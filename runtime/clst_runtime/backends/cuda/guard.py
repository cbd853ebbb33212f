"""What every implementation of `CudaDevice` shares: one thread, errors that stay, memory and events by its rules."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any

from clst_runtime.backends.cuda.device import Bytes, Event, Graph, GraphFailed, Mapped, cuda_failure, out_of_memory
from clst_runtime.errors import ClstError
from clst_runtime.system.machine import UNKNOWN

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream


class Failure(Enum):
    """What a library's error is to us."""

    MEMORY = "memory"
    """Too little of it; nothing else is lost."""
    GRAPH = "graph"
    """Something cannot be recorded into a graph; nothing else is lost."""
    STICKY = "sticky"
    """Every later call of the process would fail too."""


class GuardedDevice(ABC):
    """The public half, which `CudaDevice` describes; a library fills in the other: the methods with one underscore.

    Those are called only by the thread that opened the device, while it is open and nothing has failed, and may raise
    what `_errors` names.
    """

    library: str
    """Of `device.LIBRARIES`."""
    _errors: tuple[type[Exception], ...]

    def __init__(self) -> None:
        self._thread, self._failure, self._open = threading.get_ident(), "", False
        self.name, self.compute_capability, self.multiprocessors, self.integrated = "", "", 0, False
        self.cuda_version = UNKNOWN

    @abstractmethod
    def _kind_of(self, error: Exception) -> Failure:
        """What one of `_errors` is."""

    @abstractmethod
    def _handle(self) -> int: ...

    @abstractmethod
    def _host_memory(self, shape: tuple[int, ...], *, mapped: bool) -> Bytes: ...

    @abstractmethod
    def _device_address(self, host: Bytes) -> int: ...

    @abstractmethod
    def _device_memory(self, size_bytes: int) -> int: ...

    @abstractmethod
    def _queue_in(self, address: int, host: Bytes) -> None: ...

    @abstractmethod
    def _queue_out(self, host: Bytes, address: int) -> None: ...

    @abstractmethod
    def _event(self) -> Any: ...

    @abstractmethod
    def _queue_event(self, event: Any) -> None: ...

    @abstractmethod
    def _elapsed_ms(self, start: Any, end: Any) -> float: ...

    @abstractmethod
    def _wait(self) -> None: ...

    @abstractmethod
    def _captured(self, queue: Callable[[], None]) -> Any:
        """A graph of what `queue` queues; whatever is raised, the stream records no longer afterwards."""

    @abstractmethod
    def _queue_graph(self, graph: Any) -> None: ...

    @abstractmethod
    def _free_graph(self, graph: Any) -> None: ...

    @abstractmethod
    def _release(self) -> None:
        """Wait for the stream, then free everything that still can be freed, without raising."""

    @property
    def stream_handle(self) -> int:
        return self._handle()

    def pinned(self, shape: tuple[int, ...]) -> Bytes:
        """Page-locked host memory, zeroed."""
        with self._calling(f"allocating {math.prod(shape)} bytes of page-locked memory"):
            host = self._host_memory(shape, mapped=False)
        host[...] = 0
        return host

    def mapped(self, shape: tuple[int, ...]) -> Mapped:
        """Page-locked host memory with the GPU's address of it, zeroed."""
        with self._calling(f"mapping {math.prod(shape)} bytes of page-locked memory for the GPU"):
            host = self._host_memory(shape, mapped=True)
            address = self._device_address(host)
        host[...] = 0
        return Mapped(host=host, address=address)

    def allocate(self, size_bytes: int) -> int:
        with self._calling(f"allocating {size_bytes} bytes on the GPU"):
            return self._device_memory(size_bytes)

    def copy_in(self, address: int, host: Bytes) -> None:
        with self._calling("copying a frame to the GPU"):
            self._queue_in(address, host)

    def copy_out(self, host: Bytes, address: int) -> None:
        with self._calling("copying a result from the GPU"):
            self._queue_out(host, address)

    def create_event(self) -> Event:
        with self._calling("making an event"):
            event: Event = self._event()
        return event

    def record(self, event: Event) -> None:
        with self._calling("recording an event"):
            self._queue_event(event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        with self._calling("reading an event"):
            return self._elapsed_ms(start, end)

    def record_graph(self, queue: Callable[[], None]) -> Graph:
        doing = "recording a CUDA graph"
        self._check(doing)
        try:
            with self._calling(doing):
                graph: Graph = self._captured(queue)
        except ClstError as error:
            if self._failure or error.exit_code != ClstError.exit_code:
                raise
            raise GraphFailed(error.message) from error
        return graph

    def launch(self, graph: Graph) -> None:
        with self._calling("launching a CUDA graph"):
            self._queue_graph(graph)

    def release_graph(self, graph: Graph) -> None:
        """Free recorded work once it does not run; what cannot be freed now is tried again by `close`."""
        with suppress(ClstError), self._calling("releasing a CUDA graph"):
            self._wait()
            self._free_graph(graph)

    def synchronise(self) -> None:
        with self._calling("waiting for the GPU"):
            self._wait()

    @contextmanager
    def _calling(self, doing: str) -> Iterator[None]:
        """Translate the library's errors."""
        self._check(doing)
        try:
            yield
        except self._errors as error:
            kind, text = self._kind_of(error), " ".join(str(error).split())
            if kind is Failure.MEMORY:
                raise out_of_memory(doing, text) from error
            if kind is Failure.GRAPH:
                raise ClstError(
                    f"CUDA cannot record a graph while {doing} ({text}); open the model without one"
                ) from error
            self._failure = text
            raise cuda_failure(doing, error) from error

    def _check(self, doing: str) -> None:
        """Refuse what could only fail or crash."""
        # CUDA's current context belongs to a thread: from another one a call would fail, or reach another context.
        if threading.get_ident() != self._thread:
            raise ClstError("a GPU was used from another thread than the one that opened it; use it from that one")
        if self._failure:
            raise cuda_failure(doing, self._failure)
        if not self._open:
            raise ClstError("a GPU was used after it was closed; open the model again")

    def close(self) -> None:
        """Wait, free everything, then let the context go; after a sticky error only what still can be freed."""
        if self._open:
            self._open = False  # before the release: one that is interrupted must not free anything twice
            self._release()

    def __enter__(self) -> GuardedDevice:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
