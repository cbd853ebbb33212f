"""How memory is kept, the layout of the network's weights and compiled forward passes; the results stay the same."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import types

import torch

from clst_runtime.errors import MissingDependency
from clst_train.config import RunConfig
from clst_train.models.segmenter import Segmenter

PASSES = ("forward", "training_outputs")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def accelerate(segmenter: Segmenter, settings: RunConfig, device: torch.device) -> Segmenter:
    """Bring the network to its device, in the layout and with the passes that the settings ask for; in place.

    Raises:
        MissingDependency: `run.compile` without a C++ compiler.
    """
    segmenter.to(device)
    # No measurement at the start: after a resume another layout would round differently
    segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.compile:
        compile_passes(segmenter)
    return segmenter


def repeat_exactly(settings: RunConfig, device: torch.device) -> None:
    """Before the first work on a CUDA device: deterministic algorithms, if the settings ask for them.

    https://docs.pytorch.org/docs/stable/notes/randomness.html; on a CPU results are bit-exact anyway.
    """
    if device.type != "cuda" or not settings.deterministic:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def keep_memory() -> bool:
    """Let the process keep what it frees for what it asks for next; whether the C library can (glibc can).

    Each step asks for the same large tensors again. By itself glibc gives them back to the system in between, and on
    a CPU a tenth of a step's time went into getting them anew, page by page. Holds for the rest of the process, whose
    peak of memory stays what it was. https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def compile_passes(segmenter: Segmenter) -> None:
    """Replace the passes by compiled ones, bound as methods so that a deep copy of the network has its own.

    Raises:
        MissingDependency: there is no C++ compiler.
    """
    check_compiler()
    for name in PASSES:
        compiled = torch.compile(getattr(type(segmenter), name))
        setattr(segmenter, name, types.MethodType(compiled, segmenter))


def check_compiler() -> None:
    """Find out before a run whether its network can be compiled.

    Raises:
        MissingDependency: the C++ compiler that `torch.compile` would call is not there.
    """
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise MissingDependency(
            f"run.compile needs the C++ compiler {name!r}, which is not here; install it "
            "(Debian, Ubuntu: apt install g++), name another in CXX, or set run.compile=false"
        )
