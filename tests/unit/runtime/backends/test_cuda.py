"""The GPU by PyCUDA: the order of calls, what each of its errors becomes; and which library is taken.

cuda-python itself is tested in tests/vendor/cuda_api.
"""

import sys
import threading
import types

import numpy as np
import pytest

from clst_runtime.backends.cuda.device import GpuOutOfMemory
from clst_runtime.backends.cuda.open import open_cuda
from clst_runtime.errors import ClstError, ConfigError, MissingDependency
from tests.fakes import pycuda_driver


@pytest.fixture
def driver(monkeypatch):
    package = types.ModuleType("pycuda")
    package.driver = pycuda_driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda_driver)
    monkeypatch.setattr(pycuda_driver, "devices", 1)
    pycuda_driver.calls.clear()
    pycuda_driver.raises.clear()
    pycuda_driver.Context.depth = 0
    yield pycuda_driver
    pycuda_driver.raises.clear()
    assert pycuda_driver.Context.depth == 0, "the context was left current"


def test_the_primary_context_is_retained_and_everything_runs_on_one_own_stream(driver):
    with open_cuda() as device:
        assert (device.name, device.compute_capability, device.stream_handle) == ("Orin", "8.7", 4242)
        assert device.multiprocessors == 8
        assert device.cuda_version == "12.6"
        host, address = device.pinned((2, 3)), device.allocate(6)
        assert host.dtype == np.uint8
        assert host.tolist() == [[0, 0, 0], [0, 0, 0]]
        start, end = device.create_event(), device.create_event()
        device.record(start)
        device.copy_in(address, host)
        device.copy_out(host, address)
        device.record(end)
        device.synchronise()
        assert device.elapsed_ms(start, end) == 1.5
    # The stream does not wait for the default one (flag 1); device memory is freed before the context is let go,
    # page-locked memory with its last array, so that a result that somebody still holds can be read.
    begin = ["init", "get_driver_version", "retain", "push", "stream 1", "pagelocked", "mem_alloc"]
    assert driver.calls == [*begin, "record", "htod", "dtoh", "record", "synchronize", "synchronize", "free", "pop"]


def test_a_gpu_waits_for_its_stream_before_it_frees_memory_also_where_the_wait_fails(driver):
    for failure in (None, driver.LaunchError("an illegal memory access")):
        device = open_cuda()
        device.copy_in(device.allocate(6), device.pinned((2, 3)))
        if failure is not None:
            driver.raises["synchronize"] = failure
        device.close()
        assert driver.calls[-4:] == ["htod", "synchronize", "free", "pop"]


def test_closing_twice_is_well_and_a_closed_gpu_says_so(driver):
    device = open_cuda()
    device.close()
    device.close()
    assert driver.calls.count("pop") == 1
    with pytest.raises(ClstError, match="after it was closed"):
        device.synchronise()


def test_no_pycuda_no_driver_and_no_gpu_say_what_is_needed(driver, monkeypatch):
    monkeypatch.setattr(driver, "devices", 0)
    with pytest.raises(MissingDependency, match="no CUDA device is visible; .*ONNX file runs without"):
        open_cuda()
    driver.raises["init"] = driver.LogicError("cuInit failed: no CUDA-capable device is detected")
    with pytest.raises(MissingDependency, match="no CUDA-capable device is detected"):
        open_cuda()
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingDependency, match=r"PyCUDA cannot be imported .*pip install pycuda") as error:
        open_cuda()
    assert "\n" not in error.value.message


@pytest.mark.parametrize("library", ["auto", "pycuda", "cuda-python"])
def test_without_a_driver_no_package_is_missed(monkeypatch, library):
    for module in ("pycuda.driver", "cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("clst_runtime.backends.cuda.device.has_driver", lambda: False)
    with pytest.raises(MissingDependency) as error:
        open_cuda(library)
    assert error.value.message == (
        "this machine has no NVIDIA driver: libcuda.so.1 does not load; engines run on NVIDIA GPUs alone; "
        "the ONNX file runs without them"
    )


def test_a_driver_that_does_not_tell_its_cuda_is_opened_all_the_same(driver):
    driver.raises["get_driver_version"] = driver.LogicError("cuDriverGetVersion failed: invalid argument")
    with open_cuda() as device:
        assert device.cuda_version == "unknown"


def test_an_error_is_sticky_and_nothing_is_called_after_it(driver):
    with open_cuda() as device:
        driver.raises["synchronize"] = driver.LaunchError("cuStreamSynchronize failed: an illegal\nmemory access")
        with pytest.raises(ClstError, match="failed while waiting for the GPU .*illegal memory access.*restart it"):
            device.synchronise()
        before = list(driver.calls)
        driver.raises.clear()
        with pytest.raises(ClstError, match="restart it"):
            device.allocate(4)
        assert driver.calls == before


def test_too_little_memory_is_not_sticky_and_has_another_cure(driver):
    with open_cuda() as device:
        driver.raises["mem_alloc"] = driver.MemoryError("cuMemAlloc failed: out of memory")
        with pytest.raises(ClstError, match="ran out of memory while allocating 64 bytes on the GPU .*smaller input"):
            device.allocate(64)
        driver.raises.clear()
        assert device.allocate(64) == 1 << 20


def test_a_gpu_without_memory_for_a_context_is_full_and_not_missing(driver):
    driver.raises["retain"] = driver.MemoryError("cuDevicePrimaryCtxRetain failed: out of memory")
    with pytest.raises(GpuOutOfMemory, match="ran out of memory while opening it .*end other programs") as error:
        open_cuda()
    assert error.value.exit_code == 1


def test_a_stream_that_cannot_be_made_lets_the_context_go(driver):
    driver.raises["stream 1"] = driver.LogicError("cuStreamCreate failed")
    with pytest.raises(ClstError, match="making a stream"):
        open_cuda()
    assert driver.calls[-1] == "pop"


def test_closing_after_a_sticky_error_does_not_raise(driver):
    device = open_cuda()
    device.allocate(4)
    driver.raises["free"] = driver.LogicError("cuMemFree failed: illegal address")
    device.close()
    assert driver.calls[-2:] == ["free", "pop"]


def test_another_thread_is_refused(driver):
    told = []

    def use(device):
        try:
            device.synchronise()
        except ClstError as error:
            told.append(error.message)

    with open_cuda() as device:
        thread = threading.Thread(target=use, args=(device,))
        thread.start()
        thread.join()
        assert "synchronize" not in driver.calls
    assert len(told) == 1
    assert "another thread" in told[0]


def test_mapped_memory_is_asked_for_as_such_and_has_the_gpu_s_address(driver, monkeypatch):
    monkeypatch.setattr(pycuda_driver, "integrated", 1)
    with open_cuda() as device:
        assert (device.integrated, device.library) == (True, "pycuda")
        mapped = device.mapped((2, 3))
        assert mapped.host.tolist() == [[0, 0, 0], [0, 0, 0]]
        assert mapped.address == 2 << 20
        assert driver.calls[-2:] == ["pagelocked 2", "device pointer"]  # CU_MEMHOSTALLOC_DEVICEMAP
        with pytest.raises(ClstError, match="mapping 1 bytes .*invalid argument"):
            driver.raises["device pointer"] = driver.LogicError("cuMemHostGetDevicePointer failed: invalid argument")
            device.mapped((1,))


def test_pycuda_has_no_graphs_and_says_what_has(driver):
    with open_cuda("pycuda") as device:
        with pytest.raises(MissingDependency, match=r"no CUDA graphs; pip install -e '\.\[trt-cuda-python\]'"):
            device.record_graph(lambda: None)
        device.synchronise()  # not sticky
    with pytest.raises(ConfigError, match="PyCUDA has no CUDA graphs"):
        open_cuda("pycuda", graphs=True)


@pytest.fixture
def cuda_python(monkeypatch):
    """cuda-python as far as opening goes: it says that there is no device."""
    bindings = types.ModuleType("cuda.bindings.driver")
    bindings.CUDA_VERSION = 12090
    answers = {"cuInit": (0,), "cuDriverGetVersion": (0, 12060), "cuDeviceGetCount": (0, 0)}
    for name, answer in answers.items():
        setattr(bindings, name, lambda *_, answer=answer: answer)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", bindings)
    return bindings


def opened(*arguments, **named):
    """Which library was taken: PyCUDA's fake opens, cuda-python's fake says that there is no device."""
    try:
        with open_cuda(*arguments, **named) as device:
            return device.library
    except MissingDependency as error:
        return "cuda-python" if "no CUDA device is visible" in error.message else error.message


def test_pycuda_is_taken_if_it_is_there_else_cuda_python_unless_one_is_named(driver, cuda_python, monkeypatch):
    assert opened() == "pycuda"
    assert opened("cuda-python") == "cuda-python"
    assert opened(graphs=True) == "cuda-python", "only cuda-python has graphs"
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert opened() == "cuda-python"
    with pytest.raises(MissingDependency, match="PyCUDA cannot be imported"):
        open_cuda("pycuda")


def test_what_is_named_is_never_replaced(driver, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(MissingDependency, match="cuda-python cannot be imported"):
        open_cuda("cuda-python")
    with pytest.raises(MissingDependency, match="CUDA graphs need cuda-python, PyCUDA has none: .*pip install"):
        open_cuda(graphs=True)
    with pytest.raises(ConfigError, match="'cuda_python' is not known; did you mean 'cuda-python'"):
        open_cuda("cuda_python")
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingDependency, match="PyCUDA cannot be imported .* and cuda-python cannot be") as error:
        open_cuda()
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("bindings", "driver_version", "fits"), [(12090, 12060, True), (12090, 13020, True), (13050, 12090, False)]
)
def test_cuda_python_of_a_newer_major_version_than_the_driver_is_refused(cuda_python, bindings, driver_version, fits):
    cuda_python.CUDA_VERSION = bindings
    cuda_python.cuDriverGetVersion = lambda: (0, driver_version)
    words = "no CUDA device is visible" if fits else "made for CUDA 13.5, this driver for CUDA 12.9; .*bindings<13'"
    with pytest.raises(MissingDependency, match=words):
        open_cuda("cuda-python")


def test_no_driver_library_and_an_unknown_error_code_are_told_in_one_line(cuda_python):
    def absent(*_):
        raise RuntimeError("libcuda.so.1\nnot found")

    def unknown(*_):
        raise ValueError("4711 is not a valid CUresult")

    for function, words in ((absent, "libcuda.so.1 not found"), (unknown, "4711")):
        cuda_python.cuInit = function
        with pytest.raises(MissingDependency, match=f"no CUDA device can be opened .*{words}") as error:
            open_cuda("cuda-python")
        assert "\n" not in error.value.message
