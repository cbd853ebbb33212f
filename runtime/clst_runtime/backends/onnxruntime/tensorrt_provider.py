"""ONNX Runtime's TensorRT provider: the options it gets for a graph, and where it keeps its engines.

The provider does not read a precision out of the graph (its networks are weakly typed up to ONNX Runtime 1.31): FP16
and INT8 have to be allowed, and TensorRT then chooses for each layer. The names of the options are those that the
wheels 1.23.2 and 1.31.1 know.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.errors import ConfigError
from clst_runtime.system.files.caches import cache_root, use_folder
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.machine import package_version
from clst_runtime.system.programs import Runner, run_program

_log = logging.getLogger(__name__)

_NOT_KEPT = "no engine is kept for ONNX Runtime's TensorRT, each start builds it again"
TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
"""Environment variable of NVIDIA's libraries; 0 switches TF32 off in the whole process."""


def precision_options(manifest: Manifest, *, where: Path) -> dict[str, Any]:
    """What a graph of that precision needs.

    Raises:
        ConfigError: TensorRT cannot compute such a graph.
    """
    if manifest.precision == "int8" and manifest.calibration.get("target") == "cpu":
        raise ConfigError(
            f"{where} was made for ONNX Runtime's CPU: TensorRT computes no INT8 with zero-points; "
            "export it with --for tensorrt, or use --backend ort-cpu"
        )
    half = manifest.precision == "fp16" or manifest.calibration.get("rest") == "fp16"
    return {"trt_fp16_enable": half, "trt_int8_enable": manifest.precision == "int8"}  # its ranges are in the graph


def precision_warning(manifest: Manifest, *, where: Path) -> list[str]:
    """The warning where the graph asks for more than the provider has options for."""
    if not precision_options(manifest, where=where)["trt_fp16_enable"] and os.environ.get(TF32_OVERRIDE) != "0":
        return [
            f"{where}: ONNX Runtime's TensorRT computes its float32 in TF32, with 10 bits of mantissa, and has no "
            f"option against it; {TF32_OVERRIDE}=0 in the environment is one, and --backend ort-cuda computes float32"
        ]
    kept = manifest.calibration.get("kept_fp32")
    if not kept or manifest.precision == "fp32":
        return []
    return [
        f"{where}: {len(kept)} of its nodes are to compute in float32, but ONNX Runtime's TensorRT chooses by itself; "
        "an engine of clst-export --trt or --bundle keeps them, and is proven"
    ]


def cache_folder(model: Path, ort_version: str, run: Runner = run_program, root: Path = Path("/")) -> Path:
    """The folder of one model on one kind of machine.

    The provider's own file names do not distinguish two models of one architecture, nor two modules of one compute
    capability, so the folder does: by the model's hash, the GPUs and driver, the board, the versions and
    whether TF32 is switched off.
    """
    gpus = run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], seconds=20.0)
    board = root / "proc/device-tree/compatible"
    try:
        module = board.read_text(errors="replace")
    except OSError:
        module = ""
    versions = {name: package_version(name) for name in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")}
    settings = [os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get(TF32_OVERRIDE)]
    facts = [ort_version, gpus, module, versions, settings, file_sha256(model)]
    return cache_root("ort-tensorrt") / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def engine_cache(folder: Path) -> dict[str, Any]:
    """The options that keep engines and layer times in that folder; none, and a line, where it cannot be written.

    Engines in a folder that cannot be written are read all the same; the provider does not mind.
    """
    try:
        is_new = use_folder(folder)
    except OSError as error:
        if not holds_engines(folder):
            _log.warning(f"{_NOT_KEPT}: {error}")
            return {}
        is_new = False
    if is_new:
        _log.info(f"ONNX Runtime's TensorRT builds its engine, which takes minutes, and keeps it in {folder}")
    place = {"trt_engine_cache_path": str(folder), "trt_timing_cache_path": str(folder)}
    return {"trt_engine_cache_enable": True, "trt_timing_cache_enable": True, **place}


def engine_cache_anew(folder: Path) -> dict[str, Any]:
    """Remove what the folder holds, which cannot be used; then as `engine_cache`."""
    shutil.rmtree(folder, ignore_errors=True)
    if holds_engines(folder):
        _log.warning(f"{_NOT_KEPT}: the engines kept in {folder} cannot be removed")
        return {}
    return engine_cache(folder)


def holds_engines(folder: Path) -> bool:
    """Whether an earlier start has left one there."""
    return any(folder.glob("*.engine"))
