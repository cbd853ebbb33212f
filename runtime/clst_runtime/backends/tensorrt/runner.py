"""An engine of TensorRT or of TensorRT for RTX. Legend: H rows, W columns of the model's input.

Shapes are static: every buffer is allocated and every address is set when the model is opened. A frame costs
H·W·3 bytes to the device and H·W bytes back (twice that with confidence), and no buffer is allocated for it. Nothing
of this has run on a GPU yet, mapped buffers and CUDA graphs included; the tests run it on fakes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.base import Frame, Prediction, check_frame
from clst_runtime.backends.cuda.buffers import Buffers, make_buffers
from clst_runtime.backends.cuda.device import CudaDevice, Event, GpuOutOfMemory, Graph, GraphFailed, cuda_failure
from clst_runtime.backends.cuda.graphs import Outputs, drawn_frames, prove_graph
from clst_runtime.backends.cuda.open import open_cuda
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.inspector import EngineSummary, inspect_engine
from clst_runtime.backends.tensorrt.library import Library, Messages, gpu_failure, make_logger, start_runtime, title_of
from clst_runtime.backends.tensorrt.rtx.kernels import Kernels, kernels_file
from clst_runtime.backends.tensorrt.sidecar import HINT, check_gpu, library_of, load_library, proof_warning, read_engine
from clst_runtime.errors import ClstError, ConfigError, ModelFileError

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["STAGES", "BuiltEngine", "TrtBackend"]

STAGES = ("copy_in", "compute", "copy_out")


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine that is not on disk yet."""

    plan: bytes
    """What TensorRT serialised."""
    manifest: Manifest
    """What is to be written beside it."""


class NotQueued(ClstError):
    """TensorRT refused to queue an engine."""


class TrtBackend:
    """An engine and its manifest, on one GPU; used and closed by the thread that opened it."""

    _logger: trt.ILogger | None
    _runtime: trt.Runtime | None
    _engine: trt.ICudaEngine | None
    _context: trt.IExecutionContext | None = None
    _kernels: Kernels | None = None

    def __init__(
        self,
        path: Path,
        *,
        device: CudaDevice | None = None,
        timed: bool = False,
        built: BuiltEngine | None = None,
        gpu: GpuOptions | None = None,
    ) -> None:
        """Check, then load, then allocate, then prove the CUDA graph if one is wanted.

        Args:
            path: the `.engine` file; with `built` only the name that messages give.
            device: a GPU that the caller opened and closes; None = open one and close it with the model.
            timed: record events, so that `device_times_ms` can be asked after each frame.
            built: an engine in memory in place of the file's.
            gpu: how frames reach the GPU and how work is queued; its `cuda` is for a GPU that is opened here.

        Raises:
            ModelFileError: damaged, of another TensorRT version or GPU, or not by the artifact contract.
            MissingDependency: no TensorRT, CUDA library or GPU. ConfigError: a graph that is to be timed by stages.
            GpuOutOfMemory, CudaFailed: as said.
        """
        self._closing = ExitStack()
        self._where, self._failure, self._gpu = path, "", gpu or GpuOptions()
        self.warnings: list[str] = []
        """What was wanted and could not be had, or is another than when it was proved; a line each."""
        self._buffers: Buffers | None = None
        self._graph: Graph | None = None
        self._events: list[Event] = []
        if timed and self._gpu.graph:
            raise ConfigError("the stages inside a CUDA graph cannot be timed one by one; leave the graph out")
        try:
            plan, self.manifest = read_engine(path) if built is None else (built.plan, built.manifest)
            trt = load_library(self.manifest, where=path)
            if device is None:
                device = self._closing.enter_context(open_cuda(self._gpu.cuda, graphs=self._gpu.graph))
            self._device = device
            check_gpu(self.manifest, self._device, where=path)
            self.warnings += [] if built else proof_warning(self.manifest, device, where=path)
            self._load(trt, plan)
            self._allocate(timed=timed)
            self._record_graph()
        except BaseException:
            self.close()
            raise
        self.description = self._describe(title_of(trt))

    def _load(self, trt: ModuleType, plan: bytes) -> None:
        self._trt, self._messages = trt, Messages()
        self._logger = make_logger(trt, self._messages)  # kept: TensorRT holds a bare pointer to it
        # Registered after the device was entered, so it runs before the device closes: what TensorRT frees needs CUDA.
        self._closing.callback(self._forget)
        self._runtime = start_runtime(trt, self._logger, self._messages)
        self._runtime.engine_host_code_allowed = False
        core = self.manifest.engine.get("options", {}).get("dla_core")
        if core is not None:
            self._runtime.DLA_core = core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise gpu_failure(self._messages, f"loading {self._where}") or ModelFileError(
                f"{self._where}: TensorRT cannot load it ({self._messages.last_errors()}); {HINT}"
            )
        check_tensors(trt, self._engine, self.manifest, where=self._where)
        self._context = self._create_context(self._engine)
        if self._context is None:
            raise gpu_failure(self._messages, f"loading {self._where}") or GpuOutOfMemory(
                f"{self._where}: TensorRT could not make an execution context ({self._messages.last_errors()}); "
                "end other programs that use the GPU's memory"
            )

    def _create_context(self, engine: trt.ICudaEngine) -> trt.IExecutionContext | None:
        """The execution context; by TensorRT for RTX with the kernels that an earlier start has compiled."""
        if library_of(self.manifest, where=self._where) is Library.TENSORRT:
            context: Any = engine.create_execution_context()
            return context
        self._kernels = Kernels(engine, kernels_file(self.manifest, self._device))
        return self._kernels.create_context(engine)

    def _allocate(self, *, timed: bool) -> None:
        names = ("classes", "confidence") if self.manifest.has_confidence else ("classes",)
        buffers = make_buffers(self._device, self._gpu.io, self.manifest.input_hw, len(names))
        for name, address in zip(("frame", *names), (buffers.frame_address, *buffers.addresses), strict=True):
            if self._context is None or not self._context.set_tensor_address(name, address):
                raise ModelFileError(f"{self._where}: TensorRT refuses the address of its tensor {name!r}; {HINT}")
        self._buffers = buffers
        self._events = [self._device.create_event() for _ in range(len(STAGES) + 1)] if timed else []

    def _record_graph(self) -> None:
        """Make the CUDA graph if one is wanted; one that fails is dropped, with a warning."""
        buffers = self._buffers
        if buffers is None or not self._gpu.graph:
            return

        def run(frame: Frame, queue: Callable[[], None]) -> Outputs:
            buffers.put(frame)
            buffers.poison()  # a graph that does nothing must not pass with the outputs of the plain run
            slot = buffers.take()
            queue()
            buffers.queue_out(slot)
            self._device.synchronise()
            buffers.finish(slot)
            return np.stack(slot.hosts)

        try:
            self._graph = prove_graph(
                self._device, lambda: self._queue(buffers), run, drawn_frames(self.manifest.input_hw)
            )
        except GraphFailed as error:
            self.warnings.append(f"{self._where}: runs without a CUDA graph: {error.message}")

    def _describe(self, version: str) -> str:
        device, io = self._device, "" if self._buffers is None else self._buffers.io
        text = f"{version} on {device.name} (compute capability {device.compute_capability})"
        text += f", {self.manifest.precision}, {io} I/O by {device.library}"
        if not self._gpu.graph:
            return text
        return f"{text}, CUDA graph" if self._graph is not None else f"{text}, CUDA graph dropped"

    def predict(self, frame: Frame) -> Prediction:
        check_frame(frame, self.manifest.input_hw)
        buffers = self._buffers
        if buffers is None:
            raise ClstError(f"{self._where} was closed; open it again")
        if self._failure:
            raise cuda_failure(f"running {self._where}", self._failure)
        slot = buffers.take()
        buffers.put(frame)
        try:
            self._queue(buffers) if self._graph is None else self._device.launch(self._graph)
        except NotQueued as error:
            why = gpu_failure(self._messages, f"running {self._where}")
            if isinstance(why, GpuOutOfMemory):
                raise why from error
            self._failure = error.message
            raise cuda_failure(f"running {self._where}", self._failure) from error
        self._record(2)
        buffers.queue_out(slot)
        self._record(3)
        self._device.synchronise()  # from here on the frame's buffer may be written and the slot read
        buffers.finish(slot)
        if self._kernels is not None:
            self._kernels.keep()
        return buffers.give(slot)

    def _queue(self, buffers: Buffers) -> None:
        """Queue the frame's way in and the engine; the result's way out differs from frame to frame.

        Raises:
            NotQueued: TensorRT refuses.
        """
        self._record(0)
        buffers.queue_in()
        self._record(1)
        if self._context is None or not self._context.execute_async_v3(self._device.stream_handle):
            raise NotQueued(f"TensorRT could not queue the engine: {self._messages.last_errors()}")

    def _record(self, place: int) -> None:
        if self._events:
            self._device.record(self._events[place])

    def device_times_ms(self) -> dict[str, float]:
        """How long the last frame's `STAGES` took by the GPU's clock; only of a backend opened with `timed`."""
        return {
            stage: self._device.elapsed_ms(start, end)
            for stage, start, end in zip(STAGES, self._events, self._events[1:], strict=False)
        }

    def summarise(self) -> EngineSummary:
        return inspect_engine(self._trt, self._engine)

    def _forget(self) -> None:
        """Let TensorRT's objects and the buffers go, the dependent ones first; each is freed with the last reference.

        What is still queued uses all of them, as after a Ctrl-C in the midst of a frame: it is waited for.
        """
        try:
            with suppress(ClstError):  # a GPU that has failed runs nothing more
                self._device.synchronise()
        finally:
            if self._graph is not None:
                self._device.release_graph(self._graph)
            self._graph = None
            self._context = self._kernels = self._engine = self._runtime = self._logger = None
            self._buffers, self._events = None, []

    def close(self) -> None:
        self._closing.close()

    def __enter__(self) -> TrtBackend:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_tensors(trt: ModuleType, engine: trt.ICudaEngine, manifest: Manifest, *, where: Path) -> None:
    """Refuse by ModelFileError tensors whose names, directions, types or shapes are not the manifest's."""
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
        stated = _describe_tensors(expected)
        raise ModelFileError(
            f"{where}: inputs and outputs are {_describe_tensors(found)}, its manifest says {stated}; {HINT}"
        )


def _describe_tensors(tensors: dict[str, tuple[Any, ...]]) -> str:
    return ", ".join(
        f"{'input' if is_input else 'output'} {name} {dtype} {shape}"
        for name, (is_input, dtype, shape) in tensors.items()
    )
