"""TensorRT engines from ONNX files.

The builder lives in `clst_runtime.engines`, because a vehicle builds its own engines and has neither torch nor this
package's other needs (docs/decisions/0006). Here are its names for the exporter.
"""

from __future__ import annotations

from clst_runtime.backends.gpu_options import GpuOptions
from clst_runtime.engines.build import build_engine, built_engine_note, check_can_build
from clst_runtime.engines.library import Library
from clst_runtime.engines.options import BuildOptions
from clst_runtime.engines.progress import show_progress

__all__ = [
    "BuildOptions",
    "GpuOptions",
    "Library",
    "build_engine",
    "built_engine_note",
    "check_can_build",
    "show_progress",
]
