"""Whole runs of clst-train with the options of the adaptation: resume, leak and diagnostics hold for them too."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.shell import shell

from clst_train.checkpoint import load_checkpoint
from clst_train.data.camera_looks import LOOKS
from clst_train.data.scenes import write_scenes

SMALL = (
    *("--recipe", "demo", "--size", "64x96", "--set", "augmentation.crop_hw=[64,64]", "--set", "adaptation.batch=2"),
    *("--set", "adaptation.iterations=4", "--set", "source.iterations=2", "--set", "source.batch=2"),
    *("--set", "run.log_every=1", "--set", "run.checkpoint_every=2", "--set", "run.precision=fp32"),
)
OPTIONS = {
    "mean_teacher": (
        *("adaptation.teacher=mean_teacher", "adaptation.pseudo_label_weighting=confident_share"),
        *("adaptation.confidence_threshold=0.2", "adaptation.entropy_weight=0.1", "augmentation.aspect=0.2"),
    ),
    "ensemble": (
        *("adaptation.ensemble_every=2", "data.rare_class_sampling=0.1", "adaptation.class_balance=0.5"),
        *("adaptation.auxiliary_weight=0.4", "adaptation.distil_weight=0.5", "adaptation.distil_temperature=2.0"),
    ),
}
STOPS_HALF_WAY = """
import sys
from pathlib import Path
from clst_train import adaptation_stage
from clst_train.cli import main
save = adaptation_stage.save_checkpoint
def stop(path, checkpoint):
    save(path, checkpoint)
    if path.name == "resume.pt" and checkpoint.iteration == 2:
        sys.exit(9)
adaptation_stage.save_checkpoint = stop
main()
"""


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cameras")
    for seed, look in enumerate(LOOKS.values()):
        write_scenes(folder / look.name, look=look, counts={"train": 4}, size_hw=(64, 96), seed=seed)
    return folder


@pytest.fixture(scope="module")
def source(cameras, tmp_path_factory):
    """A network of two steps of source training."""
    out = tmp_path_factory.mktemp("source") / "run"
    done = shell("clst-train", *SMALL, "--source", cameras / "old", "--out", out)
    assert done.returncode == 0, done.stderr
    return out / "checkpoints" / "source.pt"


def arguments(cameras, source, out, options):
    places = ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train", "--init", source)
    return [*SMALL, *places, "--out", out, *(part for option in options for part in ("--set", option))]


def assert_same(first: Path, second: Path):
    one, two = (load_checkpoint(run / "checkpoints" / "adapted.pt").segmenter_state for run in (first, second))
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_resumed_run_with_options_is_the_unbroken_one_to_the_bit(cameras, source, tmp_path, kind):
    options = OPTIONS[kind] + ((f"adaptation.distil_from={source}",) if kind == "ensemble" else ())
    whole, half = tmp_path / "whole", tmp_path / "half"
    done = shell("clst-train", *arguments(cameras, source, whole, options))
    assert done.returncode == 0, done.stderr
    call = [sys.executable, "-c", STOPS_HALF_WAY, *map(str, arguments(cameras, source, half, options))]
    stopped = subprocess.run(
        call, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert stopped.returncode == 9, stopped.stderr
    done = shell("clst-train", "--resume", half)
    assert done.returncode == 0, done.stderr
    assert_same(whole, half)
    assert (whole / "log.jsonl").read_text() == (half / "log.jsonl").read_text()
    last = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()][-2:]
    assert sum(value for name, value in last[0].items() if name.startswith("share.")) == pytest.approx(1.0)
    assert {"own_cosine", "other_cosine", "separation"} <= last[0].keys()
    wanted = {"mean_teacher": "entropy", "ensemble": "distillation"}[kind]
    assert {"loss", "flip_rate", "confidence", wanted} <= last[1].keys()


def test_another_distiller_than_the_run_began_with_is_refused(cameras, source, tmp_path):
    teacher, out = tmp_path / "teacher.pt", tmp_path / "run"
    shutil.copy(source, teacher)
    options = (f"adaptation.distil_from={teacher}",)
    call = [sys.executable, "-c", STOPS_HALF_WAY, *map(str, arguments(cameras, source, out, options))]
    assert subprocess.run(call, capture_output=True, check=False).returncode == 9
    content = torch.load(teacher, weights_only=True)
    content["iteration"] += 1
    torch.save(content, teacher)
    done = shell("clst-train", "--resume", out)
    assert (done.returncode, "is another file than the run began with" in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_distiller_that_cannot_teach_makes_no_run_folder(cameras, source, tmp_path):
    content = torch.load(source, weights_only=True)
    content["classes"]["names"][0] = "asphalt"
    torch.save(content, tmp_path / "other.pt")
    for name, code, words in (("other.pt", 3, "asphalt"), ("none.pt", 4, "no such checkpoint")):
        options = (f"adaptation.distil_from={tmp_path / name}",)
        done = shell("clst-train", *arguments(cameras, source, tmp_path / "run", options))
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
        assert not (tmp_path / "run").exists()


def test_a_collapse_is_said_on_stderr_in_one_line(cameras, source, tmp_path):
    """Provoked: a network of two steps taught by itself at a rate of 0.3 soon knows hardly more than one class."""
    options = ("adaptation.learning_rate=0.3", "adaptation.iterations=40", "adaptation.ensemble_momentum=0.0")
    done = shell("clst-train", *arguments(cameras, source, tmp_path / "run", (*options, "run.log_every=5")))
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "warning: " in line]
    assert warnings, done.stderr
    assert any("vanished from the pseudo-labels" in line or "% of the pseudo-labels" in line for line in warnings)
    assert len(warnings) == len(set(warnings)) <= 3
