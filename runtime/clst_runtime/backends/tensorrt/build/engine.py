"""An ONNX file becomes an engine that is proven on the GPU it was built on, or nothing under the final name.

TensorRT for RTX builds without a GPU too. Such an engine cannot be verified there, which its manifest records.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda.device import AUTO, CudaDevice
from clst_runtime.backends.cuda.open import open_cuda
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.builder import Serialised, keep_timing_cache, serialise_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BuildProgress
from clst_runtime.backends.tensorrt.build.verification import Expected, check_frames, compare_engine, onnx_class_maps
from clst_runtime.backends.tensorrt.library import Library, version_numbers
from clst_runtime.backends.tensorrt.rtx.target import CAPABILITIES
from clst_runtime.backends.tensorrt.runner import BuiltEngine, TrtBackend
from clst_runtime.backends.tensorrt.sidecar import OTHER_GPU, engine_manifest, proof_facts, sidecar_path, write_engine
from clst_runtime.errors import BudgetNotHeld, DataError, MissingDependency
from clst_runtime.system.files.atomic import check_can_write
from clst_runtime.system.files.hashing import file_sha256

_log = logging.getLogger(__name__)

ELSEWHERE = (
    "engines are built on the device that runs them: clst-export … --onnx fp16 --bundle makes a folder to copy there, "
    "where clst-export build DIR or clst-run DIR builds and verifies it"
)


class EngineDiffers(BudgetNotHeld):
    """An engine whose class maps differ from its ONNX file's."""

    def __init__(self, message: str, agreement: float) -> None:
        super().__init__(message)
        self.agreement = agreement
        """Share of pixels, 0 … 1, that do."""


class EngineNotKept(DataError):
    """A finished and proven engine that the disk does not take."""

    def __init__(self, message: str, built: BuiltEngine) -> None:
        super().__init__(message)
        self.built = built

    def open(self, path: Path, gpu: GpuOptions | None = None, *, timed: bool = False) -> TrtBackend:
        """Run it all the same; the arguments are those of `TrtBackend`."""
        _log.warning(f"{self.message}; the engine is used for this run and built again at the next start")
        return TrtBackend(path, built=self.built, timed=timed, gpu=gpu)


def build_engine(
    onnx_path: Path,
    out: Path,
    *,
    options: BuildOptions,
    frames: Sequence[Frame],
    progress: BuildProgress | None = None,
    expected: Expected | None = None,
    gpu: GpuOptions | None = None,
    must_compare: bool = True,
) -> Manifest:
    """Build for this machine's GPU, compare with the ONNX file on `frames`, then write `out` and its manifest.

    By TensorRT for RTX it is built for the GPUs of `CAPABILITIES`, and compared if this machine has one.

    Args:
        onnx_path: a file of clst-export; its graph defines the precision.
        out: the `.engine` file to write.
        options: how to build and what agreement to ask for.
        frames: images H,W,3 of the input size.
        progress: shows TensorRT's phases; None = nothing is shown.
        expected: the ONNX file's class maps for `frames`; None = ONNX Runtime computes them.
        gpu: the CUDA library and the I/O that the engine is proven by.
        must_compare: False = without a GPU that it can be compared on, an engine of TensorRT for RTX is written all the
            same, with `not_compared` (why) in its manifest in place of the agreement.

    Returns:
        The manifest, with the engine's facts, its agreement, times and layers in `engine`.

    Raises:
        MissingDependency: no TensorRT of a known version, or no GPU. ConfigError, DataError: options, frames or the
            output folder cannot be used. ModelFileError: the ONNX file cannot be read, parsed or built.
        EngineDiffers: engine and ONNX file differ; the engine is kept as `<name>.rejected.engine` with its report.
        EngineNotKept: it is good, but the disk does not take it; what was there before is left.
        ClstError: the GPU ran out of memory, or CUDA failed.
        KeyboardInterrupt: Ctrl-C; no file is left.
    """
    if out.suffix != ".engine":
        raise DataError(f"{out}: an engine's name ends in .engine; give another --out")
    model = read_onnx_manifest(onnx_path)
    check_frames(frames, model.input_hw)
    trt = library_for_building(options.library)
    options.check_device(version=version_numbers(trt.__version__), precision=model.precision)
    check_can_write(out)
    gpu = (gpu or GpuOptions()).without_graph()
    with _device_to_compare_on(options.library, gpu.cuda, must_compare=must_compare) as (device, why_not):
        wanted = None if device is None else expected or onnx_class_maps(onnx_path, frames)
        made = serialise_engine(trt, onnx_path, options, progress or BuildProgress())
        try:
            manifest = _manifest(trt, device, model, onnx_path, made, options, why_not)
            if device is not None and wanted is not None:
                manifest = _measured(device, gpu, manifest, made.plan, out, frames, wanted, options)
            _write_or_reject(out, made.plan, manifest)
        finally:  # last, so that it takes no room from the engine
            keep_timing_cache(options.timing_cache, made.timing_cache)
    return manifest


def check_can_build(library: Library = Library.TENSORRT, cuda: str = AUTO) -> None:
    """Find out in a moment whether this machine can build by that CUDA library, before minutes are spent on a graph.

    Raises:
        MissingDependency: the library cannot be used; or there is no GPU, and it needs one or `cuda` was named to
            compare on it. The message names where else to build.
    """
    library_for_building(library)
    if library is Library.TENSORRT or cuda != AUTO:
        device_for_building(cuda, library).close()


def library_for_building(library: Library) -> ModuleType:
    """The module, or where else to build.

    Raises:
        MissingDependency: it is not there, or of an unknown version.
    """
    try:
        return library.load()
    except MissingDependency as error:
        if library is Library.RTX:
            raise
        raise MissingDependency(f"{error.message}; {ELSEWHERE}") from error


def device_for_building(cuda: str = AUTO, library: Library = Library.TENSORRT) -> CudaDevice:
    """The GPU by that CUDA library, or where else to build by TensorRT.

    Raises:
        MissingDependency: there is none. ConfigError: no such library.
    """
    try:
        return open_cuda(cuda)
    except MissingDependency as error:
        if library is Library.RTX:
            raise
        raise MissingDependency(f"{error.message}; {ELSEWHERE}") from error


@contextmanager
def _device_to_compare_on(
    library: Library, cuda: str, *, must_compare: bool
) -> Iterator[tuple[CudaDevice | None, str]]:
    """The GPU; or None and why, where an engine for others is built."""
    try:
        device = device_for_building(cuda, library)
    except MissingDependency as error:
        if library is Library.TENSORRT or must_compare or cuda != AUTO:
            raise
        yield None, error.message.partition("; ")[0]
        return
    with device:
        if library is Library.TENSORRT or device.compute_capability in CAPABILITIES:
            yield device, ""
            return
        text = f"{device.name} has compute capability {device.compute_capability}, it is for {', '.join(CAPABILITIES)}"
        if must_compare:
            raise MissingDependency(f"an engine of TensorRT for RTX cannot be compared here: {text}; {OTHER_GPU}")
        yield None, text


def _manifest(
    trt: ModuleType,
    device: CudaDevice | None,
    model: Manifest,
    onnx_path: Path,
    made: Serialised,
    options: BuildOptions,
    why_not: str,
) -> Manifest:
    version = str(trt.__version__)
    facts: dict[str, Any] = (
        {"tensorrt": version, "not_compared": why_not} if device is None else proof_facts(device, version)
    )
    facts |= {"options": options.to_json(), "layers_before_fusion": sum(made.layers.values())}
    facts |= {"build_seconds": round(made.seconds, 1)}
    if options.library is Library.RTX:
        facts |= {"compute_capabilities": list(CAPABILITIES)}
    return engine_manifest(model, plan=made.plan, onnx_sha256=file_sha256(onnx_path), facts=facts)


def _measured(
    device: CudaDevice,
    gpu: GpuOptions,
    manifest: Manifest,
    plan: bytes,
    out: Path,
    frames: Sequence[Frame],
    expected: Expected,
    options: BuildOptions,
) -> Manifest:
    """The manifest with the agreement, the times and the layers of the very engine that is to be kept."""
    built = BuiltEngine(plan=plan, manifest=manifest)
    with TrtBackend(out, built=built, device=device, timed=True, gpu=gpu) as backend:
        summary = backend.summarise()
        agreement = compare_engine(backend, frames, expected, needed=options.agreement_needed(manifest.precision))
    facts = {**manifest.engine, "agreement": agreement.to_json(), "summary": summary.to_json()}
    return dataclasses.replace(manifest, engine=facts)


def _write_or_reject(out: Path, plan: bytes, manifest: Manifest) -> None:
    agreement = manifest.engine.get("agreement")
    rejected = out.with_suffix(".rejected.engine")
    if agreement is None or agreement["holds"]:
        try:
            write_engine(out, plan, manifest)
        except DataError as error:
            raise EngineNotKept(error.message, BuiltEngine(plan=plan, manifest=manifest)) from error
        for stale in (rejected, sidecar_path(rejected)):
            stale.unlink(missing_ok=True)
        return
    try:
        write_engine(rejected, plan, manifest)
        kept = f"kept as {rejected} with its report {sidecar_path(rejected).name}"
    except DataError as error:
        kept = f"it was not kept: {error.message}"
    raise EngineDiffers(
        f"engine and ONNX file differ: {100 * agreement['agreement']:.3f} % of pixels agree on {agreement['frames']} "
        f"frames ({agreement['reference']}), {100 * agreement['needed']:.3f} % needed; {kept}",
        agreement["agreement"],
    )


def built_engine_note(manifest: Manifest) -> str:
    """One line for people: agreement, times and layers of a built engine; or that nothing is known of these."""
    facts = manifest.engine
    if "not_compared" in facts:
        return (
            f"{facts['engine_bytes'] / 2**20:.1f} MiB of {facts['layers_before_fusion']} layers for compute capability "
            f"{', '.join(facts['compute_capabilities'])}, built in {facts['build_seconds']} s; not compared with its "
            f"ONNX file ({facts['not_compared']}), which clst-export build ENGINE --frames IMAGES does on its GPU"
        )
    agreement, summary = facts["agreement"], facts["summary"]
    layers = ", ".join(f"{count} {name}" for name, count in summary["per_precision"].items())
    return (
        f"{100 * agreement['agreement']:.3f} % of pixels agree with {agreement['reference']} on {agreement['frames']} "
        f"frames; GPU {agreement['device_ms']['compute']:.2f} ms; {summary['layers']} layers: {layers}"
    )
