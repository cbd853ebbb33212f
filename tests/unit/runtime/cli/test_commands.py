"""The runtime's commands, as a user types them."""

import json
from importlib.metadata import entry_points

import click
import numpy as np
import pytest

from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.cli.bench import main as clst_bench
from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.cli.parity import main as clst_parity
from clst_runtime.cli.run import main as clst_run
from clst_runtime.errors import ModelFileError
from clst_runtime.imaging.image_files import read_label
from clst_runtime.live.sinks.video_files import video_suffix
from tests.conftest import rgb_manifest, write_labelled, write_rgb_model
from tests.support.command_line import call
from tests.support.shell import shell


def test_run_on_a_folder_writes_masks_video_and_statistics(tmp_path, rgb_model):
    data = write_labelled(tmp_path / "data", size_hw=(16, 32))
    out = tmp_path / "out"
    done = shell("clst-run", rgb_model, "--source", data / "images", "--out", out, "--masks", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 3
    mask = read_label(out / "masks" / "val" / "0.png")
    assert mask.shape == (16, 32)
    assert np.unique(mask[:, :16]).tolist() == [0]
    assert np.unique(mask[:, 16:]).tolist() == [2]
    assert (out / f"overlay{video_suffix()}").stat().st_size > 0
    first = json.loads((out / "frames.jsonl").read_text().splitlines()[0])
    assert first["shares"] == {"red": 0.5, "green": 0.0, "blue": 0.5}


def test_run_reads_its_own_video_again(tmp_path, rgb_model):
    data = write_labelled(tmp_path / "data", size_hw=(64, 64))
    call(clst_run, rgb_model, "--source", data / "images", "--out", tmp_path / "a")
    done = call(clst_run, rgb_model, "--source", tmp_path / "a" / f"overlay{video_suffix()}", "--json")
    assert json.loads(done.stdout)["frames"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([clst_run, "{none}.onnx", "--source", "{data}"], 4, "no such model"),
        ([clst_run, "{model}", "--source", "{none}"], 3, "no such folder"),
        ([clst_run, "{model}", "--source", "{text}"], 3, "not an image or video"),
        ([clst_run, "{model}", "--source", "{data}", "--out", "{data}"], 3, "exists and is not empty"),
        ([clst_run, "{model}", "--source", "camera:97", "--patience", "0.1"], 3, "cannot be opened"),
        ([clst_run, "{model}", "--source", "{data}", "--masks"], 2, "need --out"),
        (
            [clst_run, "{model}", "--source", "{data}", "--out", "new", "--collect", "new"],
            2,
            "a folder of their own",
        ),
        ([clst_eval, "{model}", "--data", "{none}"], 3, "no such folder"),
        ([clst_eval, "{damaged}", "--data", "{data}"], 4, "damaged"),
        ([clst_bench, "{model}", "--data", "{none}", "--runs", "1"], 3, "no such folder"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(tmp_path, rgb_model, arguments, code, words):
    data = write_labelled(tmp_path / "data")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "damaged.onnx").write_bytes(b"damaged")
    names = {"none": tmp_path / "none", "model": rgb_model, "data": data, "text": tmp_path / "text.mp4"}
    names["damaged"] = tmp_path / "damaged.onnx"
    command, *words_given = arguments
    done = call(command, *(argument.format(**names) for argument in words_given))
    assert done.exit_code == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
    assert len(lines) == 1
    assert words in lines[0]


def test_eval_counts_by_hand(tmp_path, rgb_model):
    done = call(clst_eval, rgb_model, "--data", write_labelled(tmp_path / "data"), "--json")
    values = json.loads(done.stdout)
    assert values["miou"] == 1.0
    assert values["iou"] == {"red": 1.0, "green": None, "blue": 1.0}


@pytest.mark.parametrize("arguments", [[clst_eval], [clst_eval, "{model}"], [clst_parity, "--checkpoint", "{model}"]])
def test_an_image_that_is_none_is_told_before_the_first_prediction(rgb_model, tmp_path, monkeypatch, arguments):
    monkeypatch.setattr("clst_runtime.backends.onnxruntime.session.OrtBackend.predict", pytest.fail)
    data = write_labelled(tmp_path / "data")
    (data / "images" / "val" / "2.png").write_bytes(b"")
    command, *more = arguments
    done = call(command, rgb_model, *(each.format(model=rgb_model) for each in more), "--data", data)
    assert done.exit_code == 3
    assert "2.png: not a readable image" in done.stderr.splitlines()[-1]


def test_parity_holds_with_itself_and_fails_with_a_model_that_sees_bgr(tmp_path, rgb_model):
    data = write_labelled(tmp_path / "data")
    assert call(clst_parity, rgb_model, "--reference", rgb_model, "--data", data).exit_code == 0
    swapped = write_rgb_model(tmp_path / "swapped.onnx", swapped=True)
    done = call(clst_parity, swapped, "--reference", rgb_model, "--data", data)
    assert done.exit_code == 6
    assert "0.000 % of pixels agree" in done.stdout


def test_parity_of_models_with_other_classes_is_refused(tmp_path, rgb_model):
    from clst_runtime.classes.labels import ClassList

    other = ClassList(name="o", names=("x", "y", "z"), colours=((0, 0, 0),) * 3)
    text = rgb_manifest(classes=other).to_json()
    model = write_rgb_model(tmp_path / "o.onnx", manifest=text)
    done = call(clst_parity, model, "--reference", rgb_model, "--data", write_labelled(tmp_path / "data"))
    assert done.exit_code == 4


def test_bench_measures_as_many_runs_as_asked(tmp_path, rgb_model):
    out = tmp_path / "bench.json"
    done = shell("clst-bench", rgb_model, "--runs", "5", "--warm-up", "1", "--json", "--out", out)
    result = json.loads(done.stdout)["results"][0]
    assert result["runs"] == 5
    ordered = [result["host_to_host_ms"][name] for name in ("min", "median", "p90", "p99", "max")]
    assert ordered == sorted(ordered)
    assert len(json.loads(out.read_text())["results"][0]["samples_ns"]) == 5
    assert call(clst_bench, rgb_model, "--runs", "5", "--max-p99-ms", "0.000001").exit_code == 6


def test_doctor_is_content_where_the_runtime_works():
    done = shell("clst-doctor", "--json")
    assert done.returncode == 0, done.stderr
    states = {entry["name"]: entry["state"] for entry in json.loads(done.stdout)}
    assert states["ONNX Runtime"] == states["OpenCV"] == "good"


def test_doctor_tells_a_tensorrt_that_is_too_old(tmp_path):
    (tmp_path / "tensorrt.py").write_text("__version__ = '8.6.1'\n")
    done = shell("clst-doctor", "--json", environment={"PYTHONPATH": str(tmp_path)})
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert found["TensorRT"]["state"] == "missing"
    assert "8.6.1 is too old, supported is 10.3 to 11.x" in found["TensorRT"]["told"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), GpuOptions()),
        (("--cuda", "auto"), GpuOptions()),
        (("--cuda", "pycuda"), GpuOptions(cuda="pycuda")),
        (
            ("--cuda", "cuda-python", "--cuda-graph", "--io", "copy"),
            GpuOptions(cuda="cuda-python", graph=True, io="copy"),
        ),
    ],
)
def test_how_an_engine_is_to_be_run_reaches_it(rgb_model, monkeypatch, arguments, expected):
    asked = []

    def open_model(path, **options):
        asked.append(options["gpu"])
        raise ModelFileError("seen")

    monkeypatch.setattr("clst_runtime.backends.open_model", open_model)
    done = call(clst_run, rgb_model, "--source", "camera:97", *arguments)
    assert (asked, done.exit_code) == ([expected], 4)


@pytest.mark.parametrize("command", ["run", "bench", "eval", "parity", "doctor", "train", "data", "export", "demo"])
def test_an_empty_value_is_refused_and_never_means_the_current_folder(command):
    """As `--target "$VIDEO"` gives where the variable is not set."""
    for each in every_command(command):
        valued = [option.opts[0] for option in each.params if isinstance(option, click.Option) and not option.is_flag]
        for arguments in (*(["model", option, ""] for option in valued), *([f"{each}="] for each in valued), [""]):
            done = call(each, *arguments)
            assert done.exit_code == 2, arguments
            assert "is empty; give it a value, or leave it out" in done.stderr, arguments


def every_command(name):
    (found,) = entry_points(group="console_scripts", name=f"clst-{name}")
    return list(getattr(found.load(), "commands", {"": found.load()}).values())
