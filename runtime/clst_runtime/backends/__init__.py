"""Where models are computed, one module per engine."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from clst_runtime.backends.base import Backend
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.selection import AUTO, TENSORRT, choose_backend, has_choice
from clst_runtime.errors import ClstError, ConfigError, MissingDependency, ModelFileError
from clst_runtime.system.files.paths import check_checkpoint
from clst_runtime.system.optional import check_installed, extra

ENTRY_POINTS = "clst.backends"


def open_model(
    path: Path, *, threads: int | None = None, backend: str = AUTO, gpu: GpuOptions | None = None
) -> Backend:
    """Open a model file by its suffix, ready to predict.

    `.onnx` is computed by ONNX Runtime, `.engine` by TensorRT; a folder made by `clst-export … --bundle` by the
    engine that is built of it the first time. Other suffixes (`.pt`) are opened by a reader that an installed package
    offers under the entry points `clst.backends`, so that this package never imports training.

    Args:
        path: the file or bundle.
        threads: CPU threads; None = the engine's choice.
        backend: of `choice.NAMES`, or `auto`.
        gpu: how TensorRT runs an engine; what differs from the default is refused for what runs otherwise.

    Raises:
        ModelFileError: missing, damaged, of an unknown kind, or an engine of another GPU or TensorRT.
        MissingDependency: its reader, or the GPU that it needs, is not there. ConfigError: a backend that cannot be.
    """
    check_model_file(path)
    suffix = path.suffix.lower().lstrip(".")
    if has_choice(path):
        return _open(path, choose_backend(path, backend).name, threads, gpu or GpuOptions())
    if backend != AUTO:
        raise ConfigError(f"{path}: --backend is for .onnx and .engine files and bundles; leave it out")
    _check_default(path, "its own reader", gpu or GpuOptions())
    for entry in entry_points(group=ENTRY_POINTS, name=suffix):
        try:
            opened = entry.load()
        except ImportError as error:
            raise MissingDependency(
                f"{path}: reading .{suffix} files needs {error.name}; pip install {extra('train')}"
            ) from error
        return cast(Backend, opened(path))
    raise ModelFileError(
        f"{path}: unknown kind of model file; give an .onnx or .engine file, a bundle or a .pt checkpoint"
    )


def check_model_file(path: Path) -> None:
    """Find out, without importing what reads it, that a model file cannot be one.

    Raises:
        ModelFileError: missing, or a checkpoint that is none. MissingDependency: a checkpoint's reader is not there.
    """
    if not path.exists():
        raise ModelFileError(f"{path}: no such model file")
    if path.suffix.lower() == ".pt":
        check_installed("torch", "clst_train")
        check_checkpoint(path)


def _open(path: Path, name: str, threads: int | None, gpu: GpuOptions) -> Backend:
    if name == TENSORRT:
        if path.is_dir():
            from clst_runtime.backends.tensorrt.bundle.device_engine import open_bundle

            return open_bundle(path, gpu)
        from clst_runtime.backends.tensorrt.runner import TrtBackend

        return TrtBackend(path, gpu=gpu)
    _check_default(path, name, gpu)
    from clst_runtime.backends.onnxruntime.session import OrtBackend

    if path.is_dir():
        from clst_runtime.backends.tensorrt.bundle.format import read_bundle

        path = path / read_bundle(path).model.file
    return OrtBackend(path, threads=threads, provider=name.removeprefix("ort-"))


def open_without_engine(folder: Path, why: ClstError, *, threads: int | None = None) -> Backend:
    """A bundle's ONNX file in ONNX Runtime, on CUDA if that starts, else on the CPU; with a first warning about it.

    Of INT8 and FP16 it is FP16: nothing is gained by INT8 for TensorRT outside of it.

    Args:
        folder: the bundle.
        why: what keeps an engine from being used.
        threads: CPU threads; None = the engine's choice.

    Raises:
        ModelFileError: the bundle is damaged. MissingDependency: ONNX Runtime cannot be used either.
        CudaFailed: the GPU is broken, the process must be restarted.
    """
    from clst_runtime.backends.cuda.device import CudaFailed
    from clst_runtime.backends.onnxruntime.session import OrtBackend
    from clst_runtime.backends.tensorrt.bundle.format import FALLBACK, read_bundle

    path = folder / read_bundle(folder).models[-1].file
    reason = why.message.partition(FALLBACK)[0]
    try:
        backend = OrtBackend(path, threads=threads, provider="cuda")
    except CudaFailed:
        raise
    except ClstError:  # no such provider, or too little of the GPU's memory
        try:
            backend = OrtBackend(path, threads=threads)
        except MissingDependency as error:
            raise MissingDependency(f"{error.message}; no engine is used, as {reason}") from error
    backend.warnings.insert(0, f"{path} is run by {backend.description}, as no engine is used: {reason}")
    return backend


def _check_default(path: Path, name: str, gpu: GpuOptions) -> None:
    """Options that would do nothing are refused."""
    text = ", ".join(f"{each} {value}" for each, value in vars(gpu).items() if value != getattr(GpuOptions(), each))
    if text:
        raise ConfigError(f"{path} is computed by {name}, where {text} means nothing; leave it out, or give an engine")
