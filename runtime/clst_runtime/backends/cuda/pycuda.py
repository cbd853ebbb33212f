"""The GPU by PyCUDA: built from source on the device, and without CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from clst_runtime.backends.cuda.device import (
    HINT,
    NON_BLOCKING,
    PYCUDA,
    Bytes,
    CudaDevice,
    Failure,
    import_library,
    out_of_memory,
    version_text,
)
from clst_runtime.errors import MissingDependency
from clst_runtime.system.optional import extra


class PycudaDevice(CudaDevice):
    """The interface by PyCUDA; the primary context is retained, so that TensorRT uses the same one."""

    library = PYCUDA

    def __init__(self) -> None:
        """Open the first GPU.

        Raises:
            NotImportable: PyCUDA, or a library below it, is not there; it cannot be imported without NVIDIA's driver.
            MissingDependency: no driver or no GPU. GpuOutOfMemory: its memory is used up.
        """
        driver = import_library("pycuda.driver", "PyCUDA")
        super().__init__()
        self._driver: Any = driver
        self._errors = (driver.Error,)
        self._buffers: dict[int, Any] = {}
        try:
            driver.init()
            with suppress(driver.Error):  # the version is only reported
                self.cuda_version = version_text(int(driver.get_driver_version()))
            if driver.Device.count() == 0:
                raise MissingDependency(f"no CUDA device is visible; {HINT}")
            device = driver.Device(0)
            self.name, capability = str(device.name()), device.compute_capability()
            attributes = driver.device_attribute
            self.integrated = bool(device.get_attribute(attributes.INTEGRATED))
            self.multiprocessors = int(device.get_attribute(attributes.MULTIPROCESSOR_COUNT))
            self._context: Any = device.retain_primary_context()
            self._context.push()
        except driver.MemoryError as error:
            raise out_of_memory("opening it", error) from error
        except driver.Error as error:
            raise MissingDependency(f"no CUDA device can be opened ({error}); {HINT}") from error
        self.compute_capability = f"{capability[0]}.{capability[1]}"
        self._start(lambda: driver.Stream(NON_BLOCKING))

    def _kind_of(self, error: Exception) -> Failure:
        return Failure.MEMORY if isinstance(error, self._driver.MemoryError) else Failure.STICKY

    def _handle(self) -> int:
        return int(self._stream.handle)

    def _host_memory(self, shape: tuple[int, ...], *, mapped: bool) -> Bytes:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        host: Bytes = self._driver.pagelocked_empty(shape, np.uint8, mem_flags=flags)
        return host

    def _device_address(self, host: Bytes) -> int:
        allocation: Any = host.base
        return int(allocation.get_device_pointer())

    def _device_memory(self, size_bytes: int) -> int:
        buffer = self._driver.mem_alloc(size_bytes)
        self._buffers[int(buffer)] = buffer
        return int(buffer)

    def _queue_in(self, address: int, host: Bytes) -> None:
        self._driver.memcpy_htod_async(address, host, self._stream)

    def _queue_out(self, host: Bytes, address: int) -> None:
        self._driver.memcpy_dtoh_async(host, address, self._stream)

    def _event(self) -> Any:
        return self._driver.Event()

    def _queue_event(self, event: Any) -> None:
        event.record(self._stream)

    def _elapsed_ms(self, start: Any, end: Any) -> float:
        return float(end.time_since(start))

    def _wait(self) -> None:
        self._stream.synchronize()

    def _captured(self, queue: Callable[[], None]) -> Any:
        raise MissingDependency(
            f"PyCUDA has no CUDA graphs; pip install {extra('trt-cuda-python')} and take the CUDA library cuda-python, "
            "or leave the graph out"
        )

    def _queue_graph(self, graph: Any) -> None:
        raise NotImplementedError("PyCUDA made no graph")

    def _free_graph(self, graph: Any) -> None:
        raise NotImplementedError("PyCUDA made no graph")

    def _release(self) -> None:
        context, self._context = self._context, None
        with suppress(self._driver.Error):
            if self._stream is not None:
                self._stream.synchronize()  # what is queued uses the memory
        for buffer in self._buffers.values():
            with suppress(self._driver.Error):
                buffer.free()
        self._buffers, self._stream = {}, None
        with suppress(self._driver.Error):
            # With the last object that refers to the primary context PyCUDA detaches from it, in place of releasing it
            # (2026.1, on a driver that is a stand-in), so that the driver keeps it until the process ends. Results that
            # outlive us need it; releasing it here would leak them.
            context.pop()
