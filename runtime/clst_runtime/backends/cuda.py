"""The little of CUDA that running an engine needs, behind an interface small enough for a second implementation.

One object owns the device: its primary context, one stream that is not the default one, and the device memory and
events it gave out. It belongs to the thread that opened it. Everything on the stream runs in the order it was asked
for and is finished only after `synchronise`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import ClstError, MissingDependency
from clst_runtime.optional import require

Bytes = npt.NDArray[np.uint8]  # page-locked host memory of any shape

CURE = (
    "running an engine needs an NVIDIA GPU with its driver and PyCUDA: pip install 'clst[trt]' "
    "(builds from source: CUDA headers and g++); the ONNX file runs without them"
)
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream


class Mark(Protocol):
    """A point in the stream whose time can be asked for; made by `CudaDevice.create_mark`."""


class CudaDevice(Protocol):
    """One GPU, opened; closed by `with`."""

    @property
    def name(self) -> str:
        """The GPU as its driver names it, e.g. `Orin`."""

    @property
    def compute_capability(self) -> str:
        """Major and minor, e.g. `8.7`."""

    @property
    def stream_handle(self) -> int:
        """The own stream, as TensorRT wants it."""

    def pinned(self, shape: tuple[int, ...]) -> Bytes:
        """Page-locked host memory of that shape, uint8, freed once nothing refers to it: a result may outlive us."""

    def allocate(self, size_bytes: int) -> int:
        """The address of that many bytes of device memory, freed by `close`."""

    def copy_in(self, address: int, host: Bytes) -> None:
        """Queue a copy of all of `host` (page-locked) to the device."""

    def copy_out(self, host: Bytes, address: int) -> None:
        """Queue a copy from the device that fills `host` (page-locked)."""

    def create_mark(self) -> Mark:
        """An event to be recorded again and again."""

    def record(self, mark: Mark) -> None:
        """Queue the event: it takes its time when the stream reaches it."""

    def elapsed_ms(self, start: Mark, end: Mark) -> float:
        """Milliseconds between two events that the stream has reached."""

    def synchronise(self) -> None:
        """Wait until everything queued is done.

        Raises:
            ClstError: something queued has failed; the device's state is lost.
        """

    def close(self) -> None:
        """Free the device memory and let the device go; a second call does nothing."""

    def __enter__(self) -> CudaDevice: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def cuda_failure(doing: str, reason: object) -> ClstError:
    """The error for a failure inside CUDA: it is sticky, every later call in this process would fail too."""
    told = " ".join(str(reason).split()) or "no reason given"
    return ClstError(f"CUDA failed while {doing} ({told}); such an error stays until the process ends: restart it")


def open_cuda() -> CudaDevice:
    """The first GPU that `CUDA_VISIBLE_DEVICES` shows, the one that TensorRT takes too.

    Raises:
        MissingDependency: no PyCUDA, no driver or no GPU.
    """
    return PycudaDevice()


class PycudaDevice:
    """The interface by PyCUDA; the primary context is retained, so that TensorRT uses the same one."""

    def __init__(self) -> None:
        try:
            self._driver: Any = require("pycuda.driver")
        except MissingDependency as error:
            raise MissingDependency(f"PyCUDA cannot be imported ({error.__cause__}); {CURE}") from error
        try:
            self._driver.init()
            if self._driver.Device.count() == 0:
                raise MissingDependency(f"no CUDA device is visible; {CURE}")
            device = self._driver.Device(0)
            self._name, capability = str(device.name()), device.compute_capability()
            self._context: Any = device.retain_primary_context()
            self._context.push()
        except self._driver.Error as error:
            raise MissingDependency(f"no CUDA device can be opened ({error}); {CURE}") from error
        self._capability = f"{capability[0]}.{capability[1]}"
        self._thread, self._failure = threading.get_ident(), ""
        self._buffers: dict[int, Any] = {}
        try:
            with self._calling("making a stream"):
                self._stream: Any = self._driver.Stream(_NON_BLOCKING)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The GPU as its driver names it."""
        return self._name

    @property
    def compute_capability(self) -> str:
        """Major and minor."""
        return self._capability

    @property
    def stream_handle(self) -> int:
        """The own stream's handle."""
        return int(self._stream.handle)

    def pinned(self, shape: tuple[int, ...]) -> Bytes:
        """Page-locked host memory, zeroed."""
        with self._calling(f"allocating {math.prod(shape)} bytes of page-locked memory"):
            host: Bytes = self._driver.pagelocked_empty(shape, np.uint8)
        host[...] = 0
        return host

    def allocate(self, size_bytes: int) -> int:
        """Device memory."""
        with self._calling(f"allocating {size_bytes} bytes on the GPU"):
            buffer = self._driver.mem_alloc(size_bytes)
            self._buffers[int(buffer)] = buffer
        return int(buffer)

    def copy_in(self, address: int, host: Bytes) -> None:
        """Queue a copy to the device."""
        with self._calling("copying a frame to the GPU"):
            self._driver.memcpy_htod_async(address, host, self._stream)

    def copy_out(self, host: Bytes, address: int) -> None:
        """Queue a copy from the device."""
        with self._calling("copying a result from the GPU"):
            self._driver.memcpy_dtoh_async(host, address, self._stream)

    def create_mark(self) -> Mark:
        """An event."""
        with self._calling("making an event"):
            mark: Mark = self._driver.Event()
        return mark

    def record(self, mark: Any) -> None:
        """Queue the event."""
        with self._calling("recording an event"):
            mark.record(self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events."""
        with self._calling("reading an event"):
            return float(end.time_since(start))

    def synchronise(self) -> None:
        """Wait for the stream."""
        with self._calling("waiting for the GPU"):
            self._stream.synchronize()

    @contextmanager
    def _calling(self, doing: str) -> Iterator[None]:
        """Translate PyCUDA's errors, and refuse calls that could only fail or crash."""
        if threading.get_ident() != self._thread:
            raise ClstError("a GPU was used from another thread than the one that opened it; use it from that one")
        if self._failure:
            raise cuda_failure(doing, self._failure)
        if self._context is None:
            raise ClstError("a GPU was used after it was closed; open the model again")
        try:
            yield
        except self._driver.MemoryError as error:
            raise ClstError(
                f"the GPU ran out of memory while {doing} ({error}); end other programs that use it, "
                "or take a smaller input size"
            ) from error
        except self._driver.Error as error:
            self._failure = str(error)
            raise cuda_failure(doing, error) from error

    def close(self) -> None:
        """Free the device memory, then the context; after a sticky error only what still can be freed."""
        if self._context is None:
            return
        context, self._context = self._context, None
        for buffer in self._buffers.values():
            with suppress(self._driver.Error):
                buffer.free()
        self._buffers, self._stream = {}, None
        with suppress(self._driver.Error):
            context.pop()  # PyCUDA releases the primary context with the last object that refers to it

    def __enter__(self) -> PycudaDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
