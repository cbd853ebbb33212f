"""`clst-export … int8` with its FP16 baseline, as a user types it, on the fake TensorRT with times of our choice."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from clst_export.card import card_path
from clst_export.cli.export import main
from clst_export.inputs import baseline_request
from clst_export.pipeline import Request, write_model
from clst_export.precision import Precision
from clst_export.verification.gate import BOUNDS, Bounds
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.tensorrt.bundle import comparison
from clst_runtime.backends.tensorrt.sidecar import read_engine
from clst_runtime.cli.run import main as run_main
from clst_runtime.imaging.image_files import write_png
from tests.unit.export.conftest import needs_rounding
from tests.unit.runtime.backends.tensorrt.conftest import FP16, Machine


@pytest.fixture
def machine(monkeypatch):
    """A machine with TensorRT; few runs are timed, because each costs as much as the network on this CPU."""
    monkeypatch.setattr(comparison, "WARM_UP_ROUNDS", 1)
    monkeypatch.setattr(comparison, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(comparison, "TIMED_RUNS", 3)
    return Machine(monkeypatch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, frames):
    folder = tmp_path_factory.mktemp("pictures")
    for index, frame in enumerate(frames[:6]):
        write_png(folder / f"{index}.png", frame)
    return folder


@pytest.fixture(scope="module")
def converted():
    """Conversions that were made already: each takes seconds, and most of these tests are about what follows."""
    return {}


@pytest.fixture
def export(checkpoint, pictures, converted, monkeypatch):
    """Export the checkpoint, with bounds that random weights hold; what was converted once is copied."""

    def write_once(network, out, request, *, log):
        if request not in converted:
            conversion = write_model(network, out, request, log=log)
            converted[request] = (out.read_bytes(), card_path(out).read_bytes(), conversion)
        out.write_bytes(converted[request][0])
        card_path(out).write_bytes(converted[request][1])
        return converted[request][2]

    for module in ("pipeline", "tensorrt.fp16_baseline"):
        monkeypatch.setattr(f"clst_export.{module}.write_model", write_once)

    def run(*arguments, method=("--calib-method", "max")):
        usual = (checkpoint, "--calib", pictures, "--min-agreement", 20, *method)
        return CliRunner().invoke(main, [str(each) for each in (*usual, *arguments)])

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


pytestmark = needs_rounding
FP16_KINDS = (".fp16.engine", ".fp16.engine.json", ".fp16.md", ".fp16.onnx")
PAIR = [f"m{kind}" for kind in (".engine", ".engine.json", *FP16_KINDS, ".md", ".onnx")]


@pytest.mark.parametrize(
    ("int8", "preferred", "told"),
    [(8.0, "m.fp16.engine", "INT8 does not save 3 %"), (6.0, "m.engine", "INT8 saves 20.0 %")],
)
def test_an_int8_engine_is_timed_beside_fp16(machine, export, tmp_path, int8, preferred, told):
    machine.takes(int8, 7.5)
    done = export("--trt", "int8", "--out", tmp_path / "m.engine", "--optimisation-level", 1)
    assert done.exit_code == 0, done.output
    assert names(tmp_path) == PAIR
    sentence = f"INT8 takes {int8:.2f} ms, FP16 7.50 ms on this GPU: {told}"
    assert f"{sentence}, prefer {tmp_path / preferred}\n" in done.stdout
    assert done.output.count("TensorRT for RTX") == 1, "that it was not asked, once for both"
    for name, precision in (("m", "int8"), ("m.fp16", "fp16")):
        manifest = read_engine(tmp_path / f"{name}.engine")[1]
        assert manifest.precision == read_onnx_manifest(tmp_path / f"{name}.onnx").precision == precision
        assert manifest.engine["options"]["optimisation_level"] == 1
    both = [read_onnx_manifest(tmp_path / f"m{kind}.onnx").calibration["frames_sha256"] for kind in ("", ".fp16")]
    assert both[0] == both[1], "the baseline was made with other pictures"


def test_with_json_the_comparison_goes_to_stderr_and_every_gpu_is_opened_by_the_named_library(
    machine, export, tmp_path
):
    machine.takes(8.0, 7.5)
    done = export("--trt", "int8", "--out", tmp_path / "m.engine", "--json", "--cuda", "pycuda")
    assert machine.asked == [("pycuda", False)] * 4  # looked at, two builds, one comparison
    assert json.loads(done.stdout)["precision"] == "int8"
    assert "INT8 does not save 3 %" in done.stderr


@pytest.mark.parametrize("name", PAIR)
def test_none_of_the_files_to_be_made_is_replaced_unasked(machine, export, tmp_path, name):
    (tmp_path / name).write_text("mine")
    done = export("--trt", "int8", "--out", tmp_path / "m.engine")
    assert done.exit_code == 3
    assert f"{tmp_path / name} exists" in done.output
    assert "; give --overwrite or another --out" in done.output
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "mine"
    assert "build" not in machine.does.calls


def test_overwrite_replaces_all_of_them(machine, export, tmp_path):
    for name in PAIR:
        (tmp_path / name).write_text("old")
    machine.takes(8.0, 7.5)
    done = export("--trt", "int8", "--out", tmp_path / "m.engine", "--overwrite")
    assert done.exit_code == 0, done.output
    assert names(tmp_path) == PAIR
    assert all((tmp_path / name).read_bytes() != b"old" for name in PAIR)


def test_a_folder_with_files_is_refused_at_once_also_with_overwrite(machine, export, tmp_path):
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / "mine").write_text("x")
    done = export("--onnx", "int8", "--bundle", "--out", tmp_path / "front", "--overwrite")
    assert done.exit_code == 3
    assert "a folder with files, which --overwrite does not replace; remove it first" in done.output
    assert "calibrating" not in done.output
    assert names(tmp_path) == ["front"]


def test_a_baseline_that_cannot_be_built_leaves_the_int8_engine_and_that_is_said(machine, export, tmp_path):
    machine.does.on_build = lambda precision: setattr(machine.does, "builds", precision == "int8")
    done = export("--trt", "int8", "--out", tmp_path / "m.engine")
    assert done.exit_code == 0, done.output
    assert "FP16 cannot be used on this GPU (" in done.stdout
    assert f"), prefer {tmp_path / 'm.engine'}\n" in done.stdout
    assert names(tmp_path) == [name for name in PAIR if not name.startswith("m.fp16.engine")]


def test_an_int8_engine_that_cannot_be_built_is_an_error_as_before(machine, export, tmp_path):
    machine.does.on_build = lambda precision: setattr(machine.does, "builds", precision == "fp16")
    done = export("--trt", "int8", "--out", tmp_path / "m.engine")
    assert done.exit_code == 4, done.output
    assert "TensorRT 10.3.0 could not build it" in done.output
    assert machine.does.calls.count("build") == 1


def test_a_baseline_that_does_not_prove_itself_is_none(machine, export, tmp_path, monkeypatch):
    strict = Bounds(min_agreement=1.1, max_miou_drop=0.0)  # nothing holds it
    monkeypatch.setattr(
        "clst_export.inputs.baseline_request",
        lambda *given: dataclasses.replace(baseline_request(*given), bounds=strict),
    )
    done = export("--trt", "int8", "--out", tmp_path / "m.engine")
    assert done.exit_code == 0, done.output
    assert "int8 goes without fp16 to compare with: m.fp16.onnx differs from PyTorch" in done.stderr
    assert machine.does.calls.count("build") == 1
    done = export("--onnx", "int8", "--bundle", "--out", tmp_path / "front")
    assert done.exit_code == 0, done.output
    assert "rival.onnx" not in names(tmp_path / "front")


def test_an_fp16_engine_gets_no_baseline(machine, export, tmp_path):
    done = export("--trt", "fp16", "--out", tmp_path / "m.engine", method=())
    assert done.exit_code == 0, done.output
    assert names(tmp_path) == ["m.engine", "m.engine.json", "m.md", "m.onnx"]


def test_an_int8_bundle_brings_fp16_and_the_device_uses_the_better(machine, export, pictures, tmp_path):
    folder = tmp_path / "front"
    done = export("--onnx", "int8", "--bundle", "--out", folder)
    assert done.exit_code == 0, done.output
    assert names(tmp_path) == ["front"]
    assert {"model.onnx", "rival.onnx", "expected", "rival-expected"} <= set(names(folder))
    assert read_onnx_manifest(folder / "model.onnx").precision == "int8"
    assert read_onnx_manifest(folder / "rival.onnx").precision == "fp16"
    machine.takes(8.0, 7.5)
    built = CliRunner().invoke(main, ["build", str(folder)])
    assert built.exit_code == 0, built.output
    assert f"INT8 takes 8.00 ms, FP16 7.50 ms on this GPU: INT8 does not save 3 %; {FP16} is used" in built.stderr
    assert built.stdout.startswith(str(folder / f"{FP16}: "))
    machine.does.calls.clear()
    run = CliRunner().invoke(run_main, [str(folder), "--source", str(pictures), "--frames", "2"])
    assert run.exit_code == 0, run.output
    assert "ready: TensorRT 10.3.0 on Orin (compute capability 8.7), fp16" in run.stderr
    assert "build" not in machine.does.calls
    shown = CliRunner().invoke(main, ["inspect", str(folder)]).output
    assert f"INT8 does not save 3 %; {FP16} is used" in shown
    assert "- compared with: rival.onnx, fp16, SHA-256 " in shown


def test_what_int8_may_lose_is_not_asked_of_its_baseline():
    asked = Request(precision=Precision.INT8, budget=0.02, bounds=Bounds(min_agreement=0.98, max_miou_drop=0.02))
    options = {"max_miou_drop": 2.0, "min_agreement": None, "data": None}
    baseline = baseline_request(asked, options)
    assert (baseline.precision, baseline.budget, baseline.bounds) == (Precision.FP16, None, BOUNDS[Precision.FP16])
    lenient = baseline_request(asked, options | {"min_agreement": 95.0})
    assert lenient.bounds == dataclasses.replace(BOUNDS[Precision.FP16], min_agreement=0.95)
