"""What this machine can run, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from clst_runtime.engines.library import load_tensorrt
from clst_runtime.errors import MissingDependency
from clst_runtime.machine import gpu_names, package_version
from clst_runtime.optional import require


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked at."""

    name: str
    """What."""
    state: str
    """`good`, `missing` or `conflict`."""
    told: str
    """Version, or the cure."""
    needed: bool = False
    """Whether clst-run cannot do without it."""


def examine() -> list[Finding]:
    """Look at everything; nothing heavy is imported but OpenCV, ONNX Runtime and TensorRT."""
    good_python = sys.version_info >= (3, 10)
    python = Finding(
        name="Python", state="good" if good_python else "missing",
        told=platform.python_version() if good_python else "3.10 or newer is needed", needed=True,
    )  # fmt: skip
    return [python, _opencv(), _onnxruntime(), *_optional(), _gpu(), _jetson(), _cameras()]


def _opencv() -> Finding:
    wheels = [n for n in ("opencv-python", "opencv-python-headless", "opencv-contrib-python") if package_version(n)]
    if len(wheels) > 1:
        told = f"{' and '.join(wheels)} are both installed and own the same module; pip uninstall all, install one"
        return Finding(name="OpenCV", state="conflict", told=told, needed=True)
    try:
        cv2 = require("cv2")
    except MissingDependency as error:
        return Finding(name="OpenCV", state="missing", told=error.message, needed=True)
    facts = {
        line.partition(":")[0].strip(): line.partition(":")[2].strip()
        for line in cv2.getBuildInformation().splitlines()
    }
    windows = facts.get("GUI", "NONE").upper() != "NONE"
    gstreamer = facts.get("GStreamer", "NO").upper().startswith("YES")
    origin = wheels[0] if wheels else "the system's own"
    told = (
        f"{cv2.__version__} ({origin}), GStreamer {'yes' if gstreamer else 'no'}, windows {'yes' if windows else 'no'}"
    )
    return Finding(name="OpenCV", state="good", told=told, needed=True)


def _onnxruntime() -> Finding:
    wheels = [n for n in ("onnxruntime", "onnxruntime-gpu") if package_version(n)]
    if len(wheels) > 1:
        told = "onnxruntime and onnxruntime-gpu are both installed and own one module; pip uninstall both, install one"
        return Finding(name="ONNX Runtime", state="conflict", told=told, needed=True)
    try:
        ort = require("onnxruntime")
    except MissingDependency as error:
        return Finding(name="ONNX Runtime", state="missing", told=error.message, needed=True)
    providers = ", ".join(p.removesuffix("ExecutionProvider") for p in ort.get_available_providers())
    return Finding(name="ONNX Runtime", state="good", told=f"{ort.__version__}: {providers}", needed=True)


def _optional() -> list[Finding]:
    cures = {
        "torch": ("PyTorch (training, parity)", "pip install 'clst[train]'"),
        "onnx": ("ONNX (export)", "pip install 'clst[export]'"),
        "pycuda": ("PyCUDA", "pip install 'clst[trt]' (needs the CUDA headers and g++)"),
    }
    found = []
    for module, (name, cure) in cures.items():
        present = importlib.util.find_spec(module) is not None
        told = (package_version(module) or "present") if present else cure
        found.append(Finding(name=name, state="good" if present else "missing", told=told))
    return [*found, _tensorrt()]


def _tensorrt() -> Finding:
    try:
        return Finding(name="TensorRT", state="good", told=str(load_tensorrt().__version__))
    except MissingDependency as error:
        return Finding(name="TensorRT", state="missing", told=error.message)


def _gpu() -> Finding:
    names = gpu_names()
    told = "; ".join(names) if names else "no NVIDIA driver answers (nvidia-smi); the CPU is used"
    return Finding(name="NVIDIA GPU", state="good" if names else "missing", told=told)


def _jetson() -> Finding:
    release = Path("/etc/nv_tegra_release")
    if release.is_file():
        return Finding(name="Jetson", state="good", told=release.read_text().splitlines()[0])
    return Finding(name="Jetson", state="missing", told="not a Jetson")


def _cameras() -> Finding:
    cameras = sorted(str(path) for path in Path("/dev").glob("video*"))
    told = ", ".join(cameras) if cameras else "none below /dev/video*; plug one in, or use a video, folder or stream"
    return Finding(name="Cameras", state="good" if cameras else "missing", told=told)
