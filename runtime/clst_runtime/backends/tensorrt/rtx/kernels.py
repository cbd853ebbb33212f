"""What TensorRT for RTX compiles of an engine for the GPU that runs it, kept between starts.

An engine of TensorRT for RTX is finished by compiling its kernels when it is opened and when it runs for the first
time. Nothing of this has run on a GPU yet.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.cuda.device import CudaDevice
from clst_runtime.backends.tensorrt.sidecar import gpu_facts
from clst_runtime.errors import DataError
from clst_runtime.system.files.atomic import write_bytes
from clst_runtime.system.files.caches import cache_root, use_folder

if TYPE_CHECKING:
    import tensorrt as trt

_log = logging.getLogger(__name__)

NOT_KEPT = "the engine's kernels are not kept, each start compiles them again"
_DIGEST_BYTES = hashlib.sha256().digest_size


def kernels_file(manifest: Manifest, device: CudaDevice) -> Path | None:
    """Where the kernels of one engine and one kind of GPU are kept; None, and a line, where none is and none can be."""
    facts = [manifest.engine["engine_sha256"], manifest.engine["tensorrt"], gpu_facts(device)]
    folder = cache_root("rtx") / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    kept = folder / "kernels"
    try:
        is_new = use_folder(folder)
    except OSError as error:
        if kept.is_file():  # a read-only file system, which may have been filled before
            return kept
        _log.warning(f"{NOT_KEPT}: {error}")
        return None
    if is_new:
        _log.info(f"compiling the engine for this GPU, once; its kernels are kept in {folder}")
    return kept


class Kernels:
    """The kernels of one engine on one GPU; outlives every execution context that is made with it."""

    _config: trt.IRuntimeConfig
    _cache: trt.IRuntimeCache

    def __init__(self, engine: trt.ICudaEngine, path: Path | None) -> None:
        """Take those of `path` if they are whole and TensorRT for RTX takes them; None = keep none.

        The file begins with its SHA-256, so that nothing damaged is handed to TensorRT for RTX. That itself refuses
        what another GPU, driver or version has compiled.
        """
        self._path, self._kept = path, b""
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        stored = _read(path)
        if stored:
            digest, kernels = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
            if hashlib.sha256(kernels).digest() == digest and self._cache.deserialize(kernels):
                self._kept = kernels
            else:
                _log.warning(f"{path} is damaged or of another driver; its kernels are compiled again")
        self._config.set_runtime_cache(self._cache)

    def create_context(self, engine: trt.ICudaEngine) -> trt.IExecutionContext | None:
        """An execution context that takes kernels from here and leaves those that it compiles."""
        context: Any = engine.create_execution_context(runtime_config=self._config)
        return context

    def keep(self) -> None:
        """Write what has been compiled; to be called after the first frame, later calls do nothing.

        At the end it would be too late: a vehicle's process ends with its power.
        """
        path, self._path = self._path, None
        if path is None:
            return
        serialised = self._cache.serialize()
        kernels = b"" if serialised is None else bytes(serialised)
        if kernels in (b"", self._kept):
            return
        try:
            write_bytes(path, hashlib.sha256(kernels).digest() + kernels)
        except DataError as error:
            _log.warning(f"{NOT_KEPT}: {error.message}")


def _read(path: Path | None) -> bytes:
    """What is kept; empty, and a line, where it is there and cannot be read."""
    try:
        return b"" if path is None else path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        _log.warning(f"{path} cannot be read ({error.strerror}); the engine's kernels are compiled again")
        return b""
