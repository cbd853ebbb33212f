"""Which kind of machine this is, because each gets its packages another way."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from clst_runtime.system.machine import parse_tegra_release, text_of
from clst_runtime.system.programs import Runner, run_program

NVIDIA = "0x10de"
"""The vendor's number on the PCI bus."""


class Platform(str, Enum):
    """Kinds of machines that need other commands."""

    X86_CUDA = "x86-64 with an NVIDIA GPU"
    X86_CPU = "x86-64 without an NVIDIA GPU"
    JETPACK_5 = "Jetson with JetPack 5 or older"
    JETPACK_6 = "Jetson with JetPack 6"
    JETPACK_7 = "Jetson with JetPack 7"
    DRIVE = "DRIVE"
    ARM_CUDA = "ARM64 with an NVIDIA GPU"
    ARM_CPU = "ARM64 without an NVIDIA GPU"
    OTHER = "another system"

    @property
    def is_jetson(self) -> bool:
        """Whether JetPack brings CUDA and TensorRT."""
        return self in (Platform.JETPACK_5, Platform.JETPACK_6, Platform.JETPACK_7)

    @property
    def has_gpu(self) -> bool:
        return self not in (Platform.X86_CPU, Platform.ARM_CPU, Platform.OTHER)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was found of the platform."""

    platform: Platform
    text: str
    """Board, release and package versions in one line."""


def detect_machine(
    root: Path = Path("/"),
    run: Runner = run_program,
    *,
    architecture: str | None = None,
    system: str | None = None,
) -> Machine:
    """Find out the kind of machine.

    Args:
        root: the folder that holds `etc`, `proc` and `sys`; another one in tests.
        run: asks dpkg and nvidia-smi.
        architecture: as `platform.machine()` gives it; None = this machine's.
        system: as `platform.system()`; None = this machine's.
    """
    architecture, system = architecture or platform.machine(), system or platform.system()
    board = text_of(root / "proc/device-tree/model")
    release = parse_tegra_release(text_of(root / "etc/nv_tegra_release"))
    if system != "Linux":
        return Machine(platform=Platform.OTHER, text=f"{system} {architecture}")
    if architecture == "aarch64" and (release or "jetson" in board.lower()):
        return _jetson(board, release, run)
    if architecture == "aarch64" and "drive" in board.lower():
        return Machine(platform=Platform.DRIVE, text=board)
    has_gpu = has_nvidia_gpu(root, run)
    kinds = {
        "x86_64": (Platform.X86_CUDA, Platform.X86_CPU),
        "aarch64": (Platform.ARM_CUDA, Platform.ARM_CPU),
    }
    with_gpu, without = kinds.get(architecture, (Platform.OTHER, Platform.OTHER))
    distribution = parse_os_release(text_of(root / "etc/os-release"))
    text = ", ".join(part for part in (f"Linux {architecture}", distribution, board) if part)
    return Machine(platform=with_gpu if has_gpu else without, text=text)


def _jetson(board: str, release: tuple[int, str] | None, run: Runner) -> Machine:
    jetpack = (run(["dpkg-query", "-W", "-f=${Version}", "nvidia-jetpack"]) or "").strip()
    core = (run(["dpkg-query", "-W", "-f=${Version}", "nvidia-l4t-core"]) or "").strip()
    release = release or parse_l4t_core(core)
    named = re.match(r"\d+", jetpack)
    number = int(named[0]) if named else jetpack_of(release[0]) if release else 0
    parts = [board or "Jetson"]
    parts += [f"JetPack {jetpack or number or 'unknown'}"]
    parts += [f"Jetson Linux {release[0]}.{release[1]}"] if release else []
    kinds = {6: Platform.JETPACK_6, 7: Platform.JETPACK_7}
    kind = kinds.get(number, Platform.JETPACK_7 if number > 7 else Platform.JETPACK_5)
    return Machine(platform=kind, text=", ".join(parts))


def parse_l4t_core(version: str) -> tuple[int, str] | None:
    """The package version `36.4.4-20250616085344` as (36, "4.4"); None if it is another text."""
    found = re.match(r"(\d+)\.(\d+(?:\.\d+)*)-", version)
    return (int(found[1]), found[2]) if found else None


def jetpack_of(release: int) -> int:
    """JetPack's major number by Jetson Linux's: 36 is 6, 38 and 39 are 7, 35 is 5, 32 is 4."""
    if release >= 38:
        return 7
    return {36: 6, 34: 5, 35: 5}.get(release, 4)


def parse_os_release(text: str) -> str:
    """The name in /etc/os-release; empty if it has none."""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)"?', text, re.MULTILINE)
    return found[1] if found else ""


def has_nvidia_gpu(root: Path, run: Runner) -> bool:
    """Whether one is on the PCI bus, has a driver, or answers nvidia-smi; a driver may be missing."""
    for device in (root / "sys/bus/pci/devices").glob("*"):
        if text_of(device / "vendor") == NVIDIA and text_of(device / "class").startswith("0x03"):
            return True
    if (root / "proc/driver/nvidia/version").is_file():
        return True
    return bool((run(["nvidia-smi", "-L"]) or "").strip())
