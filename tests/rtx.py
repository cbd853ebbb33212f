"""TensorRT for RTX: NVIDIA's own parser and builder, which need no GPU. Nothing here runs an engine.

The bindings come without libraries; ONNX Runtime's plugin for TensorRT for RTX brings those.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LACKING = "TensorRT for RTX is not installed (pip install --group rtx): its parser and builder were not asked"
BINDINGS, LIBRARIES = "tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"


@functools.cache
def load() -> ModuleType | None:
    """The bindings, or None where they or the libraries are not installed."""
    found = importlib.util.find_spec(LIBRARIES)
    if found is None or found.origin is None or importlib.util.find_spec(BINDINGS) is None:
        return None
    for name in ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*"):
        (library,) = Path(found.origin).parent.glob(name)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)  # the bindings look for it by a shorter name
    return importlib.import_module(BINDINGS)


def must_be_there() -> bool:
    """Whether the tests decide here, on a machine that NVIDIA has wheels for: then a skip would look like a pass."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    markers = [Requirement(each).marker for each in project["dependency-groups"]["rtx"]]
    return bool(os.environ.get("CI")) and all(marker is None or marker.evaluate() for marker in markers)
