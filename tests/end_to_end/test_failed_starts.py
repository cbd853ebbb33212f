"""What can be found wrong without PyTorch is said before it is imported, and a failed start leaves nothing behind."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from clst_export.cli.export import main as clst_export
from clst_runtime.cli.bench import main as clst_bench
from clst_runtime.evaluation.latency.comparison import Candidate
from clst_runtime.imaging.image_files import write_png
from clst_train.cli.data import main as clst_data
from clst_train.cli.train import main as clst_train
from tests.conftest import write_labelled
from tests.support.command_line import call

PROGRAM = """
import json, sys
from importlib.metadata import entry_points
from click.testing import CliRunner

commands = {each.name: each.load() for each in entry_points(group="console_scripts") if each.name.startswith("clst-")}
ends = []
for name, *arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(commands[name], arguments, prog_name=name)
    loaded = [each for each in ("torch", "onnx", "onnxruntime", "matplotlib") if each in sys.modules]
    ends.append([done.exit_code, done.output, loaded])
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Where things are and are not; `out` is never there."""
    folder = tmp_path_factory.mktemp("starts")
    write_labelled(folder / "old", split="train")
    write_labelled(folder / "old", split="val")
    for name in ("empty", "a_folder.pt", "used"):
        (folder / name).mkdir()
    (folder / "used" / "file").write_text("x")
    (folder / "file").write_text("x")
    (folder / "novideo.mp4").touch()
    (folder / "nopicture.png").write_text("x")
    (folder / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    with zipfile.ZipFile(folder / "good.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    write_png(folder / "new" / "a.png", np.zeros((64, 64, 3), np.uint8))
    (folder / "run").mkdir()
    told = f'[data]\nsource = "{folder / "old"}"\ntarget = ["{folder / "gone"}"]\n'
    (folder / "run" / "config.toml").write_text(told)
    return folder


TRAIN = ("clst-train", "--source", "{p}/old", "--target", "{p}/new", "--out", "{p}/out")
EXPORT = ("clst-export", "{p}/good.pt", "--onnx", "--out", "{p}/out/m.onnx")
FEATURES = ("clst-data", "features", "{p}/run")
CASES = [
    ((*TRAIN, "--source", "{p}/none"), 3, "none: no such folder"),
    ((*TRAIN, "--source", "{p}/file"), 3, "file: not a folder"),
    ((*TRAIN, "--source", "{p}/empty"), 3, "empty: no known layout"),
    ((*TRAIN, "--split", "tain"), 3, "'tain'"),
    ((*TRAIN, "--target", "{p}/none"), 3, "none: no such folder, image or video"),
    ((*TRAIN, "--target", "{p}/file"), 3, "file: not an image or video"),
    ((*TRAIN, "--target", "{p}/empty"), 3, "empty: no image in it"),
    ((*TRAIN, "--classes", "road91"), 3, "no class list 'road91'"),
    ((*TRAIN, "--mapping", "{p}/none.json"), 3, "none.json"),
    ((*TRAIN, "--ignore-mask", "{p}/none.png"), 3, "none.png: no such file"),
    ((*TRAIN, "--ignore-mask", "{p}/empty"), 3, "empty: a folder, where a file is needed"),
    (("clst-train", "--source", "{p}/old", "--ignore-mask", "{p}/new/a.png", "--out", "{p}/out"), 3, "give --target"),
    ((*TRAIN, "--val", "{p}/none"), 3, "none: no such folder"),
    ((*TRAIN, "--val-mapping", "{p}/m.json"), 3, "give --val"),
    ((*TRAIN, "--init", "{p}/none.pt"), 4, "none.pt: no such checkpoint"),
    ((*TRAIN, "--init", "{p}/a_folder.pt"), 4, "a_folder.pt: a folder, where a file is needed"),
    ((*TRAIN, "--init", "{p}/cut.pt"), 4, "cut.pt is damaged"),
    ((*TRAIN, "--init", "{p}/novideo.mp4"), 4, "novideo.mp4 is empty (0 bytes)"),
    ((*TRAIN, "--init", "{p}/file"), 4, "file is no file of weights: it begins with 'x'"),
    ((*TRAIN, "--init", "{p}/run"), 4, "the run has no result yet"),
    ((*TRAIN, "--trust-pickle"), 3, "--trust-pickle is for the file of --init"),
    ((*TRAIN, "--out", "{p}/used"), 3, "used exists and is not empty"),
    ((*TRAIN, "--out", "{p}/file"), 3, "file is a file"),
    ((*TRAIN, "--out", "{p}/file/run"), 3, "is a file"),
    ((*TRAIN, "--recipe", "new_camra"), 3, "did you mean 'new_camera'"),
    ((*TRAIN, "--size", "0x64"), 3, "give rows and columns"),
    ((*TRAIN, "--device", "cuda 1"), 3, "give auto, cpu, cuda"),
    ((*TRAIN, "--set", "model.network=ddrnet"), 3, "did you mean 'ddrnet23_slim'"),
    ((*TRAIN, "--network", "no_module_of_this_name:unet"), 5, "no module 'no_module_of_this_name' here"),
    ((*TRAIN, "--network", "os:abort"), 3, "os is of Python's standard library"),
    ((*TRAIN, "--pretrained", "{p}/none"), 4, "none: no such file of weights; --pretrained takes auto, none or a file"),
    ((*TRAIN, "--pretrained", "{p}/empty"), 4, "empty: a folder, where a file is needed"),
    ((*TRAIN, "--pretrained", "none", "--init", "{p}/good.pt"), 3, "give one of them"),
    ((*TRAIN, "--set", "model.pretrained=none", "--init", "{p}/good.pt"), 3, "give one of them"),
    ((*TRAIN, "--set", "model.backbone_weights={p}/none"), 4, "none: no such file of weights"),
    ((*TRAIN, "--set", "model.pretrained_sha256=abc"), 3, "model.pretrained_sha256 is gone: a run keeps the hash"),
    ((*TRAIN, "--set", "adaptation.distil_from=x"), 3, "adaptation.distil_from is gone: learning from a larger"),
    ((*TRAIN, "--set", "source.batch=0"), 3, "give 1 or more"),
    (("clst-train", "--resume", "{p}/none"), 3, "is no run of clst-train"),
    (("clst-train", "--resume", "{p}/run"), 3, "gone: no such folder"),
    (("clst-train", "--resume", "{p}/run", "--seed", "2"), 2, "give it alone"),
    (("clst-demo", "--out", "{p}/out", "--set", "source.iterations=-1"), 3, "give 1 or more"),
    (("clst-demo", "--out", "{p}/used"), 3, "used exists and is not empty"),
    (("clst-data", "convert", "{p}/old", "{p}/out", "--split", "train", "--split", "tst"), 3, "'tst'"),
    (("clst-data", "scenes", "{p}/out", "--size", "8x8"), 3, "at least 32x32"),
    (("clst-data", "check", "{p}/old", "--sheet", "{p}/file/s.png"), 3, "is a file"),
    ((*FEATURES, "--out", "{p}/file/f.png"), 3, "is a file"),
    (FEATURES, 3, "source.pt is missing"),
    ((*FEATURES, "--labels", "{p}/old", "--target", "{p}/new"), 2, "give one of them"),
    ((*EXPORT[:1], "{p}/none.pt", *EXPORT[2:]), 4, "none.pt: no such checkpoint"),
    ((*EXPORT[:1], "{p}/cut.pt", *EXPORT[2:]), 4, "cut.pt is damaged"),
    ((*EXPORT, "--out", "{p}/used"), 3, "used: an ONNX file's name ends in .onnx"),
    ((*EXPORT, "--out", "{p}/file/m.onnx"), 3, "is a file"),
    ((*EXPORT, "--size", "64"), 3, "expected rows x columns"),
    ((*EXPORT, "--data", "{p}/file"), 3, "file: not a folder"),
    ((*EXPORT, "--data", "{p}/old", "--split", "tst"), 3, "'tst'"),
    ((*EXPORT, "--data", "{p}/old", "--mapping", "{p}/none.json"), 3, "none.json"),
    ((*EXPORT, "--frames", "{p}/empty"), 3, "empty: no image"),
    ((*EXPORT, "--calib", "{p}/none"), 3, "none: no such folder"),
    ((*EXPORT, "--calib", "{p}/novideo.mp4"), 3, "novideo.mp4: not a video"),
    ((*EXPORT, "--frames", "{p}/nopicture.png"), 3, "nopicture.png: not a readable image"),
    ((*TRAIN, "--target", "{p}/novideo.mp4"), 3, "novideo.mp4: not a video"),
    ((*TRAIN, "--target", "{p}/nopicture.png"), 3, "nopicture.png: not a readable image"),
    ((*EXPORT, "--bundle", "--timing-cache", "{p}/file/c"), 3, "is a file"),
    (("clst-eval", "{p}/good.pt", "--data", "{p}/none"), 3, "none: no such folder"),
    (("clst-eval", "{p}/cut.pt", "--data", "{p}/old"), 4, "cut.pt is damaged"),
    (("clst-export", "{p}/empty", "--onnx", "--out", "{p}/x.onnx"), 4, "empty: not the folder of a run"),
    (("clst-eval", "{p}/a_folder.pt", "--data", "{p}/old"), 4, "a folder, where a file is needed"),
    (("clst-parity", "{p}/good.pt", "--checkpoint", "{p}/none.pt", "--data", "{p}/old"), 4, "no such model file"),
    (("clst-parity", "{p}/good.pt", "--checkpoint", "{p}/good.pt", "--data", "{p}/file"), 3, "file: not a folder"),
    (("clst-bench", "{p}/cut.pt"), 4, "cut.pt is damaged"),
]  # fmt: skip


@pytest.fixture(scope="module")
def ends(places):
    """How every case ended, one after another in a process in which the first import of PyTorch would show."""
    calls = [[argument.format(p=places) for argument in arguments] for arguments, _, _ in CASES]
    before = sorted(path for path in places.rglob("*"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", PROGRAM, json.dumps(calls)]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=120, check=True, cwd=places)
    assert sorted(path for path in places.rglob("*")) == before
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: f"{CASES[case][0][0]} {CASES[case][2]}")
def test_a_start_that_must_fail_says_why_before_anything_heavy_is_imported_and_makes_nothing(case, ends):
    _, code, words = CASES[case]
    assert (ends[case][0], words in ends[case][1]) == (code, True), ends[case]
    assert len([line for line in ends[case][1].splitlines() if "rror: " in line]) == 1
    assert ends[case][2] == []


def test_two_things_that_were_asked_are_not_said_to_be_none():
    assert "say what to make" in call(clst_export, "x.pt").output
    both = call(clst_export, "x.pt", "--onnx", "fp32", "--trt", "fp16")
    assert both.exit_code == 2
    assert "say what to make" not in both.output
    assert "one at a time" in both.output


def test_the_backend_that_the_help_of_clst_bench_names_is_one():
    words = call(clst_bench, "--help").output.split()
    example = next(word for word in words if "@" in word).rstrip(".;")
    assert Candidate.parse(example).backend == "ort-cuda"


def test_one_of_several_processes_has_to_know_where_the_others_are(places, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    done = call(clst_train, "--source", places / "none")
    assert done.exit_code == 3
    assert (
        "WORLD_SIZE = 2 asks for several processes, but MASTER_ADDR is not set; start them by torchrun" in done.output
    )


def test_a_class_list_beside_a_checkpoint_of_other_classes_is_refused(tmp_path):
    from clst_runtime.classes.labels import load_class_list
    from clst_train.models.checkpoint import Checkpoint, save_checkpoint
    from clst_train.models.networks import build_segmenter
    from tests.support.miniature import drawn_cameras

    drawn_cameras(tmp_path, train=2)
    classes = load_class_list("scenes10")
    state = build_segmenter("ddrnet23_slim", len(classes)).state_dict()
    made = Checkpoint(
        network="ddrnet23_slim", classes=classes, input_hw=(64, 96), mean=(0, 0, 0), std=(1, 1, 1), stage="source",
        iteration=1, segmenter_state=state,
    )  # fmt: skip
    save_checkpoint(tmp_path / "c.pt", made)
    arguments = ("--source", tmp_path / "old", "--target", tmp_path / "new", "--init", tmp_path / "c.pt")
    done = call(clst_train, *arguments, "--classes", "road19", "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert "are not the classes of the checkpoint" in done.output
    assert not (tmp_path / "out").exists()


def test_a_data_set_is_not_half_converted_where_its_last_split_is_missing(places, tmp_path):
    assert (
        call(clst_data, "convert", places / "old", tmp_path / "out", "--split", "train", "--split", "x").exit_code == 3
    )
    assert not (tmp_path / "out").exists()
