"""The one door through which heavy or optional packages enter: late, by name, never installed by us."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from clst_runtime.errors import MissingDependency

_CURES = {
    "cv2": "OpenCV: pip install 'clst[desktop]' (windows), 'clst[headless]' (servers, containers), "
    "or on a Jetson the cv2 of JetPack (a virtual environment made with --system-site-packages)",
    "onnxruntime": "ONNX Runtime: pip install 'clst[ort]' (CPU) or 'clst[ort-gpu]' (CUDA), never both",
    "torch": "PyTorch: pip install 'clst[train]'",
    "onnx": "ONNX: pip install 'clst[export]'",
    "matplotlib": "Matplotlib: pip install 'clst[plot]'",
    "tensorrt": "TensorRT: pip install 'clst[trt]', or the one of JetPack on a Jetson",
    "tensorrt_rtx_bindings": "TensorRT for RTX: pip install --force-reinstall 'clst[rtx]' with this Python",
    "av": "PyAV: pip install 'clst[video]'",
    "aiohttp": "the web page: pip install 'clst[web]'",
    "prometheus_client": "the web page: pip install 'clst[web]'",
    "clst_train": "the training package: pip install 'clst[train]'",
}


def check_installed(*modules: str) -> None:
    """Look for packages without importing them, which may take seconds.

    Raises:
        MissingDependency: one is not there.
    """
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            require(module)


def require(module: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Raises:
        MissingDependency: the module, or one of the shared libraries below it, is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        cure = _CURES.get(module.split(".")[0], f"pip install {module}")
        raise MissingDependency(f"{module} cannot be imported ({error}); {cure}") from error
