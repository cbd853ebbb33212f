"""Engines of TensorRT for RTX: built anywhere, compared where their GPU is, run there. On fakes, but for the plans."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from clst_export.card import card
from clst_export.cli.export import main as export
from clst_export.inspection import facts_of
from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends import open_model
from clst_runtime.backends.tensorrt.build.builder import serialise_engine
from clst_runtime.backends.tensorrt.build.engine import build_engine, built_engine_note, check_can_build
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BuildProgress
from clst_runtime.backends.tensorrt.bundle.device_engine import build_bundle
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.backends.tensorrt.sidecar import engine_manifest, read_engine, sidecar_path, write_engine
from clst_runtime.cli.bench import main as bench
from clst_runtime.cli.run import main as run
from clst_runtime.errors import BudgetNotHeld, ConfigError, MissingDependency, ModelFileError
from clst_runtime.evaluation.acceptance import run as acceptance
from tests.conftest import rgb_manifest, write_rgb_model
from tests.unit.runtime.evaluation.test_acceptance import plan

FOR_RTX = BuildOptions(library=Library.RTX)
ADA = ("NVIDIA GeForce RTX 4090", "8.9", 128)
TURING = ("NVIDIA GeForce RTX 2080", "7.5", 46)
HOPPER = ("NVIDIA H100", "9.0", 132)


@pytest.fixture
def rtx(machine, monkeypatch, tmp_path):
    """A workstation with TensorRT for RTX alone, and a GPU that it is for."""
    machine.has_tensorrt(None)
    machine.has_rtx("1.7.1.116")
    machine.has_driver("580.65.06")
    machine.gpu = ADA
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return machine


@pytest.fixture
def gpu_less(rtx, monkeypatch):
    """The GPU is away until `rtx.back()`."""
    with monkeypatch.context() as away:
        rtx._patch, usual = away, rtx._patch
        rtx.has_no_gpu()
        rtx._patch = usual
        rtx.back = away.undo
        yield rtx


def build(model, out, frames, *, must_compare=False):
    return build_engine(model, out, options=FOR_RTX, frames=frames, must_compare=must_compare)


@pytest.fixture
def engine(gpu_less, rgb_model, tmp_path, frames):
    """Built without a GPU; now there is one."""
    path = tmp_path / "rgb.engine"
    build(rgb_model, path, frames)
    gpu_less.back()
    gpu_less.does.calls.clear()
    return path


def rewrite(engine, **facts):
    value = json.loads(sidecar_path(engine).read_text())
    value["engine"] |= facts
    sidecar_path(engine).write_text(json.dumps(value))


def refused(kind, *told, engine):
    with pytest.raises(kind) as error:
        open_model(engine)
    assert "\n" not in error.value.message
    assert all(words in error.value.message for words in told), error.value.message


def kernels(tmp_path):
    return list((tmp_path / "cache").rglob("kernels"))


def test_without_a_gpu_an_engine_is_written_that_says_that_nothing_has_compared_it(
    gpu_less, rgb_model, tmp_path, frames
):
    manifest = build(rgb_model, tmp_path / "rgb.engine", frames)
    facts = read_engine(tmp_path / "rgb.engine")[1].engine
    assert facts == manifest.engine
    assert facts["compute_capabilities"] == ["8.6", "8.9", "12.0"]
    assert (facts["tensorrt"], facts["options"]["library"]) == ("1.7.1.116", "rtx")
    assert facts["not_compared"].startswith("PyCUDA cannot be imported")
    assert facts.keys().isdisjoint({"agreement", "gpu", "compute_capability", "driver", "summary"})
    header = (tmp_path / "rgb.engine").read_bytes().split(b"\n")[1]
    assert json.loads(header) == {"built for": ["SM86", "SM89", "SM120"], "flags": ["REQUIRE_USER_ALLOCATION"]}
    note = built_engine_note(manifest)
    built = f"built in {facts['build_seconds']} s"
    assert f"of 5 layers for compute capability 8.6, 8.9, 12.0, {built}; not compared with its ONNX file" in note
    assert "\n" not in note
    told = card(facts_of(tmp_path / "rgb.engine"))
    assert "TensorRT for RTX engine" in told
    assert "engine not_compared" in told


def test_without_a_driver_that_is_the_reason_and_no_package_is_missed(
    gpu_less, rgb_model, tmp_path, frames, monkeypatch
):
    monkeypatch.setattr("clst_runtime.backends.cuda.device.has_driver", lambda: False)
    facts = build(rgb_model, tmp_path / "rgb.engine", frames).engine
    assert facts["not_compared"] == "this machine has no NVIDIA driver: libcuda.so.1 does not load"
    with pytest.raises(MissingDependency, match="this machine has no NVIDIA driver") as told:
        build(rgb_model, tmp_path / "rgb.engine", frames, must_compare=True)
    assert ".[trt]" not in told.value.message
    assert "--bundle" not in told.value.message, "that is for TensorRT, which builds nowhere else"


def test_where_its_gpu_is_it_runs_and_one_line_says_that_it_was_never_compared(engine, frames):
    with open_model(engine) as backend:
        (told,) = backend.warnings
        assert told.startswith(f"{engine} was never compared with its ONNX file (PyCUDA")
        assert told.endswith(f"; prove it: clst-export build {engine} --frames IMAGES")
        words = "TensorRT for RTX 1.7.1.116 on NVIDIA GeForce RTX 4090 (compute capability 8.9), fp32, copy I/O"
        assert backend.description.startswith(words)
        for frame in frames:
            assert np.array_equal(backend.predict(frame).classes, frame.argmax(axis=2))


def test_the_command_of_that_line_builds_and_compares_it_and_the_line_is_gone(engine, images):
    done = CliRunner().invoke(export, ["build", str(engine), "--frames", str(images)])
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith(f"building {engine.name} of rgb.onnx for this GPU and TensorRT for RTX; ")
    assert "100.000 % of pixels agree" in done.stdout
    facts = read_engine(engine)[1].engine
    assert facts["agreement"]["differing_pixels"] == 0
    assert (facts["gpu"], facts["driver"]) == (ADA[0], "580.65.06")
    assert facts["compute_capabilities"] == ["8.6", "8.9", "12.0"]
    assert "not_compared" not in facts
    with open_model(engine) as backend:
        assert backend.warnings == []


def test_on_another_gpu_of_its_kinds_it_runs_and_is_not_called_proved(rtx, rgb_model, tmp_path, frames):
    build(rgb_model, tmp_path / "rgb.engine", frames)
    rtx.gpu = ("NVIDIA GeForce RTX 3060", "8.6", 28)
    with open_model(tmp_path / "rgb.engine") as backend:
        (told,) = backend.warnings
    assert "was compared with its ONNX file on NVIDIA GeForce RTX 4090 (compute capability 8.9, 128" in told
    assert "not on NVIDIA GeForce RTX 3060" in told


def test_an_engine_that_says_something_else_is_rejected_where_it_can_be_seen(rtx, rgb_model, tmp_path, frames):
    rtx.does.wrong_share = 0.1
    with pytest.raises(BudgetNotHeld, match="engine and ONNX file differ"):
        build(rgb_model, tmp_path / "rgb.engine", frames)
    assert not (tmp_path / "rgb.engine").exists()


@pytest.mark.parametrize("gpu", [TURING, HOPPER])
def test_on_a_gpu_that_it_is_not_for_it_is_built_and_not_compared(rtx, rgb_model, tmp_path, frames, gpu):
    rtx.gpu = gpu
    facts = build(rgb_model, tmp_path / "rgb.engine", frames).engine
    assert facts["not_compared"] == f"{gpu[0]} has compute capability {gpu[1]}, it is for 8.6, 8.9, 12.0"
    assert "deserialise" not in rtx.does.calls
    with pytest.raises(MissingDependency, match=r"cannot be compared here: NVIDIA .* make an engine by TensorRT"):
        build(rgb_model, tmp_path / "rgb.engine", frames, must_compare=True)
    refused(ModelFileError, "compute capability 8.6, 8.9, 12.0, found NVIDIA", gpu[1], engine=tmp_path / "rgb.engine")


def test_who_names_the_cuda_library_gets_an_error_where_it_is_missing(gpu_less):
    check_can_build(Library.RTX)
    with pytest.raises(MissingDependency, match="cuda-python cannot be imported"):
        check_can_build(Library.RTX, "cuda-python")


def test_each_library_opens_its_own_engines_alone(rtx, rgb_model, tmp_path, frames):
    build(rgb_model, tmp_path / "rtx.engine", frames)
    rtx.has_rtx(None)
    told = "rtx.engine is an engine of TensorRT for RTX 1.7.1.116: TensorRT for RTX is not installed"
    refused(MissingDependency, told, "pip install -e '.[rtx]'", engine=tmp_path / "rtx.engine")
    rtx.has_tensorrt("11.4.0.106")
    refused(MissingDependency, told, engine=tmp_path / "rtx.engine")
    build_engine(rgb_model, tmp_path / "trt.engine", options=BuildOptions(), frames=frames)
    rtx.has_tensorrt(None)
    rtx.has_rtx("1.7.1.116")
    told = "trt.engine is an engine of TensorRT 11.4.0.106: tensorrt cannot be imported"
    refused(MissingDependency, told, engine=tmp_path / "trt.engine")


def test_a_manifest_that_names_the_other_library_is_refused_by_that_library(rtx, engine, rgb_model, tmp_path, frames):
    rewrite(engine, options=BuildOptions().to_json())
    refused(ModelFileError, "lacks engine.gpu, engine.compute_capability", engine=engine)
    rtx.has_tensorrt("10.3.0")
    trt = tmp_path / "trt.engine"
    build_engine(rgb_model, trt, options=BuildOptions(), frames=frames)
    rewrite(trt, options=FOR_RTX.to_json(), tensorrt="1.7.1.116", compute_capabilities=["8.9"])
    refused(ModelFileError, "cannot load it (header.magicTag", engine=trt)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"tensorrt": "1.6.0.34"}, "was built by TensorRT for RTX 1.6.0.34, found TensorRT for RTX 1.7.1.116"),
        ({"compute_capabilities": ["8.6"]}, "compute capability 8.6, found NVIDIA GeForce RTX 4090"),
        ({"compute_capabilities": 8.9}, "compute capability none, found"),
        ({"options": {"library": "onnx"}}, "names the library 'onnx', which is not known"),
        ({"options": {"library": [1]}}, "names the library [1], which is not known"),
    ],
)
def test_what_does_not_fit_is_a_line(engine, facts, told):
    rewrite(engine, **facts)
    refused(ModelFileError, told, engine=engine)


def test_a_manifest_that_tells_of_no_comparison_is_not_taken_for_proved(engine):
    value = json.loads(sidecar_path(engine).read_text())
    del value["engine"]["not_compared"]
    sidecar_path(engine).write_text(json.dumps(value))
    with open_model(engine) as backend:
        (told,) = backend.warnings
    assert "was never compared with its ONNX file (its manifest has no comparison)" in told


def test_clst_run_says_that_it_was_never_compared_before_it_drives(engine, images):
    done = CliRunner().invoke(run, [str(engine), "--source", str(images)])
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    (place,) = [index for index, line in enumerate(lines) if line.startswith(f"model: {engine} was never compared")]
    assert place < next(index for index, line in enumerate(lines) if line.startswith("ready: TensorRT for RTX"))


def test_clst_run_rebuilds_an_engine_of_another_version(engine, images):
    rewrite(engine, tensorrt="1.6.0.34")
    arguments = [str(engine), "--source", str(images), "--frames", "1"]
    assert CliRunner().invoke(run, arguments).exit_code == 4
    done = CliRunner().invoke(run, [*arguments, "--rebuild"])
    assert done.exit_code == 0, done.output
    assert read_engine(engine)[1].engine["tensorrt"] == "1.7.1.116"


def test_kernels_are_compiled_once_for_a_gpu_and_kept_after_the_first_frame(rtx, engine, frames, tmp_path, capsys):
    with open_model(engine) as backend:
        assert kernels(tmp_path) == []
        backend.predict(frames[0])
        (kept,) = kernels(tmp_path)
        written = kept.stat().st_mtime_ns
        backend.predict(frames[0])
    assert kept.stat().st_mtime_ns == written
    assert (
        capsys.readouterr().err == f"compiling the engine for this GPU, once; its kernels are kept in {kept.parent}\n"
    )
    with open_model(engine) as backend:
        assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))
    assert rtx.does.calls.count("compile") == 1
    assert capsys.readouterr().err == ""
    rtx.gpu = ("NVIDIA GeForce RTX 3060", "8.6", 28)
    with open_model(engine) as backend:
        backend.predict(frames[0])
    assert len(kernels(tmp_path)) == 2


@pytest.mark.parametrize("damaged", [True, False])
def test_kernels_that_are_damaged_or_of_another_driver_are_replaced_with_a_line(
    rtx, engine, frames, tmp_path, capsys, damaged
):
    with open_model(engine) as backend:
        backend.predict(frames[0])
    (kept,) = kernels(tmp_path)
    whole = kept.read_bytes()
    if damaged:
        kept.write_bytes(whole[:-1] + b"?")  # the fake would not survive being given this
    else:
        rtx.does.takes_kernels = False
        kept.write_bytes(whole)
    capsys.readouterr()
    with open_model(engine) as backend:
        backend.predict(frames[0])
    assert capsys.readouterr().err == f"{kept} is damaged or of another driver; its kernels are compiled again\n"
    assert rtx.does.calls.count("compile") == 2
    assert kept.read_bytes() == whole


def test_without_a_place_for_kernels_one_line_says_so_and_the_engine_runs(engine, frames, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file")
    with open_model(engine) as backend:
        assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))
    told = capsys.readouterr().err
    assert told.startswith("the engine's kernels are not kept, each start compiles them again: ")
    assert told.count("\n") == 1


def test_kernels_for_which_there_is_no_room_cost_a_line_and_no_frame(engine, frames, tmp_path, capsys, monkeypatch):
    from clst_runtime.backends.tensorrt.rtx import kernels as rtx_kernels
    from clst_runtime.errors import DataError

    def full(path, content):
        raise DataError(f"{path}: No space left on device")

    monkeypatch.setattr(rtx_kernels, "write_bytes", full)
    with open_model(engine) as backend:
        for _ in range(2):
            assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))
    assert capsys.readouterr().err.count("are not kept, each start compiles them again: ") == 1


def test_kernels_kept_in_a_read_only_folder_are_used(rtx, engine, frames, tmp_path, capsys):
    with open_model(engine) as backend:
        backend.predict(frames[0])
    (kept,) = kernels(tmp_path)
    (kept.parent / ".probe").mkdir()  # no file can be written there, not even by root
    capsys.readouterr()
    with open_model(engine) as backend:
        backend.predict(frames[0])
    assert capsys.readouterr().err == ""
    assert rtx.does.calls.count("compile") == 1


def test_kernels_outlive_the_context_that_uses_them(engine, frames, monkeypatch):
    from tests.fakes import tensorrt_rtx

    gone = []
    monkeypatch.setattr(tensorrt_rtx.IRuntimeCache, "__del__", lambda self: gone.append("IRuntimeCache"), raising=False)
    backend = open_model(engine)
    backend.predict(frames[0])
    assert gone == []
    backend.close()
    assert gone == ["IRuntimeCache"]


def test_a_bundle_for_it_is_built_and_compared_on_the_device(rtx, tmp_path, frames, capsys):
    write_bundle(write_rgb_model(tmp_path / "rgb.onnx"), tmp_path / "bundle", frames, options=FOR_RTX)
    assert (
        "On the device, with clst with its extra rtx and cuda-bindings installed"
        in (tmp_path / "bundle" / "README.md").read_text()
    )
    engine = build_bundle(tmp_path / "bundle")
    assert engine.name == "model-nvidia-geforce-rtx-4090-8.9-128sm-rtx1.7.1.116-cuda12.6-580.65.06.engine"
    assert read_engine(engine)[1].engine["agreement"]["differing_pixels"] == 0
    assert not list((tmp_path / "bundle").glob("*.cache")), "a timing cache asks for a GPU and does nothing"
    rtx.gpu = HOPPER
    with pytest.raises(MissingDependency, match="NVIDIA H100 has compute capability 9.0, it is for 8.6, 8.9, 12.0"):
        build_bundle(tmp_path / "bundle")
    assert "for this GPU, TensorRT for RTX, CUDA and driver; it takes seconds\n" in capsys.readouterr().err


def test_it_is_benchmarked_graph_and_all_and_that_it_was_never_compared_stands_beside_the_latency(engine):
    gpu = ("--cuda-graph", "--runs", "2", "--warm-up", "0", "--json")
    done = CliRunner().invoke(bench, [str(engine), *gpu])
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["results"]
    assert results[0]["backend"].endswith("CUDA graph")
    assert "was never compared with its ONNX file" in results[0]["note"]
    assert all(each["backend"].startswith("TensorRT for RTX 1.7.1.116 on NVIDIA") for each in results)


def test_the_acceptance_tells_what_it_opened_and_that_nothing_has_compared_it(engine, monkeypatch):
    monkeypatch.setattr(acceptance, "examine", list)
    found = acceptance.accept(plan(engine))
    opening = next(step for step in found.steps if step.name == "opening")
    assert opening.status.value == "holds"
    assert "TensorRT for RTX 1.7.1.116 on NVIDIA" in opening.text
    assert "was never compared with its ONNX file" in opening.text
    assert found.verdict.startswith("accepted, but not judged: parity")


@pytest.mark.parametrize("option", [{"workspace_mib": 64}, {"optimisation_level": 5}, {"dla_core": 0}])
def test_options_that_mean_nothing_to_it_are_refused(option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))} .* RTX times no kernels .* leave it out"):
        BuildOptions(library=Library.RTX, **option)


def test_build_options_tell_the_library_and_refuse_an_unknown_one():
    assert BuildOptions.from_json(FOR_RTX.to_json(), where="x") == FOR_RTX
    assert BuildOptions.from_json({}, where="x").library is Library.TENSORRT
    with pytest.raises(ConfigError, match="x: library 'rtz' is unknown; did you mean 'rtx'"):
        BuildOptions.from_json({"library": "rtz"}, where="x")


def test_its_own_builder_makes_an_engine_for_all_kinds_that_no_level_changes(trt, rgb_model, tmp_path):
    plans = [serialise_engine(trt, rgb_model, options, BuildProgress()) for options in (FOR_RTX, BuildOptions())]
    assert [each.plan[:4] for each in plans] == [b"vtrt", b"vtrt"]
    assert len(plans[0].plan) > len(plans[1].plan), "code for three kinds of GPUs"
    assert sum(plans[0].layers.values()) >= 5
    assert 0.0 < plans[0].seconds < 60.0
    lowest = serialise_engine(trt, rgb_model, BuildOptions(optimisation_level=0), BuildProgress())
    assert lowest.plan == plans[1].plan


@pytest.mark.parametrize(("content", "told"), [(None, "CUDA driver version is"), (b"rubbish" * 99, "magicTag")])
def test_its_own_runtime_refuses_rubbish_and_works_on_no_driver(trt, rtx, rgb_model, tmp_path, content, told):
    """The runner as it is, on NVIDIA's runtime; the GPU is a stand-in, of which that runtime finds no driver."""
    rtx._patch.setattr("clst_runtime.backends.tensorrt.library.load_rtx", lambda: trt)
    plan = content or serialise_engine(trt, rgb_model, FOR_RTX, BuildProgress()).plan
    facts = {"tensorrt": trt.__version__, "options": FOR_RTX.to_json(), "compute_capabilities": ["8.9"]}
    manifest = engine_manifest(rgb_manifest(), plan=plan, onnx_sha256="0" * 64, facts=facts)
    write_engine(tmp_path / "a.engine", plan, manifest)
    refused(ModelFileError, "TensorRT cannot load it", told, engine=tmp_path / "a.engine")
