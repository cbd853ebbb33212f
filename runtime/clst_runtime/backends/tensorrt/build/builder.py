"""From an ONNX file to a serialised TensorRT engine, in memory.

The network is strongly typed: its precisions are those of the graph, on every TensorRT from 10.3 to 11.x.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clst_runtime.backends.cuda.device import GpuOutOfMemory, cuda_failure
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BuildProgress, make_monitor
from clst_runtime.backends.tensorrt.library import (
    Library,
    Messages,
    make_logger,
    start_builder,
    title_of,
    without_gpu_complaint,
)
from clst_runtime.backends.tensorrt.rtx.target import aim
from clst_runtime.errors import ClstError, ConfigError, DataError, ModelFileError
from clst_runtime.system.files.atomic import write_bytes
from clst_runtime.system.signals import ENDING, handled, not_ignored

if TYPE_CHECKING:
    import tensorrt as trt

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # how soon Ctrl-C is noticed
HOST_MEMORY = "std::bad_alloc"  # the C++ exception when the computer's own memory is used up


@dataclass(frozen=True, kw_only=True)
class Serialised:
    """What a build leaves."""

    plan: bytes
    layers: Mapping[str, int]
    """Layers of the network before they are fused, by TensorRT's type."""
    seconds: float
    """How long it was read and built."""
    timing_cache: bytes | None
    """Layer times for later builds; None if none were asked for, or TensorRT gives none."""


class RefusedByTensorrt(ModelFileError):
    """A file that TensorRT cannot parse or build, for a reason of its own."""

    def __init__(self, path: Path, builder: str, reason: str, hint: str) -> None:
        super().__init__(f"{path}: {builder} {reason}; {hint}, or run the ONNX file with ONNX Runtime")
        self.reason = reason


def serialise_engine(trt: ModuleType, onnx_path: Path, options: BuildOptions, progress: BuildProgress) -> Serialised:
    """Build an engine for the GPU of this machine, or by TensorRT for RTX for `rtx_target.CAPABILITIES`.

    Raises:
        RefusedByTensorrt: it cannot parse the file or build it. ConfigError: a DLA core that cannot be used, or a
            folder as timing cache. MissingDependency: TensorRT finds no GPU. GpuOutOfMemory, CudaFailed: as said.
        ClstError: this machine has no memory left. KeyboardInterrupt: Ctrl-C; TensorRT was stopped first.
    """
    messages = Messages()
    logger = make_logger(trt, messages)
    builder = start_builder(trt, logger, messages)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    started = time.monotonic()
    parser = parse_onnx(trt, network, logger, onnx_path)  # owns weights of the network: it lives until the end
    layers = layer_types(network)
    config = builder.create_builder_config()
    configure(trt, builder, config, options)
    cache = attach_timing_cache(config, options.timing_cache, messages)  # must live as long as the build
    messages.clear()  # what was logged before the build is not why it fails
    cancelled = threading.Event()
    monitor = make_monitor(trt, progress, cancelled)
    config.progress_monitor = monitor
    try:
        plan = _built(builder, network, config, cancelled)
    finally:
        progress.close()
    if plan is None:
        raise build_failure(trt, onnx_path, messages, options)
    times = None if cache is None else config.get_timing_cache().serialize()
    seconds = time.monotonic() - started
    del monitor, cache, parser
    return Serialised(plan=plan, layers=layers, seconds=seconds, timing_cache=None if times is None else bytes(times))


def keep_timing_cache(path: Path | None, content: bytes | None) -> None:
    """Write it; it only makes later builds quicker, so a place that cannot be written is a line and no error."""
    if path is None or content is None:
        return
    try:
        write_bytes(path, content)
    except DataError as error:
        _log.warning(f"the timing cache is not kept, later builds take as long: {error.message}")


def parse_onnx(trt: ModuleType, network: trt.INetworkDefinition, logger: trt.ILogger, path: Path) -> trt.OnnxParser:
    """Read an ONNX file into `network`; every complaint of the parser in one line.

    Raises:
        RefusedByTensorrt: it cannot be parsed. ClstError: this machine has no memory left for it.
    """
    parser: Any = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        text = [parser_complaint(parser.get_error(index)) for index in range(parser.num_errors)]
        memory = host_memory(text)
        if memory is not None:
            raise host_out_of_memory(path, memory)
        raise RefusedByTensorrt(
            path,
            title_of(trt),
            f"cannot parse it: {'; '.join(text) or 'no reason given'}",
            "export it again with clst-export (opset 19 or 20)",
        )
    return parser


def layer_types(network: trt.INetworkDefinition) -> dict[str, int]:
    """Its layers, counted by type; most first."""
    return dict(Counter(network.get_layer(index).type.name for index in range(network.num_layers)).most_common())


def parser_complaint(error: trt.ParserError) -> str:
    """One complaint of the parser: operator, node, reason."""
    node = " ".join(part for part in (error.node_operator(), error.node_name()) if part)
    reason = " ".join(str(error.desc()).split())
    if reason == "false":  # the parser only quotes its assertion when it lacks an operator
        reason = "not supported"
    reason = without_gpu_complaint(reason)
    return f"{node}: {reason}" if node else reason


def configure(trt: ModuleType, builder: trt.Builder, config: trt.IBuilderConfig, options: BuildOptions) -> None:
    """Put the options into TensorRT's configuration, or refuse by ConfigError a DLA core that this device lacks."""
    config.builder_optimization_level = options.optimisation_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the engine inspector
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 in the graph means fp32, not its shortened form
    if options.library is Library.RTX:
        aim(trt, config)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.dla_core is None:
        return
    if options.dla_core >= builder.num_DLA_cores:
        raise ConfigError(
            f"DLA core {options.dla_core} asked, this device has {builder.num_DLA_cores} of them; "
            "leave it out to run on the GPU"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla_core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def attach_timing_cache(config: trt.IBuilderConfig, path: Path | None, messages: Messages) -> trt.ITimingCache | None:
    """Give the build its cache of measured layer times: from the file, else empty; None if there is to be none.

    A cache of another GPU or TensorRT, or a damaged one, is replaced, and that is said: it can only cost time, never
    change a result.

    Raises:
        ConfigError: it is a folder.
    """
    if path is None:
        return None
    if path.is_dir():
        raise ConfigError(f"timing cache {path}: Is a directory; give a file or leave it out")
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        stored = b""
    except OSError as error:
        _log.warning(f"timing cache {path} cannot be read ({error.strerror}); starting a new one")
        stored = b""
    for content in (stored, b""):
        cache: Any = config.create_timing_cache(content)
        taken = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
        if taken and not (content and messages.refused_timing_cache()):
            return cache
        if content:
            _log.warning(f"timing cache {path} is of another GPU or TensorRT, or damaged; starting a new one")
    _log.warning(f"timing cache {path}: TensorRT takes not even an empty one; building without")
    return None


def _built(
    builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, cancelled: threading.Event
) -> bytes | None:
    """Build in a thread, so that this one sees Ctrl-C: while a thread is inside C++ it runs no signal handler."""
    results: list[bytes | None] = []
    failures: list[BaseException] = []

    def build() -> None:
        try:
            plan = builder.build_serialized_network(network, config)
            results.append(None if plan is None else bytes(plan))
        except BaseException as error:  # noqa: BLE001 handed to the waiting thread
            failures.append(error)

    thread = threading.Thread(target=build, name="tensorrt-build")
    with interrupt_cancels(cancelled):
        thread.start()
        text = False
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if cancelled.is_set() and not text:
                _log.info("stopping the build at TensorRT's next step …")
                text = True
    if failures:
        raise failures[0]
    return results[0]


@contextmanager
def interrupt_cancels(cancelled: threading.Event) -> Iterator[None]:
    """Ctrl-C or SIGTERM sets `cancelled` and is raised after the block: never under a build that still runs."""
    with handled(not_ignored([signal.SIGINT, *ENDING]), lambda *_: cancelled.set()):
        yield
    if cancelled.is_set():
        raise KeyboardInterrupt


def build_failure(trt: ModuleType, onnx_path: Path, messages: Messages, options: BuildOptions) -> ClstError:
    """Why TensorRT gave no engine, by its log."""
    broken, memory = messages.broken_gpu(), messages.out_of_memory()
    if broken is not None:
        return cuda_failure(f"building an engine of {onnx_path}", broken)
    if memory is not None and options.library is Library.TENSORRT:
        limit = "all memory" if options.workspace_mib is None else f"{options.workspace_mib} MiB"
        return GpuOutOfMemory(
            f"{onnx_path}: the GPU ran out of memory during the build ({memory}); end other programs that use it, "
            f"lower the workspace (now {limit}) or export a smaller input size"
        )
    memory = memory or host_memory(messages.errors)
    if memory is not None:
        return host_out_of_memory(onnx_path, memory)
    hint = "try a larger workspace or another optimisation level" if messages.nothing_left() else "export it again"
    return RefusedByTensorrt(onnx_path, title_of(trt), f"could not build it: {messages.last_errors()}", hint)


def host_memory(text: Iterable[str]) -> str | None:
    """The complaint that blames the computer's own memory, if one does."""
    return next((text for text in text if HOST_MEMORY in text), None)


def host_out_of_memory(path: Path, complaint: str) -> ClstError:
    """The error where the computer's own memory is used up, which is no fault of the file."""
    return ClstError(
        f"this machine ran out of memory while TensorRT read or built {path} ({complaint}); end other programs or "
        "export a smaller input size"
    )
