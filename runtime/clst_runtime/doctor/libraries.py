"""OpenCV, ONNX Runtime, TensorRT, CUDA and what training needs; each tried in a process of its own."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

from clst_runtime.backends.tensorrt.rtx import library as rtx
from clst_runtime.backends.tensorrt.rtx.target import CAPABILITIES
from clst_runtime.doctor.findings import Finding, State
from clst_runtime.doctor.probe import ask
from clst_runtime.system.device_state import gpu_states
from clst_runtime.system.install_hints import cure
from clst_runtime.system.machine import package_version
from clst_runtime.system.packages import ONNXRUNTIME_WHEELS, OPENCV_WHEELS, fault_of, rivals
from clst_runtime.system.platforms import Platform
from clst_runtime.system.programs import Runner, run_program

TENSORRT_WHEELS = ("tensorrt-cu12-libs", "tensorrt-cu13-libs")
NO_DEVICE = ("AzureExecutionProvider",)
"""Providers that compute nothing here."""
BOARD_GPU = "the board's own, with JetPack's driver; whether programs may use it, 'CUDA in Python' tells"
CUDA_LIBRARY = "CUDA in Python"
"""Name of the finding of PyCUDA or cuda-python."""
RTX = "TensorRT for RTX"
OPTIONAL = {
    "av": ("PyAV (recordings in H.264)", "video"),
    "torch": ("PyTorch (training)", "torch"),
    "onnx": ("ONNX (export)", "onnx"),
    "matplotlib": ("Matplotlib (plots)", "plot"),
}


def conflict(name: str, wheels: Sequence[str]) -> Finding | None:
    """More than one wheel in one folder that owns the same module; None if there is no such conflict."""
    installed = rivals(wheels)
    if not installed:
        return None
    told = f"{' and '.join(installed)} are installed and own the same module"
    remedy = f"pip uninstall {' '.join(installed)}, then install one of them"
    return Finding(name=name, state=State.CONFLICT, told=told, cure=remedy, needed=True)


def examine_numpy() -> Finding:
    """What all others stand on; looked at without importing it."""
    fault = fault_of("numpy")
    if fault is not None:
        return Finding(name="NumPy", state=State.CONFLICT, told=fault[0], cure=fault[1], needed=True)
    version = package_version("numpy")
    if version is None:
        return Finding(name="NumPy", state=State.MISSING, told="not installed", cure="pip install numpy", needed=True)
    return Finding(name="NumPy", state=State.GOOD, told=version, needed=True)


def examine_opencv(platform: Platform, run: Runner = run_program) -> list[Finding]:
    """Version and build."""
    found = conflict("OpenCV", OPENCV_WHEELS)
    if found is not None:
        return [found]
    facts = ask("opencv", run=run)
    if "error" in facts:
        return [_broken("OpenCV", facts, cure("opencv", platform), module="cv2", needed=True)]
    origin = next((wheel for wheel in OPENCV_WHEELS if package_version(wheel)), "the system's own")
    built = ", ".join(
        f"{words} {'yes' if facts.get(key) else 'no'}"
        for key, words in (("gstreamer", "GStreamer"), ("v4l2", "V4L2"), ("ffmpeg", "FFMPEG"), ("windows", "windows"))
    )
    told = f"{facts['version']} ({origin}), {built}"
    findings = [Finding(name="OpenCV", state=State.GOOD, told=told, needed=True)]
    if not facts.get("gstreamer"):
        told = "this OpenCV has none: no gst: sources, on a Jetson no CSI camera"
        findings.append(Finding(name="  GStreamer", state=State.NOTE, told=told, cure=cure("gstreamer", platform)))
    return findings


def examine_onnxruntime(platform: Platform, run: Runner = run_program) -> list[Finding]:
    """Version, and of each provider whether it starts."""
    found = conflict("ONNX Runtime", ONNXRUNTIME_WHEELS)
    if found is not None:
        return [found]
    facts = ask("onnxruntime", run=run)
    if "error" in facts:
        return [_broken("ONNX Runtime", facts, cure("ort", platform), module="onnxruntime", needed=True)]
    providers = [name for name in facts["providers"] if name not in NO_DEVICE]
    told = f"{facts['version']}: {', '.join(map(_short, providers))}"
    findings = [Finding(name="ONNX Runtime", state=State.GOOD, told=told, needed=True)]
    findings += [_provider(name, platform, run) for name in providers]
    if platform.has_gpu and "CUDAExecutionProvider" not in providers:
        told = "this ONNX Runtime computes on the CPU alone"
        findings.append(Finding(name="  on CUDA", state=State.MISSING, told=told, cure=cure("ort-gpu", platform)))
    return findings


def _provider(name: str, platform: Platform, run: Runner) -> Finding:
    facts, label = ask("provider", name, run=run), f"  on {_short(name)}"
    if facts.get("started"):
        return Finding(name=label, state=State.GOOD, told="starts and computes")
    need = "ort-libraries" if facts.get("lacks_libraries") else "driver"
    remedy = cure(need, platform) if name != "CPUExecutionProvider" else ""
    return Finding(name=label, state=State.MISSING, told=f"does not start: {facts.get('error')}", cure=remedy)


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def examine_tensorrt(platform: Platform, run: Runner = run_program) -> list[Finding]:
    """TensorRT, TensorRT for RTX where there is one, and PyCUDA or cuda-python that opens the GPU for both."""
    facts = ask("tensorrt", run=run)
    misfit = _misfit(platform, run)
    if "error" in facts:
        findings = [_broken("TensorRT", facts, cure("tensorrt", platform), module="tensorrt")]
    elif facts.get("starts"):
        findings = [Finding(name="TensorRT", state=State.GOOD, told=f"{facts['version']}, its builder starts")]
    elif misfit is not None:
        told = f"{facts['version']}, but it does not start: {misfit[0]}"
        findings = [Finding(name="TensorRT", state=State.CONFLICT, told=told, cure=misfit[1])]
    else:
        told = f"{facts['version']}, but it does not start: {facts.get('why')}"
        findings = [Finding(name="TensorRT", state=State.CONFLICT, told=told, cure=cure("driver", platform))]
    facts = ask("cuda", run=run)
    if platform in (Platform.X86_CUDA, Platform.X86_CPU):
        findings.append(_rtx(facts.get("compute_capability"), run))
    if "error" in facts:
        return [*findings, _broken(CUDA_LIBRARY, facts, cure("pycuda", platform))]
    told = f"{facts['library']} opens {facts['gpu']} ({facts['compute_capability']})"
    return [*findings, Finding(name=CUDA_LIBRARY, state=State.GOOD, told=told)]


def _rtx(capability: str | None, run: Runner) -> Finding:
    """TensorRT for RTX, which builds without a GPU, and whether its engines are for the GPU that was opened."""
    facts = ask("rtx", run=run)
    if "error" in facts:
        return _broken(RTX, facts, rtx.cure())
    if not facts.get("starts"):
        told = f"{facts['version']}, but it does not start: {facts.get('why')}"
        return Finding(name=RTX, state=State.CONFLICT, told=told, cure=rtx.REINSTALL)
    told = f"{facts['version']}, its builder starts; engines for compute capability {', '.join(CAPABILITIES)}"
    if capability is None or capability in CAPABILITIES:
        return Finding(name=RTX, state=State.GOOD, told=told)
    remedy = "engines of TensorRT itself run on this GPU"
    return Finding(name=RTX, state=State.NOTE, told=f"{told}, not for this GPU ({capability})", cure=remedy)


def _misfit(platform: Platform, run: Runner) -> tuple[str, str] | None:
    """Why PyPI's TensorRT, where it is installed, is not the one for this machine, and the cure; None if it may be."""
    takes = parse_cuda_of_driver(run(["nvidia-smi"]) or "").partition(".")[0]
    for wheel in filter(package_version, TENSORRT_WHEELS):
        cuda = wheel.partition("-cu")[2].partition("-")[0]
        remove = f"pip uninstall tensorrt tensorrt-cu{cuda} tensorrt-cu{cuda}-bindings {wheel}"
        if platform in (Platform.JETPACK_5, Platform.JETPACK_6):
            return (
                f"{wheel} is made for PCs and servers, and hides JetPack's",
                f"{remove}; {cure('tensorrt', platform)}",
            )
        if takes and int(takes) < int(cuda):
            words = f"{wheel} is of CUDA {cuda}, the driver takes CUDA {takes} at most"
            return words, f"{remove}; pip install 'tensorrt-cu{takes}>=10.3,<12'; or install a newer driver"
    return None


def examine_gpu(platform: Platform, run: Runner = run_program) -> list[Finding]:
    """The GPU, its driver and the newest CUDA that the driver takes."""
    gpus = gpu_states(run)
    if gpus:
        names = "; ".join(f"{gpu.get('name')}, driver {gpu.get('driver', 'unknown')}" for gpu in gpus)
        takes = parse_cuda_of_driver(run(["nvidia-smi"]) or "")
        told = f"{names}{f', up to CUDA {takes}' if takes else ''}"
        return [Finding(name="NVIDIA GPU", state=State.GOOD, told=told)]
    if platform.is_jetson:
        return [Finding(name="NVIDIA GPU", state=State.GOOD, told=BOARD_GPU)]
    told = "no driver answers (nvidia-smi); the CPU is used"
    return [Finding(name="NVIDIA GPU", state=State.MISSING, told=told, cure=cure("driver", platform))]


def parse_cuda_of_driver(text: str) -> str:
    """The version in the head of nvidia-smi's table; empty if there is none."""
    found = re.search(r"CUDA Version:\s*([\d.]+)", text)
    return found[1] if found else ""


def examine_cuda(platform: Platform, run: Runner = run_program) -> list[Finding]:
    """The CUDA toolkit, and the libraries that programs load."""
    compiler = re.search(r"release ([\d.]+)", run(["nvcc", "--version"]) or "")
    compiler = compiler or re.search(r"release ([\d.]+)", run(["/usr/local/cuda/bin/nvcc", "--version"]) or "")
    listed = run(["ldconfig", "-p"]) or run(["/sbin/ldconfig", "-p"]) or ""
    libraries = [name for name in ("libcudart", "libcublas", "libcudnn", "libnvinfer") if f"{name}.so" in listed]
    parts = [f"toolkit {compiler[1]}"] if compiler else []
    parts += [f"libraries {', '.join(libraries)}"] if libraries else []
    if compiler:
        return [Finding(name="CUDA", state=State.GOOD, told="; ".join(parts))]
    told = "; ".join(["no toolkit (nvcc)", *parts])
    return [Finding(name="CUDA", state=State.MISSING, told=told, cure=cure("cuda", platform))]


def examine_optional(platform: Platform) -> list[Finding]:
    """What recordings, training, export and plots need; present or not, without importing it."""
    findings = []
    for module, (name, need) in OPTIONAL.items():
        fault = fault_of(module)
        if fault is not None:
            findings.append(Finding(name=name, state=State.CONFLICT, told=fault[0], cure=fault[1]))
        elif importlib.util.find_spec(module) is not None:
            findings.append(Finding(name=name, state=State.GOOD, told=package_version(module) or "present"))
        else:
            findings.append(Finding(name=name, state=State.MISSING, told="not installed", cure=cure(need, platform)))
    return findings


def _broken(name: str, facts: dict[str, Any], remedy: str, *, module: str = "", needed: bool = False) -> Finding:
    fault = fault_of(module) if module else None
    if fault is not None:
        return Finding(name=name, state=State.CONFLICT, told=fault[0], cure=fault[1], needed=needed)
    state = State.CONFLICT if facts.get("crashed") else State.MISSING
    return Finding(name=name, state=state, told=str(facts["error"]), cure=remedy, needed=needed)
