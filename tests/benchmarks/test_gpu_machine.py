"""The script for a machine with a GPU, run where there may be none: its order, its exit codes and its record."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_machine import packages, steps
from benchmarks.gpu_machine import run as gpu_machine
from benchmarks.gpu_machine.steps import DoesNotHold, Prepared, Step, perform
from clst_runtime.backends.tensorrt.build.builder import serialise_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BuildProgress
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.errors import BudgetNotHeld, DataError, MissingDependency
from tests.conftest import SIZE_HW, write_rgb_model
from tests.fakes.cuda import FakeCuda
from tests.support.command_line import call
from tests.unit.runtime.backends.tensorrt import conftest as fakes_of_engines

machine = fakes_of_engines.machine


@pytest.fixture
def prepared(tmp_path):
    """A folder as `prepare` writes it: three times the same small model, two frames, right class maps."""
    folder, work = tmp_path / "prepared", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (2, *SIZE_HW, 3), np.uint8)
    classes = frames.argmax(axis=3).astype(np.uint8)
    for name in steps.MODELS:
        write_rgb_model(folder / f"{name}.onnx")
    np.savez_compressed(folder / steps.DATA, frames=frames, **dict.fromkeys(steps.MODELS, classes))
    return Prepared(folder=folder, work=work)


@pytest.fixture
def a_gpu(monkeypatch):
    monkeypatch.setattr(gpu_machine, "gpus_here", lambda: ["NVIDIA H200, 580.0, 700 W"])


def here(step, prepared, seconds):
    return perform(step, prepared)


def passes(prepared, figures):
    figures["value"] = 1


def fails(prepared, figures):
    figures["value"] = 2
    raise DoesNotHold("2 is not 1")


def lacks(prepared, figures):
    raise MissingDependency("no such package; pip install it")


def test_without_a_gpu_it_ends_at_once_with_5_and_each_step_has_the_reason(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_machine, "gpus_here", lambda: [])
    done = call(gpu_machine.main, "run", prepared.folder, "--out", tmp_path / "gpu.json")
    assert done.exit_code == 5
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [each["step"] for each in found["steps"]] == [step.name for step in steps.STEPS]
    assert {each["status"] for each in found["steps"]} == {"not possible here: no NVIDIA driver answers"}
    assert found["machine"]["python"].startswith("3.")


def test_a_step_that_fails_keeps_none_of_the_others_from_running(prepared, a_gpu):
    three = [Step(name=work.__name__, seconds=9.0, work=work) for work in (fails, lacks, passes)]
    saved = []
    records = gpu_machine.run_steps(
        three, prepared, seconds=60.0, performer=here, save=lambda so_far: saved.append(len(so_far))
    )
    assert [(each["step"], each["status"], each["figures"]) for each in records] == [
        ("fails", "failed: 2 is not 1", {"value": 2}),
        ("lacks", "not possible here: no such package; pip install it", {}),
        ("passes", "passed", {"value": 1}),
    ]
    assert saved == [1, 2, 3]  # the file is written after each


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        (["passed", "not possible here: x", "failed: y"], BudgetNotHeld),
        (["passed", "not possible here: x"], MissingDependency),
        (["passed"], None),
    ],
)
def test_the_exit_code_is_that_of_the_worst_step(statuses, error):
    records = [{"step": str(number), "status": status} for number, status in enumerate(statuses)]
    if error is None:
        gpu_machine.raise_worst(records)
        return
    with pytest.raises(error):
        gpu_machine.raise_worst(records)


def test_what_has_no_time_left_is_named(prepared, a_gpu):
    step = Step(name="late", seconds=9.0, work=passes)
    (record,) = gpu_machine.run_steps([step], prepared, seconds=0.5, performer=here, save=lambda records: None)
    assert record["status"] == "not possible here: no time is left (--seconds)"


def test_a_process_that_ends_by_itself_or_not_at_all_is_a_failed_step(prepared, monkeypatch):
    step = next(each for each in steps.STEPS if each.name == "packages")
    assert (
        gpu_machine.in_a_child(step, prepared, 60.0)["status"]
        == "not possible here: no packages were given (--packages)"
    )
    monkeypatch.setattr(gpu_machine.sys, "executable", "/bin/false")
    assert gpu_machine.in_a_child(step, prepared, 60.0)["status"] == "failed: its process ended with 1"
    sleeper = prepared.work / "sleeper"
    sleeper.write_text("#!/bin/sh\nsleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(gpu_machine.sys, "executable", str(sleeper))
    assert gpu_machine.in_a_child(step, prepared, 0.2)["status"] == "failed: not done within 0 s"


def test_the_result_is_named_after_the_gpu():
    assert gpu_machine.result_name(["NVIDIA H200, 580.0, 700 W"]) == "gpu_nvidia_h200.json"
    assert gpu_machine.result_name([]) == "gpu_none.json"


def test_a_folder_without_models_and_an_unknown_step_are_refused_before_anything_runs(prepared, tmp_path, a_gpu):
    (prepared.folder / "int8.onnx").unlink()
    done = call(gpu_machine.main, "run", prepared.folder, "--out", tmp_path / "gpu.json")
    assert (done.exit_code, (tmp_path / "gpu.json").exists()) == (3, False)
    assert "int8.onnx: no such file" in done.output
    done = call(gpu_machine.main, "run", prepared.folder, "--step", "cuda", "--step", "cdua")
    assert done.exit_code == 3
    assert "step 'cdua' is not known" in done.output


# --- the steps, with fakes


def test_a_provider_that_gives_the_cpus_classes_holds_and_another_does_not(prepared, monkeypatch):
    usual = steps.OrtBackend
    monkeypatch.setattr(steps, "EFFORT", steps.Effort(runs=2, seconds=0.1, warm_up_runs=0, warm_up_ms=0.0))
    monkeypatch.setattr(steps, "OrtBackend", lambda path, provider: usual(path))
    figures = {}
    steps.ort_cuda(prepared, figures)
    assert {(row["agreement"], row["differing_pixels"], row["holds"]) for row in figures.values()} == {(1.0, 0, True)}
    assert set(figures["int8"]["host_to_host_ms"]) >= {"median", "p99"}
    write_rgb_model(prepared.model("fp16"), swapped=True)
    with pytest.raises(DoesNotHold, match=r"^fp16: \d+\.\d+ % of pixels agree with the CPU, 99.5 % needed$"):
        steps.ort_cuda(prepared, {})


def test_one_differing_pixel_in_256_is_counted():
    expected = np.zeros((2, *SIZE_HW), np.uint8)
    found = expected.copy()
    found[0, 0, 0] = 1
    row = steps.compared(found, expected, "fp16")
    assert row == {"agreement": 255 / 256, "needed": 0.995, "differing_pixels": 1, "holds": True}
    assert steps.compared(found, expected, "fp32")["holds"] is False


def test_bytes_go_there_and_back_and_a_changed_byte_is_seen(monkeypatch):
    with FakeCuda() as device:
        figures = steps.round_trip(device)
    assert (figures["gpu"], figures["bytes"], figures["copy_in_ms"]) == (
        "Orin",
        1080 * 1920 * 3,
        2.0,
    )  # a copy and a mark
    usual = FakeCuda.copy_out

    def changed(self, host, address):
        usual(self, host, address)
        self.queue.append(lambda: host.reshape(-1).__setitem__(5, host.reshape(-1)[5] ^ 1))

    monkeypatch.setattr(FakeCuda, "copy_out", changed)
    with FakeCuda() as device, pytest.raises(DoesNotHold, match="cuda-python: bytes came back changed"):
        steps.round_trip(device)


def test_a_graph_that_repeats_its_first_frame_is_seen(monkeypatch):
    from tests.fakes import behaviour

    monkeypatch.setattr(behaviour, "current", behaviour.Behaviour())
    with FakeCuda() as device:
        assert steps.graph_of_copies(device) == {"launches": 3, "equal": True}
    monkeypatch.setattr(FakeCuda, "launch", lambda self, graph: None)
    with FakeCuda() as device, pytest.raises(DoesNotHold, match="launch 1 of a graph gave other bytes"):
        steps.graph_of_copies(device)


@pytest.fixture
def gpu(machine, monkeypatch):
    """The fake GPU with the fake TensorRT and TensorRT for RTX."""
    monkeypatch.setattr(steps, "open_cuda", machine.opens)
    monkeypatch.setattr(steps, "EFFORT", steps.Effort(runs=2, seconds=0.1, warm_up_runs=0, warm_up_ms=0.0))
    return machine


def test_engines_are_built_compared_and_run_in_every_way(gpu, prepared):
    figures = {}
    steps.trt_engines(prepared, figures)
    assert list(figures) == list(steps.MODELS)
    row = figures["int8"]
    assert (row["agreement"], row["differing_pixels"], row["tensorrt"]) == (1.0, 0, "10.3.0")
    assert [row[way]["equal"] for way in steps.WAYS] == [True, True, True]
    assert "mapped I/O" in row["mapped"]["by"]
    assert row["graph"]["by"].endswith("CUDA graph")
    assert row["copy"]["host_to_host_ms"]["median"] > 0.0
    assert sorted(path.name for path in prepared.work.glob("*.engine")) == [
        f"tensorrt-{name}.engine" for name in ("fp16", "fp32", "int8")
    ]


def test_an_engine_that_gives_other_classes_and_one_that_is_not_built_are_named(gpu, prepared):
    gpu.does.wrong_share = 0.03
    with pytest.raises(DoesNotHold, match=r"fp16: 9\d\.\d+ % of pixels agree with the CPU, 99.5 % needed"):
        steps.trt_engines(prepared, {})
    gpu.has_tensorrt(None)
    with pytest.raises(MissingDependency, match="tensorrt cannot be imported"):
        steps.trt_engines(prepared, {})


def test_a_gpu_that_tensorrt_for_rtx_does_not_list_is_tried_and_does_not_fail(gpu, prepared):
    gpu.has_rtx("1.7.1")
    gpu.gpu = ("NVIDIA H200", "9.0", 132)
    figures = {}
    message = "NVIDIA H200 of compute capability 9.0 is not among 8.6, 8.9, 12.0; SM80 runs; CURRENT runs"
    with pytest.raises(MissingDependency, match=message):
        steps.rtx_engines(prepared, figures)
    assert figures["SM80"]["fp16"]["agreement"] == 1.0
    gpu.gpu = ("NVIDIA GeForce RTX 4090", "8.9", 128)
    steps.rtx_engines(prepared, figures := {})
    assert list(figures) == list(steps.MODELS)


def test_the_real_builder_builds_for_a_single_target(trt, prepared):
    with steps.aimed_at("SM80", "9.0"):
        made = serialise_engine(trt, prepared.model("fp16"), BuildOptions(library=Library.RTX), BuildProgress())
    assert len(made.plan) > 1000


def test_the_plugin_provider_without_a_driver_and_a_bench_without_a_gpu_are_not_possible(trt, prepared, monkeypatch):
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU here")
    with pytest.raises(MissingDependency, match=r"cannot be registered: .*libcuda.so.1: .* it needs NVIDIA's driver"):
        steps.rtx_provider(prepared, {})
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependency, match="^no engine was built, and this ONNX Runtime has no CUDA"):
        steps.bench(prepared, {})


def test_a_report_of_pytest_is_counted(tmp_path):
    report = tmp_path / "report.xml"
    cases = [
        '<testcase classname="a" name="one"/>',
        '<testcase classname="a" name="two"><failure/></testcase>',
        '<testcase classname="a" name="three"><skipped message="no GPU"/></testcase>',
    ]
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    assert steps.read_report(report) == {"passed": 1, "failed": ["a::two"], "skipped": {"a::three": "no GPU"}}


# --- packages


def is_wheel(path):
    return path.suffix == ".whl"


def test_files_are_cut_into_full_parts_and_whole_again_after(tmp_path):
    large, small = tmp_path / "large.whl", tmp_path / "small.whl"
    large.write_bytes(bytes(range(250)))
    small.write_bytes(b"abc")
    parts = packages.cut([large, small], tmp_path / "packages", 100)
    assert [sum(piece.stat().st_size for piece in part.iterdir()) for part in parts] == [100, 100, 53]
    whole, lacking = packages.joined(tmp_path / "packages", tmp_path / "whole", is_wheel)
    assert lacking == []
    assert {path.name: path.read_bytes() for path in whole} == {"large.whl": bytes(range(250)), "small.whl": b"abc"}
    (tmp_path / "packages/part-2/large.whl.piece-2-of-3").unlink()
    whole, lacking = packages.joined(tmp_path / "packages", tmp_path / "whole", is_wheel)
    assert ([path.name for path in whole], lacking) == (["small.whl"], ["large.whl: 2 of 3 pieces are here"])


def test_what_cannot_be_installed_is_named_and_the_rest_is_there(prepared, tmp_path, monkeypatch):
    (tmp_path / "bad.whl").write_bytes(b"no wheel")
    (tmp_path / "good.whl").write_bytes(b"wheel")
    (tmp_path / "source.tar.gz").write_bytes(b"source")
    names = ("bad.whl", "good.whl", "source.tar.gz")
    packages.cut([tmp_path / name for name in names], tmp_path / "packages", 100)
    monkeypatch.setattr(steps, "install", lambda file, site: "no wheel" if file.name == "bad.whl" else "")
    figures = {}
    there = Prepared(folder=prepared.folder, work=prepared.work, packages=tmp_path / "packages")
    with pytest.raises(DoesNotHold, match=r"^bad.whl: no wheel$"):
        steps.install_wheels(there, figures)
    assert figures == {"bad.whl": "no wheel", "good.whl": "installed"}
    steps.install_sources(there, figures := {})
    assert figures == {"source.tar.gz": "installed"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("error: a build\n  c.hpp:14: fatal error: no cuda.h\nerror: no wheel", "c.hpp:14: fatal error: no cuda.h"),
        ("ERROR: no version\nERROR: No matching distribution\n\n", "ERROR: No matching distribution"),
        ("killed\n", "killed"),
        ("", "no reason given"),
    ],
)
def test_the_reason_is_found_in_a_page_of_compiler_output(text, why):
    assert packages._why(text) == why


def test_an_unknown_set_is_refused_before_anything_is_downloaded(tmp_path):
    done = call(gpu_machine.main, "wheels", tmp_path / "packages", "--set", "rxt")
    assert (done.exit_code, (tmp_path / "packages").exists()) == (3, False)
    assert "did you mean 'rtx'" in done.output


def test_a_folder_that_lacks_its_frames_names_the_command_that_writes_them(prepared):
    (prepared.folder / steps.DATA).unlink()
    with pytest.raises(DataError, match=r"frames.npz: no such file; `prepare"):
        prepared.check()
