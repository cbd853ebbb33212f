"""What ONNX Runtime raises, in one line and with the exit code that fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from clst_runtime.engines.library import Messages, gpu_failure
from clst_runtime.errors import ClstError

_MEMORY = re.compile(r"failed to allocate|bad_?alloc|cannot allocate memory|_ALLOC_FAILED", re.IGNORECASE)
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
LONGEST = 300


def is_onnxruntime(error: BaseException) -> bool:
    """Whether it comes out of ONNX Runtime, which raises classes of its own and some of Python's."""
    return type(error).__module__.startswith("onnxruntime") or isinstance(
        error, (MemoryError, RuntimeError, ValueError)
    )


def reason_of(error: BaseException) -> str:
    """What it says, in one line."""
    words = " ".join(_PREFIX.sub("", str(error).strip()).split()) or type(error).__name__
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"


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
def told_in_one_line(doing: str) -> Iterator[None]:
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
            f"ONNX Runtime failed while {doing} ({reason_of(error)}); clst-doctor says what it can do here"
        ) from error
