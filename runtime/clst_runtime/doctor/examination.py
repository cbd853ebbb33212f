"""All checks of this machine, in the order of the report."""

from __future__ import annotations

import platform as python_platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from clst_runtime.doctor.cameras import examine_cameras
from clst_runtime.doctor.findings import Finding, State, look
from clst_runtime.doctor.libraries import (
    CUDA_LIBRARY,
    RTX,
    examine_cuda,
    examine_gpu,
    examine_numpy,
    examine_onnxruntime,
    examine_opencv,
    examine_optional,
    examine_tensorrt,
)
from clst_runtime.system.device_state import brief_state, device_state, unsteadiness
from clst_runtime.system.install_hints import hint
from clst_runtime.system.machine import cpu_name
from clst_runtime.system.platforms import Machine, Platform, detect_machine
from clst_runtime.system.programs import Runner, run_program

OLDEST_PYTHON = (3, 10)
LEAST_FREE_GIB = 2.0
"""An engine with its timing cache, or a few minutes of video."""


def examine(root: Path = Path("/"), run: Runner = run_program) -> list[Finding]:
    """Run all checks. None affects another one, opens a camera, or imports a heavy package into this process."""
    try:
        machine = detect_machine(root, run)
    except Exception as error:  # noqa: BLE001  (the other looks go on without)
        machine = Machine(platform=Platform.OTHER, text=f"cannot be found out: {error}")
    kind = machine.platform
    platform = Finding(name="Platform", state=State.GOOD, text=f"{kind.value}: {machine.text}, {cpu_name(root)}")
    return [
        platform,
        *look("Python", lambda: [examine_python(kind)], needed=True),
        *look("Disk", lambda: [examine_disk(kind)]),
        *look("NumPy", lambda: [examine_numpy()], needed=True),
        *look("OpenCV", lambda: examine_opencv(kind, run), needed=True),
        *look("ONNX Runtime", lambda: examine_onnxruntime(kind, run), needed=True),
        *look("NVIDIA GPU", lambda: examine_gpu(kind, run)),
        *look("CUDA", lambda: examine_cuda(kind, run)),
        *look("TensorRT", lambda: examine_tensorrt(kind, run)),
        *look("Clocks", lambda: [examine_clocks(kind, root, run)]),
        *look("Cameras", lambda: examine_cameras(kind, root, run)),
        *look("Optional packages", lambda: examine_optional(kind)),
    ]


def examine_python(platform: Platform, version: Sequence[int] = sys.version_info[:3]) -> Finding:
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return Finding(name="Python", state=State.GOOD, text=python_platform.python_version(), needed=True)
    text = f"{'.'.join(map(str, version[:3]))} is too old"
    return Finding(name="Python", state=State.MISSING, text=text, hint=hint("python", platform), needed=True)


def examine_disk(platform: Platform, free_bytes: int | None = None) -> Finding:
    free_gib = (shutil.disk_usage(Path.cwd()).free if free_bytes is None else free_bytes) / 2**30
    text = f"{free_gib:.1f} GiB free in {Path.cwd()}"
    if free_gib >= LEAST_FREE_GIB:
        return Finding(name="Disk", state=State.GOOD, text=text)
    return Finding(name="Disk", state=State.MISSING, text=text, hint=hint("disk", platform))


def examine_clocks(platform: Platform, root: Path, run: Runner) -> Finding:
    """Clocks, power mode and temperature now, and what would make a measurement doubtful."""
    state = device_state(root, run)
    warnings = unsteadiness(state, state)
    text = "; ".join([brief_state(state), *warnings])
    if warnings:
        return Finding(name="Clocks", state=State.NOTE, text=text, hint=hint("clocks", platform))
    return Finding(name="Clocks", state=State.GOOD, text=text)


def lacking(findings: Sequence[Finding]) -> list[str]:
    """What clst-run cannot do without and does not have; ONNX Runtime, or a TensorRT with the GPU opened, is enough."""
    works = {finding.name for finding in findings if finding.state in (State.GOOD, State.NOTE)}
    missing = [finding.name for finding in findings if finding.needed and finding.name not in works]
    for_this_gpu = any(finding.name == RTX and finding.state is State.GOOD for finding in findings)
    if CUDA_LIBRARY in works and ("TensorRT" in works or for_this_gpu):
        missing = [name for name in missing if name != "ONNX Runtime"]
    return missing
