"""`clst-export` as a user types it: what comes out, and one line with the right exit code for what cannot be."""

import json
import os
import re

import numpy as np
import pytest
from click.testing import CliRunner

from clst_export.cli.export import main
from clst_export.quantization.calibration import frames_digest
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.imaging.image_files import read_image, write_png
from clst_train.models.built_in.ddrnet import DDRNetSlim
from tests.conftest import write_labelled, write_rgb_model
from tests.support.shell import shell


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(narrow_checkpoint):
    return narrow_checkpoint


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, frames):
    """A folder of twelve frames of the new camera."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, frame in enumerate(frames):
        write_png(folder / f"{index:02d}.png", frame)
    return folder


def refused(done, code, *words):
    assert done.exit_code == code, done.output
    lines = [line for line in done.output.splitlines() if line.lower().startswith("error:")]
    assert len(lines) == 1, done.output
    for word in words:
        assert str(word) in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--onnx or --trt"),
        (("--onnx", "fp16", "--trt", "fp16"), "--onnx or --trt"),
        (("--onnx", "fp16", "--max-miou-drop", "1"), "--max-miou-drop is for int8, not for fp16"),
        (("--onnx", "--for", "cpu"), "--for cpu is for --onnx int8"),
        (("--onnx", "--calib-method", "max"), "--calib-method is for int8"),
        (("--onnx", "int8", "--for", "cpu", "--bundle"), "no use to TensorRT"),
        (("--trt", "int8", "--for", "cpu"), "no use to TensorRT"),
        (("--onnx", "fp16", "--for", "rtx"), "the ONNX file for it is the one for TensorRT"),
        (("--trt", "fp16", "--for", "rtx", "--dla", "0"), "--dla is not for RTX: TensorRT for RTX times no kernels"),
        (("--trt", "fp16", "--for", "rtx", "--timing-cache", "t"), "--timing-cache is not for RTX"),
        (("--onnx", "fp16", "--bundle", "--for", "rtx", "--workspace-mib", "9"), "--workspace-mib is not for RTX"),
        (("--trt", "fp16", "--for", "rtx", "--optimisation-level", "5"), "--optimisation-level is not for RTX"),
        (("--trt", "fp16", "--for", "rtz"), "'rtz' is not one of 'tensorrt', 'rtx', 'cpu'"),
        (("--trt", "fp16", "--bundle"), "give --onnx with --bundle"),
        (("--onnx", "fp16", "--bundle", "--cuda", "pycuda"), "--cuda is for --trt"),
        (("--onnx", "--workspace-mib", "64"), "--workspace-mib is for --trt or --bundle"),
        (("--onnx", "--mapping", "m.json"), "give both"),
    ],
)
def test_options_that_contradict_each_other_are_a_usage_error(arguments, words):
    done = run("checkpoint.pt", *arguments)
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.parametrize("before", [["-q"], ["-v"], ["--log-file", "log.txt"], ["-q", "--log-file=log.txt"]])
def test_options_of_every_command_may_stand_before_the_subcommand(tmp_path, monkeypatch, before):
    monkeypatch.chdir(tmp_path)
    done = run(*before, "inspect", "none.onnx")
    assert done.exit_code == 4
    assert "none.onnx" in done.stderr
    assert "two things were asked" in run(*before, "none.pt", "--onnx", "--trt", "fp16").stderr


def test_a_bare_onnx_means_fp32_wherever_it_stands(checkpoint, pictures, tmp_path):
    done = run("--onnx", checkpoint, "--out", tmp_path / "m.onnx", "--frames", pictures, "--count", 2)
    assert done.exit_code == 0, done.output
    assert "m.onnx: ddrnet23_slim, fp32, 64x96" in done.output
    assert "of 2 frames" in done.output
    again = run("convert", checkpoint, "--onnx", "--out", tmp_path / "m.onnx")
    refused(again, 3, tmp_path / "m.onnx", "exists; give --overwrite")


def test_what_tensorrt_was_not_asked_is_one_line_on_stderr_and_in_the_manifest(checkpoint, pictures, tmp_path):
    done = run(checkpoint, "--onnx", "--out", tmp_path / "m.onnx", "--frames", pictures, "--count", 1, "--json")
    assert done.exit_code == 0, done.output
    line = "whether TensorRT for RTX reads and builds it was not checked: the test does not ask"
    assert done.stderr.splitlines().count(line) == done.stderr.count("TensorRT") == 1
    assert json.loads(done.stdout)["build_check"]["not_checked"] == "the test does not ask"
    assert re.search(f"^- build check: {line}$", run("inspect", tmp_path / "m.onnx").output, re.MULTILINE)


def test_quiet_with_json_leaves_standard_error_to_warnings(checkpoint, pictures, tmp_path):
    done = run(checkpoint, "--onnx", "--out", tmp_path / "m.onnx", "--frames", pictures, "--count", 1, "--json", "-q")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["input_hw"] == [64, 96]


def test_a_file_that_tensorrt_refuses_ends_with_6_and_is_kept_as_rejected(checkpoint, pictures, tmp_path, build_check):
    build_check.clear()
    build_check |= {"builder": "TensorRT for RTX", "version": "1.7.1.116", "refused": "cannot parse it: Mish m: no"}
    done = run(checkpoint, "--onnx", "--out", tmp_path / "m.onnx", "--frames", pictures, "--count", 1)
    refused(done, 6, "m.onnx is refused: TensorRT for RTX 1.7.1.116 cannot parse it: Mish m: no; kept as")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.rejected.json", "m.rejected.onnx"]
    told = run("inspect", tmp_path / "m.rejected.onnx").output
    assert re.search(r"^- build check: TensorRT for RTX 1.7.1.116 cannot parse it: Mish m: no$", told, re.MULTILINE)


def test_inspect_prints_the_card_and_as_json_the_facts(checkpoint, pictures, tmp_path):
    done = run(checkpoint, "--onnx", "fp16", "--out", tmp_path / "h.onnx", "--frames", pictures, "--min-agreement", 90)
    assert done.exit_code == 0, done.output
    words = run("inspect", tmp_path / "h.onnx").output
    assert words == (tmp_path / "h.md").read_text(), "the card beside it is of the same file"
    assert "ddrnet23_slim, fp16" in words
    assert f"frames of {pictures.name}; 90 % asked" in words
    assert "1 fp32, 54 fp16" in words
    facts = json.loads(run("inspect", tmp_path / "h.onnx", "--json").output)
    assert facts["manifest"]["parity"]["bounds"]["min_agreement"] == 0.9
    assert facts["bytes"] == (tmp_path / "h.onnx").stat().st_size


def test_inspect_refuses_what_is_no_model(tmp_path):
    refused(run("inspect", tmp_path / "none.onnx"), 4, "no such model file")
    (tmp_path / "x.txt").write_text("x")
    refused(run("inspect", tmp_path / "x.txt"), 4, "unknown kind")
    (tmp_path / "damaged.onnx").write_bytes(b"\x00\x01")
    refused(run("inspect", tmp_path / "damaged.onnx"), 4, "damaged.onnx")
    refused(run("inspect", write_rgb_model(tmp_path / "bare.onnx", manifest=None)), 4, "no clst manifest")


def test_a_bundle_holds_what_the_device_needs(checkpoint, pictures, tmp_path):
    folder = tmp_path / "front"
    done = run(checkpoint, "--onnx", "fp16", "--bundle", "--out", folder, "--frames", pictures, "--count", 2,
               "--min-agreement", 90, "--optimisation-level", 5)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["front"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.onnx", "bundle.json", "frames", "expected", "README.md"}
    told = run("inspect", folder).output
    assert told == (folder / "README.md").read_text()
    assert "# front\n" in told
    assert "- bundle: a bundle with 2 frames to verify on\n" in told
    assert json.loads((folder / "bundle.json").read_text())["options"]["optimisation_level"] == 5
    refused(run("build", folder), 5, "tensorrt cannot be imported", folder / "model.onnx")
    refused(run(checkpoint, "--onnx", "fp16", "--bundle", "--out", folder), 3, "exists")


def test_a_bundle_does_not_mind_a_model_of_the_same_name_and_leaves_nothing_beside_it(checkpoint, pictures, tmp_path):
    (tmp_path / "front.onnx").write_bytes(b"mine")
    arguments = (checkpoint, "--onnx", "fp16", "--bundle", "--out", tmp_path / "front", "--frames", pictures)
    done = run(*arguments, "--count", 1, "--min-agreement", 90)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["front", "front.onnx"]
    assert (tmp_path / "front.onnx").read_bytes() == b"mine"


def test_a_bundle_that_fails_leaves_no_file_but_the_rejected_one(checkpoint, pictures, tmp_path):
    done = run(checkpoint, "--onnx", "fp16", "--bundle", "--out", tmp_path / "front", "--frames", pictures,
               "--min-agreement", 100)  # fmt: skip
    assert done.exit_code == 6
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["front-for-bundle.rejected.json", "front-for-bundle.rejected.onnx"]


def test_trt_without_tensorrt_says_so_at_once_and_where_to_build(checkpoint, tmp_path):
    done = run(checkpoint, "--trt", "fp16", "--out", tmp_path / "m.engine")
    refused(done, 5, "tensorrt", "--onnx fp16 --bundle")
    assert list(tmp_path.iterdir()) == []


def calibrated(checkpoint, folder, tmp_path, *more):
    return run(checkpoint, "--onnx", "int8", "--out", tmp_path / "q" / "m.onnx", "--calib", folder, *more)


def test_calibration_images_that_cannot_be_used_are_refused(checkpoint, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(calibrated(checkpoint, tmp_path / "empty", tmp_path), 3, tmp_path / "empty", "no image")
    refused(calibrated(checkpoint, tmp_path / "none", tmp_path), 3, "no such folder")
    done = calibrated(checkpoint, pictures, tmp_path, "--calib-count", 64)
    refused(done, 3, "64 calibration images asked, 12 found; add images or lower --calib-count")
    write_png(tmp_path / "mixed" / "a.png", np.zeros((60, 90, 3), np.uint8))
    write_png(tmp_path / "mixed" / "b.png", np.zeros((60, 160, 3), np.uint8))
    refused(calibrated(checkpoint, tmp_path / "mixed", tmp_path), 3, "b.png", "160×60")
    refused(run(checkpoint, "--onnx", "int8", "--out", tmp_path / "m.onnx"), 3, "no calibration images", "--calib")
    assert not (tmp_path / "q").exists()


def test_labels_of_other_classes_are_refused(checkpoint, tmp_path):
    data = write_labelled(tmp_path / "rgb")
    refused(run(checkpoint, "--onnx", "--out", tmp_path / "m.onnx", "--data", data), 3, "red", "mapping")
    assert not (tmp_path / "m.onnx").exists()


def test_ranges_of_fp16_come_from_the_pictures_that_were_given_and_no_synthetic_ones_are_mentioned(
    checkpoint, pictures, tmp_path
):
    places = ("--out", tmp_path / "m.onnx", "--frames", pictures, "--count", 3)
    done = run(checkpoint, "--onnx", "fp16", *places, "--min-agreement", 99)  # random weights: many ties
    assert done.exit_code == 0, done.output
    assert "synthetic" not in done.output
    calibration = read_onnx_manifest(tmp_path / "m.onnx").calibration
    given = [read_image(path) for path in sorted(pictures.iterdir())]
    chosen = [given[place] for place in evenly_spread(len(given), 3, centred=True)]
    assert (calibration["frames"], calibration["frames_sha256"]) == (3, frames_digest(chosen))


def test_a_licence_of_two_lines_is_refused_and_a_card_is_not_replaced_unasked(tmp_path, checkpoint):
    done = run(checkpoint, "--onnx", "--out", tmp_path / "m.onnx", "--licence", "MIT\nor not")
    refused(done, 3, "licence is 'MIT\\nor not'", "in one line")
    (tmp_path / "m.md").write_text("mine")
    refused(run(checkpoint, "--onnx", "--out", tmp_path / "m.onnx"), 3, "m.md exists; give --overwrite")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("m.md", "mine")]


def test_an_output_that_cannot_be_the_file_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pt").write_bytes(b"a checkpoint")
    done = run("net.pt", "--trt", "fp16", "--for", "rtx", "--out", "m.pt", "--overwrite")
    refused(done, 3, "m.pt: an engine's name ends in .engine")
    for place in ("net.pt", tmp_path / "net.pt"):
        refused(run("net.pt", "--onnx", "--out", place, "--overwrite"), 3, "is the checkpoint itself")
    refused(run("net.pt", "--trt", "fp16", "--for", "rtx", "--cuda", "pycudda"), 3, "'pycudda' is not known")
    refused(run("net.pt", "--onnx", "--out", "m.pt"), 3, "m.pt: an ONNX file's name ends in .onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["net.pt"]
    (tmp_path / "front.onnx").write_bytes(b"fp16")
    done = run("net.pt", "--trt", "fp16", "--for", "rtx", "--out", "front.engine")
    refused(done, 3, "front.onnx exists, and the engine's ONNX file gets that name")


def test_build_of_an_onnx_file_names_the_command(tmp_path):
    for more in ((), ("--frames", tmp_path)):
        done = run("build", tmp_path / "front.onnx", *more)
        assert done.exit_code == 2
        assert f"clst-export build {tmp_path / 'front.engine'} --frames IMAGES" in " ".join(done.output.split())


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"nothing")
    refused(run(tmp_path / "c.pt", "--onnx"), 4, "c.pt is damaged or no PyTorch checkpoint")
    refused(run(tmp_path / "none.pt", "--onnx"), 4, "no such checkpoint")


def test_a_network_that_decides_by_pixel_values_is_one_line(checkpoint, pictures, tmp_path, monkeypatch):
    def forward(self, images):
        return self.training_outputs(images if images.mean() > 0 else -images).logits

    monkeypatch.setattr(DDRNetSlim, "forward", forward)
    done = run("--onnx", checkpoint, "--out", tmp_path / "m.onnx", "--frames", pictures, "--count", 1)
    refused(done, 4, "images.mean() > 0 else -images", __file__, "take torch.where")
    assert list(tmp_path.iterdir()) == []
    assert len(done.output.splitlines()) < 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(checkpoint, pictures, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    done = run(checkpoint, "--onnx", "--out", tmp_path / "closed" / "m.onnx", "--frames", pictures)
    refused(done, 3, "cannot write")


def test_an_output_below_a_file_is_one_line_as_root_too(checkpoint, pictures, tmp_path):
    (tmp_path / "file").write_text("x")
    done = run(checkpoint, "--onnx", "--out", tmp_path / "file" / "m.onnx", "--frames", pictures, "--count", 1)
    refused(done, 3, "cannot write")


def test_help_shows_the_conversion_and_names_the_other_commands():
    done = shell("clst-export", "--help")
    assert done.returncode == 0
    for word in ("--onnx", "--trt", "--max-miou-drop", "clst-export inspect FILE", "clst-export build BUNDLE"):
        assert word in done.stdout
    assert "Build and prove" in shell("clst-export", "build", "--help").stdout


def test_the_folder_of_a_run_stands_for_its_checkpoint_and_the_file_lies_beside_that(checkpoint, pictures, tmp_path):
    beside = tmp_path / "run" / "checkpoints"
    beside.mkdir(parents=True)
    (beside / "source.pt").write_bytes(checkpoint.read_bytes())
    done = run(tmp_path / "run", "--onnx", "--frames", pictures, "--count", "2")
    assert done.exit_code == 0, done.output
    first, second, *_ = done.stderr.splitlines()
    assert "has no adapted.pt; taking" in first
    assert re.fullmatch(r"exporting fp32 on cpu, \d+ threads?", second)
    assert (beside / "source.onnx").is_file()
