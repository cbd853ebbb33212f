"""The doctor on machines that are told by recorded texts, and on one that has next to nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clst_runtime.doctor import Finding, State, examine, lacking
from clst_runtime.doctor import libraries as looked
from clst_runtime.doctor.cameras import CameraFormat, examine_cameras, parse_formats
from clst_runtime.doctor.examination import examine_clocks, examine_disk, examine_python
from clst_runtime.doctor.findings import look
from clst_runtime.doctor.probe import ask, parse_build_information, probe_provider
from clst_runtime.system.install_hints import hint
from clst_runtime.system.machine import parse_tegra_release
from clst_runtime.system.platforms import Platform, detect_machine, parse_l4t_core
from clst_runtime.system.programs import run_program
from tests import ROOT
from tests.support.shell import shell
from tests.unit.runtime.system.test_machine import SMI, answering, write

R36 = (
    "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, EABI: aarch64, "
    "DATE: Thu Sep 18 22:54:44 UTC 2025\n"
    "# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n"
)
R38 = (
    "# R38 (release), REVISION: 2.2, GCID: 42205042, BOARD: generic, EABI: aarch64, "
    "DATE: Thu Sep 25 22:47:11 UTC 2025\n"
)
R39 = "# R39 (release), REVISION: 2.1, GCID: 13579, BOARD: generic, EABI: aarch64\n"
R35 = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n"


def machine(tmp_path, *, release=None, board=None, architecture="aarch64", **texts):
    if release is not None:
        write(tmp_path / "etc/nv_tegra_release", release)
    if board is not None:
        write(tmp_path / "proc/device-tree/model", f"{board}\0")
    return detect_machine(tmp_path, answering(**texts), architecture=architecture, system="Linux")


@pytest.mark.parametrize(
    ("release", "kind", "words"),
    [
        (R36, Platform.JETPACK_6, "Jetson Linux 36.4.7"),
        (R38, Platform.JETPACK_7, "Jetson Linux 38.2.2"),
        (R39, Platform.JETPACK_7, "Jetson Linux 39.2.1"),
        (R35, Platform.JETPACK_5, "Jetson Linux 35.4.1"),
    ],
)
def test_a_jetson_by_its_release_file(tmp_path, release, kind, words):
    found = machine(tmp_path, release=release, board="NVIDIA Jetson AGX Orin Developer Kit")
    assert found.platform is kind
    assert words in found.text
    assert found.text.startswith("NVIDIA Jetson AGX Orin Developer Kit, JetPack")


def test_dpkg_tells_jetpack_exactly_and_wins(tmp_path):
    found = machine(tmp_path, release=R36, dpkg_query__jetpack="6.2.1+b38", dpkg_query__core="36.4.7-20250918154033")
    assert found.platform is Platform.JETPACK_6
    assert "JetPack 6.2.1+b38" in found.text


def test_a_jetson_without_its_release_file_as_in_a_container(tmp_path):
    found = machine(tmp_path, board="NVIDIA Jetson Thor", dpkg_query__core="38.2.2-20250925153837")
    assert found.platform is Platform.JETPACK_7
    assert (
        machine(tmp_path, board="NVIDIA Jetson Thor").platform is Platform.JETPACK_5
    )  # nothing tells: the careful one


def test_a_pc_with_and_without_a_gpu_even_where_the_driver_is_missing(tmp_path):
    write(tmp_path / "etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n')
    found = machine(tmp_path, architecture="x86_64")
    assert found.platform is Platform.X86_CPU
    assert "Ubuntu 24.04.3 LTS" in found.text
    write(tmp_path / "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    write(tmp_path / "sys/bus/pci/devices/0000:01:00.0/class", "0x040300\n")  # its sound device is none
    assert machine(tmp_path, architecture="x86_64").platform is Platform.X86_CPU
    write(tmp_path / "sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n")
    assert machine(tmp_path, architecture="x86_64").platform is Platform.X86_CUDA


def test_other_machines(tmp_path):
    assert machine(tmp_path, nvidia_smi="GPU 0: NVIDIA GH200 480GB (UUID: GPU-1)\n").platform is Platform.ARM_CUDA
    assert machine(tmp_path).platform is Platform.ARM_CPU
    assert machine(tmp_path, board="NVIDIA DRIVE AGX Orin").platform is Platform.DRIVE
    assert detect_machine(tmp_path, answering(), architecture="arm64", system="Darwin").platform is Platform.OTHER
    assert machine(tmp_path, architecture="riscv64").platform is Platform.OTHER


@pytest.mark.parametrize("text", ["", "R36", "# R (release), REVISION: 1", "36.4.4"])
def test_what_is_no_release_is_none(text):
    assert parse_tegra_release(text) is None
    assert parse_l4t_core(text) is None


@pytest.mark.parametrize("need", ["opencv", "ort", "ort-gpu", "tensorrt", "pycuda", "cuda", "driver", "clocks", "plot"])
def test_every_need_has_a_cure_everywhere(need):
    assert all(hint(need, platform) for platform in Platform)


def test_cures_are_those_of_the_platform():
    assert "numpy<2" in hint("ort", Platform.JETPACK_6)
    assert "numpy<2" not in hint("ort", Platform.JETPACK_7)
    assert "nvidia-jetpack" in hint("tensorrt", Platform.JETPACK_7)
    assert "flash JetPack 6" in hint("tensorrt", Platform.JETPACK_5)
    assert hint("tensorrt", Platform.X86_CUDA) == "pip install -e '.[trt]'"
    assert "no NVIDIA GPU" in hint("tensorrt", Platform.X86_CPU)


NEW = """ioctl: VIDIOC_ENUM_FMT
\tType: Video Capture

\t[0]: 'MJPG' (Motion-JPEG, compressed)
\t\tSize: Discrete 1920x1080
\t\t\tInterval: Discrete 0.033s (30.000 fps)
\t\t\tInterval: Discrete 0.040s (25.000 fps)
\t\tSize: Discrete 640x480
\t\t\tInterval: Discrete 0.017s (59.940 fps)
\t[1]: 'YUYV' (YUYV 4:2:2)
\t\tSize: Discrete 1280x720
\t\t\tInterval: Discrete 0.133s (7.500 fps)
"""
OLD = """ioctl: VIDIOC_ENUM_FMT
\tIndex       : 0
\tType        : Video Capture
\tPixel Format: 'YUYV'
\tName        : YUYV 4:2:2
\t\tSize: Discrete 640x480
\t\t\tInterval: Discrete 0.033s (30.000 fps)
"""
STEPWISE = "\t[0]: 'RG10' (10-bit Bayer RGRG/GBGB)\n\t\tSize: Stepwise 16x16 - 4096x3040 with step 16/16\n"


def test_formats_of_the_new_and_of_the_old_tool():
    first, second = parse_formats(NEW)
    assert first.sizes == ((1920, 1080, 30.0), (640, 480, 59.94))
    assert first.text == "MJPG 1920x1080 at 30/s, 640x480 at 59.94/s"
    assert second.text == "YUYV 1280x720 at 7.5/s"
    assert [each.text for each in parse_formats(OLD)] == ["YUYV 640x480 at 30/s"]
    assert [each.text for each in parse_formats(STEPWISE)] == ["RG10 4096x3040"]
    many = CameraFormat(pixels="NV12", sizes=tuple((columns, 10, 0.0) for columns in range(10, 16)))
    assert many.text == "NV12 15x10, 14x10, 13x10, 12x10, 2 smaller ones"
    assert parse_formats("ioctl: VIDIOC_ENUM_FMT\n\tType: Video Capture\n") == []


def camera(tmp_path, text, *, number=0, **options):
    write(tmp_path / f"dev/video{number}", "")
    write(tmp_path / f"sys/class/video4linux/video{number}/name", "Front Camera\n")
    options = {"allowed": lambda _: True, "has_tool": lambda: True} | options
    return examine_cameras(Platform.X86_CPU, tmp_path, answering(v4l2_ctl=text), **options)


def test_a_camera_that_works(tmp_path):
    found = camera(tmp_path, NEW)[0]
    assert found.state is State.GOOD
    assert found.text.startswith("Front Camera: MJPG 1920x1080")
    assert found.text.endswith("--source camera:0")


def test_a_camera_that_may_not_be_opened_hangs_gives_no_pictures_or_cannot_be_asked(tmp_path):
    denied = camera(tmp_path, NEW, allowed=lambda _: False)[0]
    assert denied.state is State.MISSING
    assert "usermod -aG video" in denied.hint
    assert camera(tmp_path, None)[0].state is State.CONFLICT
    assert "metadata" in camera(tmp_path, "")[0].text
    unknown = camera(tmp_path, None, has_tool=lambda: False)[0]
    assert "v4l-utils" in unknown.hint
    assert len(camera(tmp_path, NEW, number=10)) == 2
    assert [finding.name for finding in camera(tmp_path, NEW, number=2)] == ["Camera 0", "Camera 2", "Camera 10"]


def test_what_only_begins_like_a_camera_is_none_and_a_user_may_have_no_name(tmp_path, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 1000")

    for name in ("video1-left", "video2x", "videodev"):
        write(tmp_path / "dev" / name, "")
    monkeypatch.setattr("clst_runtime.doctor.cameras.getpass.getuser", nameless)
    (found,) = camera(tmp_path, NEW, allowed=lambda _: False)
    assert found.text == f"Front Camera: {os.getuid()} may not open /dev/video0"


def test_no_camera(tmp_path):
    assert examine_cameras(Platform.X86_CPU, tmp_path, answering())[0].state is State.MISSING


def test_a_look_that_fails_is_a_finding_and_no_traceback():
    def fall():
        raise RuntimeError("half\ninstalled")

    found = look("Thing", fall, needed=True)
    assert (found[0].state, found[0].needed) == (State.CONFLICT, True)
    assert "RuntimeError: half installed" in found[0].text


def test_python_and_disk():
    assert examine_python(Platform.OTHER, (3, 9, 1)).state is State.MISSING
    assert examine_python(Platform.OTHER, (3, 10, 0)).state is State.GOOD
    assert examine_disk(Platform.OTHER, 2**30).state is State.MISSING
    assert examine_disk(Platform.OTHER, 2 * 2**30).state is State.GOOD


def test_clocks_that_follow_the_load_come_with_their_cure(tmp_path):
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    found = examine_clocks(Platform.JETPACK_6, tmp_path, answering())
    assert found.state is State.NOTE
    assert "jetson_clocks" in found.hint


def finding(name, state=State.GOOD, *, needed=False):
    return Finding(name=name, state=state, text="", needed=needed)


def test_onnx_runtime_is_not_needed_where_tensorrt_works():
    without = [finding("OpenCV", needed=True), finding("ONNX Runtime", State.MISSING, needed=True)]
    assert lacking(without) == ["ONNX Runtime"]
    assert lacking([*without, finding("TensorRT"), finding("CUDA in Python", State.MISSING)]) == ["ONNX Runtime"]
    assert lacking([*without, finding("TensorRT"), finding("CUDA in Python")]) == []
    assert lacking([*without, finding("TensorRT for RTX"), finding("CUDA in Python")]) == []
    other_gpu = finding("TensorRT for RTX", State.NOTE)
    assert lacking([*without, other_gpu, finding("CUDA in Python")]) == ["ONNX Runtime"]
    assert lacking([finding("OpenCV", State.CONFLICT, needed=True)]) == ["OpenCV"]


def test_two_wheels_of_one_module_are_a_conflict(monkeypatch):
    monkeypatch.setattr(looked, "rivals", list)
    found = looked.examine_onnxruntime(Platform.X86_CPU, answering())
    assert [each.state for each in found] == [State.CONFLICT]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in found[0].hint
    assert looked.examine_opencv(Platform.X86_CPU, answering())[0].state is State.CONFLICT


BUILD = """  Version control: 4.8.0
  GUI:                           GTK3
  Video I/O:
    FFMPEG:                      YES
    GStreamer:                   YES (1.20.3)
    v4l/v4l2:                    YES (linux/videodev2.h)
"""


def test_what_opencv_was_built_with():
    assert parse_build_information(BUILD) == {"windows": True, "gstreamer": True, "ffmpeg": True, "v4l2": True}
    none = "  GUI:                           NONE\n    GStreamer:                   NO\n"
    assert parse_build_information(none) == {"windows": False, "gstreamer": False, "ffmpeg": False, "v4l2": False}
    assert parse_build_information("") == {"windows": False, "gstreamer": False, "ffmpeg": False, "v4l2": False}


def test_opencv_without_gstreamer_works_and_says_what_it_cannot():
    facts = {"version": "4.8.0", "gstreamer": False, "v4l2": True, "ffmpeg": True, "windows": False}
    found = looked.examine_opencv(Platform.JETPACK_6, answers(opencv=facts))
    assert [each.state for each in found] == [State.GOOD, State.NOTE]
    assert "GStreamer no, V4L2 yes" in found[0].text
    assert "system-site-packages" in found[1].hint
    assert len(looked.examine_opencv(Platform.JETPACK_6, answers(opencv=facts | {"gstreamer": True}))) == 1


def answers(**found):
    """A runner that answers for the probes, by the words that they are asked with."""

    def run(arguments, **_):
        values = found.get("_".join(arguments[3:]).lower().removesuffix("executionprovider"))
        return None if values is None else json.dumps(values)

    return run


def test_a_provider_that_does_not_start_is_told_with_its_cure():
    run = answers(
        onnxruntime={"version": "1.2", "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]},
        provider_cuda={"error": "libcudnn.so.9 is missing"},
        provider_cpu={"started": True},
    )
    found = {each.name.strip(): each for each in looked.examine_onnxruntime(Platform.X86_CUDA, run)}
    assert found["on CUDA"].state is State.MISSING
    assert "libcudnn" in found["on CUDA"].text
    assert found["on CPU"].state is State.GOOD
    alone = answers(
        onnxruntime={"version": "1.2", "providers": ["CPUExecutionProvider"]}, provider_cpu={"started": True}
    )
    found = {each.name.strip(): each for each in looked.examine_onnxruntime(Platform.JETPACK_6, alone)}
    assert "JetPack 6" in found["on CUDA"].hint


def test_a_provider_without_its_libraries_gets_those_and_no_driver():
    lacks = {"error": "libcublasLt.so.13: cannot open; it is built for CUDA 13.0", "lacks_libraries": True}
    run = answers(onnxruntime={"version": "1.2", "providers": ["CUDAExecutionProvider"]}, provider_cuda=lacks)
    found = looked.examine_onnxruntime(Platform.X86_CUDA, run)[1]
    assert "libcublasLt.so.13" in found.text
    assert "'onnxruntime-gpu[cuda,cudnn]'" in found.hint
    assert "no NVIDIA GPU" in looked.examine_onnxruntime(Platform.X86_CPU, run)[1].hint
    assert "nvidia-jetpack" in looked.examine_onnxruntime(Platform.JETPACK_6, run)[1].hint


def test_what_is_broken_is_told_as_it_lies_there(monkeypatch):
    monkeypatch.setattr(looked, "fault_of", lambda module: (f"{module} is of Python 3.9", "install it for this one"))
    run = answers(onnxruntime={"error": "No module named 'onnxruntime.capi'"})
    (found,) = looked.examine_onnxruntime(Platform.X86_CPU, run)
    assert (found.state, found.text) == (State.CONFLICT, "onnxruntime is of Python 3.9")
    assert {each.state for each in looked.examine_optional(Platform.X86_CPU)} == {State.CONFLICT}
    assert (looked.examine_numpy().state, looked.examine_numpy().text) == (State.CONFLICT, "numpy is of Python 3.9")


def test_a_tensorrt_of_a_newer_cuda_than_the_driver_s_and_one_that_hides_jetpack_s(monkeypatch):
    monkeypatch.setattr(looked, "package_version", lambda name: "11.4" if "cu13" in name else None)

    def run(arguments, **named):
        if arguments[0] == "nvidia-smi":
            return "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |\n"
        return answers(tensorrt={"version": "11.4.0", "starts": False, "why": "error 35"}, cuda={"error": "no"})(
            arguments, **named
        )

    found = looked.examine_tensorrt(Platform.X86_CUDA, run)[0]
    assert found.text == (
        "11.4.0, but it does not start: tensorrt-cu13-libs is of CUDA 13, the driver takes CUDA 12 at most"
    )
    assert "pip install 'tensorrt-cu12>=10.3,<12'" in found.hint
    found = looked.examine_tensorrt(Platform.JETPACK_6, run)[0]
    assert "hides JetPack's" in found.text
    assert found.hint.startswith("pip uninstall tensorrt tensorrt-cu13 tensorrt-cu13-bindings tensorrt-cu13-libs; sudo")


def test_a_package_whose_import_crashes_is_a_conflict():
    found = looked.examine_opencv(Platform.X86_CPU, answering())[0]
    assert found.state is State.CONFLICT
    assert "crashed" in found.text


@pytest.mark.parametrize("library", ["PyCUDA", "cuda-python"])
def test_tensorrt_that_does_not_start_and_a_gpu_that_opens(library):
    run = answers(
        tensorrt={"version": "10.3.0", "starts": False, "why": "no GPU"},
        cuda={"library": library, "gpu": "Orin", "compute_capability": "8.7"},
    )
    found = looked.examine_tensorrt(Platform.JETPACK_6, run)
    assert [each.state for each in found] == [State.CONFLICT, State.GOOD]
    assert found[1].text == f"{library} opens Orin (8.7)"


@pytest.mark.parametrize(
    ("facts", "gpu", "state", "told"),
    [
        ({"version": "1.7.1.116", "starts": True}, "8.9", State.GOOD, "1.7.1.116, its builder starts; engines for"),
        ({"version": "1.7.1.116", "starts": True}, None, State.GOOD, "compute capability 8.6, 8.9, 12.0"),
        ({"version": "1.7.1.116", "starts": True}, "9.0", State.NOTE, "8.6, 8.9, 12.0, not for this GPU (9.0)"),
        ({"version": "1.7.1.116", "starts": False, "why": "error 2"}, "8.9", State.CONFLICT, "start: error 2"),
        ({"error": "TensorRT for RTX is not installed"}, "8.9", State.MISSING, "not installed"),
    ],
)
def test_tensorrt_for_rtx_and_whether_its_engines_are_for_this_gpu(facts, gpu, state, told):
    cuda = {"error": "no"} if gpu is None else {"library": "PyCUDA", "gpu": "X", "compute_capability": gpu}
    run = answers(tensorrt={"error": "no"}, rtx=facts, cuda=cuda)
    found = looked.examine_tensorrt(Platform.X86_CUDA, run)[1]
    assert (found.name, found.state) == ("TensorRT for RTX", state)
    assert told in found.text
    assert bool(found.hint) == (state is not State.GOOD)
    names = [each.name for each in looked.examine_tensorrt(Platform.JETPACK_7, run)]
    assert names == ["TensorRT", "CUDA in Python"], "there is none for a Jetson"


def test_gpu_driver_and_toolkit():
    table = "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |\n"
    run = answering(nvidia_smi__query=SMI, nvidia_smi=table)
    assert "RTX 4090, driver 550.54.15, up to CUDA 12.4" in looked.examine_gpu(Platform.X86_CUDA, run)[0].text
    assert looked.examine_gpu(Platform.X86_CUDA, answering())[0].state is State.MISSING
    assert looked.examine_gpu(Platform.JETPACK_6, answering())[0].state is State.GOOD
    nvcc = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.6, V12.6.68\n"
    run = answering(nvcc=nvcc, ldconfig="\tlibcudart.so.12 (libc6,AArch64) => /usr/local/cuda/lib64/libcudart.so.12\n")
    assert looked.examine_cuda(Platform.JETPACK_6, run)[0].text == "toolkit 12.6; libraries libcudart"
    assert looked.examine_cuda(Platform.JETPACK_6, answering())[0].state is State.MISSING


def test_the_probe_starts_a_session_and_tells_a_provider_that_is_not_there():
    assert probe_provider("CPUExecutionProvider") == {"started": True}
    assert "error" in ask("provider", "CUDAExecutionProvider")
    assert "KeyError" in json.dumps(ask("nonsense")) or "nonsense" in json.dumps(ask("nonsense"))


def test_a_probe_that_dies_is_told(tmp_path):
    (tmp_path / "cv2.py").write_text("import os\nos.abort()\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from clst_runtime.doctor.probe import ask\nprint(ask('opencv')['error'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "crashed" in done.stdout


def test_everything_is_examined_even_where_every_program_raises(tmp_path):
    def run(*_, **__):
        raise RuntimeError("broken")

    findings = examine(tmp_path, run)
    assert all(each.text for each in findings)
    assert "broken" in next(each for each in findings if each.name == "OpenCV").text
    assert {"OpenCV", "ONNX Runtime"} <= set(lacking(findings))


def test_the_doctor_works_with_click_and_numpy_alone(tmp_path):
    """No other package can be found: Python's site folder is off, and one folder holds links to the two."""
    import click
    import numpy

    for package in (click, numpy):
        folder = Path(package.__file__).parent
        (tmp_path / folder.name).symlink_to(folder)
        libraries = folder.with_name(f"{folder.name}.libs")
        if libraries.is_dir():
            (tmp_path / libraries.name).symlink_to(libraries)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'runtime'}", "PATH": os.environ["PATH"]}
    code = "from clst_runtime.cli.doctor import main; main()"
    call = [sys.executable, "-S", "-c", code]
    done = subprocess.run([*call, "--json"], capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert "Traceback" not in done.stderr
    assert done.returncode == 5, done.stderr
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert found["OpenCV"]["state"] == found["ONNX Runtime"]["state"] == "missing"
    assert "pip install -e '.[" in found["OpenCV"]["cure"]
    assert "OpenCV, ONNX Runtime" in done.stderr


def test_options_of_the_acceptance_need_it():
    done = shell("clst-doctor", "--seconds", "3")
    assert done.returncode == 2
    assert "--seconds need --verify" in done.stderr


def test_programs_really_run_here():
    assert run_program([sys.executable, "--version"]).startswith("Python 3")
