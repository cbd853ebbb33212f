"""What ONNX Runtime raises, in one line and with the exit code that fits."""

from __future__ import annotations

import ctypes
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from clst_runtime.backends.tensorrt.library import Messages, gpu_failure
from clst_runtime.errors import ClstError, MissingDependency
from clst_runtime.system.packages import ONNXRUNTIME_WHEELS, rivals

_MEMORY = re.compile(r"failed to allocate|bad_?alloc|cannot allocate memory|_ALLOC_FAILED", re.IGNORECASE)
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
LONGEST = 300
_LIBRARIES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}
_FATAL, _WARNING = 4, 2


def is_onnxruntime(error: BaseException) -> bool:
    """Whether it comes out of ONNX Runtime, which raises classes of its own and some of Python's."""
    return type(error).__module__.startswith("onnxruntime") or isinstance(
        error, (MemoryError, RuntimeError, ValueError)
    )


def reason_of(error: BaseException) -> str:
    """The error's message, in one line."""
    text = " ".join(_PREFIX.sub("", str(error).strip()).split()) or type(error).__name__
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def onnxruntime_failure(error: BaseException, doing: str) -> ClstError | None:
    """The error where memory or the GPU are to blame; None where they are not."""
    reason, messages = reason_of(error), Messages()
    messages.add_error(reason)
    if isinstance(error, MemoryError) or _MEMORY.search(reason):
        return ClstError(
            f"ONNX Runtime ran out of memory while {doing} ({reason}); end other programs, or take a smaller input size"
        )
    return gpu_failure(messages, doing)


@contextmanager
def one_line(doing: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises in the block, which calls nothing else, into one line.

    Raises:
        ClstError: for each of its errors; CudaFailed, GpuOutOfMemory: where the GPU is to blame.
    """
    try:
        yield
    except ClstError:
        raise
    except Exception as error:
        if not is_onnxruntime(error):
            raise
        raise onnxruntime_failure(error, doing) or ClstError(
            f"ONNX Runtime failed while {doing} ({reason_of(error)}); see clst-doctor for what it can do here"
        ) from error


@contextmanager
def starting_a_gpu_provider(ort: Any) -> Iterator[None]:
    """Load CUDA and cuDNN where their wheels brought them, and keep ONNX Runtime's own lines off the terminal."""
    if hasattr(ort, "preload_dlls"):  # 1.21 and newer
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def lacking(ort: Any, provider: str) -> MissingDependency:
    """The error where this ONNX Runtime was built without a provider."""
    from clst_runtime.system.install_hints import hint
    from clst_runtime.system.platforms import detect_machine

    text = f"this ONNX Runtime has no {provider}, only {', '.join(ort.get_available_providers())}"
    both = rivals(ONNXRUNTIME_WHEELS)
    if both:
        text += f": {' and '.join(both)} are installed and own the same module, and the last one of them is used"
        return MissingDependency(f"{text}; pip uninstall {' '.join(both)}, then install the one with it")
    return MissingDependency(f"{text}; {hint('ort-gpu', detect_machine().platform)}; or use --backend ort-cpu")


def why_not_loaded(ort: Any, provider: str) -> str:
    """Why the library of a provider does not load, asked after ONNX Runtime has tried; empty if it does.

    Not before: the library looks for ONNX Runtime when it is loaded.
    """
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{_LIBRARIES.get(provider)}.so"
    if not library.is_file():
        return ""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        version = getattr(ort, "cuda_version", "")  # since 1.21
        return f"{error}; it is built for CUDA {version}" if version else str(error)
    return ""
