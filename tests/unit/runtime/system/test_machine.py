"""Facts about machines, from texts that their tools really wrote (found in public records, not run on the devices)."""

import sys
import time

import pytest

from clst_runtime.system.device_state import (
    brief_state,
    cpu_clocks,
    device_state,
    gpu_states,
    parse_jetson_clocks,
    parse_nvidia_smi,
    parse_nvpmodel,
    parse_tegrastats,
    thermal_zones,
    unsteadiness,
)
from clst_runtime.system.machine import cpu_name, driver_version, gpu_names
from clst_runtime.system.programs import run_program

AGX_ORIN = (
    "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) "
    "CPU [14%@2188,5%@2112,8%@2035,14%@2201,46%@1267,47%@1267,2%@1267,10%@1267,4%@1036,5%@1036,6%@1036,10%@1036] "
    "EMC_FREQ 3%@2133 GR3D_FREQ 0%@[0,0] NVENC 79%@166 NVDEC off NVJPG off NVJPG1 off VIC 36%@115 OFA off NVDLA0 off "
    "NVDLA1 off PVA0_FREQ off APE 174 cpu@52.562C soc2@48.437C soc0@49.093C tj@52.562C soc1@49.656C "
    "VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4707mW/4707mW\n"
)
ORIN_NANO = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) "
    "CPU [38%@1497,2%@729,off,0%@729,1%@729,0%@729] EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612] NVDEC off "
    "cpu@57.125C gpu@58.625C CV0@-256C tj@58.312C VDD_IN 16321mW/11204mW NC 0mW/0mW\n"
)
XAVIER = "RAM 2690/6854MB (lfb 6x1MB) CPU [3%@1904,off] EMC_FREQ 0% GR3D_FREQ 12% APE 150 GPU@37.5C PMIC@50C\n"
JETSON_CLOCKS = """SOC family:tegra210  Machine:jetson-nano
Online CPUs: 0-3
CPU Cluster Switching: Disabled
cpu0: Online=1 Governor=schedutil MinFreq=102000 MaxFreq=1428000 CurrentFreq=1036800 IdleStates: WFI=1 c7=1
cpu1: Online=1 Governor=schedutil MinFreq=102000 MaxFreq=1428000 CurrentFreq=921600 IdleStates: WFI=1 c7=1
cpu2: Online=0 Governor=schedutil MinFreq=921600 MaxFreq=921600 CurrentFreq=921600 IdleStates: WFI=1 c7=1
GPU MinFreq=76800000 MaxFreq=921600000 CurrentFreq=153600000
EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=0
Fan: speed=0
NV Power Mode: MAXN
"""
SMI = "NVIDIA GeForce RTX 4090, 550.54.15, P2, 2520, 3105, 10251, 61, 287.31, 450.00\n"
THOR_SMI = "NVIDIA Thor, 580.00, P0, [N/A], [N/A], [N/A], 44, [N/A], [Not Supported]\n"


def answering(**texts):
    """A runner that knows what some programs say, by the first word and, after `__`, one word of the rest."""

    def run(arguments, **_):
        for name, text in texts.items():
            program, _, word = name.partition("__")
            asked = arguments[0].replace("-", "_") == program
            if asked and (not word or any(word in argument for argument in arguments[1:])):
                return text
        return None

    return run


def test_a_line_of_tegrastats_of_an_agx_orin():
    found = parse_tegrastats(AGX_ORIN)
    assert found["memory_mib"] == {"used": 18207, "total": 62841}
    assert found["cpu_mhz"][:2] == [2188, 2112]
    assert len(found["cpu_mhz"]) == 12
    assert found["gpu_load_percent"] == 0
    assert found["gpu_mhz"] == [0, 0]
    assert found["memory_clock_mhz"] == 2133
    assert found["temperature_c"] == {"cpu": 52.562, "soc2": 48.437, "soc0": 49.093, "tj": 52.562, "soc1": 49.656}
    assert found["power_mw"] == {"VDD_GPU_SOC": 2412, "VDD_CPU_CV": 1607, "VIN_SYS_5V0": 4707}


def test_cores_and_sensors_that_are_off_are_none_and_left_out():
    found = parse_tegrastats(ORIN_NANO)
    assert found["cpu_mhz"] == [1497, 729, None, 729, 729, 729]
    assert found["gpu_mhz"] == [612]
    assert found["temperature_c"] == {"cpu": 57.125, "gpu": 58.625, "tj": 58.312}
    assert found["power_mw"] == {"VDD_IN": 16321}


def test_an_older_line_without_clocks():
    found = parse_tegrastats(XAVIER)
    assert found["gpu_load_percent"] == 12
    assert "gpu_mhz" not in found
    assert "memory_clock_mhz" not in found


@pytest.mark.parametrize("text", ["", "RAM 12", "\0\0\0", "tegrastats: permission denied\n"])
def test_what_is_no_line_of_tegrastats_gives_nothing(text):
    assert parse_tegrastats(text) == {}


def test_the_power_mode():
    assert parse_nvpmodel("NV Power Mode: MAXN\n0\n") == "MAXN"
    verbose = (
        "NVPM VERB: parsing done for /etc/nvpmodel.conf\nNVPM VERB: Current mode: NV Power Mode: MODE_15W_6CORE\n2"
    )
    assert parse_nvpmodel(verbose) == "MODE_15W_6CORE"
    assert parse_nvpmodel("") is None


def test_jetson_clocks_that_follow_the_load():
    found = parse_jetson_clocks(JETSON_CLOCKS)
    assert found["gpu"] == {"min_mhz": 76.8, "max_mhz": 921.6, "now_mhz": 153.6}
    assert found["emc"]["now_mhz"] == 1600.0
    assert found["cpu"] == {"governors": ["schedutil"], "min_mhz": 102.0, "max_mhz": 1428.0, "now_mhz": [1036.8, 921.6]}
    assert found["fixed"] is False
    fixed = JETSON_CLOCKS.replace("MinFreq=102000", "MinFreq=1428000").replace("MinFreq=76800000", "MinFreq=921600000")
    assert parse_jetson_clocks(fixed)["fixed"] is True
    assert parse_jetson_clocks("Error: not root") == {}


def test_nvidia_smi_of_a_workstation_and_of_a_thor_that_tells_little():
    gpu = parse_nvidia_smi(SMI)[0]
    assert gpu["name"] == "NVIDIA GeForce RTX 4090"
    assert gpu["driver"] == "550.54.15"
    assert (gpu["sm_clock_mhz"], gpu["temperature_c"], gpu["power_limit_w"]) == (2520.0, 61.0, 450.0)
    thor = parse_nvidia_smi(THOR_SMI)[0]
    assert thor == {"name": "NVIDIA Thor", "driver": "580.00", "performance_state": "P0", "temperature_c": 44.0}
    assert len(parse_nvidia_smi(SMI * 2)) == 2
    assert parse_nvidia_smi("No devices were found\n") == []


def test_why_a_gpu_is_slow_is_asked_by_the_new_name_and_then_by_the_old_one():
    run = answering(nvidia_smi__event=None, nvidia_smi__throttle="0x0000000000000024\n", nvidia_smi=SMI)
    assert gpu_states(run)[0]["slowed_by"] == ["power cap", "software thermal"]
    run = answering(nvidia_smi__event="0x0000000000000001\n", nvidia_smi=SMI)
    assert gpu_states(run)[0]["slowed_by"] == []
    run = answering(nvidia_smi__reasons='Field "x" is not a valid field to query.', nvidia_smi=SMI)
    assert "slowed_by" not in gpu_states(run)[0]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_governors_clocks_and_temperatures_of_sys(tmp_path):
    for core, now in ((0, "2400000\n"), (1, "800000\n")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        write(folder / "scaling_governor", "schedutil\n")
        write(folder / "scaling_cur_freq", now)
        write(folder / "scaling_max_freq", "3600000\n")
    assert cpu_clocks(tmp_path) == {"governors": ["schedutil"], "now_mhz": [2400.0, 800.0], "max_mhz": 3600.0}
    for zone, (name, value) in enumerate(
        (("cpu-thermal", "52000"), ("cpu-thermal", "54500"), ("cv0-thermal", "-256000"))
    ):
        write(tmp_path / f"sys/class/thermal/thermal_zone{zone}/type", f"{name}\n")
        write(tmp_path / f"sys/class/thermal/thermal_zone{zone}/temp", f"{value}\n")
    write(tmp_path / "sys/class/thermal/thermal_zone7/type", "odd\n")
    assert thermal_zones(tmp_path) == {"cpu-thermal": 54.5}
    assert cpu_clocks(tmp_path / "none") == {}
    assert thermal_zones(tmp_path / "none") == {}


def test_a_whole_state_and_its_line(tmp_path):
    run = answering(tegrastats=AGX_ORIN, nvpmodel="NV Power Mode: MAXN\n0\n", jetson_clocks=JETSON_CLOCKS)
    state = device_state(tmp_path, run)
    assert set(state) == {"tegra", "power_mode", "clocks"}
    assert brief_state(state) == "power mode MAXN; cpu 53 °C"
    assert device_state(tmp_path, answering()) == {}
    assert brief_state({}).startswith("no clock")


def test_what_makes_a_measurement_doubtful():
    before = {"power_mode": "MAXN", "thermal_c": {"cpu": 40.0, "soc": 40.0}}
    gpu = {"name": "Orin", "slowed_by": ["hardware thermal"]}
    after = {"power_mode": "15W", "thermal_c": {"cpu": 50.0, "soc": 49.9}, "clocks": {"fixed": False},
             "cpu": {"governors": ["schedutil"]}, "gpus": [gpu]}  # fmt: skip
    told = unsteadiness(before, after)
    assert len(told) == 5
    assert "from MAXN to 15W" in told[0]
    assert "jetson_clocks" in told[1]
    assert "schedutil" in told[2]
    assert "hardware thermal" in told[3]
    assert told[4] == "cpu warmed from 40 to 50 °C meanwhile"
    assert unsteadiness({}, {}) == []
    assert unsteadiness({}, {"cpu": {"governors": ["performance"]}}) == []


def test_the_processors_name_on_a_board_that_does_not_tell_it(tmp_path):
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 62.50\n")
    write(tmp_path / "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    assert cpu_name(tmp_path) == "NVIDIA Jetson AGX Orin Developer Kit"
    write(tmp_path / "proc/cpuinfo", "model name\t: Example CPU\n")
    assert cpu_name(tmp_path) == "Example CPU"
    assert gpu_names(answering()) == []


def python(code):
    return [sys.executable, "-c", code]


def test_a_program_is_asked_and_one_that_fails_or_is_absent_says_nothing():
    assert run_program(python("print('hello')")) == "hello\n"
    assert run_program(python("print('hello'); raise SystemExit(3)")) is None
    assert run_program(["no-such-program-anywhere"]) is None
    assert run_program(python("pass")) == ""


def test_a_program_that_cannot_be_waited_for_says_nothing(monkeypatch):
    def full():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("clst_runtime.system.programs.selectors.DefaultSelector", full)
    assert run_program(python("print('hello')")) is None


def test_a_program_that_hangs_is_left_after_its_time():
    started = time.monotonic()
    assert run_program(python("import time; print('x', flush=True); time.sleep(60)"), seconds=0.5) is None
    assert time.monotonic() - started < 5


def test_a_child_that_keeps_the_pipe_open_does_not_hold_anybody_up():
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])"
    started = time.monotonic()
    run_program(python(code), seconds=0.5)
    assert time.monotonic() - started < 5


def test_of_an_endless_program_the_first_line_is_enough():
    code = "import time\nprint('first', flush=True)\ntime.sleep(60)"
    started = time.monotonic()
    assert run_program(python(code), seconds=20, endless=True) == "first\n"
    assert time.monotonic() - started < 10
    assert run_program(python("import time; time.sleep(60)"), seconds=0.3, endless=True) is None


def test_a_program_that_hung_and_its_children_are_ended(tmp_path):
    late = f"import time, pathlib; time.sleep(1.2); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {late!r}])"
    assert run_program(python(parent), seconds=0.6) is None
    time.sleep(1.6)
    assert not (tmp_path / "late").exists()


ORIN_5 = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  35.3.1  Release Build "
    " (buildbrain@mobile-u64-6289-d7000)  Sun Mar 19 08:09:33 PDT 2023\nGCC version:  gcc 9.3.0\n"
)
X86 = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version:  gcc\n"


@pytest.mark.parametrize(
    ("text", "version"), [(ORIN_5, "35.3.1"), (X86, "535.129.03"), ("NVRM version: ?\n", "unknown")]
)
def test_the_drivers_version_is_read_from_its_file_and_no_program_is_asked(tmp_path, text, version):
    write(tmp_path / "proc/driver/nvidia/version", text)
    assert driver_version(tmp_path, answering(nvidia_smi="1.2.3\n")) == version


def test_a_jetsons_driver_is_that_of_its_system(tmp_path):
    write(tmp_path / "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    write(tmp_path / "proc/driver/nvidia/version", ORIN_5)
    assert driver_version(tmp_path, answering()) == "Jetson Linux 36.4.3"


@pytest.mark.parametrize(
    ("answer", "version"), [("580.65.06\n580.65.06\n", "580.65.06"), ("[N/A]\n", "unknown"), (None, "unknown")]
)
def test_without_the_file_nvidia_smi_is_asked_and_silence_is_unknown(tmp_path, answer, version):
    assert driver_version(tmp_path, lambda *_, **__: answer) == version
