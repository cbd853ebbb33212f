"""The GPU by NVIDIA's cuda-python (the wheel cuda-bindings): nothing to compile, and CUDA graphs."""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from clst_runtime.backends.cuda.device import (
    CUDA_PYTHON,
    HINT,
    NON_BLOCKING,
    Bytes,
    CudaDevice,
    Failure,
    import_library,
    out_of_memory,
    version_text,
)
from clst_runtime.errors import MissingDependency

_DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_NOT_SUPPORTED = 801  # CUDA_ERROR_NOT_SUPPORTED
_CAPTURE_ERRORS = range(900, 910)  # CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED … CUDA_ERROR_TIMEOUT, exclusive


class DriverCallFailed(Exception):
    """A function of the driver answered with an error, or could not be called."""

    def __init__(self, function: str, code: int, reason: str) -> None:
        super().__init__(f"{function} failed: {' '.join(reason.split())}")
        self.code = code


class Driver:
    """The driver's functions, with exceptions in place of error codes."""

    def __init__(self, bindings: Any) -> None:
        self.bindings = bindings

    def call(self, function: str, *arguments: Any) -> Any:
        """What a function gives beside its error code: None, or one value.

        Raises:
            DriverCallFailed: an error code; no driver, or one that is too old to have the function.
        """
        try:
            code, *values = getattr(self.bindings, function)(*arguments)
        except (RuntimeError, ValueError) as error:  # cuda-bindings finds no libcuda, or not this function, or code
            raise DriverCallFailed(function, -1, str(error)) from error
        if int(code) != 0:
            raise DriverCallFailed(function, int(code), self._error_text(code))
        return values[0] if values else None

    def _error_text(self, code: Any) -> str:
        texts = [getattr(self.bindings, name)(code)[1] for name in ("cuGetErrorName", "cuGetErrorString")]
        return ": ".join(text.decode() for text in texts if text) or f"error {int(code)}"


class PrimaryContext:
    """A device's primary context, kept as long as the device is open or page-locked memory of it is held.

    Releasing it sooner would unmap results that somebody still reads.
    """

    def __init__(self, driver: Driver, device: Any) -> None:
        self._driver, self._device, self._users = driver, device, 1
        self._lock = threading.RLock()  # the collector may free memory in the midst of any call
        self.handle = driver.call("cuDevicePrimaryCtxRetain", device)

    def host_memory(self, size_bytes: int, flags: int) -> Any:
        """A ctypes array of page-locked memory, freed with the last reference to it, in whichever thread that is."""
        pointer = int(self._driver.call("cuMemHostAlloc", size_bytes, flags))
        with self._lock:
            self._users += 1
        store = (ctypes.c_uint8 * size_bytes).from_address(pointer)
        weakref.finalize(store, self._free, pointer).atexit = False  # the end of the process frees it anyway
        return store

    def _free(self, pointer: int) -> None:
        with suppress(DriverCallFailed):  # a sticky error: nothing can be freed any more
            self._driver.call("cuCtxPushCurrent", self.handle)
            try:
                self._driver.call("cuMemFreeHost", pointer)
            finally:
                self._driver.call("cuCtxPopCurrent")
        self.drop()

    def drop(self) -> None:
        """One user less; the last one releases it."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                with suppress(DriverCallFailed):
                    self._driver.call("cuDevicePrimaryCtxRelease", self._device)


class CudaPythonDevice(CudaDevice):
    """The interface by cuda-python; the primary context is retained, so that TensorRT uses the same one."""

    library = CUDA_PYTHON
    _errors = (DriverCallFailed,)

    def __init__(self) -> None:
        """Open the first GPU.

        Raises:
            NotImportable: cuda-python is not there. MissingDependency: no driver, one that is older than it, or no GPU.
            GpuOutOfMemory: its memory is used up.
        """
        bindings = import_library("cuda.bindings.driver", "cuda-python")  # needs no driver yet
        super().__init__()
        self._bindings: Any = bindings
        self._driver = Driver(bindings)
        self._buffers: list[int] = []
        self._events: list[Any] = []
        self._graphs: list[Any] = []
        try:
            self._open_first()
        except DriverCallFailed as error:
            if self._kind_of(error) is Failure.MEMORY:
                raise out_of_memory("opening it", error) from error
            raise MissingDependency(f"no CUDA device can be opened ({error}); {HINT}") from error
        self._start(lambda: self._driver.call("cuStreamCreate", NON_BLOCKING))

    def _open_first(self) -> None:
        call = self._driver.call
        call("cuInit", 0)
        driver = int(call("cuDriverGetVersion"))
        self._check_version(driver)
        self.cuda_version = version_text(driver)
        if int(call("cuDeviceGetCount")) == 0:
            raise MissingDependency(f"no CUDA device is visible; {HINT}")
        device = call("cuDeviceGet", 0)
        attributes = self._bindings.CUdevice_attribute
        self.name = bytes(call("cuDeviceGetName", 256, device)).partition(b"\0")[0].decode()
        major, minor, integrated, self.multiprocessors = (
            int(call("cuDeviceGetAttribute", getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}"), device))
            for name in ("COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "INTEGRATED", "MULTIPROCESSOR_COUNT")
        )
        self.compute_capability, self.integrated = f"{major}.{minor}", bool(integrated)
        self._context = PrimaryContext(self._driver, device)
        try:
            call("cuCtxPushCurrent", self._context.handle)
        except DriverCallFailed:
            self._context.drop()
            raise

    def _check_version(self, driver: int) -> None:
        """The bindings of a newer major version lack functions in an older driver, and find out only when called."""
        bindings = int(self._bindings.CUDA_VERSION)
        if bindings // 1000 > driver // 1000:
            raise MissingDependency(
                f"cuda-python is made for CUDA {version_text(bindings)}, this driver for CUDA "
                f"{version_text(driver)}; pip install 'cuda-bindings<{driver // 1000 + 1}'"
            )

    def _kind_of(self, error: Exception) -> Failure:
        code = error.code if isinstance(error, DriverCallFailed) else -1
        if code == _OUT_OF_MEMORY:
            return Failure.MEMORY
        return Failure.GRAPH if code in _CAPTURE_ERRORS or code == _NOT_SUPPORTED else Failure.STICKY

    def _handle(self) -> int:
        return int(self._stream)

    def _host_memory(self, shape: tuple[int, ...], *, mapped: bool) -> Bytes:
        store = self._context.host_memory(math.prod(shape), _DEVICE_MAP if mapped else 0)
        return np.frombuffer(store, np.uint8).reshape(shape)

    def _device_address(self, host: Bytes) -> int:
        return int(self._driver.call("cuMemHostGetDevicePointer", host.ctypes.data, 0))

    def _device_memory(self, size_bytes: int) -> int:
        self._buffers.append(int(self._driver.call("cuMemAlloc", size_bytes)))
        return self._buffers[-1]

    def _queue_in(self, address: int, host: Bytes) -> None:
        self._driver.call("cuMemcpyHtoDAsync", address, _start(host), host.nbytes, self._stream)

    def _queue_out(self, host: Bytes, address: int) -> None:
        self._driver.call("cuMemcpyDtoHAsync", _start(host), address, host.nbytes, self._stream)

    def _event(self) -> Any:
        self._events.append(self._driver.call("cuEventCreate", 0))
        return self._events[-1]

    def _queue_event(self, event: Any) -> None:
        self._driver.call("cuEventRecord", event, self._stream)

    def _elapsed_ms(self, start: Any, end: Any) -> float:
        return float(self._driver.call("cuEventElapsedTime", start, end))

    def _wait(self) -> None:
        self._driver.call("cuStreamSynchronize", self._stream)

    def _captured(self, queue: Callable[[], None]) -> Any:
        modes = self._bindings.CUstreamCaptureMode
        # Other threads (cameras, encoders) may use CUDA meanwhile: only what this one does must fit a recording.
        self._driver.call("cuStreamBeginCapture", self._stream, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            queue()
        except BaseException:
            with suppress(DriverCallFailed):
                self._driver.call("cuGraphDestroy", self._driver.call("cuStreamEndCapture", self._stream))
            raise
        recorded = self._driver.call("cuStreamEndCapture", self._stream)
        try:
            self._graphs.append(self._driver.call("cuGraphInstantiate", recorded, 0))
        finally:
            self._driver.call("cuGraphDestroy", recorded)
        return self._graphs[-1]

    def _queue_graph(self, graph: Any) -> None:
        self._driver.call("cuGraphLaunch", graph, self._stream)

    def _free_graph(self, graph: Any) -> None:
        if any(each is graph for each in self._graphs):  # freeing it a second time would be a failure of the GPU's
            self._driver.call("cuGraphExecDestroy", graph)
            self._graphs = [each for each in self._graphs if each is not graph]

    def _release(self) -> None:
        if threading.get_ident() != self._thread:  # which has its own stack of contexts, and keeps ours on its own
            with suppress(DriverCallFailed):
                self._driver.call("cuCtxPushCurrent", self._context.handle)
        with suppress(DriverCallFailed):
            if self._stream is not None:
                self._driver.call("cuStreamSynchronize", self._stream)  # what is queued uses all of it
        held = [("cuGraphExecDestroy", self._graphs), ("cuEventDestroy", self._events), ("cuMemFree", self._buffers)]
        held.append(("cuStreamDestroy", [self._stream] if self._stream is not None else []))
        for function, values in held:
            for value in values:
                with suppress(DriverCallFailed):
                    self._driver.call(function, value)
        self._graphs, self._events, self._buffers, self._stream = [], [], [], None
        with suppress(DriverCallFailed):
            self._driver.call("cuCtxPopCurrent")
        self._context.drop()


def _start(host: Bytes) -> int:
    """The address of memory that is to be copied as one block."""
    if not host.flags.c_contiguous:
        raise ValueError(f"page-locked memory of shape {host.shape} and strides {host.strides} is not one block")
    return int(host.ctypes.data)
