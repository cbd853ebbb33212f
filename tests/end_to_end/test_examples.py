"""Every example runs as it stands in `examples/`, in a folder with the files that it names."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest

import clst
from clst_runtime.imaging.geometry import Fit
from clst_runtime.imaging.image_files import read_image, read_label, write_png
from tests import ROOT
from tests.conftest import RGB_CLASSES, SIZE_HW, rgb_manifest, write_rgb_model
from tests.fakes.videos import jpeg, write_avi
from tests.support.miniature import drawn_cameras
from tests.unit.clst.test_workflow import SETTINGS

EXAMPLES = ROOT / "examples"
README = (EXAMPLES / "README.md").read_text()


@pytest.fixture(params=list(Fit))
def folder(request, tmp_path):
    """A folder with a model of 8x16 for every fit, and a street of 30x50 random pixels."""
    write_rgb_model(tmp_path / "model.onnx", manifest=rgb_manifest(fit=request.param).to_json())
    write_png(tmp_path / "street.png", np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8))
    return tmp_path


def run(name, folder, *arguments):
    """Its output; it must not fail."""
    call = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def expected_mask(folder):
    with clst.load_model(folder / "model.onnx") as model:
        return model.segment(read_image(folder / "street.png")).classes


def test_01_writes_a_mask_and_its_colours_and_says_the_shares(folder):
    told = run("01_segment_an_image.py", folder)
    mask = expected_mask(folder)
    np.testing.assert_array_equal(read_label(folder / "mask.png"), mask)
    np.testing.assert_array_equal(read_image(folder / "colours.png"), np.array(RGB_CLASSES.colours, np.uint8)[mask])
    shares = [float(line.split(": ")[1].removesuffix(" %")) for line in told.splitlines()]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert told.startswith("red: ")


def test_02_segments_each_frame_of_a_video(folder):
    red = np.zeros((16, 32, 3), np.uint8)
    red[..., 0] = 200
    write_avi(folder / "drive.avi", [jpeg(red), jpeg(red), jpeg(red[..., ::-1])])
    told = run("02_camera_loop.py", folder, "drive.avi").splitlines()
    assert told == ["red: 100.0 % of the frame"] * 2 + ["red: 0.0 % of the frame"]


@pytest.fixture
def adapting(narrow, tmp_path, monkeypatch):
    """A folder with both cameras, where 2000 steps of 384x640 are 2 of 64x96; gives the new camera's images."""
    real = clst.train
    monkeypatch.setattr("clst_export.verification.gate.check_build", lambda path, report: {"not_checked": "slow"})

    def small(**given):
        return real(**given | {"recipe": "demo", "settings": {**given["settings"], **SETTINGS}})

    monkeypatch.setattr(clst, "train", small)
    drawn_cameras(tmp_path, train=4, val=2)
    (tmp_path / "old").rename(tmp_path / "old_camera")
    images = [read_image(path) for path in sorted((tmp_path / "new" / "images" / "train").glob("*.png"))]
    write_avi(tmp_path / "new_camera.mp4", [jpeg(image) for image in images], (64, 96))
    monkeypatch.chdir(tmp_path)
    return images


def test_03_adapts_and_exports(adapting, capsys):
    runpy.run_path(str(EXAMPLES / "03_adapt.py"), run_name="__main__")
    assert re.fullmatch(
        r"front\.onnx: (100\.00|99\.\d\d) % of the pixels equal PyTorch's", capsys.readouterr().out.strip()
    )
    with clst.load_model("front.onnx") as model:
        assert model.segment(adapting[0]).classes.shape == (64, 96)


def test_07_trains_and_exports_a_network_of_one_s_own(adapting, capsys):
    shutil.copy(EXAMPLES / "small_unet.py", "small_unet.py")
    runpy.run_path(str(EXAMPLES / "07_own_network.py"), run_name="__main__")
    assert re.fullmatch(
        r"small_unet:SmallUNet\?width=24: (100\.00|99\.\d\d) % of the pixels equal PyTorch's",
        capsys.readouterr().out.strip(),
    )
    with clst.load_model("own.onnx") as model:
        assert model.manifest.precision == "fp16"
        assert model.segment(adapting[0]).classes.shape == (64, 96)


@pytest.mark.parametrize("size_hw", [(30, 50), (50, 30), (16, 31), SIZE_HW])
def test_04_gives_the_masks_of_clst_without_it(folder, size_hw):
    write_png(folder / "street.png", np.random.default_rng(1).integers(0, 256, (*size_hw, 3), np.uint8))
    run("04_onnxruntime_only.py", folder)
    np.testing.assert_array_equal(read_label(folder / "mask.png"), expected_mask(folder))
    assert "clst" not in set(re.findall(r"^(?:import|from) (\w+)", (EXAMPLES / "04_onnxruntime_only.py").read_text()))


TRTEXEC = """#!/bin/sh
for argument; do case $argument in
  --onnx=model.onnx) test -f model.onnx ;;
  --saveEngine=model.engine) touch model.engine ;;
  --loadEngine=model.engine) test -f model.engine ;;
  --loadInputs=frame:frame.bin) test -f frame.bin ;;
  --exportOutput=classes.json|--stronglyTyped|--skipInference|--useCudaGraph) ;;
  *) echo "unknown: $argument" >&2; exit 1 ;;
esac || exit 1; done
"""
"""Knows the options of TensorRT 10 that the example uses, and looks for the files that they name."""


def test_05_calls_trtexec_with_options_that_it_has_and_names_that_the_model_has(folder):
    (folder / "bin").mkdir()
    (folder / "bin" / "trtexec").write_text(TRTEXEC)
    (folder / "bin" / "trtexec").chmod(0o755)
    (folder / "frame.bin").write_bytes(bytes(8 * 16 * 3))
    call = ["sh", str(EXAMPLES / "05_trtexec.sh")]
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        call, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "frame.bin").unlink()
    assert subprocess.run(call, cwd=folder, env=os.environ | {"PATH": path}, check=False).returncode != 0


LAUNCH = """
import click, json, runpy, sys
from types import ModuleType, SimpleNamespace
def known(**given):
    return given
for name, members in {
    "launch": {"LaunchDescription": list}, "launch.actions": {"DeclareLaunchArgument": lambda name, **given: name},
    "launch.substitutions": {"LaunchConfiguration": lambda name: "1"}, "launch_ros": {},
    "launch_ros.actions": {"Node": known},
    "launch_ros.parameter_descriptions": {"ParameterValue": lambda value, value_type: value_type(int(value))},
}.items():
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(members)
*declared, node = runpy.run_path(sys.argv[1])["generate_launch_description"]()
from clst_runtime.cli.run import main
main.parse_args(click.Context(main), [*node["arguments"], "--ros-args", "-r", "__node:=clst"])
print(json.dumps([declared, node["executable"], node["parameters"], node["remappings"]]))
"""
"""Launches with stand-ins for ROS's modules, which hand back what they are given."""


def test_08_starts_clst_run_with_options_that_it_has(folder):
    call = [sys.executable, "-c", LAUNCH, str(EXAMPLES / "08_ros2.launch.py")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    declared, program, parameters, remappings = json.loads(done.stdout)
    assert declared == ["model", "image", "namespace", "deadline_ms", "use_sim_time"]
    assert (program, parameters, remappings) == ("clst-run", [{"use_sim_time": True}], [["image", "1"]])


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_06_is_cpp_that_reads_a_frame_and_writes_its_classes(tmp_path):
    fake = ROOT / "tests" / "fakes"
    call = [
        "c++",
        "-std=c++17",
        "-Wall",
        "-Werror",
        str(EXAMPLES / "06_onnxruntime.cpp"),
        "-I",
        str(fake),
        "-o",
        "segment",
    ]
    built = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    frame = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)
    (tmp_path / "frame.bin").write_bytes(frame.tobytes())
    done = subprocess.run([str(tmp_path / "segment")], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == '{"input_hw": [8, 16]}\n'
    assert (tmp_path / "classes.bin").read_bytes() == frame.argmax(axis=2).astype(np.uint8).tobytes()


def rows(heading):
    """The cells of the first table after a heading of the README; the head left out."""
    table = README.partition(heading)[2].partition("\n|---")[2].split("\n", 1)[1].split("\n\n")[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_of_ports_says_what_the_model_has(tmp_path):
    import onnx

    model = onnx.load(write_rgb_model(tmp_path / "m.onnx")).graph
    named = {name: (direction, kind, shape) for name, direction, kind, shape, *_ in rows("## Ports")}
    assert list(named) == ["frame", "classes", "confidence"]
    for direction, ports in (("input", model.input), ("output", model.output)):
        for port in ports:
            shape = [side.dim_value for side in port.type.tensor_type.shape.dim]
            assert port.type.tensor_type.elem_type == onnx.TensorProto.UINT8
            letters = ",".join({8: "H", 16: "W"}.get(side, str(side)) for side in shape)
            assert named[port.name] == (direction, "uint8", letters)
    keys = {key for row in rows("## Ports") for key in re.findall(r"\w+_\w+|classes", row[5])}
    assert keys == {"input_hw", "has_confidence", "classes"}
    assert keys <= set(vars(rgb_manifest()))


def test_the_readme_lists_every_example():
    listed = [re.fullmatch(r"\[(.+)\]\(\1\)", row[0])[1] for row in rows("# Examples")]
    assert listed == sorted(path.name for path in EXAMPLES.iterdir() if path.name[0].isdigit())
    assert [name[:2] for name in listed] == [f"0{number}" for number in range(1, 10)]
