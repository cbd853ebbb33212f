"""TensorRT for RTX: NVIDIA's ONNX parser and engine builder, which need no GPU.

Its bindings come without libraries; ONNX Runtime's plugin for TensorRT for RTX is the wheel that has them.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
import sys
from pathlib import Path
from types import ModuleType

from clst_runtime.errors import MissingDependency
from clst_runtime.system.machine import package_version
from clst_runtime.system.optional import extra, require

BINDINGS, LIBRARIES = "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"
COMPLETE = "tensorrt_rtx"
"""Module of NVIDIA's own distribution `tensorrt-rtx`, which brings its libraries from NVIDIA's server."""
BINDINGS_PACKAGE = "tensorrt-rtx-cu13-bindings"
HINT = f"pip install {extra('rtx')}"
REINSTALL = f"pip install --force-reinstall {extra('rtx')}"


@functools.cache
def load_rtx() -> ModuleType:
    """Its bindings, with the parser's and the builder's libraries loaded.

    Raises:
        MissingDependency: bindings or libraries are not installed, do not fit each other or this Python, or do not
            load.
    """
    module, libraries = find_rtx()
    for path in libraries:  # for all to see: the bindings look for them by shorter names
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise MissingDependency(f"TensorRT for RTX does not load ({error}); {REINSTALL}") from error
    return require(module)


def find_rtx() -> tuple[str, list[Path]]:
    """Name of its module, and the libraries to be loaded first; loads nothing.

    Raises:
        MissingDependency: bindings or libraries are not installed, or do not fit each other.
    """
    bindings, folder = _folder(BINDINGS), _folder(LIBRARIES)
    if bindings is None or folder is None:
        if _folder(COMPLETE) is not None:
            return COMPLETE, []
        lacks = "" if bindings is folder else f" as a whole: {LIBRARIES if bindings else BINDINGS} is missing"
        raise MissingDependency(f"TensorRT for RTX is not installed{lacks}; {hint()}")
    return BINDINGS, [_library(folder, name) for name in ("libtensorrt_rtx", "libtensorrt_onnxparser_rtx")]


def hint() -> str:
    """How to get it on this machine, or that there is nothing to get."""
    if sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info < (3, 14):
        return HINT
    here = f"{platform.system()} {platform.machine()} with Python {platform.python_version()}"
    return f"there is no package of it for {here}, only for x86-64 Linux with Python up to 3.13"


def _folder(package: str) -> Path | None:
    """Where a package lies; None if it is not installed."""
    found = importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent


def _library(folder: Path, name: str) -> Path:
    """The file of the longest name: links and copies of shorter ones lie beside it once its package was imported."""
    path = max(folder.glob(f"{name}.so.*"), key=lambda each: len(each.name), default=None)
    if path is None:
        raise MissingDependency(f"TensorRT for RTX: {folder} lacks {name}.so.*; {REINSTALL}")
    library, bindings = path.name.partition(".so.")[2], package_version(BINDINGS_PACKAGE)
    if bindings is not None and not f"{bindings}.".startswith(f"{library}."):
        raise MissingDependency(
            f"TensorRT for RTX: bindings {bindings} and library {library} do not fit each other; {REINSTALL}"
        )
    return path
