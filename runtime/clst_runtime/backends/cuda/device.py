"""The little of CUDA that running an engine needs, behind an interface small enough for a second implementation.

One object owns the device: its primary context, one stream that is not the default one, and the memory, events and
graphs it gave out. It belongs to the thread that opened it. Everything on the stream runs in the order it was asked
for and is finished only after `synchronise`.

PyCUDA (`pycuda.py`) and NVIDIA's cuda-python (`cuda_python.py`) implement it.
cuda-python's copies, mapped memory, events and graphs were run on an H100 (`tests/vendor/cuda_api`, marker gpu) and on
a driver that is a stand-in. PyCUDA has not run on a GPU yet: copies, mapped memory, events and closing of 2026.1 were
run on the stand-in by hand.
"""

from __future__ import annotations

import ctypes
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import ClstError, ConfigError, MissingDependency, did_you_mean
from clst_runtime.system.machine import UNKNOWN
from clst_runtime.system.optional import Unimportable, require

Bytes = npt.NDArray[np.uint8]  # page-locked host memory of any shape
Event = Any  # a point in the stream whose time can be asked for, made by `CudaDevice.create_event`
Graph = Any  # work that was recorded once and is launched as a whole, made by `CudaDevice.record_graph`

AUTO = "auto"
PYCUDA, CUDA_PYTHON = LIBRARIES = ("pycuda", "cuda-python")

RUNS_WITHOUT = "; the ONNX file runs without them"
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream
HINT = (
    "running an engine needs an NVIDIA GPU with its driver and PyCUDA: pip install pycuda "
    "(builds from source: CUDA headers and g++), or cuda-python: pip install cuda-bindings (no compiler; "
    f"where the driver is of CUDA 12, as in JetPack 6, also 'cuda-bindings<13'){RUNS_WITHOUT}"
)
NO_DRIVER = "this machine has no NVIDIA driver: libcuda.so.1 does not load; engines run on NVIDIA GPUs alone"


class GraphFailed(ClstError):
    """A CUDA graph could not be made; the GPU is as it was before and runs without one."""


class GpuOutOfMemory(ClstError):
    """Too little memory on the GPU at the moment. Another try may succeed; nothing else is lost."""


class CudaFailed(ClstError):
    """An error of the GPU that stays until the process ends; the next process starts without it."""


class Failure(Enum):
    """What a library's error is to us."""

    MEMORY = "memory"
    """Too little of it; nothing else is lost."""
    GRAPH = "graph"
    """Something cannot be recorded into a graph; nothing else is lost."""
    STICKY = "sticky"
    """Every later call of the process would fail too."""


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """Page-locked host memory that the GPU reads and writes in place."""

    host: Bytes
    """As the processor sees it."""
    address: int
    """As the GPU sees it."""


def cuda_failure(doing: str, reason: object) -> CudaFailed:
    """The error for a failure inside CUDA: it is sticky, every later call in this process would fail too."""
    text = " ".join(str(reason).split()) or "no reason given"
    return CudaFailed(f"CUDA failed while {doing} ({text}); such an error stays until the process ends: restart it")


def out_of_memory(doing: str, reason: object) -> GpuOutOfMemory:
    text = " ".join(str(reason).split())
    return GpuOutOfMemory(
        f"the GPU ran out of memory while {doing} ({text}); end other programs that use it, "
        "or take a smaller input size"
    )


def version_text(number: int) -> str:
    """CUDA's number of a version as people write it: 12060 → `12.6`."""
    return f"{number // 1000}.{number % 1000 // 10}"


def check_library(library: str, *, graphs: bool) -> None:
    """Refuse by ConfigError a library that is not known, or that cannot do what is asked for."""
    if library not in (AUTO, *LIBRARIES):
        raise ConfigError(f"CUDA library {library!r} is not known; {did_you_mean(library, (AUTO, *LIBRARIES))}")
    if graphs and library == PYCUDA:
        raise ConfigError("PyCUDA has no CUDA graphs; take the CUDA library cuda-python, or leave the graph out")


def has_driver() -> bool:
    """Whether the library that NVIDIA's driver brings can be loaded; without it no Python package helps."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class NotImportable(MissingDependency):
    """A CUDA library is not there; `what` is the message without its hint."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; {HINT}" if has_driver() else f"{NO_DRIVER}{RUNS_WITHOUT}")
        self.what = what


def import_library(module: str, title: str) -> ModuleType:
    """A CUDA library's driver module. Raises: NotImportable: it, or a library below it, is not there."""
    try:
        return require(module)
    except Unimportable as error:
        raise NotImportable(f"{title} cannot be imported ({error.reason})") from error


class CudaDevice(ABC):
    """One GPU, opened; closed by `with`. What all libraries share; each fills in the methods with one underscore.

    Those are called only by the thread that opened the device, while it is open and nothing has failed, and may raise
    what `_errors` names.
    """

    library: str
    """The library that calls the driver, one of `LIBRARIES`."""
    name: str
    """The GPU as its driver names it, e.g. `Orin`."""
    compute_capability: str
    """Major and minor, e.g. `8.7`."""
    multiprocessors: int
    """How many of them it has: modules of one name and compute capability differ in it (Orin: 4 to 16)."""
    cuda_version: str
    """The newest CUDA that the driver offers, e.g. `12.6`; `unknown` where the library does not report it."""
    integrated: bool
    """Whether processor and GPU share one memory, as on a Jetson."""
    _errors: tuple[type[Exception], ...]

    def __init__(self) -> None:
        self._thread, self._failure, self._open = threading.get_ident(), "", False
        self.name, self.compute_capability, self.multiprocessors, self.integrated = "", "", 0, False
        self.cuda_version = UNKNOWN
        self._stream: Any = None

    def _start(self, make_stream: Callable[[], Any]) -> None:
        """The device is open from now on, and closed again where no stream can be made."""
        self._open = True
        try:
            with self._calling("making a stream"):
                self._stream = make_stream()
        except BaseException:
            self.close()
            raise

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
        """The own stream, as TensorRT wants it."""
        return self._handle()

    def pinned(self, shape: tuple[int, ...]) -> Bytes:
        """Page-locked host memory of that shape, uint8, zeroed; freed with the last reference to it."""
        with self._calling(f"allocating {math.prod(shape)} bytes of page-locked memory"):
            host = self._host_memory(shape, mapped=False)
        host[...] = 0
        return host

    def mapped(self, shape: tuple[int, ...]) -> Mapped:
        """The same, and the GPU's address of it, which is good until `close`."""
        with self._calling(f"mapping {math.prod(shape)} bytes of page-locked memory for the GPU"):
            host = self._host_memory(shape, mapped=True)
            address = self._device_address(host)
        host[...] = 0
        return Mapped(host=host, address=address)

    def allocate(self, size_bytes: int) -> int:
        """The address of that many bytes of device memory, freed by `close`."""
        with self._calling(f"allocating {size_bytes} bytes on the GPU"):
            return self._device_memory(size_bytes)

    def copy_in(self, address: int, host: Bytes) -> None:
        """Queue a copy of all of `host` (page-locked) to the device."""
        with self._calling("copying a frame to the GPU"):
            self._queue_in(address, host)

    def copy_out(self, host: Bytes, address: int) -> None:
        """Queue a copy from the device that fills `host` (page-locked)."""
        with self._calling("copying a result from the GPU"):
            self._queue_out(host, address)

    def create_event(self) -> Event:
        """An event to be recorded again and again."""
        with self._calling("making an event"):
            return self._event()

    def record(self, event: Event) -> None:
        """Queue the event: it takes its time when the stream reaches it."""
        with self._calling("recording an event"):
            self._queue_event(event)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two events that the stream has reached."""
        with self._calling("reading an event"):
            return self._elapsed_ms(start, end)

    def record_graph(self, queue: Callable[[], None]) -> Graph:
        """What `queue` queues, recorded and not run, with the addresses that it has now; the stream must be empty.

        Raises:
            GraphFailed: something in it cannot be recorded. MissingDependency: the library has no graphs.
            ClstError: the GPU itself failed meanwhile.
        """
        doing = "recording a CUDA graph"
        self._check(doing)
        try:
            with self._calling(doing):
                return self._captured(queue)
        except ClstError as error:
            if self._failure or error.exit_code != ClstError.exit_code:
                raise
            raise GraphFailed(error.message) from error

    def launch(self, graph: Graph) -> None:
        """Queue recorded work as a whole."""
        with self._calling("launching a CUDA graph"):
            self._queue_graph(graph)

    def release_graph(self, graph: Graph) -> None:
        """Free recorded work, once it does not run, before `close` and before what it uses is gone; never raises.

        What cannot be freed now is tried again by `close`.
        """
        with suppress(ClstError), self._calling("releasing a CUDA graph"):
            self._wait()
            self._free_graph(graph)

    def synchronise(self) -> None:
        """Wait until everything queued is done.

        Raises:
            CudaFailed: something queued has failed; the device's state is lost.
        """
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
        """Wait for the stream, free what still can be freed and let the device go; a second call does nothing."""
        if self._open:
            self._open = False  # before the release: one that is interrupted must not free anything twice
            self._release()

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
