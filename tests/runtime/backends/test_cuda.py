"""The GPU by PyCUDA: the order of calls, and what each of its errors becomes."""

import sys
import threading
import types

import numpy as np
import pytest
from tests.fakes import pycuda_driver

from clst_runtime.backends.cuda import open_cuda
from clst_runtime.errors import ClstError, MissingDependency


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
        host, address = device.pinned((2, 3)), device.allocate(6)
        assert host.dtype == np.uint8
        assert host.tolist() == [[0, 0, 0], [0, 0, 0]]
        start, end = device.create_mark(), device.create_mark()
        device.record(start)
        device.copy_in(address, host)
        device.copy_out(host, address)
        device.record(end)
        device.synchronise()
        assert device.elapsed_ms(start, end) == 1.5
    # The stream does not wait for the default one (flag 1); device memory is freed before the context is let go,
    # page-locked memory with its last array, so that a result that somebody still holds can be read.
    begin = ["init", "retain", "push", "stream 1", "pagelocked", "mem_alloc"]
    assert driver.calls == [*begin, "record", "htod", "dtoh", "record", "synchronize", "free", "pop"]


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
    with pytest.raises(MissingDependency, match=r"PyCUDA cannot be imported .*pip install 'clst\[trt\]'") as error:
        open_cuda()
    assert "\n" not in error.value.message


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
