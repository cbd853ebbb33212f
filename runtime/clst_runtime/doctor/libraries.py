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
from clst_runtime.system.install_hints import hint
from clst_runtime.system.machine import package_version
from clst_runtime.system.packages import ONNXRUNTIME_WHEELS, OPENCV_WHEELS, fault_of, rivals
from clst_runtime.system.platforms import Platform
from clst_runtime.system.programs import Runner, run_program

TENSORRT_WHEELS = ("tensorrt-cu12-libs", "tensorrt-cu13-libs")
NO_DEVICE = ("AzureExecutionProvider",)
"""Providers that compute nothing here."""
BOARD_GPU = "the board's own, with JetPack's driver; 'CUDA in Python' shows whether programs may use it"
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
    text = f"{' and '.join(installed)} are installed and own the same module"
    remedy = f"pip uninstall {' '.join(installed)}, then install one of them"
    return Finding(name=name, state=State.CONFLICT, text=text, hint=remedy, needed=True)


def examine_numpy() -> Finding:
    """What all others stand on; looked at without importing it."""
    return _installed("NumPy", "numpy", "pip install numpy", needed=True)


def _installed(name: str, module: str, remedy: str, *, needed: bool = False) -> Finding:
    fault = fault_of(module)
    if fault is not None:
        return Finding(name=name, state=State.CONFLICT, text=fault[0], hint=fault[1], needed=needed)
    if importlib.util.find_spec(module) is None:
        return Finding(name=name, state=State.MISSING, text="not installed", hint=remedy, needed=needed)
    return Finding(name=name, state=State.GOOD, text=package_version(module) or "present", needed=needed)


def examine_opencv(platform: Platform, run: Runner = run_program) -> list[Finding]:
    found = conflict("OpenCV", OPENCV_WHEELS)
    if found is not None:
        return [found]
    facts = ask("opencv", run=run)
    if "error" in facts:
        return [_broken("OpenCV", facts, hint("opencv", platform), module="cv2", needed=True)]
    origin = next((wheel for wheel in OPENCV_WHEELS if package_version(wheel)), "the system's own")
    built = ", ".join(
        f"{text} {'yes' if facts.get(key) else 'no'}"
        for key, text in (("gstreamer", "GStreamer"), ("v4l2", "V4L2"), ("ffmpeg", "FFMPEG"), ("windows", "windows"))
    )
    text = f"{facts['version']} ({origin}), {built}"
    findings = [Finding(name="OpenCV", state=State.GOOD, text=text, needed=True)]
    if not facts.get("gstreamer"):
        text = "this OpenCV has none: no gst: sources, on a Jetson no CSI camera"
        findings.append(Finding(name="  GStreamer", state=State.NOTE, text=text, hint=hint("gstreamer", platform)))
    return findings


def examine_onnxruntime(platform: Platform, run: Runner = run_program) -> list[Finding]:
    """Version, and of each provider whether it starts."""
    found = conflict("ONNX Runtime", ONNXRUNTIME_WHEELS)
    if found is not None:
        return [found]
    facts = ask("onnxruntime", run=run)
    if "error" in facts:
        return [_broken("ONNX Runtime", facts, hint("ort", platform), module="onnxruntime", needed=True)]
    providers = [name for name in facts["providers"] if name not in NO_DEVICE]
    text = f"{facts['version']}: {', '.join(map(_short, providers))}"
    findings = [Finding(name="ONNX Runtime", state=State.GOOD, text=text, needed=True)]
    findings += [_provider(name, platform, run) for name in providers]
    if platform.has_gpu and "CUDAExecutionProvider" not in providers:
        text = "this ONNX Runtime computes on the CPU alone"
        findings.append(Finding(name="  on CUDA", state=State.MISSING, text=text, hint=hint("ort-gpu", platform)))
    return findings


def _provider(name: str, platform: Platform, run: Runner) -> Finding:
    facts, label = ask("provider", name, run=run), f"  on {_short(name)}"
    if facts.get("started"):
        return Finding(name=label, state=State.GOOD, text="starts and computes")
    need = "ort-libraries" if facts.get("lacks_libraries") else "driver"
    remedy = hint(need, platform) if name != "CPUExecutionProvider" else ""
    return Finding(name=label, state=State.MISSING, text=f"does not start: {facts.get('error')}", hint=remedy)


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def examine_tensorrt(platform: Platform, run: Runner = run_program) -> list[Finding]:
    """TensorRT, TensorRT for RTX where there is one, and PyCUDA or cuda-python that opens the GPU for both."""
    facts = ask("tensorrt", run=run)
    misfit = _misfit(platform, run)
    if "error" in facts:
        findings = [_broken("TensorRT", facts, hint("tensorrt", platform), module="tensorrt")]
    elif facts.get("starts"):
        findings = [Finding(name="TensorRT", state=State.GOOD, text=f"{facts['version']}, its builder starts")]
    elif misfit is not None:
        text = f"{facts['version']}, but it does not start: {misfit[0]}"
        findings = [Finding(name="TensorRT", state=State.CONFLICT, text=text, hint=misfit[1])]
    else:
        text = f"{facts['version']}, but it does not start: {facts.get('why')}"
        findings = [Finding(name="TensorRT", state=State.CONFLICT, text=text, hint=hint("driver", platform))]
    facts = ask("cuda", run=run)
    if platform in (Platform.X86_CUDA, Platform.X86_CPU):
        findings.append(_rtx(facts.get("compute_capability"), run))
    if "error" in facts:
        return [*findings, _broken(CUDA_LIBRARY, facts, hint("pycuda", platform))]
    text = f"{facts['library']} opens {facts['gpu']} ({facts['compute_capability']})"
    return [*findings, Finding(name=CUDA_LIBRARY, state=State.GOOD, text=text)]


def _rtx(capability: str | None, run: Runner) -> Finding:
    """TensorRT for RTX, which builds without a GPU, and whether its engines are for the GPU that was opened."""
    facts = ask("rtx", run=run)
    if "error" in facts:
        return _broken(RTX, facts, rtx.hint())
    if not facts.get("starts"):
        text = f"{facts['version']}, but it does not start: {facts.get('why')}"
        return Finding(name=RTX, state=State.CONFLICT, text=text, hint=rtx.REINSTALL)
    text = f"{facts['version']}, its builder starts; engines for compute capability {', '.join(CAPABILITIES)}"
    if capability is None or capability in CAPABILITIES:
        return Finding(name=RTX, state=State.GOOD, text=text)
    remedy = "engines of TensorRT itself run on this GPU"
    return Finding(name=RTX, state=State.NOTE, text=f"{text}, not for this GPU ({capability})", hint=remedy)


def _misfit(platform: Platform, run: Runner) -> tuple[str, str] | None:
    """Why PyPI's TensorRT, where it is installed, is not the one for this machine, and the hint; None if it may be."""
    takes = parse_cuda_of_driver(run(["nvidia-smi"]) or "").partition(".")[0]
    for wheel in filter(package_version, TENSORRT_WHEELS):
        cuda = wheel.partition("-cu")[2].partition("-")[0]
        remove = f"pip uninstall tensorrt tensorrt-cu{cuda} tensorrt-cu{cuda}-bindings {wheel}"
        if platform in (Platform.JETPACK_5, Platform.JETPACK_6):
            return (
                f"{wheel} is made for PCs and servers, and hides JetPack's",
                f"{remove}; {hint('tensorrt', platform)}",
            )
        if takes and int(takes) < int(cuda):
            text = f"{wheel} is of CUDA {cuda}, the driver takes CUDA {takes} at most"
            return text, f"{remove}; pip install 'tensorrt-cu{takes}>=10.3,<12'; or install a newer driver"
    return None


def examine_gpu(platform: Platform, run: Runner = run_program) -> list[Finding]:
    """The GPU, its driver and the newest CUDA that the driver takes."""
    gpus = gpu_states(run)
    if gpus:
        names = "; ".join(f"{gpu.get('name')}, driver {gpu.get('driver', 'unknown')}" for gpu in gpus)
        takes = parse_cuda_of_driver(run(["nvidia-smi"]) or "")
        text = f"{names}{f', up to CUDA {takes}' if takes else ''}"
        return [Finding(name="NVIDIA GPU", state=State.GOOD, text=text)]
    if platform.is_jetson:
        return [Finding(name="NVIDIA GPU", state=State.GOOD, text=BOARD_GPU)]
    text = "no driver answers (nvidia-smi); the CPU is used"
    return [Finding(name="NVIDIA GPU", state=State.MISSING, text=text, hint=hint("driver", platform))]


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
        return [Finding(name="CUDA", state=State.GOOD, text="; ".join(parts))]
    text = "; ".join(["no toolkit (nvcc)", *parts])
    return [Finding(name="CUDA", state=State.MISSING, text=text, hint=hint("cuda", platform))]


def examine_optional(platform: Platform) -> list[Finding]:
    """What recordings, training, export and plots need; present or not, without importing it."""
    return [_installed(name, module, hint(need, platform)) for module, (name, need) in OPTIONAL.items()]


def _broken(name: str, facts: dict[str, Any], remedy: str, *, module: str = "", needed: bool = False) -> Finding:
    fault = fault_of(module) if module else None
    if fault is not None:
        return Finding(name=name, state=State.CONFLICT, text=fault[0], hint=fault[1], needed=needed)
    state = State.CONFLICT if facts.get("crashed") else State.MISSING
    return Finding(name=name, state=state, text=str(facts["error"]), hint=remedy, needed=needed)
