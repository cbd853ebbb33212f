"""Facts about this machine that a measurement must be quoted with."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from clst_runtime.system.commit import commit
from clst_runtime.system.programs import Runner, run_program

UNKNOWN = "unknown"
"""A version that cannot be found out."""

PACKAGES = ("numpy", "opencv-python", "opencv-python-headless", "av", "onnxruntime", "onnxruntime-gpu", "torch", "onnx",
            "tensorrt", "tensorrt-rtx-cu13-bindings", "pycuda", "cuda-bindings", "click")  # fmt: skip


def package_version(name: str) -> str | None:
    """Version of an installed distribution, without importing it; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def own_version() -> str:
    """This program's version and commit, in words."""
    return f"clst {package_version('clst') or 'not installed'} (commit {commit()})"


def cpu_name(root: Path = Path("/")) -> str:
    """The processor's name; on boards whose kernel does not report it, the board's."""
    for line in text_of(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return text_of(root / "proc/device-tree/model") or platform.processor() or platform.machine()


def gpu_names(run: Runner = run_program) -> list[str]:
    """NVIDIA devices with their drivers, as nvidia-smi names them; empty without one."""
    text = run(["nvidia-smi", "--query-gpu=name,driver_version,power.limit", "--format=csv,noheader"], seconds=20.0)
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def driver_version(root: Path = Path("/"), run: Runner = run_program) -> str:
    """The version of the GPU's driver, as `580.65.06`; on a Jetson, whose driver belongs to its system, that system's.

    Two files have it; nvidia-smi is asked only where neither exists. `unknown` without any of them; never raises.
    """
    release = parse_tegra_release(text_of(root / "etc/nv_tegra_release"))
    if release is not None:
        return f"Jetson Linux {release[0]}.{release[1]}"
    text = text_of(root / "proc/driver/nvidia/version").partition("\n")[0]
    if not text:
        text = run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]) or ""
    found = re.search(r"(?:^|\s)(\d+(?:\.\d+)+)(?:\s|$)", text)
    return found[1] if found else UNKNOWN


def parse_tegra_release(text: str) -> tuple[int, str] | None:
    """`# R36 (release), REVISION: 4.3, GCID: …` as (36, "4.3"); None if it is another text."""
    found = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return (int(found[1]), found[2].rstrip(".")) if found else None


def text_of(path: Path) -> str:
    """A short file of the system; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def files_allowed(*, parts: int = 1) -> int:
    """How many files this program may have open, divided by `parts`: strangers' connections must not use up all."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if most == resource.RLIM_INFINITY else most // parts


def machine_facts() -> dict[str, Any]:
    """Processor, cores, memory, system, GPU and the versions that matter."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu_name(),
        "cores": cores,
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpus": gpu_names(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
    }
