"""Running an engine, on the fake TensorRT and the fake GPU: results, refusals before anything is loaded, failures."""

import dataclasses
import json
import threading
import zipfile

import numpy as np
import pytest

from clst_runtime.artifact.manifest import METADATA_KEY, Manifest
from clst_runtime.backends import open_model
from clst_runtime.backends.cuda.buffers import RESULTS_BORROWED
from clst_runtime.backends.cuda.graphs import drawn_frames
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.backends.tensorrt.build.engine import build_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.runner import BuiltEngine, TrtBackend
from clst_runtime.backends.tensorrt.sidecar import engine_manifest, sidecar_path, write_engine
from clst_runtime.errors import ClstError, ConfigError, DataError, MissingDependency, ModelFileError
from clst_runtime.live.pipeline import run_pipeline
from clst_runtime.live.sinks.base import Sink
from tests.conftest import RGB_CLASSES, SIZE_HW, rgb_manifest, write_rgb_model
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes.cuda import FakeCuda
from tests.fakes.live import FakeSource


@pytest.fixture
def engine(machine, rgb_model, tmp_path, frames):
    """A built engine; what the build did is forgotten."""
    path = tmp_path / "rgb.engine"
    build_engine(rgb_model, path, options=BuildOptions(), frames=frames)
    machine.does.calls.clear()
    machine.does.host_code_allowed.clear()
    FakeCuda.opened.clear()
    return path


def red():
    frame = np.zeros((*SIZE_HW, 3), np.uint8)
    frame[..., 0] = 200
    return frame


def test_a_red_frame_is_red_and_every_frame_is_as_onnx_runtime_says(engine, rgb_model, frames):
    with open_model(engine) as backend, OrtBackend(rgb_model) as reference:
        assert isinstance(backend, TrtBackend)
        assert backend.manifest.classes == RGB_CLASSES
        told = "TensorRT 10.3.0 on Orin (compute capability 8.7), fp32, copy I/O by cuda-python"
        assert backend.description == told
        assert np.unique(backend.predict(red()).classes).tolist() == [0]
        for frame in frames:
            assert np.array_equal(backend.predict(frame).classes, reference.predict(frame).classes)
        assert backend.predict(frames[0]).confidence is None


def test_a_model_that_sees_bgr_is_not_mistaken_for_one_that_sees_rgb(machine, tmp_path, frames):
    swapped = write_rgb_model(tmp_path / "bgr.onnx", swapped=True)
    build_engine(swapped, tmp_path / "bgr.engine", options=BuildOptions(), frames=frames)
    with open_model(tmp_path / "bgr.engine") as backend:
        assert np.unique(backend.predict(red()).classes).tolist() == [2]


def test_a_frame_whose_memory_is_not_in_a_row_is_taken(engine):
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, ::2, 1] = 9  # every second column green
    with open_model(engine) as backend:
        assert np.unique(backend.predict(wide[:, ::2]).classes).tolist() == [1]


def another(engine, told):
    hint = f"prove it again: clst-export build {engine} --frames IMAGES"
    return f"{engine} was proved by another CUDA or driver ({told}); {hint}"


@pytest.mark.parametrize(
    ("driver", "cuda", "told"),
    [
        ("Jetson Linux 36.4.4", "12.6", "driver Jetson Linux 36.4.3 → Jetson Linux 36.4.4"),
        ("unknown", "13.0", "CUDA 12.6 → 13.0, driver Jetson Linux 36.4.3 → unknown"),
    ],
)
def test_an_engine_runs_by_another_driver_than_it_was_proved_with_and_that_is_said(engine, machine, driver, cuda, told):
    with open_model(engine) as backend:
        assert backend.warnings == []
    machine.has_driver(driver)
    machine.does.cuda = cuda
    with open_model(engine) as backend:
        assert backend.warnings == [another(engine, told)]
        assert np.unique(backend.predict(red()).classes).tolist() == [0]


def test_a_driver_that_is_unknown_then_and_now_has_not_changed(machine, rgb_model, tmp_path, frames):
    machine.has_driver("unknown")
    manifest = build_engine(rgb_model, tmp_path / "rgb.engine", options=BuildOptions(), frames=frames)
    assert (manifest.engine["driver"], manifest.engine["cuda"]) == ("unknown", "12.6")
    with open_model(tmp_path / "rgb.engine") as backend:
        assert backend.warnings == []


def test_a_manifest_from_before_which_says_nothing_of_driver_and_cuda_is_read(engine):
    value = json.loads(sidecar_path(engine).read_text())
    del value["engine"]["driver"], value["engine"]["cuda"]
    sidecar_path(engine).write_text(json.dumps(value))
    with open_model(engine) as backend:
        told = "CUDA unknown → 12.6, driver unknown → Jetson Linux 36.4.3"
        assert backend.warnings == [another(engine, told)]


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 15, 3), np.uint8),
        np.zeros((8, 16, 3), np.float32),
        np.zeros((8, 16), np.uint8),
        np.zeros((0, 16, 3), np.uint8),
    ],
)
def test_a_frame_of_another_shape_or_type_is_refused(engine, machine, frame):
    with open_model(engine) as backend, pytest.raises(DataError, match="expected uint8"):
        backend.predict(frame)
    assert "execute" not in machine.does.calls


WAYS = [GpuOptions(io=io, graph=graph) for io in ("copy", "mapped") for graph in (False, True)]


@pytest.mark.parametrize("gpu", WAYS)
def test_results_that_are_held_are_never_overwritten(engine, frames, gpu):
    wanted = [frame.argmax(axis=2) for frame in frames]
    with open_model(engine, gpu=gpu) as backend:
        held = [backend.predict(frames[index % 3]) for index in range(3 * RESULTS_BORROWED)]
        with pytest.raises(ValueError, match="read-only"):
            held[0].classes[0, 0] = 1
    for index, prediction in enumerate(held):  # also after the GPU was closed
        assert np.array_equal(prediction.classes, wanted[index % 3])


@pytest.mark.parametrize("gpu", WAYS)
def test_a_view_of_a_result_holds_it_too(engine, frames, gpu):
    with open_model(engine, gpu=gpu) as backend:
        part = backend.predict(frames[0]).classes[2:, ::2]  # the prediction itself is gone
        for index in range(3 * RESULTS_BORROWED):
            backend.predict(frames[1 + index % 2])
        assert np.array_equal(part, frames[0].argmax(axis=2)[2:, ::2])


def test_buffers_and_addresses_are_made_once_and_never_for_a_frame(engine, machine, frames):
    with open_model(engine) as backend:
        device = FakeCuda.opened[-1]
        # Frame and class map on the GPU; one page-locked frame, four class maps to lend and a spare: 8, and no event.
        assert device.allocations == 8
        places = {backend.predict(frames[index % 3]).classes.ctypes.data for index in range(20)}
        assert device.allocations == 8
        assert len(places) == 1, "nobody holds a result, so one buffer is enough"
    assert machine.does.calls[:3] == ["deserialise", "address frame", "address classes"]
    assert machine.does.calls[3:] == [*["execute", "synchronise"] * 20, "synchronise"]  # once more before it is closed


def test_stages_are_timed_only_when_asked_for(engine, frames):
    with TrtBackend(engine, timed=True) as backend:
        backend.predict(frames[0])
        assert backend.device_times_ms() == {"copy_in": 2.0, "compute": 2.0, "copy_out": 2.0}
    with TrtBackend(engine) as backend:
        backend.predict(frames[0])
        assert backend.device_times_ms() == {}


def test_host_code_in_an_engine_is_never_allowed(engine, machine):
    open_model(engine).close()
    assert machine.does.host_code_allowed == [False]


def refused(engine, machine, *told):
    """Opening fails before TensorRT sees a byte of the engine, in one line with the cure."""
    with pytest.raises(ModelFileError) as error:
        open_model(engine)
    assert "deserialise" not in machine.does.calls
    assert "\n" not in error.value.message
    for text in (*told, "clst-export build"):
        assert text in error.value.message, error.value.message


def test_a_damaged_engine_is_refused(engine, machine):
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-1])
    refused(engine, machine, "is damaged", f"{len(whole) - 1} bytes", f"says {len(whole)}")
    engine.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    refused(engine, machine, "is damaged", "SHA-256")
    engine.write_bytes(b"")
    refused(engine, machine, "0 bytes")


def test_an_engine_without_its_manifest_or_with_a_poor_one_is_refused(engine, machine):
    beside = sidecar_path(engine)
    text = beside.read_text()
    beside.unlink()
    refused(engine, machine, "no manifest rgb.engine.json beside it")
    value = json.loads(text)
    del value["engine"]["gpu"], value["engine"]["onnx_sha256"]
    beside.write_text(json.dumps(value))
    refused(engine, machine, "lacks engine.gpu, engine.onnx_sha256")
    beside.write_bytes(b"\xff\xfe")
    refused(engine, machine, "cannot be read")
    beside.write_text(text[:50])
    with pytest.raises(ModelFileError, match="manifest is damaged"):
        open_model(engine)
    assert "deserialise" not in machine.does.calls


def test_an_engine_of_another_tensorrt_is_refused(engine, machine):
    machine.has_tensorrt("10.3.0.26")
    refused(engine, machine, "built by TensorRT 10.3.0,", "found TensorRT 10.3.0.26")


@pytest.mark.parametrize("gpu", [("Thor", "8.7"), ("Orin", "8.6"), ("NVIDIA GeForce RTX 3060", "8.6")])
def test_an_engine_of_another_gpu_is_refused(engine, machine, gpu):
    machine.gpu = gpu
    told = (
        f"{name} (compute capability {capability}, 16 multiprocessors)" for name, capability in (("Orin", "8.7"), gpu)
    )
    refused(engine, machine, "built for " + next(told), "found " + next(told))


def test_an_engine_whose_manifest_tells_no_multiprocessors_is_built_again(engine, machine):
    value = json.loads(sidecar_path(engine).read_text())
    del value["engine"]["multiprocessors"]
    sidecar_path(engine).write_text(json.dumps(value))
    refused(engine, machine, "lacks engine.multiprocessors", "build it again")


def test_what_tensorrt_itself_cannot_load_is_an_error_with_its_words(engine, machine):
    plan = b"no plan at all"
    manifest = Manifest.from_json(sidecar_path(engine).read_text(), where="x")
    facts = {name: manifest.engine[name] for name in ("gpu", "compute_capability", "multiprocessors", "tensorrt")}
    write_engine(engine, plan, engine_manifest(manifest, plan=plan, onnx_sha256="0" * 64, facts=facts))
    with pytest.raises(ModelFileError, match=r"TensorRT cannot load it \(magicTag does not match\)"):
        open_model(engine)


@pytest.mark.parametrize(("kind", "told"), [("INT32", "output classes <INT32>"), ("INT64", "<INT64>")])
def test_an_output_of_another_type_is_refused(engine, machine, kind, told):
    machine.does.output_type = kind
    with pytest.raises(ModelFileError, match="its manifest says input frame <UINT8>") as error:
        open_model(engine)
    assert told in error.value.message


def test_a_manifest_that_lies_about_size_or_outputs_is_refused(engine, machine):
    plan, text = engine.read_bytes(), sidecar_path(engine).read_text()
    manifest = Manifest.from_json(text, where="x")
    for lie in ({"input_hw": (8, 15)}, {"has_confidence": True}):
        built = BuiltEngine(plan=plan, manifest=dataclasses.replace(manifest, **lie))
        with pytest.raises(ModelFileError, match="inputs and outputs are"):
            TrtBackend(engine, built=built)


def test_without_gpu_tensorrt_or_memory_the_error_says_which(engine, machine):
    machine.does.has_context = False
    with pytest.raises(ClstError, match="could not make an execution context .*memory"):
        open_model(engine)
    machine.does.starts = False
    with pytest.raises(MissingDependency, match="cannot start its runtime"):
        open_model(engine)
    machine.has_no_gpu()
    with pytest.raises(MissingDependency, match=r"PyCUDA cannot be .* cuda-python cannot be .*pip install pycuda"):
        open_model(engine)
    machine.has_tensorrt(None)
    with pytest.raises(MissingDependency, match=r"TensorRT: pip install -e '\.\[trt\]'"):
        open_model(engine)


def test_a_cuda_failure_says_to_restart_and_nothing_is_run_after_it(engine, machine, frames):
    with open_model(engine) as backend:
        machine.does.executes = False
        for _ in range(2):
            with pytest.raises(ClstError, match="stays until the process ends: restart it") as error:
                backend.predict(frames[0])
            assert error.value.exit_code == 1
        assert machine.does.calls.count("execute") == 1
    with open_model(engine) as backend:
        machine.does.executes = True
        FakeCuda.opened[-1].fails_with = "illegal memory access"
        with pytest.raises(ClstError, match="illegal memory access.*restart it"):
            backend.predict(frames[0])


def test_closing_twice_is_well_and_a_closed_model_says_so(engine, frames):
    backend = open_model(engine)
    backend.close()
    backend.close()
    with pytest.raises(ClstError, match="was closed"):
        backend.predict(frames[0])


LET_GO = ["IExecutionContext", "ICudaEngine", "Runtime"]


@pytest.mark.parametrize("gpu", WAYS)
def test_what_is_still_queued_is_waited_for_before_anything_it_uses_is_let_go(
    engine, machine, frames, monkeypatch, gpu
):
    """As after Ctrl-C in the midst of a frame."""

    def interrupted(self):
        raise KeyboardInterrupt

    with FakeCuda() as device:
        backend = TrtBackend(engine, device=device, gpu=gpu)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(FakeCuda, "synchronise", interrupted)
            backend.predict(frames[0])
        assert device.queue
        machine.does.calls.clear()
        machine.does.gone.clear()
        for _ in range(2):  # the second time nothing happens
            backend.close()
        assert machine.does.calls == (["synchronise", "release graph"] if gpu.graph else ["synchronise"])
        assert machine.does.gone == [(name, False) for name in LET_GO]


def test_a_gpu_that_has_failed_lets_everything_go_all_the_same(engine, machine, frames):
    with FakeCuda() as device:
        backend = TrtBackend(engine, device=device)
        machine.does.gone.clear()
        device.fails_with = "illegal memory access"
        with pytest.raises(ClstError, match="restart it"):
            backend.predict(frames[0])
        backend.close()
        device.queue.clear()
        assert sorted(name for name, _ in machine.does.gone) == sorted(LET_GO)


def test_a_second_ctrl_c_while_it_waits_does_not_keep_anything(engine, machine, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    with FakeCuda() as device:
        backend = TrtBackend(engine, device=device)
        machine.does.gone.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(FakeCuda, "synchronise", interrupted)
            backend.close()
        assert [name for name, _ in machine.does.gone] == LET_GO


def write_confidence_model(path):
    """Classes as in the RGB model, and the strongest channel's value as confidence."""
    from onnx import TensorProto, helper, save

    rows, columns = SIZE_HW
    nodes = [
        helper.make_node("Cast", ["frame"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["real"], ["winner"], axis=3, keepdims=0),
        helper.make_node("Cast", ["winner"], ["winner_real"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["winner_real"], ["classes"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["real", "axes"], ["strongest"], keepdims=0),
        helper.make_node("Cast", ["strongest"], ["confidence"], to=TensorProto.UINT8),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [3])
    values = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, [1, rows, columns, *more])
        for name, more in (("frame", [3]), ("classes", []), ("confidence", []))
    ]
    graph = helper.make_graph(nodes, "strongest", values[:1], values[1:], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, {METADATA_KEY: rgb_manifest(has_confidence=True).to_json()})
    save(model, str(path))
    return path


@pytest.mark.parametrize("gpu", WAYS)
def test_confidence_comes_back_as_the_second_output(machine, tmp_path, frames, gpu):
    model = write_confidence_model(tmp_path / "c.onnx")
    build_engine(model, tmp_path / "c.engine", options=BuildOptions(), frames=frames)
    with open_model(tmp_path / "c.engine", gpu=gpu) as backend:
        prediction = backend.predict(red())
        assert np.unique(prediction.confidence).tolist() == [200]
        assert np.unique(prediction.classes).tolist() == [0]


def test_the_fake_would_give_stale_results_without_waiting(engine, frames, monkeypatch):
    """The fake GPU is worth something: a backend that forgets to synchronise fails on it."""
    with open_model(engine) as backend, monkeypatch.context() as patch:
        patch.setattr(FakeCuda, "synchronise", lambda self: None)
        assert np.unique(backend.predict(red()).classes).tolist() == [77]


def test_weak_typing_would_be_seen(machine):
    from clst_runtime.backends.tensorrt.library import Messages, make_logger

    builder = fake_tensorrt.Builder(make_logger(fake_tensorrt, Messages()))
    for version, flags in (("10.3.0", 1), ("11.4.0.106", 2)):  # a literal that fits one version is wrong in the other
        machine.has_tensorrt(version)
        builder.create_network(flags)
        assert machine.does.strongly_typed is False


@pytest.mark.parametrize(
    ("io", "integrated", "found"),
    [
        ("auto", False, "copy"),
        ("auto", True, "mapped"),
        ("copy", True, "copy"),
        ("mapped", False, "mapped"),
    ],
)
def test_auto_maps_on_integrated_gpus_alone_and_what_is_asked_for_is_done(engine, machine, io, integrated, found):
    machine.does.integrated = integrated
    with open_model(engine, gpu=GpuOptions(io=io)) as backend:
        assert backend.description.endswith(f", fp32, {found} I/O by cuda-python")
        # Copied: 2 buffers on the GPU, a frame and 5 class maps; mapped: a frame and a class map that it sees.
        assert FakeCuda.opened[-1].allocations == {"copy": 8, "mapped": 2}[found]
        assert np.unique(backend.predict(red()).classes).tolist() == [0]


def test_mapped_buffers_copy_nothing_and_addresses_never_change(engine, machine, frames, monkeypatch):
    def refuse(*_):
        raise AssertionError("copied")

    monkeypatch.setattr(FakeCuda, "copy_in", refuse)
    monkeypatch.setattr(FakeCuda, "copy_out", refuse)
    with open_model(engine, gpu=GpuOptions(io="mapped")) as backend:
        held = [backend.predict(frames[index % 3]).classes for index in range(6)]
        assert len({each.ctypes.data for each in held}) == 6
        assert FakeCuda.opened[-1].allocations == 2
    runs = ["execute", "synchronise"] * 6
    assert machine.does.calls == ["deserialise", "address frame", "address classes", *runs, "synchronise"]


def test_a_mapped_result_would_be_stale_without_waiting(engine, monkeypatch):
    with open_model(engine, gpu=GpuOptions(io="mapped")) as backend, monkeypatch.context() as patch:
        patch.setattr(FakeCuda, "synchronise", lambda self: None)
        assert np.unique(backend.predict(red()).classes).tolist() == [77]


@pytest.mark.parametrize("io", ["copy", "mapped"])
def test_a_graph_is_recorded_once_after_plain_runs_and_launched_for_each_frame(engine, machine, frames, io):
    with open_model(engine, gpu=GpuOptions(io=io, graph=True)) as backend:
        assert backend.description.endswith("by cuda-python, CUDA graph")
        assert (backend.warnings, machine.does.graphs) == ([], 1)
        told = [call for call in machine.does.calls if call in ("execute", "launch")]
        assert told == ["execute", "execute", "execute", "launch", "launch"]  # two plain runs, recorded, two launches
        machine.does.calls.clear()
        for frame in frames:
            assert np.array_equal(backend.predict(frame).classes, frame.argmax(axis=2))
        assert machine.does.calls == ["launch", "synchronise"] * 3
        backend.close()  # the graph goes before the execution context whose memory it uses
        assert machine.does.calls[-1] == "release graph"


@pytest.mark.parametrize("io", ["copy", "mapped"])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"graph_change": 1}, "128 of 128 values of drawn frame 1 differ from the run without it"),
        ({"graph_change": -1}, "128 of 128 values of drawn frame 1 differ"),  # it does nothing
        ({"graph_fails": "cuGraphInstantiate failed"}, "cuGraphInstantiate failed"),
    ],
)
def test_a_graph_that_fails_or_differs_is_dropped_and_said_and_frames_are_right(
    engine, machine, frames, io, changes, why
):
    for name, value in changes.items():
        setattr(machine.does, name, value)
    with open_model(engine, gpu=GpuOptions(io=io, graph=True)) as backend:
        assert len(backend.warnings) == 1
        assert "rgb.engine: runs without a CUDA graph: " in backend.warnings[0]
        assert why in backend.warnings[0]
        assert "\n" not in backend.warnings[0]
        assert backend.description.endswith("CUDA graph dropped")
        machine.does.calls.clear()
        for frame in frames:
            assert np.array_equal(backend.predict(frame).classes, frame.argmax(axis=2))
        assert machine.does.calls == ["execute", "synchronise"] * 3


@pytest.mark.parametrize("io", ["copy", "mapped"])
def test_a_graph_that_does_nothing_is_seen_where_all_frames_give_the_same(engine, machine, monkeypatch, io):
    from clst_runtime.backends.tensorrt import runner as trt

    monkeypatch.setattr(trt, "drawn_frames", lambda input_hw: [red(), red()])
    machine.does.graph_change = -1
    with open_model(engine, gpu=GpuOptions(io=io, graph=True)) as backend:
        assert "128 of 128 values of drawn frame 1 differ" in backend.warnings[0]


def test_an_engine_that_tensorrt_does_not_record_runs_plainly(engine, machine, frames, monkeypatch):
    usual = fake_tensorrt.IExecutionContext.execute_async_v3
    monkeypatch.setattr(
        fake_tensorrt.IExecutionContext,
        "execute_async_v3",
        lambda self, stream: not FakeCuda.opened[-1].recording and usual(self, stream),
    )
    with open_model(engine, gpu=GpuOptions(graph=True)) as backend:
        assert "TensorRT could not queue the engine" in backend.warnings[0]
        assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))


def test_an_engine_that_a_failed_graph_has_spoilt_is_not_used(engine, machine, monkeypatch):
    machine.does.graph_fails = "no"
    usual, runs = fake_tensorrt.IExecutionContext.execute_async_v3, []

    def worse(self, stream):
        runs.append(stream)
        machine.does.wrong_share = 0.5 if len(runs) > 3 else 0.0
        return usual(self, stream)

    monkeypatch.setattr(fake_tensorrt.IExecutionContext, "execute_async_v3", worse)
    with pytest.raises(ClstError, match=r"other results after a CUDA graph of it has failed \(no\)"):
        open_model(engine, gpu=GpuOptions(graph=True))


def test_a_gpu_that_fails_while_a_graph_is_proven_is_an_error_and_no_warning(engine, machine, monkeypatch):
    def launch(self, graph):
        self.fails_with = "illegal memory access"

    monkeypatch.setattr(FakeCuda, "launch", launch)
    with pytest.raises(ClstError, match="illegal memory access.*restart it"):
        open_model(engine, gpu=GpuOptions(graph=True))


def test_a_graph_of_a_library_without_graphs_is_an_error(engine, machine):
    machine.does.has_graphs = False
    with FakeCuda() as device, pytest.raises(MissingDependency, match="no CUDA graphs"):
        TrtBackend(engine, device=device, gpu=GpuOptions(graph=True))


def test_the_library_and_the_graph_are_asked_for_where_the_gpu_is_opened(engine, monkeypatch):
    from clst_runtime.backends.tensorrt import runner as trt

    asked = []

    def opens(*arguments, **named):
        asked.append((arguments, named))
        return FakeCuda()

    monkeypatch.setattr(trt, "open_cuda", opens)
    open_model(engine, gpu=GpuOptions(cuda="cuda-python", graph=True)).close()
    open_model(engine).close()
    assert asked == [(("cuda-python",), {"graphs": True}), (("auto",), {"graphs": False})]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"io": "mappd"}, "I/O mode 'mappd' is not known; did you mean 'mapped'"),
        ({"io": ""}, "I/O mode '' is not known; known: auto, copy, mapped"),
        ({"cuda": "pycud"}, "CUDA library 'pycud' is not known; did you mean 'pycuda'"),
        ({"cuda": "pycuda", "graph": True}, "PyCUDA has no CUDA graphs"),
    ],
)
def test_unknown_names_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        GpuOptions(**options)


def test_stages_inside_a_graph_are_not_timed(engine):
    with pytest.raises(ConfigError, match="cannot be timed one by one"):
        TrtBackend(engine, timed=True, gpu=GpuOptions(graph=True))


def test_gpu_options_are_refused_where_they_would_do_nothing(rgb_model, tmp_path):
    with pytest.raises(ConfigError, match="computed by ort-cpu, where io mapped, graph True means nothing"):
        open_model(rgb_model, backend="ort-cpu", gpu=GpuOptions(io="mapped", graph=True))
    open_model(rgb_model, backend="ort-cpu", gpu=GpuOptions()).close()
    zipfile.ZipFile(tmp_path / "c.pt", "w").close()  # whole, as a checkpoint has to be
    with pytest.raises(ConfigError, match="where cuda pycuda means nothing"):
        open_model(tmp_path / "c.pt", gpu=GpuOptions(cuda="pycuda"))


@pytest.mark.parametrize("size_hw", [(1, 1), (8, 16), (33, 100)])
def test_drawn_frames_are_the_same_each_time_and_differ_from_one_another(size_hw):
    first, second = drawn_frames(size_hw)
    assert first.shape == (*size_hw, 3)
    assert first.flags.c_contiguous
    assert not np.array_equal(first, second)
    assert np.array_equal(first, drawn_frames(size_hw)[0])
    assert len(np.unique(first.reshape(-1, 3), axis=0)) == -(-size_hw[0] // 32) * -(-size_hw[1] // 32)


def run_in_thread(work):
    """What `work` returns or raises in another thread."""
    answers = []

    def call():
        try:
            answers.append(work())
        except Exception as error:  # noqa: BLE001 the test looks at it
            answers.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return answers[0]


class ColourSource(FakeSource):
    """Frames that are red, green, blue, red …"""

    def frame(self, index):
        timed = super().frame(index)
        timed.image[...] = 0
        timed.image[..., index % 3] = 200
        return timed


class Keeper(Sink):
    """Holds every result until the end."""

    name, wants_camera_size = "keeper", False

    def __init__(self):
        self.held = []

    def write(self, result):
        self.held.append((result.timed.index, result.prediction.classes))

    def close(self):
        """Nothing is open."""


@pytest.mark.parametrize("gpu", WAYS)
def test_the_live_loop_runs_in_the_thread_that_opened_the_model(engine, gpu):
    keeper = Keeper()

    def drive():
        with open_model(engine, gpu=gpu) as backend:
            return run_pipeline(ColourSource(range(7), live=False), backend, [keeper])

    statistics = run_in_thread(drive)
    assert not isinstance(statistics, Exception), statistics
    assert statistics.frames == 7
    found = [(index, np.unique(classes).tolist()) for index, classes in keeper.held]
    assert found == [(0, [0]), (1, [1]), (2, [2]), (3, [0]), (4, [1]), (5, [2]), (6, [0])]


def test_the_live_loop_in_another_thread_is_refused_and_not_silent(engine):
    with open_model(engine) as backend:
        error = run_in_thread(lambda: run_pipeline(FakeSource([0, 1], live=False), backend, []))
    assert isinstance(error, ClstError)
    assert "another thread than the one that opened it" in error.message
