"""Clocks, power mode and temperatures of this machine: what a latency must be quoted with, before and after.

Every value is from the machine's own tools: `nvidia-smi`, on a Jetson `tegrastats`, `nvpmodel` and
`jetson_clocks`, and the files of /sys for the CPU and the thermal zones. What is not there is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clst_runtime.system.machine import text_of
from clst_runtime.system.programs import Runner, run_program

GPU_FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "performance_state": "pstate",
    "sm_clock_mhz": "clocks.sm",
    "sm_clock_max_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
}
"""Our name → the field's name in `nvidia-smi --query-gpu`."""
SLOWED_FIELDS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
"""The bits of why the clocks are not higher: since driver 535, and before."""
SLOWED_BITS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "software thermal", 0x40: "hardware thermal",
               0x80: "power brake"}  # fmt: skip
"""Those of NVML's reasons that slow a computation; idle and settings by the user are none."""
HOTTER_BY_C = 10.0
"""So much warmer after than before is worth a warning."""
NO_SENSOR_C = -200.0
"""tegrastats gives -256 °C for a part that is switched off."""


def device_state(root: Path = Path("/"), run: Runner = run_program) -> dict[str, Any]:
    """The state now; only what could be found out. `root` holds `sys` and `proc`."""
    found: dict[str, Any] = {
        "gpus": gpu_states(run),
        "tegra": parse_tegrastats(run(["tegrastats", "--interval", "200"], seconds=3.0, endless=True) or ""),
        "power_mode": parse_nvpmodel(run(["nvpmodel", "-q"]) or ""),
        "clocks": parse_jetson_clocks(run(["jetson_clocks", "--show"]) or ""),
        "cpu": cpu_clocks(root),
        "thermal_c": thermal_zones(root),
    }
    return {name: value for name, value in found.items() if value}


def gpu_states(run: Runner = run_program) -> list[dict[str, Any]]:
    """nvidia-smi's values of each GPU, in its order; empty without one."""
    query = ",".join(GPU_FIELDS.values())
    text = run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"])
    gpus = parse_nvidia_smi(text or "")
    for field in SLOWED_FIELDS if gpus else ():
        answer = run(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"])
        reasons = (answer or "").split()
        if len(reasons) == len(gpus) and all(reason.startswith("0x") for reason in reasons):
            for gpu, reason in zip(gpus, reasons, strict=True):
                gpu["slowed_by"] = [name for bit, name in SLOWED_BITS.items() if int(reason, 16) & bit]
            break
    return gpus


def parse_nvidia_smi(text: str) -> list[dict[str, Any]]:
    """Lines of `nvidia-smi --query-gpu=… --format=csv,noheader,nounits` with `GPU_FIELDS`, without `[N/A]` and such."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(", ")]
        if len(cells) == len(GPU_FIELDS):
            pairs = zip(GPU_FIELDS, cells, strict=True)
            gpus.append({name: _value(name, cell) for name, cell in pairs if cell and not cell.startswith("[")})
    return gpus


def _value(name: str, cell: str) -> float | str:
    """Numbers where the name ends with a unit; a driver `580.00` is none."""
    measured = name.endswith(("_mhz", "_c", "_w")) and re.fullmatch(r"-?\d+(\.\d+)?", cell)
    return float(cell) if measured else cell


def parse_tegrastats(text: str) -> dict[str, Any]:
    """The first whole line of tegrastats: memory, CPU and GPU load and clocks, temperatures, power."""
    line = next((line for line in text.splitlines() if "RAM " in line and "CPU [" in line), "")
    found: dict[str, Any] = {}
    if memory := re.search(r"\bRAM (\d+)/(\d+)MB", line):
        found["memory_mib"] = {"used": int(memory[1]), "total": int(memory[2])}
    if cores := re.search(r"\bCPU \[([^\]]*)\]", line):
        loads = [re.fullmatch(r"(\d+)%@(\d+)", core) for core in cores[1].split(",")]
        found["cpu_mhz"] = [int(load[2]) if load else None for load in loads]
        found["cpu_load_percent"] = [int(load[1]) if load else None for load in loads]
    if gpu := re.search(r"\bGR3D_FREQ (\d+)%(?:@\[?([\d,]+)\]?)?", line):
        found["gpu_load_percent"] = int(gpu[1])
        if gpu[2]:
            found["gpu_mhz"] = [int(clock) for clock in gpu[2].split(",")]
    if memory_clock := re.search(r"\bEMC_FREQ \d+%@(\d+)", line):
        found["memory_clock_mhz"] = int(memory_clock[1])
    temperatures = {name: float(value) for name, value in re.findall(r"\b(\w+)@(-?\d+(?:\.\d+)?)C\b", line)}
    found["temperature_c"] = {name: value for name, value in temperatures.items() if value > NO_SENSOR_C}
    powers = re.findall(r"\b([A-Z]\w*) (\d+)mW/\d+mW", line)
    found["power_mw"] = {name: int(now) for name, now in powers if name != "NC"}
    return {name: value for name, value in found.items() if value not in ({}, [])}


def parse_nvpmodel(text: str) -> str | None:
    """The name of the mode in `nvpmodel -q`, e.g. `MAXN` or `30W`."""
    found = re.search(r"NV Power Mode:\s*(\S+)", text)
    return found[1] if found else None


def parse_jetson_clocks(text: str) -> dict[str, Any]:
    """GPU, memory and CPU limits of `jetson_clocks --show` in MHz, and whether all are fixed at their maximum."""
    found: dict[str, Any] = {}
    for name in ("GPU", "EMC"):
        if clocks := re.search(rf"^{name} MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", text, re.MULTILINE):
            least, most, now = (int(hertz) / 1e6 for hertz in clocks.groups())
            found[name.lower()] = {"min_mhz": least, "max_mhz": most, "now_mhz": now}
    cpus = re.findall(
        r"^cpu\d+: Online=1 Governor=(\S+) MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", text, re.MULTILINE
    )
    if cpus:
        found["cpu"] = {
            "governors": sorted({cpu[0] for cpu in cpus}),
            "min_mhz": min(int(cpu[1]) for cpu in cpus) / 1e3,
            "max_mhz": max(int(cpu[2]) for cpu in cpus) / 1e3,
            "now_mhz": [int(cpu[3]) / 1e3 for cpu in cpus],
        }
    if "gpu" in found:
        gpu_fixed = found["gpu"]["min_mhz"] == found["gpu"]["max_mhz"]
        found["fixed"] = gpu_fixed and all(cpu[1] == cpu[2] for cpu in cpus)
    return found


def cpu_clocks(root: Path = Path("/")) -> dict[str, Any]:
    """Governors and frequencies in MHz of the CPU's cores, from /sys; empty where a virtual machine hides them."""
    governors, now, most = set(), [], []
    for core in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        governors.add(text_of(core / "scaling_governor"))
        now.append(text_of(core / "scaling_cur_freq"))
        most.append(text_of(core / "scaling_max_freq"))
    found: dict[str, Any] = {"governors": sorted(name for name in governors if name)}
    found["now_mhz"] = [int(value) / 1e3 for value in now if value.isdigit()]
    found["max_mhz"] = max((int(value) / 1e3 for value in most if value.isdigit()), default=None)
    return {name: value for name, value in found.items() if value}


def thermal_zones(root: Path = Path("/")) -> dict[str, float]:
    """Temperatures in °C of the thermal zones below /sys, by their type; the warmest of those of one type."""
    zones: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, value = text_of(zone / "type"), text_of(zone / "temp")
        if name and re.fullmatch(r"-?\d+", value) and int(value) / 1e3 > NO_SENSOR_C:
            zones[name] = max(int(value) / 1e3, zones.get(name, NO_SENSOR_C))
    return zones


def unsteadiness(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Why a measurement between two states may be unsteady, as warnings; empty if nothing is known against it."""
    lines = []
    if before.get("power_mode") != after.get("power_mode"):
        lines.append(f"the power mode changed from {before.get('power_mode')} to {after.get('power_mode')}")
    if after.get("clocks", {}).get("fixed") is False:
        lines.append("the clocks are not fixed; sudo jetson_clocks fixes them")
    governors = after.get("cpu", {}).get("governors", [])
    if governors and governors != ["performance"]:
        lines.append(f"the CPU's clock follows the load (governor {', '.join(governors)}), not `performance`")
    for gpu in after.get("gpus", []):
        if gpu.get("slowed_by"):
            lines.append(f"{gpu.get('name', 'the GPU')} is slowed down: {', '.join(gpu['slowed_by'])}")
    earlier, later = temperatures_c(before), temperatures_c(after)
    for name in sorted(earlier.keys() & later.keys()):
        if later[name] - earlier[name] >= HOTTER_BY_C:
            lines.append(f"{name} warmed from {earlier[name]:.0f} to {later[name]:.0f} °C meanwhile")
    return lines


def temperatures_c(state: Mapping[str, Any]) -> dict[str, float]:
    """All temperatures of a state, by place."""
    found = dict(state.get("thermal_c", {})) | dict(state.get("tegra", {}).get("temperature_c", {}))
    for index, gpu in enumerate(state.get("gpus", [])):
        if isinstance(gpu.get("temperature_c"), float):
            found[f"GPU {index}"] = gpu["temperature_c"]
    return found


def brief_state(state: Mapping[str, Any]) -> str:
    """A state in one line for people."""
    parts = [f"power mode {state['power_mode']}"] if "power_mode" in state else []
    for gpu in state.get("gpus", []):
        parts.append(f"{gpu.get('name')}: {gpu.get('sm_clock_mhz', '?')} MHz, {gpu.get('performance_state', '?')}")
    cpu = state.get("cpu", {})
    if cpu.get("governors"):
        parts.append(f"governor {', '.join(cpu['governors'])}")
    if cpu.get("now_mhz"):
        parts.append(f"CPU {min(cpu['now_mhz']):.0f} to {max(cpu['now_mhz']):.0f} MHz")
    if warmest := temperatures_c(state):
        name = max(warmest, key=lambda place: warmest[place])
        parts.append(f"{name} {warmest[name]:.0f} °C")
    return "; ".join(parts) if parts else "no clock, power mode or temperature is to be had on this machine"
