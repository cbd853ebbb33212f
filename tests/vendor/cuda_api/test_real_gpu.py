"""Our device by the real PyCUDA and cuda-bindings on a real GPU (marker gpu); no engine is recorded here."""

import threading

import numpy as np
import pytest

from clst_runtime.backends.cuda.device import CUDA_PYTHON, LIBRARIES, PYCUDA, GraphFailed
from clst_runtime.backends.cuda.open import open_cuda
from clst_runtime.errors import ClstError, MissingDependency

pytestmark = pytest.mark.gpu


def opened(library):
    try:
        return open_cuda(library)
    except MissingDependency as error:
        pytest.skip(error.message.partition("; ")[0])


@pytest.fixture(params=LIBRARIES)
def device(request):
    with opened(request.param) as one:
        yield one


@pytest.fixture
def recorder():
    with opened(CUDA_PYTHON) as one:
        yield one


def test_the_gpu_says_what_it_is(device):
    assert device.name
    assert float(device.compute_capability) >= 5.0
    assert isinstance(device.integrated, bool)
    assert device.multiprocessors >= 1
    assert float(device.cuda_version) >= 12.0
    assert device.stream_handle != 0


def test_bytes_go_there_and_back_in_order_and_take_time(device):
    frame, result = device.pinned((720, 1280, 3)), device.pinned((720, 1280, 3))
    frame[...] = np.random.default_rng(0).integers(0, 256, frame.shape, np.uint8)
    there = device.allocate(frame.size)
    start, end = device.create_event(), device.create_event()
    device.record(start)
    device.copy_in(there, frame)
    device.copy_out(result, there)
    device.record(end)
    device.synchronise()
    assert np.array_equal(result, frame)
    assert 0.0 < device.elapsed_ms(start, end) < 1000.0


def test_mapped_memory_is_one_memory_for_both(device):
    box, result = device.mapped((4, 6)), device.pinned((4, 6))
    box.host[...] = 7
    device.copy_out(result, box.address)  # the GPU reads at its own address what the host wrote
    device.synchronise()
    assert (result == 7).all()
    result[...] = 9
    device.copy_in(box.address, result)
    device.synchronise()
    assert (box.host == 9).all()


def test_a_graph_repeats_with_new_bytes_and_another_thread_may_allocate_meanwhile(recorder):
    frame, result, there = recorder.pinned((64,)), recorder.pinned((64,)), recorder.allocate(64)
    other = recorder.pinned((8,))

    def queue():
        recorder.copy_in(there, frame)
        recorder.copy_out(result, there)
        thread = threading.Thread(target=lambda: other.copy())
        thread.start()
        thread.join()

    graph = recorder.record_graph(queue)
    recorder.synchronise()
    assert (result == 0).all()  # recorded and not run
    for value in (1, 2):
        frame[...] = value
        recorder.launch(graph)
        recorder.synchronise()
        assert (result == value).all()
    recorder.release_graph(graph)


def test_what_cannot_be_recorded_leaves_the_gpu_as_it_was(recorder):
    frame, result, there = recorder.pinned((64,)), recorder.pinned((64,)), recorder.allocate(64)
    with pytest.raises(GraphFailed):
        recorder.record_graph(recorder.synchronise)
    frame[...] = 3
    recorder.copy_in(there, frame)
    recorder.copy_out(result, there)
    recorder.synchronise()
    assert (result == 3).all()


def test_pycuda_says_that_it_has_no_graphs():
    with opened(PYCUDA) as one, pytest.raises(MissingDependency, match="cuda-python"):
        one.record_graph(lambda: None)


def test_results_outlive_the_device(device):
    held = device.pinned((2, 3))
    held[...] = 7
    device.close()
    assert held.tolist() == [[7] * 3] * 2


def test_more_than_the_gpu_has_is_refused_in_words(device):
    with pytest.raises(ClstError, match="memory"):
        device.allocate(1 << 50)
