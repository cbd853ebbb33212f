"""Our device by the real cuda-bindings 12.8, 12.9 and 13.4, on a driver that is a stand-in (`libcuda.c`).

The bindings import without a GPU and find the driver's functions by name, so what is tested is that our calls, their
arguments and their order are those of the real library, that nothing leaks, and that every error has its words. It is
no GPU: timing, coherence of mapped memory and what TensorRT allows inside a recording are not tested.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

HERE = Path(__file__).parent
OURS = ROOT / "runtime/clst_runtime/backends/cuda/cuda_python.py"
VERSIONS = ("12.8.0", "12.9.10", "13.4.4")
CLEAN = {"retained": 0, "depth": 0, "leaked": 0, "hosts": 0}


def lacking(reason):
    """Skip, but never where the tests decide: an unmade check must not look like a passed one."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A folder with the stand-in libcuda.so.1."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        lacking("no C compiler (gcc) for the stand-in driver")
    folder = tmp_path_factory.mktemp("driver")
    call = [compiler, "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([*call, str(HERE / "libcuda.c"), "-ldl"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def bindings(tmp_path_factory):
    """Version → folder with the unpacked bindings; the wheels are kept between runs."""
    default = Path.home() / ".cache" / "clst-tests"
    kept = Path(os.environ.get("CLST_TEST_CACHE", default)) / f"cuda-{sys.implementation.cache_tag}"

    def wheel(name, version):
        found = sorted(kept.glob(f"{name}-{version}-*.whl"))
        if not found:
            call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            call += ["--dest", str(kept), f"{name}=={version}"]
            done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)
            found = sorted(kept.glob(f"{name}-{version}-*.whl"))
            if done.returncode or not found:
                lacking(f"{name} {version} cannot be downloaded for this Python: {done.stderr.strip()[-200:]}")
        return found[0]

    def unpacked(version):
        folder = tmp_path_factory.mktemp(f"bindings-{version}")
        for path in (wheel("cuda_bindings", version), wheel("cuda_pathfinder", "1.9.1")):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        return folder

    return {version: unpacked(version) for version in VERSIONS}


def run_child(driver, folder, *arguments):
    """What `child.py` found."""
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(driver),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    call = [sys.executable, str(HERE / "child.py"), *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session", params=VERSIONS)
def answers(request, driver, bindings):
    """Everything by one version."""
    told = run_child(driver, bindings[request.param])
    assert told.pop("version") == request.param
    return told


def found(answers, scenario, state=CLEAN):
    """What a scenario found, after looking at what it left behind."""
    answer = answers[scenario]
    assert "failure" not in answer, answer["failure"]
    assert answer["state"] == state
    return answer["found"]


def test_a_frame_goes_there_and_back_only_after_waiting(answers):
    told = found(answers, "there_and_back")
    assert told["facts"] == ["cuda-python", "Orin", "8.7", True, 14, "13.0"]
    assert told["zeroed"] == ["uint8", [[0, 0, 0], [0, 0, 0]]]
    assert told["before_waiting"] == [[0, 0, 0], [0, 0, 0]]
    assert told["after_waiting"] == [[246, 246, 246], [246, 246, 246]]  # 255 - 9: what was there when the copy ran
    assert told["elapsed_ms"] == 6.0  # copy, kernel, copy and the second event, at 1.5 ms each


def test_calls_come_in_the_order_that_the_driver_wants(answers):
    calls = found(answers, "there_and_back")["log"]
    first = ["cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName"]
    assert calls[:5] == first
    assert calls[9:12] == ["cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuStreamCreate"]
    assert calls[-5:] == ["cuMemFree", "cuMemFree", "cuStreamDestroy", "cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"]
    frame = ["cuEventRecord", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuEventRecord", "cuStreamSynchronize"]
    assert calls[18:23] == frame


def test_a_gpu_that_still_works_is_waited_for_before_anything_is_freed(answers):
    told = found(answers, "closed_in_the_midst")
    assert told["result"] == [7, 7, 7, 7]
    assert told["log"] == ["cuStreamSynchronize", "cuMemFree", "cuStreamDestroy", "cuCtxPopCurrent"]
    assert told["graph"] == ["cuStreamSynchronize", "cuGraphExecDestroy"]


def test_mapped_memory_is_read_and_written_in_place_at_the_gpu_s_own_address(answers):
    told = found(answers, "mapped")
    assert told["differs"], "the stand-in must not let host addresses pass for the GPU's"
    assert (told["before"], told["after"]) == ([[0] * 3] * 2, [[250] * 3] * 2)


def test_a_graph_is_not_run_when_it_is_recorded_and_reads_its_memory_when_it_is_launched(answers):
    # Recorded; launched on 1, before and after waiting; launched on 2, before and after waiting.
    assert found(answers, "graph")["results"] == [[0] * 4, [0] * 4, [254] * 4, [254] * 4, [253] * 4]


def test_a_graph_that_fails_leaves_the_gpu_as_it_was(answers):
    # The last failure is a real one: nothing can be freed after it (memory, stream, one graph and page-locked memory).
    told = found(answers, "graphs_that_fail", CLEAN | {"leaked": 4, "hosts": 1})
    for name, words in {
        "waits": "cannot record a graph while waiting for the GPU",
        "allocates": "cannot record a graph while allocating 4 bytes",
        "refused": "TensorRT could not queue the engine",
        "instantiate 801": "CUDA_ERROR_NOT_SUPPORTED",
        "instantiate 2": "ran out of memory while recording a CUDA graph",
        "begin": "cuStreamBeginCapture failed",
    }.items():
        assert told[name][0] == "GraphFailed", name
        assert words in told[name][1]
        assert "\n" not in told[name][1]
    assert told["broken"] == ["KeyError", "'ours'"], "our own defects are not warnings"
    assert told["plain"] == [3, 3, 3, 3]
    assert told["again"] is None
    assert (told["sticky"][0], told["after"][0]) == ("CudaFailed", "CudaFailed")
    assert "restart it" in told["sticky"][1]


def test_results_outlive_the_device_and_keep_its_context(answers):
    told = found(answers, "results_outlive_the_device")
    assert told["closed"] == {"retained": 1, "depth": 0, "leaked": -1, "hosts": 2}
    assert told["still"] == [[7, 7]]
    assert told["one_left"] == {"retained": 1, "depth": 0, "leaked": -1, "hosts": 1}


def test_an_error_is_sticky_and_the_driver_is_not_called_after_it(answers):
    told = found(answers, "sticky", CLEAN | {"leaked": 3, "hosts": 1})  # frame, memory and stream cannot be freed
    assert told["first"][1] == (
        "CUDA failed while waiting for the GPU (cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS: words of the "
        "driver); such an error stays until the process ends: restart it"
    )
    assert all("ILLEGAL_ADDRESS" in each[1] for each in told["later"])
    assert len(told["later"]) == 3
    assert told["called"] == []
    assert told["closing"] == [None, None]


def test_too_little_memory_is_not_sticky(answers):
    told = found(answers, "memory")
    assert "ran out of memory while allocating 64 bytes on the GPU" in told["device"][1]
    assert "64 bytes of page-locked memory" in told["host"][1]
    assert "mapping 64 bytes" in told["mapped"][1]
    assert told["afterwards"]


def test_no_gpu_says_what_is_needed_in_one_line(answers):
    told = found(answers, "not_there", CLEAN | {"leaked": -1})
    assert [kind for kind, _ in told.values()] == ["MissingDependency"] * 3 + ["GpuOutOfMemory"]
    assert "the GPU ran out of memory while opening it" in told["full"][1]
    assert "no CUDA device is visible" in told["none"][1]
    assert "cuInit failed: CUDA_ERROR_NO_DEVICE" in told["init"][1]
    assert "CUDA_ERROR_UNKNOWN" in told["retain"][1]
    assert not any("\n" in message for _, message in told.values())


def test_a_device_that_opens_halfway_lets_the_context_go(answers):
    told = found(answers, "half_open")
    assert told["cuStreamCreate"][2] == CLEAN
    assert told["cuCtxPushCurrent"][2] == CLEAN
    assert "making a stream" in told["cuStreamCreate"][1]


def test_the_driver_of_jetpack_6_runs_cuda_12_and_refuses_cuda_13_with_the_cure(answers, request):
    version = request.node.callspec.params["answers"]
    if version.startswith("12."):
        assert found(answers, "older_driver")["opened"] is None  # events' times too, which CUDA 12.8 has twice
        return
    kind, words = found(answers, "older_driver", CLEAN | {"leaked": -1})["opened"]
    assert kind == "MissingDependency"
    assert words == "cuda-python is made for CUDA 13.4, this driver for CUDA 12.6; pip install 'cuda-bindings<13'"


def test_another_thread_is_refused_but_may_close(answers):
    # The opening thread's own stack of contexts is its own: what lies on it cannot be taken off from elsewhere.
    told = found(answers, "threads", CLEAN | {"depth": 1})
    assert [each[0] for each in told["found"][:2]] == ["ClstError", "ClstError"]
    assert all("another thread" in each[1] for each in told["found"][:2])
    assert told["found"][2] == 0


def test_misuse_is_refused(answers):
    told = found(answers, "misuse")
    assert told["strided"][0] == "ValueError"
    assert all("after it was closed" in each[1] for each in told["closed"])


@pytest.mark.parametrize(
    ("way", "words", "calls"),
    [
        ("copy False", "copy I/O by cuda-python", ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize"]),
        ("copy True", "CUDA graph", ["cuGraphLaunch", "cuMemcpyDtoHAsync", "cuStreamSynchronize"]),
        ("mapped False", "mapped I/O by cuda-python", ["cuStreamSynchronize"]),
        ("mapped True", "CUDA graph", ["cuGraphLaunch", "cuStreamSynchronize"]),
    ],
)
def test_the_whole_backend_gives_the_same_results_each_way_and_holds_them(answers, way, words, calls):
    told = found(answers, "whole_backend")[way]
    assert told["right"] == [True] * 9
    assert told["description"].endswith(words)
    assert told["warnings"] == []
    assert told["calls"] == calls


PLANTS = [
    ("CU_STREAM_CAPTURE_MODE_THREAD_LOCAL", "CU_STREAM_CAPTURE_MODE_GLOBAL", "graph", "graph"),
    ("weakref.finalize(store, self._free, pointer).atexit = False", "pass", "there_and_back", "there_and_back"),
    (
        "            self._users += 1\n",
        "            pass\n",
        "results_outlive_the_device",
        "results_outlive_the_device",
    ),
    ('self._driver.call("cuStreamSynchronize", self._stream)', "pass", "there_and_back", "there_and_back"),
    ("_DEVICE_MAP if mapped else 0", "0", "mapped", "mapped"),
    ('self._driver.call("cuMemHostGetDevicePointer", host.ctypes.data, 0)', "host.ctypes.data", "mapped", "mapped"),
    ('("cuEventDestroy", self._events), ', "", "there_and_back", "there_and_back"),
    ('            self._driver.call("cuGraphDestroy", recorded)\n', "            pass\n", "graph", "graph"),
    ('self._driver.call("cuStreamCreate", NON_BLOCKING)', 'self._driver.call("cuStreamCreate", 0)', "misuse", "misuse"),
    ("host.nbytes, self._stream)", "host.nbytes, 0)", "there_and_back", "there_and_back"),
]


@pytest.mark.parametrize(("old", "new", "scenarios", "wrong"), PLANTS)
def test_a_planted_fault_is_found(driver, bindings, tmp_path, old, new, scenarios, wrong):
    text = OURS.read_text()
    assert old in text, f"{OURS.name} no longer has {old!r}"
    (tmp_path / "cuda_python.py").write_text(text.replace(old, new))
    told = run_child(driver, bindings["12.9.10"], tmp_path / "cuda_python.py", *scenarios.split())[wrong]
    wanted = {"there_and_back": [[246] * 3] * 2, "mapped": [[250] * 3] * 2}
    seen = told.get("found", {}).get("after_waiting") or told.get("found", {}).get("after")
    assert "failure" in told or told["state"] != CLEAN or seen != wanted.get(wrong), told
