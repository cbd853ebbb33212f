"""TensorRT engines from ONNX files.

The builder lives in `clst_runtime.backends.tensorrt`, because a vehicle builds its own engines and has neither torch
nor this package's other needs (docs/decisions/0006). Here are its names for the exporter.
"""

from __future__ import annotations

from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.engine import build_engine, built_engine_note, check_can_build
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import show_progress
from clst_runtime.backends.tensorrt.library import Library

__all__ = [
    "BuildOptions",
    "GpuOptions",
    "Library",
    "build_engine",
    "built_engine_note",
    "check_can_build",
    "show_progress",
]
