"""The manifest beside an engine, and whether the engine may run here.

An engine of TensorRT is executable code for one kind of GPU and one version, so nothing of it is handed to TensorRT
before its hash, the version and the GPU fit. One of TensorRT for RTX is for the GPUs of a few compute capabilities, and
may have been built where there is none: then nothing has compared it with its ONNX file yet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.cuda.device import CudaDevice
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.errors import DataError, MissingDependency, ModelFileError
from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.files.json_values import read_text
from clst_runtime.system.files.paths import check_file
from clst_runtime.system.machine import UNKNOWN, driver_version

FACTS = ("tensorrt", "engine_sha256", "onnx_sha256", "engine_bytes")
FACTS_OF = {
    Library.TENSORRT: ("gpu", "compute_capability", "multiprocessors", *FACTS),
    Library.RTX: ("compute_capabilities", *FACTS),
}
TITLES = {"tensorrt": "TensorRT", "cuda": "CUDA", "driver": "driver"}
"""Facts that an update changes on the same device."""
PROOF_FACTS = ("gpu", "compute_capability", "multiprocessors", *TITLES)
HINT = (
    "build it again on this machine from the ONNX file beside it: clst-export build ENGINE --frames IMAGES, "
    "or clst-run --rebuild"
)

OTHER_GPU = (
    "for such a one make an engine by TensorRT itself (clst-export … --bundle), or run the ONNX file with ONNX Runtime"
)


def sidecar_path(engine: Path) -> Path:
    """`model.engine` → `model.engine.json`."""
    return engine.with_name(engine.name + ".json")


def engine_manifest(model: Manifest, *, plan: bytes, onnx_sha256: str, facts: dict[str, Any]) -> Manifest:
    """The model's manifest with what is known of the engine; `facts` gives those of the GPU and tensorrt."""
    values = {
        **facts,
        "engine_sha256": hashlib.sha256(plan).hexdigest(),
        "onnx_sha256": onnx_sha256,
        "engine_bytes": len(plan),
    }
    return dataclasses.replace(model, engine=values)


def write_engine(path: Path, plan: bytes, manifest: Manifest) -> None:
    """Write the engine and its manifest, both or neither.

    Both are on the disk before either takes its name. A process that dies between the two names leaves a pair whose
    hash does not fit, which is refused.

    Raises:
        DataError: they cannot be written; what was there before is left as it was.
    """
    with written_whole(sidecar_path(path)) as beside, written_whole(path) as engine:
        engine.write_bytes(plan)
        with beside.open("wb") as stream:
            stream.write(manifest.to_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def read_engine(path: Path) -> tuple[bytes, Manifest]:
    """Engine and manifest, the hash checked.

    Raises:
        ModelFileError: one of the two is missing or damaged, or they do not belong together.
    """
    check_file(path, "engine", ModelFileError)
    beside = sidecar_path(path)
    if not beside.is_file():
        raise ModelFileError(f"{path} has no manifest {beside.name} beside it, so it is not run; copy both, or {HINT}")
    try:
        manifest, plan = Manifest.from_json(read_text(beside), where=str(beside)), path.read_bytes()
    except (OSError, DataError) as error:
        raise ModelFileError(f"{path}: it or its manifest cannot be read ({error}); {HINT}") from error
    check_hash(plan, manifest, where=path)
    return plan, manifest


def check_hash(plan: bytes, manifest: Manifest, *, where: Path) -> None:
    """Refuse by ModelFileError an engine whose manifest lacks a fact, or names another size or SHA-256."""
    missing = [name for name in FACTS_OF[library_of(manifest, where=where)] if name not in manifest.engine]
    if missing:
        raise ModelFileError(f"{where}: its manifest lacks engine.{', engine.'.join(missing)}; {HINT}")
    facts = manifest.engine
    if len(plan) != facts["engine_bytes"]:
        raise ModelFileError(
            f"{where} is damaged: {len(plan)} bytes, its manifest says {facts['engine_bytes']}; copy it again or {HINT}"
        )
    found = hashlib.sha256(plan).hexdigest()
    if found != facts["engine_sha256"]:
        raise ModelFileError(
            f"{where} is damaged: SHA-256 {found[:12]}…, its manifest says {str(facts['engine_sha256'])[:12]}…; "
            f"copy it again or {HINT}"
        )


def library_of(manifest: Manifest, *, where: Path) -> Library:
    """What an engine was built by, from its build options.

    Raises:
        ModelFileError: nothing that is known.
    """
    options = manifest.engine.get("options")
    name = options.get("library", Library.TENSORRT) if isinstance(options, Mapping) else Library.TENSORRT
    try:
        return Library(name)
    except ValueError as error:
        raise ModelFileError(f"{where}: its manifest names the library {name!r}, which is not known; {HINT}") from error


def load_library(manifest: Manifest, *, where: Path) -> ModuleType:
    """What runs an engine, of the very version that built it.

    Raises:
        MissingDependency: it is not installed here. ModelFileError: it is of another version.
    """
    library, built_by = library_of(manifest, where=where), manifest.engine["tensorrt"]
    try:
        trt = library.load()
    except MissingDependency as error:
        raise MissingDependency(f"{where} is an engine of {library.label} {built_by}: {error.message}") from error
    if built_by != trt.__version__:
        raise ModelFileError(
            f"{where} was built by {library.label} {built_by}, found {library.label} {trt.__version__}; {HINT}"
        )
    return trt


def gpu_facts(device: CudaDevice) -> dict[str, Any]:
    """What distinguishes kinds of GPUs: an engine runs on one of them."""
    return {
        "gpu": device.name,
        "compute_capability": device.compute_capability,
        "multiprocessors": device.multiprocessors,
    }


def proof_facts(device: CudaDevice, tensorrt: str) -> dict[str, Any]:
    """All that a proof holds for: kind of GPU, TensorRT, the CUDA that its driver offers, and the driver itself."""
    return {**gpu_facts(device), "tensorrt": tensorrt, "cuda": device.cuda_version, "driver": driver_version()}


def changes(proved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of TensorRT, CUDA and driver is another one now: `driver 580.65.06 → 590.10`; empty if nothing is.

    Older manifests have no CUDA and no driver version; those count as unknown.
    """
    pairs = [(TITLES[name], proved.get(name, UNKNOWN), now[name]) for name in TITLES]
    return ", ".join(f"{text} {old} → {new}" for text, old, new in pairs if old != new)


def describe_gpu(facts: Mapping[str, Any]) -> str:
    """Those facts as text: `Orin (compute capability 8.7, 16 multiprocessors)`."""
    return (
        f"{facts['gpu']} (compute capability {facts['compute_capability']}, {facts['multiprocessors']} multiprocessors)"
    )


def check_gpu(manifest: Manifest, device: CudaDevice, *, where: Path) -> None:
    """Refuse by ModelFileError an engine of another kind of GPU."""
    found = gpu_facts(device)
    if library_of(manifest, where=where) is Library.RTX:
        listed = manifest.engine["compute_capabilities"]
        built_for = [str(each) for each in listed] if isinstance(listed, list) else []
        if device.compute_capability not in built_for:
            raise ModelFileError(
                f"{where} was built for GPUs of compute capability {', '.join(built_for) or 'none'}, "
                f"found {describe_gpu(found)}; {OTHER_GPU}"
            )
        return
    if any(manifest.engine[name] != value for name, value in found.items()):
        raise ModelFileError(
            f"{where} was built for {describe_gpu(manifest.engine)}, found {describe_gpu(found)}; {HINT}"
        )


def proof_warning(manifest: Manifest, device: CudaDevice, *, where: Path) -> list[str]:
    """A line where an engine that may run here is not proved here.

    It differed from its ONNX file (`.rejected.engine`), or was compared by another CUDA or driver. One of TensorRT for
    RTX may never have been compared, or on another kind of GPU.
    """
    facts = manifest.engine
    agreement = facts.get("agreement")
    if isinstance(agreement, Mapping) and agreement.get("holds") is False:
        share = f"{agreement.get('agreement')} of the pixels agree, {agreement.get('needed')} needed"
        return [f"{where} was rejected: it differs from its ONNX file ({share}); run that, or build it again"]
    changed = changes(facts, proof_facts(device, str(facts["tensorrt"])))
    never = not {"agreement", *gpu_facts(device)} <= facts.keys()
    if never:
        text = f"never compared with its ONNX file ({facts.get('not_compared', 'its manifest has no comparison')})"
    elif any(facts.get(name) != value for name, value in gpu_facts(device).items()):
        text = f"compared with its ONNX file on {describe_gpu(facts)}, not on {describe_gpu(gpu_facts(device))}"
    elif changed:
        text = f"proved by another CUDA or driver ({changed})"
    else:
        return []
    return [f"{where} was {text}; prove it{'' if never else ' again'}: clst-export build {where} --frames IMAGES"]
