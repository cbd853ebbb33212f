"""Which engine computes a model file here, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clst_runtime.errors import ConfigError, did_you_mean
from clst_runtime.system.machine import gpu_names
from clst_runtime.system.optional import require

TENSORRT, ORT_TENSORRT, ORT_CUDA, ORT_CPU = NAMES = ("tensorrt", "ort-tensorrt", "ort-cuda", "ort-cpu")
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `auto` came to, or what was asked for."""

    name: str
    """One of `NAMES`."""
    reason: str


def has_choice(path: Path) -> bool:
    """Whether it is an `.onnx` or `.engine` file or a bundle; other files have readers of their own."""
    return path.is_dir() or path.suffix.lower() in (".onnx", ".engine")


def choose_backend(path: Path, wanted: str = AUTO) -> Choice:
    """Decide for an `.onnx` or `.engine` file or a bundle.

    `auto` takes TensorRT for engines and bundles, for a vehicle must not end up on its CPU unasked; for ONNX files
    ONNX Runtime, on CUDA where it has that provider and a GPU is there. What was asked for by name is never replaced.

    Raises:
        ConfigError: an unknown name, or one that cannot compute such a file.
    """
    if wanted not in (AUTO, *NAMES):
        raise ConfigError(f"backend {wanted!r} is not known; {did_you_mean(wanted, (AUTO, *NAMES))}")
    is_engine, is_bundle = path.suffix.lower() == ".engine", path.is_dir()
    if wanted == TENSORRT and not (is_engine or is_bundle):
        raise ConfigError(
            f"{path}: the backend tensorrt computes engines and bundles; make one with clst-export --trt or --bundle, "
            "or use --backend ort-tensorrt"
        )
    if wanted not in (AUTO, TENSORRT) and is_engine:
        raise ConfigError(f"{path}: only TensorRT computes an engine; give its .onnx file, or leave out --backend")
    if wanted != AUTO:
        return Choice(name=wanted, reason="asked for")
    if is_engine or is_bundle:
        return Choice(name=TENSORRT, reason="an engine" if is_engine else "a bundle")
    return _onnxruntime()


def _onnxruntime() -> Choice:
    if "CUDAExecutionProvider" not in require("onnxruntime").get_available_providers():
        return Choice(name=ORT_CPU, reason="an ONNX file, and this ONNX Runtime has no CUDA")
    if not gpu_names():
        return Choice(name=ORT_CPU, reason="an ONNX file, and no GPU answers")
    return Choice(name=ORT_CUDA, reason="an ONNX file, and a GPU is here")
