"""The runtime on a machine that has no torch: a fresh environment with the wheel and its runtime extras only."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import venv

import pytest

from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.imaging.image_files import read_image, read_label
from clst_runtime.imaging.media import images_below
from tests import ROOT
from tests.conftest import write_labelled, write_rgb_model


@pytest.fixture(scope="module")
def vehicle(tmp_path_factory):
    """The bin folder of an environment with clst's extras ort and headless and nothing more."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("vehicle")
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    venv.create(folder / "venv")  # this environment's pip fills it
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv/bin/python")]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", f"{wheel}[ort,headless]"], check=True)
    return folder / "venv" / "bin"


def on(vehicle, command, *arguments, folder=None):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    call = [str(vehicle / command), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=False, env=environment, cwd=folder)


def test_the_vehicle_has_no_torch_and_runs(vehicle, tmp_path):
    done = on(vehicle, "python", "-c", "import torch")
    assert done.returncode != 0
    data = write_labelled(tmp_path / "data", size_hw=(32, 32))
    model = write_rgb_model(tmp_path / "m.onnx")
    done = on(vehicle, "clst-run", model, "--source", data / "images", "--out", tmp_path / "out", "--masks", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 3
    assert read_label(tmp_path / "out/masks/val/0.png")[0, 31] == 2
    assert on(vehicle, "clst-doctor").returncode == 0


def test_the_vehicle_segments_an_image_in_python(vehicle, tmp_path):
    """Its Pillow and NumPy are the newest that its extras bring."""
    data = write_labelled(tmp_path / "data", size_hw=(32, 32))
    (data / "images" / "val" / "0.png").rename(tmp_path / "street.png")
    write_rgb_model(tmp_path / "model.onnx")
    done = on(vehicle, "python", ROOT / "examples" / "01_segment_an_image.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["red: 50.0 %", "green: 0.0 %", "blue: 50.0 %"]


@pytest.mark.parametrize("command", ["train", "export", "demo"])
def test_what_needs_torch_says_so_and_exits_with_5(vehicle, command, tmp_path):
    arguments = {"train": ["--source", "x"], "export": ["--onnx"], "demo": ["--out", tmp_path / "d"]}
    for called in ((f"clst-{command}",), ("clst", command)):
        done = on(vehicle, *called, *arguments[command])
        assert done.returncode == 5, done.stderr
        assert done.stderr.count("\n") == 1
        assert "pip install 'clst-0.1.0-py3-none-any.whl[train]'" in done.stderr


def test_all_commands_are_listed_and_versions_shown(vehicle):
    listed = on(vehicle, "clst", "--help").stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("  ")] == [
        *("train", "export", "run", "bench", "eval", "verdict", "parity", "report", "data", "doctor", "demo")
    ]
    shown = on(vehicle, "clst-run", "--version").stdout
    assert re.fullmatch(r"clst 0\.1\.0 \(commit \S+\), Python \S+, torch not found, ONNX Runtime \d\S+, .*\n", shown)


def test_a_bundle_is_looked_at_run_and_refused_with_its_reason_where_tensorrt_is_missing(vehicle, tmp_path):
    """What copies to a device needs nothing of the exporter's packages there."""
    data = write_labelled(tmp_path / "data")
    frames = [read_image(path) for path in images_below(data / "images")]
    folder = tmp_path / "front"
    write_bundle(write_rgb_model(tmp_path / "m.onnx"), folder, frames)
    done = on(vehicle, "clst-export", "inspect", folder)
    assert done.returncode == 0, done.stderr
    assert "a bundle with 3 frames to verify on" in done.stdout
    for command in (("clst-export", "build", folder), ("clst-run", folder, "--source", data / "images")):
        done = on(vehicle, *command)
        assert done.returncode == 5, done.stderr
        assert done.stderr.count("\n") == 1
        assert "tensorrt cannot be imported" in done.stderr
        assert str(folder / "model.onnx") in done.stderr
    assert on(vehicle, "clst-run", folder / "model.onnx", "--source", data / "images").returncode == 0


def test_this_test_would_notice_torch():
    assert importlib.util.find_spec("torch") is not None
