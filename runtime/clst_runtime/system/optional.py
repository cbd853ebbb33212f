"""The one door through which heavy or optional packages enter: late, by name, never installed by us."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

from clst_runtime.errors import MissingDependency
from clst_runtime.system.machine import package_version
from clst_runtime.system.packages import fault_of, lost_files


def extra(name: str) -> str:
    """What follows `pip install` for one of our extras: in a clone, or of the wheel that this came in."""
    if Path(__file__).parents[3].joinpath("pyproject.toml").is_file():
        return f"-e '.[{name}]'"
    return f"'clst-{package_version('clst') or 'VERSION'}-py3-none-any.whl[{name}]'"


_HINTS = {
    "cv2": f"OpenCV: pip install {extra('desktop')} (windows), {extra('headless')} (servers, containers), "
    "or on a Jetson the cv2 of JetPack (a virtual environment made with --system-site-packages)",
    "onnxruntime": f"ONNX Runtime: pip install {extra('ort')} (CPU) or {extra('ort-gpu')} (CUDA), never both",
    "PIL": "Pillow: pip install pillow",
    "torch": f"PyTorch: pip install {extra('train')}",
    "onnx": f"ONNX: pip install {extra('export')}",
    "onnxscript": f"ONNX Script: pip install {extra('export')}",
    "jinja2": f"Jinja2: pip install {extra('export')}",
    "matplotlib": f"Matplotlib: pip install {extra('plot')}",
    "tensorrt": f"TensorRT: pip install {extra('trt')}, or the one of JetPack on a Jetson",
    "tensorrt_rtx_bindings": f"TensorRT for RTX: pip install --force-reinstall {extra('rtx')} with this Python",
    "av": f"PyAV: pip install {extra('video')}",
    **dict.fromkeys(("mcap", "mcap_protobuf", "rosbags"), f"recordings: pip install {extra('recordings')}"),
    "transformers": f"Hugging Face's networks: pip install {extra('hf')}",
    "huggingface_hub": f"Hugging Face's networks: pip install {extra('hf')}",
    "segmentation_models_pytorch": f"its networks: pip install {extra('smp')}, and the torchvision of your PyTorch",
    "torchvision": f"its networks: pip install {extra('torchvision')}, of the version that belongs to your PyTorch",
    "timm": f"its encoders: pip install {extra('timm')}, and the torchvision of your PyTorch",
    "aiohttp": f"the web page: pip install {extra('web')}",
    "prometheus_client": f"the web page: pip install {extra('web')}",
    "clst_train": f"the training package: pip install {extra('train')}",
    "clst_export": f"the export package: pip install {extra('export')}",
}

NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""Environment variable of ONNX Runtime: unless it is 1 before the import, wheels from 1.29 on send telemetry to
Microsoft and keep an identifier in the user's cache folder."""
LONGEST = 300
"""Characters of a reason that are shown: some packages give a page of advice."""


class Unimportable(MissingDependency):
    """A package that is not there or cannot be imported; `reason` is what is wrong with it, in one line."""

    def __init__(self, module: str, reason: str, hint: str) -> None:
        super().__init__(f"{module} cannot be imported ({reason}); {hint}")
        self.reason = reason


def check_installed(*modules: str) -> None:
    """Look for packages without importing them, which may take seconds.

    Raises:
        Unimportable: one is not there, or cannot be imported by this Python.
    """
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None or found.origin is None:
            require(module)
        fault = fault_of(module)
        if fault is not None:
            raise Unimportable(module, *fault)


def require(module: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    ONNX Runtime's telemetry is switched off, unless `NO_TELEMETRY` is set already.

    Raises:
        Unimportable: the module, or one of the shared libraries below it, is not there or does not fit.
    """
    os.environ.setdefault(NO_TELEMETRY, "1")  # whatever is imported: other packages import ONNX Runtime too
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise unimportable(module, error) from error
    if getattr(found, "__file__", "") is None:  # a folder without a module in it
        raise unimportable(module, ImportError("there is no such module"))
    return found


def unimportable(module: str, error: ImportError) -> Unimportable:
    """The error for a package that cannot be imported: what is wrong with it, and the hint."""
    package, blamed = module.partition(".")[0], blamed_for(error)
    fault = fault_of(module) or lost_files(module, error)
    if fault is None and blamed != package:
        fault = fault_of(blamed)
    if fault is not None:
        return Unimportable(module, *fault)
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return Unimportable(module, text, _HINTS.get(package, f"pip install {package}"))


def blamed_for(error: ImportError) -> str:
    """The package that is missing or broken: the one that is named, or else that in which the error was raised."""
    if error.name:
        return error.name.partition(".")[0]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return raised_in.partition(".")[0] or __name__
