"""A native TensorRT engine. Legend: H rows, W columns of the model's input.

Shapes are static: every buffer is allocated and every address is set when the model is opened. A frame costs
H·W·3 bytes to the device and H·W bytes back (twice that with confidence), and no buffer is allocated for it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from clst_runtime.backends.base import Frame, Prediction, check_frame
from clst_runtime.backends.cuda import Bytes, CudaDevice, Mark, cuda_failure, open_cuda
from clst_runtime.engines.library import Messages, load_tensorrt, make_logger, make_runtime
from clst_runtime.engines.sidecar import CURE, check_gpu, check_tensorrt, read_engine
from clst_runtime.engines.summary import EngineSummary, inspect_engine
from clst_runtime.errors import ClstError, ModelFileError
from clst_runtime.manifest import Manifest
from clst_runtime.pool import Lent

if TYPE_CHECKING:
    import tensorrt as trt

RESULTS_LENT = 4
"""Results that may be held at a time without a copy; who holds more gets copies in ordinary memory."""

STAGES = ("copy_in", "compute", "copy_out")


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine that is not on disk yet."""

    plan: bytes
    """What TensorRT serialised."""
    manifest: Manifest
    """What is to be written beside it."""


class ResultSlot:
    """Page-locked buffers H,W of one result, lent out as arrays and not used again while any of them is held."""

    def __init__(self, hosts: list[Bytes]) -> None:
        self.hosts = hosts
        self._lent = [Lent(host) for host in hosts]

    @property
    def is_free(self) -> bool:
        """Whether nobody holds what was lent, nor a view of it."""
        return all(lent.is_free for lent in self._lent)

    def lend(self) -> Prediction:
        """The buffers as read-only arrays."""
        arrays = [lent.lend() for lent in self._lent]
        return Prediction(classes=arrays[0], confidence=arrays[1] if len(arrays) > 1 else None)

    def copied(self) -> Prediction:
        """The buffers' content in ordinary memory."""
        arrays = [np.array(host) for host in self.hosts]
        return Prediction(classes=arrays[0], confidence=arrays[1] if len(arrays) > 1 else None)


class TrtBackend:
    """An engine and its manifest, on one GPU; used and closed by the thread that opened it."""

    _logger: trt.ILogger | None
    _runtime: trt.Runtime | None
    _engine: trt.ICudaEngine | None
    _context: trt.IExecutionContext | None = None

    def __init__(
        self,
        path: Path,
        *,
        device: CudaDevice | None = None,
        timed: bool = False,
        built: BuiltEngine | None = None,
    ) -> None:
        """Check, then load, then allocate.

        Args:
            path: the `.engine` file; with `built` only the name that messages give.
            device: a GPU that the caller opened and closes; None = open one and close it with the model.
            timed: record events, so that `device_times_ms` can be asked after each frame.
            built: an engine in memory in place of the file's.

        Raises:
            ModelFileError: damaged, of another TensorRT version or GPU, or not by the artifact contract.
            MissingDependency: no TensorRT, PyCUDA or GPU. ClstError: too little GPU memory.
        """
        self._closing = ExitStack()
        self._where, self._failure = path, ""
        self._slots: list[ResultSlot] = []
        self._marks: list[Mark] = []
        try:
            plan, self._manifest = read_engine(path) if built is None else (built.plan, built.manifest)
            trt = load_tensorrt()
            check_tensorrt(self._manifest, trt.__version__, where=path)
            self._device = self._closing.enter_context(open_cuda()) if device is None else device
            check_gpu(self._manifest, self._device.name, self._device.compute_capability, where=path)
            self._load(trt, plan)
            self._allocate(timed=timed)
        except BaseException:
            self.close()
            raise
        self._description = (
            f"TensorRT {trt.__version__} on {self._device.name} "
            f"(compute capability {self._device.compute_capability}), {self._manifest.precision}"
        )

    def _load(self, trt: ModuleType, plan: bytes) -> None:
        """Deserialise the engine and make its execution context."""
        self._trt, self._messages = trt, Messages()
        self._logger = make_logger(trt, self._messages)
        self._closing.callback(self._forget)
        self._runtime = make_runtime(trt, self._logger, self._messages)
        self._runtime.engine_host_code_allowed = False
        core = self._manifest.engine.get("options", {}).get("dla_core")
        if core is not None:
            self._runtime.DLA_core = core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ModelFileError(f"{self._where}: TensorRT cannot load it ({self._messages.last_errors()}); {CURE}")
        check_tensors(trt, self._engine, self._manifest, where=self._where)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise ClstError(
                f"{self._where}: TensorRT could not make an execution context ({self._messages.last_errors()}); "
                "end other programs that use the GPU's memory"
            )

    def _allocate(self, *, timed: bool) -> None:
        """Every buffer, address, result and event, once."""
        device, (rows, columns) = self._device, self._manifest.input_hw
        self._frame_address = device.allocate(rows * columns * 3)
        self._host_frame = device.pinned((rows, columns, 3))
        names = ("classes", "confidence") if self._manifest.has_confidence else ("classes",)
        self._addresses = [device.allocate(rows * columns) for _ in names]
        for name, address in zip(("frame", *names), (self._frame_address, *self._addresses), strict=True):
            if self._context is None or not self._context.set_tensor_address(name, address):
                raise ModelFileError(f"{self._where}: TensorRT refuses the address of its tensor {name!r}; {CURE}")
        slots = [ResultSlot([device.pinned((rows, columns)) for _ in names]) for _ in range(RESULTS_LENT + 1)]
        self._slots, self._spare = slots[:-1], slots[-1]
        self._marks = [device.create_mark() for _ in range(len(STAGES) + 1)] if timed else []

    @property
    def manifest(self) -> Manifest:
        """What the model says of itself."""
        return self._manifest

    @property
    def description(self) -> str:
        """TensorRT version, GPU and precision."""
        return self._description

    def predict(self, frame: Frame) -> Prediction:
        """Segment one RGB frame H,W,3 uint8 of exactly the manifest's input size.

        The result's arrays are read-only; they may be held as long as wanted, also after `close`.

        Raises:
            DataError: another shape or type. ClstError: CUDA failed; the process must be restarted.
        """
        check_frame(frame, self._manifest.input_hw)
        if self._context is None:
            raise ClstError(f"{self._where} was closed; open it again")
        if self._failure:
            raise cuda_failure(f"running {self._where}", self._failure)
        slot = next((slot for slot in self._slots if slot.is_free), self._spare)
        np.copyto(self._host_frame, frame)
        self._record(0)
        self._device.copy_in(self._frame_address, self._host_frame)
        self._record(1)
        if not self._context.execute_async_v3(self._device.stream_handle):
            self._failure = f"TensorRT could not queue the engine: {self._messages.last_errors()}"
            raise cuda_failure(f"running {self._where}", self._failure)
        self._record(2)
        for host, address in zip(slot.hosts, self._addresses, strict=True):
            self._device.copy_out(host, address)
        self._record(3)
        self._device.synchronise()
        return slot.copied() if slot is self._spare else slot.lend()

    def _record(self, place: int) -> None:
        if self._marks:
            self._device.record(self._marks[place])

    def device_times_ms(self) -> dict[str, float]:
        """How long the last frame's `STAGES` took by the GPU's clock; only of a backend opened with `timed`."""
        return {
            stage: self._device.elapsed_ms(start, end)
            for stage, start, end in zip(STAGES, self._marks, self._marks[1:], strict=False)
        }

    def summarise(self) -> EngineSummary:
        """The engine's layers, as TensorRT's inspector tells them."""
        return inspect_engine(self._trt, self._engine)

    def _forget(self) -> None:
        """Let TensorRT's objects go, the dependent ones first; TensorRT frees them with the last reference."""
        self._context = self._engine = self._runtime = self._logger = None
        self._slots, self._marks = [], []

    def close(self) -> None:
        """Release engine and GPU; a second call does nothing."""
        self._closing.close()

    def __enter__(self) -> TrtBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_tensors(trt: ModuleType, engine: trt.ICudaEngine, manifest: Manifest, *, where: Path) -> None:
    """Inputs and outputs are what the manifest says.

    Raises:
        ModelFileError: a name, direction, type or shape differs.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        mode, dtype = engine.get_tensor_mode(name), engine.get_tensor_dtype(name)
        found[name] = (mode == trt.TensorIOMode.INPUT, dtype, tuple(engine.get_tensor_shape(name)))
    rows, columns = manifest.input_hw
    expected: dict[str, tuple[Any, ...]] = {
        "frame": (True, trt.DataType.UINT8, (1, rows, columns, 3)),
        "classes": (False, trt.DataType.UINT8, (1, rows, columns)),
    }
    if manifest.has_confidence:
        expected["confidence"] = expected["classes"]
    if found != expected:
        raise ModelFileError(
            f"{where}: inputs and outputs are {_told(found)}, its manifest says {_told(expected)}; {CURE}"
        )


def _told(tensors: dict[str, tuple[Any, ...]]) -> str:
    return ", ".join(
        f"{'input' if is_input else 'output'} {name} {dtype} {shape}"
        for name, (is_input, dtype, shape) in tensors.items()
    )
