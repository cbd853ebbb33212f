"""NVIDIA's TensorRT and TensorRT for RTX: which of them an engine is of, the versions that are known, what they log.

The only place that imports TensorRT; `backends/tensorrt/rtx/library.py` is the one for the other.
"""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clst_runtime.backends.cuda.device import cuda_failure, out_of_memory
from clst_runtime.backends.tensorrt.rtx.library import load_rtx
from clst_runtime.errors import ClstError, MissingDependency
from clst_runtime.system.optional import require

if TYPE_CHECKING:
    import tensorrt as trt

SUPPORTED = "10.3 to 11.x"
OLDEST, NEWEST_MAJOR = (10, 3), 11
KEPT_MESSAGES = 40

_MEMORY = re.compile(r"out[ _]?of[ _]?memory|insufficient memory|cudaErrorMemoryAllocation", re.IGNORECASE)
_BROKEN = re.compile(
    r"illegal[ _]?(memory )?(access|address|instruction)|misaligned[ _]?address|invalid (program counter|address space)"
    r"|launch[ _]?(failure|failed|timed[ _]?out|timeout)|device-side assert|hardware[ _]?stack[ _]?error"
    r"|uncorrectable|CUDA_ERROR_ASSERT|cudaErrorAssert",
    re.IGNORECASE,
)
"""How CUDA names errors that stay until the process ends."""
_NO_GPU = re.compile(r"\[[^\[\]]*\] Error Code \d+: Cuda Runtime \(.*\(cudaError (35|100): .*\)\)")
"""What TensorRT for RTX adds to a complaint on a machine without a driver (35) or without a GPU (100)."""
_TIMING_CACHE = re.compile(r"timing cache will not be used|deserialize timing cache", re.IGNORECASE)
_NOTHING_LEFT = re.compile(r"could not find any implementation", re.IGNORECASE)


class Library(str, Enum):
    """What builds and runs an engine; neither loads an engine of the other."""

    TENSORRT = "tensorrt"
    RTX = "rtx"

    @property
    def label(self) -> str:
        return "TensorRT for RTX" if self is Library.RTX else "TensorRT"

    @property
    def takes(self) -> str:
        """How long a build takes: TensorRT times kernels, the other one does not."""
        return "seconds" if self is Library.RTX else "minutes"

    def load(self) -> ModuleType:
        """Its module.

        Raises:
            MissingDependency: it cannot be imported, or is of a version that this program does not know.
        """
        return load_rtx() if self is Library.RTX else load_tensorrt()


def title_of(trt: ModuleType) -> str:
    """Name and version of a module that `Library.load` gave."""
    library = Library.RTX if "rtx" in trt.__name__ else Library.TENSORRT
    return f"{library.label} {trt.__version__}"


def load_tensorrt() -> ModuleType:
    """The module `tensorrt`, of a version that this program knows.

    Raises:
        MissingDependency: it cannot be imported, or it is older or newer.
    """
    module = require("tensorrt")
    found = str(getattr(module, "__version__", "unknown"))
    version = version_numbers(found)
    if not OLDEST <= version < (NEWEST_MAJOR + 1,):
        age = "too old" if version < OLDEST else "too new"
        raise MissingDependency(
            f"TensorRT {found} is {age}, supported is {SUPPORTED}; run the ONNX file with ONNX Runtime instead, "
            "or install another TensorRT (JetPack 6 brings 10.3)"
        )
    return module


def version_numbers(text: str) -> tuple[int, ...]:
    """`10.16.1.11` as (10, 16, 1, 11); what is no number ends it."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


class Messages:
    """What TensorRT logged, from whatever thread: the last distinct errors and warnings, newest last."""

    def __init__(self) -> None:
        self.errors: dict[str, None] = {}
        self.warnings: dict[str, None] = {}
        self._lock = threading.Lock()

    def add_error(self, text: str) -> None:
        self._add(self.errors, text)

    def add_warning(self, text: str) -> None:
        self._add(self.warnings, text)

    def _add(self, kept: dict[str, None], text: str) -> None:
        with self._lock:
            kept.pop(text, None)
            kept[text] = None
            if len(kept) > KEPT_MESSAGES:
                del kept[next(iter(kept))]

    def last_errors(self, count: int = 3) -> str:
        return "; ".join([*self.errors][-count:]) if self.errors else "TensorRT logged no error"

    def clear(self) -> None:
        self.errors.clear()
        self.warnings.clear()

    def refused_timing_cache(self) -> bool:
        """Whether TensorRT could not read a timing cache: it returns one all the same, which is empty."""
        return any(_TIMING_CACHE.search(text) for text in (*self.errors, *self.warnings))

    def broken_gpu(self) -> str | None:
        """The message of an error of CUDA's that stays until the process ends, if there is one."""
        return next((text for text in self.errors if _BROKEN.search(text)), None)

    def nothing_left(self) -> bool:
        """Whether there was a layer for which TensorRT found no implementation, of which more memory may allow one."""
        return any(_NOTHING_LEFT.search(text) for text in self.errors)

    def out_of_memory(self) -> str | None:
        """The message of a build that failed for lack of GPU memory, if there is one.

        A warning alone does not: TensorRT skips single tactics for want of memory in builds that succeed. It does
        together with the error that no implementation of a layer was left.
        """
        certain = [text for text in self.errors if _MEMORY.search(text)]
        if not certain and self.nothing_left():
            certain = [text for text in self.warnings if _MEMORY.search(text)]
        return certain[-1] if certain else None


def without_gpu_complaint(text: str) -> str:
    """A complaint without its remark that this machine has no GPU, which is not why; as it is where it says no more."""
    return _NO_GPU.sub("", text).strip() or text


def gpu_failure(messages: Messages, doing: str) -> ClstError | None:
    """The log's reason where TensorRT itself only reports a failure; None if the GPU is not the cause."""
    broken, memory = messages.broken_gpu(), messages.out_of_memory()
    if broken is not None:
        return cuda_failure(doing, broken)
    return None if memory is None else out_of_memory(doing, memory)


def make_logger(trt: ModuleType, messages: Messages) -> trt.ILogger:
    """A TensorRT logger that writes into `messages`; it must outlive everything that was made with it."""
    severe: Sequence[Any] = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
    warning: Any = trt.ILogger.Severity.WARNING

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Called from C++ by any thread, where an exception would end the process: it only appends."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            text = " ".join(msg.split())
            if severity in severe:
                messages.add_error(text)
            elif severity == warning:
                messages.add_warning(text)

    return Logger()


def start_builder(trt: ModuleType, logger: trt.ILogger, messages: Messages) -> trt.Builder:
    """TensorRT's builder.

    Raises:
        MissingDependency: it does not start, which is what happens without a usable GPU.
    """
    return _started(trt, lambda: trt.Builder(logger), "builder", messages)


def start_runtime(trt: ModuleType, logger: trt.ILogger, messages: Messages) -> trt.Runtime:
    """TensorRT's runtime.

    Raises:
        MissingDependency: it does not start, which is what happens without a usable GPU.
    """
    return _started(trt, lambda: trt.Runtime(logger), "runtime", messages)


def _started(trt: ModuleType, factory: Callable[[], Any], what: str, messages: Messages) -> Any:
    # It logs while it holds a lock. If that ran the garbage collector, an older builder's end would wait for the lock.
    collects = gc.isenabled()
    gc.disable()
    try:
        return factory()
    except (TypeError, RuntimeError) as error:  # TypeError: `factory function returned nullptr`
        raise MissingDependency(
            f"{title_of(trt)} cannot start its {what} ({messages.last_errors()}); it needs an NVIDIA GPU and a "
            "driver that fits; nvidia-smi and clst-doctor show what is there"
        ) from error
    finally:
        if collects:
            gc.enable()
