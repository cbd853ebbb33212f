"""What `CudaPythonDevice` does by the real cuda-bindings on the stand-in driver; run in a process of its own.

    LD_LIBRARY_PATH=folder-of-libcuda python child.py [cuda_python.py scenario …]

prints one JSON object: scenario → what it found, or the traceback of its failure. Each one runs in a fork, because
errors of CUDA stay until the process ends. A file in place of our module is what a test planted a fault into.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import sys
import threading
import traceback

import numpy as np

from clst_runtime.backends.cuda import open as cuda_open
from clst_runtime.backends.cuda.device import GraphFailed
from clst_runtime.backends.cuda.open import open_cuda
from clst_runtime.errors import ClstError

LIB = ctypes.CDLL("libcuda.so.1")
LIB.stand_in_log.restype = ctypes.c_char_p
LIB.stand_in_kernel.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
ILLEGAL_ADDRESS, OUT_OF_MEMORY, NOT_SUPPORTED = 700, 2, 801


def fail(function, code, after=0):
    """Let a later call of a driver function fail."""
    LIB.stand_in_fail(function.encode(), code, after)


def log():
    """The driver functions called so far."""
    return LIB.stand_in_log().decode().split()


def told(call, *arguments):
    """Kind and message of what a call raises."""
    try:
        call(*arguments)
    except Exception as error:  # noqa: BLE001 the test looks at it
        return [type(error).__name__, getattr(error, "message", str(error))]
    return None


def state():
    return {
        "retained": LIB.stand_in_retained(),
        "depth": LIB.stand_in_depth(),
        "leaked": LIB.stand_in_leaked(),
        "hosts": LIB.stand_in_hosts(),
    }


def kernel(device, to, source, size):
    assert LIB.stand_in_kernel(to, source, size, device.stream_handle) == 0


def there_and_back():
    LIB.stand_in_devices(1, 1)
    found = {}
    with open_cuda("cuda-python") as device:
        found["facts"] = [
            device.library,
            device.name,
            device.compute_capability,
            device.integrated,
            device.multiprocessors,
            device.cuda_version,
        ]
        frame, result = device.pinned((2, 3)), device.pinned((2, 3))
        found["zeroed"] = [str(frame.dtype), frame.tolist()]
        there, answer = device.allocate(6), device.allocate(6)
        start, end = device.create_event(), device.create_event()
        frame[...] = 1
        device.record(start)
        device.copy_in(there, frame)
        kernel(device, answer, there, 6)
        device.copy_out(result, answer)
        device.record(end)
        found["before_waiting"] = result.tolist()
        frame[...] = 9  # the copy has not run yet: it is asynchronous
        device.synchronise()
        found["after_waiting"] = result.tolist()
        found["elapsed_ms"] = device.elapsed_ms(start, end)
        del frame, result
    found["log"] = log()
    return found


def mapped():
    with open_cuda("cuda-python") as device:
        frame, result = device.mapped((2, 3)), device.mapped((2, 3))
        differs = frame.address != frame.host.ctypes.data
        frame.host[...] = 5
        kernel(device, result.address, frame.address, 6)
        before = result.host.tolist()
        device.synchronise()
        after = result.host.tolist()
        del frame, result
    return {"differs": differs, "before": before, "after": after}


def closed_in_the_midst():
    """Closed while the stream still works: results that are held get their bytes before memory is freed."""
    found = {}
    device = open_cuda("cuda-python")
    frame, result, there = device.pinned((4,)), device.pinned((4,)), device.allocate(4)
    frame[...] = 7
    device.copy_in(there, frame)
    device.copy_out(result, there)
    LIB.stand_in_forget()
    device.close()
    found["result"] = result.tolist()
    found["log"] = log()
    with open_cuda("cuda-python") as second:
        result, there = second.pinned((4,)), second.allocate(4)
        recorded = second.record_graph(lambda into=result: second.copy_out(into, there))
        second.launch(recorded)
        LIB.stand_in_forget()
        second.release_graph(recorded)
        found["graph"] = log()
    return found


def allocate_elsewhere():
    """What a decoder in another thread may do at any time."""
    address = ctypes.c_uint64()
    LIB.cuCtxPushCurrent(ctypes.c_void_p(0xC0))
    LIB.cuMemAlloc(ctypes.byref(address), ctypes.c_size_t(16))
    LIB.cuMemFree(address)
    LIB.cuCtxPopCurrent(None)


def graph():
    with open_cuda("cuda-python") as device:
        return {"results": launched(device)}


def launched(device):
    """What a result's memory holds after each step."""
    frame, result = device.pinned((4,)), device.pinned((4,))
    there, answer = device.allocate(4), device.allocate(4)

    def queue():
        device.copy_in(there, frame)
        kernel(device, answer, there, 4)
        device.copy_out(result, answer)
        other = threading.Thread(target=allocate_elsewhere)
        other.start()
        other.join()

    made = device.record_graph(queue)
    device.synchronise()
    results = [result.tolist()]  # recorded and not run
    for value in (1, 2):
        frame[...] = value
        device.launch(made)
        results.append(result.tolist())
        device.synchronise()
        results.append(result.tolist())
    device.release_graph(made)
    device.release_graph(made)  # the second time does nothing
    device.synchronise()
    return results


def graphs_that_fail():
    found = {}
    with open_cuda("cuda-python") as device:
        frame, there = device.pinned((4,)), device.allocate(4)

        def copy():
            device.copy_in(there, frame)

        def refused():
            copy()
            raise ClstError("TensorRT could not queue the engine")

        def broken():
            raise KeyError("ours")

        found["waits"] = told(device.record_graph, device.synchronise)
        found["allocates"] = told(device.record_graph, lambda: device.allocate(4))
        found["refused"] = told(device.record_graph, refused)
        found["broken"] = told(device.record_graph, broken)
        for code in (NOT_SUPPORTED, OUT_OF_MEMORY):
            fail("cuGraphInstantiate", code)
            found[f"instantiate {code}"] = told(device.record_graph, copy)
        fail("cuStreamBeginCapture", NOT_SUPPORTED)
        found["begin"] = told(device.record_graph, copy)
        frame[...] = 3
        copy()
        device.copy_out(frame, there)
        device.synchronise()
        found["plain"] = frame.tolist()
        found["again"] = told(device.record_graph, copy)
        fail("cuMemcpyHtoDAsync", ILLEGAL_ADDRESS)
        found["sticky"] = told(device.record_graph, copy)
        found["after"] = told(device.record_graph, copy)
        assert issubclass(GraphFailed, ClstError)
    return found


def results_outlive_the_device():
    device = open_cuda("cuda-python")
    held, other = device.pinned((2, 3)), device.pinned((2, 3))
    held[...] = 7
    part = held[1:, ::2]
    del held
    device.close()
    found = {"closed": state(), "still": part.tolist()}
    del part
    gc.collect()
    found["one_left"] = state()
    boxes = [other]
    del other
    thread = threading.Thread(target=boxes.clear)  # another thread has no context of its own
    thread.start()
    thread.join()
    gc.collect()
    return found


def sticky():
    device = open_cuda("cuda-python")
    frame, there = device.pinned((4,)), device.allocate(4)
    device.copy_in(there, frame)
    fail("cuStreamSynchronize", ILLEGAL_ADDRESS)
    found = {"first": told(device.synchronise)}
    LIB.stand_in_forget()
    found["later"] = [told(call) for call in (device.synchronise, lambda: device.allocate(4), device.create_event)]
    found["called"] = log()
    found["closing"] = [told(device.close), told(device.close)]
    return found


def memory():
    with open_cuda("cuda-python") as device:
        fail("cuMemAlloc", OUT_OF_MEMORY)
        found = {"device": told(device.allocate, 64)}
        fail("cuMemHostAlloc", OUT_OF_MEMORY)
        found["host"] = told(device.pinned, (8, 8))
        fail("cuMemHostGetDevicePointer", OUT_OF_MEMORY)
        found["mapped"] = told(device.mapped, (8, 8))
        found["afterwards"] = device.allocate(64) > 0
        gc.collect()
    return found


def not_there():
    LIB.stand_in_devices(0, 0)
    found = {"none": told(open_cuda, "cuda-python")}
    fail("cuInit", 100)
    found["init"] = told(open_cuda, "cuda-python")
    LIB.stand_in_devices(1, 0)
    fail("cuDevicePrimaryCtxRetain", 999)
    found["retain"] = told(open_cuda, "cuda-python")
    fail("cuDevicePrimaryCtxRetain", OUT_OF_MEMORY)
    found["full"] = told(open_cuda, "cuda-python")
    return found


def half_open():
    found = {}
    for function in ("cuStreamCreate", "cuCtxPushCurrent"):
        fail(function, 1)
        found[function] = [*told(open_cuda, "cuda-python"), state()]
    return found


def older_driver():
    LIB.stand_in_driver(12060)  # JetPack 6
    return {"opened": told(there_and_back)}


def threads():
    device = open_cuda("cuda-python")
    found = []

    def use():
        found.append(told(device.synchronise))
        found.append(told(device.record_graph, lambda: None))
        device.close()  # must not pop a context of this thread
        found.append(LIB.stand_in_depth())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    return {"found": found, "own_depth": LIB.stand_in_depth()}


def misuse():
    device = open_cuda("cuda-python")
    frame, there = device.pinned((4, 4)), device.allocate(16)
    found = {"strided": told(device.copy_in, there, frame[:, ::2])}
    del frame
    gc.collect()
    device.close()
    device.close()
    found["closed"] = [told(device.synchronise), told(device.allocate, 4)]
    return found


def whole_backend():
    """TrtBackend on the fake TensorRT, whose engines here are the stand-in's kernel."""
    import tempfile
    from pathlib import Path

    from clst_runtime.backends.cuda.options import GpuOptions
    from clst_runtime.backends.tensorrt.runner import BuiltEngine, TrtBackend
    from clst_runtime.backends.tensorrt.sidecar import engine_manifest
    from tests.conftest import SIZE_HW, rgb_manifest, write_rgb_model
    from tests.fakes import tensorrt as fake

    sys.modules["tensorrt"] = fake
    pixels = SIZE_HW[0] * SIZE_HW[1]
    fake.IExecutionContext.execute_async_v3 = lambda self, stream: (
        LIB.stand_in_kernel(self._addresses["classes"], self._addresses["frame"], pixels, stream) == 0
    )
    with tempfile.TemporaryDirectory() as folder:
        model = write_rgb_model(Path(folder) / "m.onnx").read_bytes()
    header = json.dumps({"version": fake.__version__, "dla_core": -1}).encode()
    plan = fake._MAGIC + header + b"\n" + model
    facts = {"gpu": "Orin", "compute_capability": "8.7", "multiprocessors": 14, "tensorrt": fake.__version__}
    built = BuiltEngine(
        plan=plan, manifest=engine_manifest(rgb_manifest(), plan=plan, onnx_sha256="0" * 64, facts=facts)
    )
    generator, found = np.random.default_rng(0), {}
    frames = [generator.integers(0, 256, (*SIZE_HW, 3), np.uint8) for _ in range(9)]
    wanted = [(255 - frame.reshape(-1)[:pixels]).reshape(SIZE_HW) for frame in frames]
    for io in ("copy", "mapped"):
        for graph in (False, True):
            options = GpuOptions(io=io, graph=graph, cuda="cuda-python")
            with TrtBackend(Path("m.engine"), built=built, gpu=options) as backend:
                description, warnings = backend.description, backend.warnings
                LIB.stand_in_forget()
                held = [backend.predict(frame).classes for frame in frames]  # more than can be lent
                calls = log()
            right = [bool(np.array_equal(each, want)) for each, want in zip(held, wanted, strict=True)]
            del held
            gc.collect()
            found[f"{io} {graph}"] = {
                "right": right, "description": description, "warnings": warnings, "calls": calls[: len(calls) // 9],
            }  # fmt: skip
    return found


SCENARIOS = [there_and_back, closed_in_the_midst, mapped, graph, graphs_that_fail, results_outlive_the_device, sticky,
             memory, not_there, half_open, older_driver, threads, misuse, whole_backend]  # fmt: skip


def forked(scenario):
    """What a scenario finds, and the driver's state after it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = scenario()
            gc.collect()
            answer = {"found": found, "state": state()}
        except BaseException:  # noqa: BLE001 the test shows it
            answer = {"failure": traceback.format_exc()}
        with os.fdopen(writing, "w") as stream:
            json.dump(answer, stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    status = os.waitpid(child, 0)[1]
    return json.loads(text) if text else {"failure": f"the process ended with status {status}"}


def replace_module(path):
    """Take our module from another file, and let what has it already take it again."""
    name = "clst_runtime.backends.cuda.cuda_python"
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    cuda_open.CudaPythonDevice = sys.modules[name].CudaPythonDevice


def main():
    from cuda.bindings import __version__

    if sys.argv[1:]:
        replace_module(sys.argv[1])
    chosen = [each for each in SCENARIOS if not sys.argv[2:] or each.__name__ in sys.argv[2:]]
    answers = {scenario.__name__: forked(scenario) for scenario in chosen}
    print(json.dumps({"version": __version__, **answers}))


if __name__ == "__main__":
    main()
