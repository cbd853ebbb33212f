"""The manifest beside an engine, and whether the engine may run here.

An engine is executable code for one kind of GPU and one TensorRT version, so nothing of it is handed to TensorRT
before its hash, the version and the GPU fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from clst_runtime.atomic import write_bytes, write_text
from clst_runtime.errors import ModelFileError
from clst_runtime.manifest import Manifest

FACTS = ("gpu", "compute_capability", "tensorrt", "engine_sha256", "onnx_sha256", "engine_bytes")
CURE = (
    "build it again on this machine from the ONNX file beside it: clst-export build ENGINE --frames PICTURES, "
    "or clst-run --rebuild"
)


def sidecar_path(engine: Path) -> Path:
    """`model.engine` → `model.engine.json`."""
    return engine.with_name(engine.name + ".json")


def engine_manifest(model: Manifest, *, plan: bytes, onnx_sha256: str, facts: dict[str, Any]) -> Manifest:
    """The model's manifest with what is known of the engine; `facts` gives gpu, compute_capability and tensorrt."""
    values = {
        **facts,
        "engine_sha256": hashlib.sha256(plan).hexdigest(),
        "onnx_sha256": onnx_sha256,
        "engine_bytes": len(plan),
    }
    return dataclasses.replace(model, engine=values)


def write_engine(path: Path, plan: bytes, manifest: Manifest) -> None:
    """Write the engine, then its manifest; between the two an older manifest's hash refuses the new engine."""
    write_bytes(path, plan)
    write_text(sidecar_path(path), manifest.to_json() + "\n")


def read_engine(path: Path) -> tuple[bytes, Manifest]:
    """Engine and manifest, the hash checked.

    Raises:
        ModelFileError: one of the two is missing or damaged, or they do not belong together.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such engine")
    beside = sidecar_path(path)
    if not beside.is_file():
        raise ModelFileError(f"{path} has no manifest {beside.name} beside it, so it is not run; copy both, or {CURE}")
    try:
        manifest, plan = Manifest.from_json(beside.read_text(), where=str(beside)), path.read_bytes()
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: it or its manifest cannot be read ({error}); {CURE}") from error
    check_hash(plan, manifest, where=path)
    return plan, manifest


def check_hash(plan: bytes, manifest: Manifest, *, where: Path) -> None:
    """Refuse an engine that is not the one its manifest was written for.

    Raises:
        ModelFileError: a fact is missing, or size or SHA-256 differ.
    """
    missing = [name for name in FACTS if name not in manifest.engine]
    if missing:
        raise ModelFileError(f"{where}: its manifest lacks engine.{', engine.'.join(missing)}; {CURE}")
    facts = manifest.engine
    if len(plan) != facts["engine_bytes"]:
        raise ModelFileError(
            f"{where} is damaged: {len(plan)} bytes, its manifest says {facts['engine_bytes']}; copy it again or {CURE}"
        )
    found = hashlib.sha256(plan).hexdigest()
    if found != facts["engine_sha256"]:
        raise ModelFileError(
            f"{where} is damaged: SHA-256 {found[:12]}…, its manifest says {str(facts['engine_sha256'])[:12]}…; "
            f"copy it again or {CURE}"
        )


def check_tensorrt(manifest: Manifest, version: str, *, where: Path) -> None:
    """Refuse an engine of another TensorRT version.

    Raises:
        ModelFileError: it is one.
    """
    if manifest.engine["tensorrt"] != version:
        raise ModelFileError(
            f"{where} was built by TensorRT {manifest.engine['tensorrt']}, found TensorRT {version}; {CURE}"
        )


def check_gpu(manifest: Manifest, name: str, compute_capability: str, *, where: Path) -> None:
    """Refuse an engine of another kind of GPU.

    Raises:
        ModelFileError: it is one.
    """
    built_for = (manifest.engine["gpu"], manifest.engine["compute_capability"])
    if built_for != (name, compute_capability):
        raise ModelFileError(
            f"{where} was built for {built_for[0]} (compute capability {built_for[1]}), "
            f"found {name} ({compute_capability}); {CURE}"
        )
