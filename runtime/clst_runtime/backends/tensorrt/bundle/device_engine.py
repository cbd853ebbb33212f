"""A bundle becomes an engine on the device: built and proved there once, kept, and ready to predict.

Building needs neither torch nor onnx nor ONNX Runtime: the device compares with the class maps that came along.
"""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clst_runtime.backends.cuda.device import RUNS_WITHOUT
from clst_runtime.backends.cuda.open import open_cuda
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.engine import EngineNotKept
from clst_runtime.backends.tensorrt.bundle.format import FALLBACK, MODEL, read_bundle
from clst_runtime.backends.tensorrt.bundle.proving import Proving, device_name, device_of
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.backends.tensorrt.runner import BuiltEngine, TrtBackend
from clst_runtime.backends.tensorrt.sidecar import proof_facts, read_engine
from clst_runtime.errors import MissingDependency

_log = logging.getLogger(__name__)


def build_bundle(folder: Path, gpu: GpuOptions | None = None) -> Path:
    """Build and prove the engine of a bundle for this machine, or find it proved: the one to use, in `folder`.

    Of an INT8 bundle with an FP16 file both engines are built, each is compared with its own class maps, and both are
    timed; which one is used, and why, is logged and kept. Where one engine cannot be used the other one is; that choice
    is kept only if the reason lies in the engine itself. Where none can, the one that was proved before an update
    is compared again and used if it holds. Processes that build in one folder wait for each other.

    Args:
        folder: made by clst-export.
        gpu: the CUDA library and the I/O that engines are proved and timed by.

    Raises:
        MissingDependency: no TensorRT or no GPU here. ModelFileError: the bundle is damaged, or no engine can be built.
        BudgetNotHeld: every engine's class maps differ from its ONNX file's. What else `build_engine` raises.
    """
    path, _, text = _proved(folder, gpu)
    if text:
        _log.info(text)
    return path


def open_bundle(folder: Path, gpu: GpuOptions | None = None, *, timed: bool = False) -> TrtBackend:
    """A bundle's engine, ready to predict; the first time on a machine it is built and proved, which takes minutes.

    The arguments are those of `TrtBackend`.

    Returns:
        The engine; where it is one from before an update, its first warning gives the reason.

    Raises:
        What `build_bundle` and `TrtBackend` raise; an engine that the disk does not take is run from memory.
    """
    try:
        path, built, text = _proved(folder, gpu)
    except EngineNotKept as error:
        return error.open(folder, gpu, timed=timed)
    backend = TrtBackend(path, built=built, timed=timed, gpu=gpu)
    if device_of(path.name) != device_name(built.manifest.engine):
        backend.warnings.insert(0, text)
    elif text:
        _log.info(text)
    return backend


def _proved(folder: Path, gpu: GpuOptions | None) -> tuple[Path, BuiltEngine, str]:
    """The engine that is used on this machine, by a proof that is found or made; and the message about it."""
    bundle, gpu = read_bundle(folder), (gpu or GpuOptions()).without_graph()
    with _alone_in(folder):
        proving = Proving(folder, bundle, _machine_here(folder, gpu.cuda, bundle.options.library), gpu)
        proof = proving.found() or proving.made()
        used = proof.used
        if used is None:
            raise proving.error_of(proof)
        plan, manifest = read_engine(folder / used.engine)  # before another process may write here
    text = "" if len(proof.engines) == 1 else f"{proof.why}; {used.engine} is used"
    if any(each.failure is not None for each in proof.engines):
        text += f" ({f'remove {proving.path.name}' if proof.is_lasting else 'start again'} to try again)"
    manifest = dataclasses.replace(manifest, engine={**manifest.engine, **proof.machine})
    return folder / used.engine, BuiltEngine(plan=plan, manifest=manifest), text


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process at the latest; without one where there are no locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.info(f"another process builds or times the engines of {folder}; waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _machine_here(folder: Path, cuda: str, library: Library) -> dict[str, Any]:
    """What a proof here would hold for; the GPU is only looked at."""
    try:
        version = str(library.load().__version__)
        with open_cuda(cuda) as device:
            return {**proof_facts(device, version), "library": library.value}
    except MissingDependency as error:
        raise MissingDependency(
            f"{folder} needs {library.label} and an NVIDIA GPU: {error.message.removesuffix(RUNS_WITHOUT)}"
            f"{FALLBACK}: clst-run --fallback, or {folder / MODEL}"
        ) from error
