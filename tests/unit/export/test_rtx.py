"""`clst-export … --for rtx` as a user types it, by NVIDIA's own builder, on a machine without a GPU."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from clst_export.cli.export import build_options, main, make_engine
from clst_export.outputs import output_paths
from clst_export.pipeline import Inputs
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.cli.bench import main as bench
from clst_runtime.cli.run import main as drive
from clst_runtime.imaging.image_files import write_png
from tests.conftest import rgb_manifest, write_rgb_model
from tests.unit.runtime.backends.tensorrt.conftest import Machine

USUAL = {"workspace_mib": None, "timing_cache": None, "optimisation_level": None, "dla": None, "min_agreement": None}


def on(command, *arguments):
    done = CliRunner().invoke(command, [str(each) for each in arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def pictures(tmp_path, frames):
    write_png(tmp_path / "pictures" / "0.png", frames[0])
    return tmp_path / "pictures"


def test_an_engine_is_made_without_a_gpu_and_every_word_says_that_nothing_has_compared_it(
    trt, checkpoint, pictures, tmp_path, monkeypatch
):
    for module in ("tensorrt", "pycuda", "cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("clst_runtime.backends.cuda.device.has_driver", lambda: False)
    engine = tmp_path / "made" / "m.engine"
    export = (checkpoint, "--trt", "fp16", "--for", "rtx", "--out", engine, "--frames", pictures)
    code, told, _ = on(main, *export, "--min-agreement", 90)
    assert code == 0, told
    assert sorted(path.name for path in engine.parent.iterdir()) == ["m.engine", "m.engine.json", "m.md", "m.onnx"]
    facts = json.loads((tmp_path / "made" / "m.engine.json").read_text())["engine"]
    assert engine.read_bytes().startswith(b"vtrt")
    assert facts["layers_before_fusion"] > 100
    assert facts["options"] | {"library": "rtx", "min_agreement": 0.9} == facts["options"]
    line = told.splitlines()[-1]
    assert line.startswith(f"{engine}: ")
    assert "layers for compute capability 8.6, 8.9, 12.0, built in" in line
    why = "this machine has no NVIDIA driver: libcuda.so.1 does not load"
    assert f"not compared with its ONNX file ({why}), which clst-export build" in line
    words = on(main, "inspect", engine)[1]
    assert "TensorRT for RTX engine" in words
    assert "this machine has no NVIDIA driver" in words
    code, _, told = on(main, *export)
    assert (code, "exists; give --overwrite" in told) == (3, True)
    for command in ((drive, engine, "--source", pictures), (bench, engine)):
        code, _, told = on(*command)
        assert code == 5
        (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
        assert "this machine has no NVIDIA driver" in line
    code, _, told = on(main, "build", engine, "--frames", pictures)
    assert (code, "this machine has no NVIDIA driver" in told) == (5, True)
    assert (engine.parent / "m.engine.json").is_file()


def test_without_the_extra_it_is_refused_at_once_and_the_extra_named(checkpoint, tmp_path, monkeypatch):
    Machine(monkeypatch).has_rtx(None)
    code, _, told = on(main, checkpoint, "--trt", "fp16", "--for", "rtx", "--out", tmp_path / "m.engine")
    assert (code, told.splitlines()[-1]) == (
        5,
        "error: TensorRT for RTX is not installed; pip install -e '.[rtx]'",
    )
    assert list(tmp_path.iterdir()) == []


def paths(precision, trt, **options):
    return output_paths(Path("a.pt"), precision, trt, {"target": "rtx", "out": None, "bundle": False} | options)


def test_its_files_are_named_apart_and_int8_has_fp16_beside_it_only_in_a_bundle():
    assert paths("fp16", "fp16") == {"engine": Path("a.fp16-rtx.engine"), "onnx": Path("a.fp16-rtx.onnx")}
    assert paths("int8", "int8") == {"engine": Path("a.int8-rtx.engine"), "onnx": Path("a.int8-rtx.onnx")}
    assert paths("int8", None, bundle=True)["bundle"] == Path("a.int8-rtx.bundle")
    assert "baseline_onnx" in paths("int8", None, bundle=True)
    assert "baseline_engine" in paths("int8", "int8", target="tensorrt")


def test_an_int8_engine_says_in_one_line_that_no_fp16_was_timed(machine_for_rtx, tmp_path, capsys):
    model = write_rgb_model(tmp_path / "m.onnx", manifest=rgb_manifest(precision="int8").to_json())
    options = USUAL | {"target": "rtx", "cuda": "auto", "as_json": False}
    assert build_options(options).library is Library.RTX
    material = Inputs(frames=[np.zeros((8, 16, 3), np.uint8)])
    make_engine({"onnx": model, "engine": tmp_path / "m.engine"}, None, material, options)
    told = capsys.readouterr()
    assert "compared" in told.out
    assert told.err.splitlines()[-1].startswith("its int8 was not timed beside fp16")


@pytest.fixture
def machine_for_rtx(monkeypatch):
    machine = Machine(monkeypatch)
    machine.has_rtx("1.7.1.116")
    machine.has_no_gpu()
    return machine
