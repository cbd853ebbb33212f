"""Whole runs of clst-train with the options of the adaptation: resume, leak and diagnostics hold for them too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.miniature import drawn_cameras

from clst_runtime.errors import ClstError, ConfigError, ModelFileError
from clst_train import adaptation_state
from clst_train.adaptation_state import with_turns
from clst_train.checkpoint import load_checkpoint
from clst_train.config import AdaptationConfig
from clst_train.diagnostics import CollapseWatch
from clst_train.training import start_run

SMALL = (
    *("augmentation.crop_hw=[64,64]", "adaptation.batch=2", "adaptation.iterations=4", "source.iterations=2"),
    *("source.batch=2", "run.log_every=1", "run.checkpoint_every=2", "run.precision=fp32", "run.threads=1"),
)
OPTIONS = {
    "mean_teacher": (
        *("adaptation.teacher=mean_teacher", "adaptation.pseudo_label_weighting=confident_share"),
        *("adaptation.confidence_threshold=0.2", "adaptation.entropy_weight=0.1", "augmentation.aspect=0.2"),
    ),
    "ensemble": (
        *("adaptation.ensemble_every=0", "data.rare_class_sampling=0.1", "adaptation.class_balance=0.5"),
        *("adaptation.distribution_alignment=1", "augmentation.masked_crops=0.5"),
        *("adaptation.auxiliary_weight=0.4", "adaptation.distil_weight=0.5", "adaptation.distil_temperature=2.0"),
    ),
    "crops": ("adaptation.ensemble_view=crops",),
    # Broken off where labels begin
    "entropy_before": ("adaptation.entropy_first=0.5", "adaptation.start_share=0.3", "adaptation.learning_rate=1e-2"),
    "entropy_meanwhile": ("adaptation.entropy_first=0.75", "adaptation.start_share=0.3"),
    "start_share": ("adaptation.start_share=0.3", "adaptation.learning_rate=1e-2"),
}


@pytest.mark.parametrize(
    ("given", "turns", "line"),
    [
        (
            {"ensemble_every": 0},
            7,
            "shows each of the 300 target images 40.0 times, so they are predicted in one step of 7",
        ),
        (
            {"ensemble_every": 0, "entropy_first": 0.5},  # labels are wanted 20 times
            3,
            "shows each of the 300 target images 20.0 times, so they are predicted in one step of 3",
        ),
        ({"ensemble_every": 4}, 4, ""),
        ({"ensemble_every": 0, "teacher": "mean_teacher"}, 7, ""),
        ({"ensemble_every": 0, "ensemble_view": "crops"}, 7, ""),
    ],
)
def test_turns_of_the_ensemble_go_by_the_images_where_they_are_left_to_them(given, turns, line, capsys):
    """3000 steps of four show each of 300 images 40 times, 40 / 6 = 6.7; only who has turns is told of them."""
    assert with_turns(AdaptationConfig(iterations=3000, batch=4, **given), 300).ensemble_every == turns
    said = capsys.readouterr().err
    assert line in said
    assert bool(said) == bool(line)


class Stopped(Exception):
    """Stands for the power going off."""


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    return drawn_cameras(tmp_path_factory.mktemp("cameras"), train=4)


@pytest.fixture(scope="module")
def source(cameras, tmp_path_factory):
    """A network of two steps of source training."""
    out = tmp_path_factory.mktemp("source") / "run"
    options = {"source": str(cameras / "old"), "size": "64x96", "settings": SMALL}
    return start_run(recipe="demo", out=out, init=None, resume=None, options=options).source


def adapted(cameras, source, out, settings):
    places = {"source": str(cameras / "old"), "target": (str(cameras / "new" / "images" / "train"),)}
    options = {**places, "settings": (*SMALL, *settings)}
    return start_run(recipe="demo", out=out, init=source, resume=None, options=options)


def stopped_half_way(monkeypatch, cameras, source, out, settings):
    """The same run, ended right after the second step was saved."""
    save = adaptation_state.save_checkpoint

    def stop(path, checkpoint):
        save(path, checkpoint)
        if path.name == "resume.pt" and checkpoint.iteration == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(adaptation_state, "save_checkpoint", stop)
        with pytest.raises(Stopped):
            adapted(cameras, source, out, settings)


def resumed(out):
    return start_run(recipe="new_camera", out=None, init=None, resume=out, options={})


def assert_same(first: Path, second: Path):
    one, two = (load_checkpoint(run / "checkpoints" / "adapted.pt").segmenter_state for run in (first, second))
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_resumed_run_with_options_is_the_unbroken_one_to_the_bit(monkeypatch, cameras, source, tmp_path, kind):
    settings = OPTIONS[kind] + ((f"adaptation.distil_from={source}",) if kind == "ensemble" else ())
    whole, half = tmp_path / "whole", tmp_path / "half"
    adapted(cameras, source, whole, settings)
    stopped_half_way(monkeypatch, cameras, source, half, settings)
    resumed(half)
    assert_same(whole, half)
    assert (whole / "log.jsonl").read_text() == (half / "log.jsonl").read_text()
    last = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()][-2:]
    assert sum(value for name, value in last[0].items() if name.startswith("share.")) == pytest.approx(1.0)
    assert {"own_cosine", "other_cosine", "separation"} <= last[0].keys()
    wanted = {"mean_teacher": "entropy", "ensemble": "distillation", "crops": "agreement"}.get(kind, "agreement")
    assert {"loss", "flip_rate", "confidence", wanted} <= last[1].keys()


def test_another_distiller_than_the_run_began_with_is_refused(monkeypatch, cameras, source, tmp_path):
    teacher, out = tmp_path / "teacher.pt", tmp_path / "run"
    shutil.copy(source, teacher)
    stopped_half_way(monkeypatch, cameras, source, out, (f"adaptation.distil_from={teacher}",))
    content = torch.load(teacher, weights_only=True)
    content["iteration"] += 1
    torch.save(content, teacher)
    with pytest.raises(ClstError, match="is another file than the run began with; put that one back, or start"):
        resumed(out)


def test_a_distiller_that_cannot_teach_makes_no_run_folder(cameras, source, tmp_path):
    content = torch.load(source, weights_only=True)
    content["classes"]["names"][0] = "asphalt"
    torch.save(content, tmp_path / "other.pt")
    for name, error, words in (("other.pt", ConfigError, "asphalt"), ("none.pt", ModelFileError, "no such checkpoint")):
        with pytest.raises(error, match=words):
            adapted(cameras, source, tmp_path / "run", (f"adaptation.distil_from={tmp_path / name}",))
        assert not (tmp_path / "run").exists()


def test_a_collapse_is_said_on_stderr_in_one_line(monkeypatch, cameras, source, tmp_path, capsys):
    """Provoked: a network of two steps taught by itself at a rate of 0.3 soon knows hardly more than one class."""
    monkeypatch.setattr(CollapseWatch, "IMAGES", 4)  # two steps
    settings = ("adaptation.learning_rate=0.3", "adaptation.iterations=8", "adaptation.ensemble_momentum=0.0")
    adapted(cameras, source, tmp_path / "run", settings)
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert any("vanished from the pseudo-labels; " in line for line in lines)
    assert len(lines) == len(set(lines)) <= 3


def test_a_run_without_a_teacher_logs_no_pseudo_labels(cameras, source, tmp_path):
    settings = ("adaptation.teacher=none", "adaptation.self_training_weight=0", "adaptation.contrastive_weight=0")
    settings = (*settings, "adaptation.entropy_weight=0.1", "adaptation.class_mix=false")
    run = adapted(cameras, source, tmp_path / "run", settings)
    entries = [json.loads(line) for line in run.path.joinpath("log.jsonl").read_text().splitlines()]
    assert not [name for entry in entries for name in entry if name.startswith("share.")]
    assert entries[-1]["self_training"] == 0.0
    assert entries[-1]["entropy"] > 0
    assert entries[-1]["confidence"] is None
