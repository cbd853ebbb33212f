"""Which CUDA library opens the GPU; a module of its own, because it alone knows both."""

from __future__ import annotations

from clst_runtime.backends.cuda.cuda_python import CudaPythonDevice
from clst_runtime.backends.cuda.device import AUTO, CUDA_PYTHON, PYCUDA, CudaDevice, NotImportable, check_library
from clst_runtime.backends.cuda.pycuda import PycudaDevice
from clst_runtime.errors import MissingDependency


def open_cuda(library: str = AUTO, *, graphs: bool = False) -> CudaDevice:
    """The first GPU that `CUDA_VISIBLE_DEVICES` shows, the one that TensorRT takes too.

    Args:
        library: of `LIBRARIES`; `auto` takes PyCUDA if it can be imported, else cuda-python.
        graphs: CUDA graphs are wanted, which PyCUDA has not: `auto` then takes cuda-python.

    Raises:
        ConfigError: an unknown library, or graphs of PyCUDA. MissingDependency: no library, no driver or no GPU.
    """
    check_library(library, graphs=graphs)
    if library == PYCUDA:
        return PycudaDevice()
    if library == CUDA_PYTHON:
        return CudaPythonDevice()
    if graphs:
        try:
            return CudaPythonDevice()
        except NotImportable as error:
            raise MissingDependency(f"CUDA graphs need cuda-python, PyCUDA has none: {error.message}") from error
    try:
        return PycudaDevice()
    except NotImportable as first:
        try:
            return CudaPythonDevice()
        except NotImportable as second:
            raise NotImportable(f"{first.what}, and {second.what}") from second
