"""Whole runs of clst-train with the options of the adaptation: resume, leak and diagnostics hold for them too."""

import json
import re
from pathlib import Path

import pytest
import torch

from clst_train.engine import run as run_module
from clst_train.inspection.diagnostics import CollapseWatch
from clst_train.models.checkpoint import load_checkpoint
from clst_train.training import start_run
from tests.support.broken_off import broken_off_after_two_steps

pytestmark = pytest.mark.usefixtures("narrow", "no_pictures")
SMALL = (
    *("augmentation.crop_hw=[64,64]", "adaptation.batch=2", "adaptation.iterations=4", "source.iterations=2"),
    *("source.batch=2", "run.checkpoint_every=2", "run.precision=fp32", "run.threads=1"),
)
OPTIONS = {
    "mean_teacher": ("adaptation.teacher=mean_teacher",),
    "ensemble": ("adaptation.class_balance=0.5",),
    # Broken off where labels begin
    "entropy_before": ("adaptation.entropy_first=0.5", "adaptation.learning_rate=1e-2"),
    "entropy_meanwhile": ("adaptation.entropy_first=0.75",),
}


@pytest.fixture(scope="module")
def source(cameras, tmp_path_factory):
    """A network of two steps of source training."""
    out = tmp_path_factory.mktemp("source") / "run"
    options = {"source": str(cameras / "old"), "size": "64x96", "settings": SMALL}
    return start_run(recipe="demo", out=out, init=None, resume=None, options=options).source


def adapted(cameras, source, out, settings, **more):
    places = {"source": str(cameras / "old"), "target": (str(cameras / "new" / "images" / "train"),)}
    options = {**places, "settings": (*SMALL, *settings), **more}
    return start_run(recipe="demo", out=out, init=source, resume=None, options=options)


def resumed(out):
    return start_run(recipe="new_camera", out=None, init=None, resume=out, options={})


def assert_same(first: Path, second: Path):
    one, two = (load_checkpoint(run / "checkpoints" / "adapted.pt").segmenter_state for run in (first, second))
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_resumed_run_with_options_is_the_unbroken_one_to_the_bit(cameras, source, tmp_path, kind):
    settings = OPTIONS[kind]
    whole, half = tmp_path / "whole", tmp_path / "half"
    adapted(cameras, source, whole, settings)
    with broken_off_after_two_steps():
        adapted(cameras, source, half, settings)
    resumed(half)
    assert_same(whole, half)
    assert (whole / "log.jsonl").read_text() == (half / "log.jsonl").read_text()
    last = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()][-2:]
    assert sum(value for name, value in last[0].items() if name.startswith("share.")) == pytest.approx(1.0)
    assert {"own_cosine", "other_cosine", "separation"} <= last[0].keys()
    wanted = {"loss", "flip_rate", "confidence"} | ({"agreement"} if kind != "mean_teacher" else set())
    assert wanted <= last[1].keys()


def test_a_collapse_is_said_on_stderr_in_one_line(monkeypatch, cameras, source, tmp_path, capsys):
    """Provoked: a network of two steps taught by itself at a rate of 0.3 soon knows hardly more than one class."""
    monkeypatch.setattr(CollapseWatch, "IMAGES", 4)  # two steps
    monkeypatch.setattr("clst_train.stages.adaptation.old_ones_stay", lambda run, old: False)
    settings = ("adaptation.learning_rate=0.3", "adaptation.iterations=8", "adaptation.ensemble_momentum=0.0")
    adapted(cameras, source, tmp_path / "run", settings)
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert any("vanished from the pseudo-labels; " in line for line in lines)
    assert len(lines) == len(set(lines)) <= 3


def test_a_run_without_a_teacher_logs_no_pseudo_labels(cameras, source, tmp_path):
    settings = ("adaptation.teacher=none", "adaptation.self_training_weight=0", "adaptation.contrastive_weight=0")
    settings = (*settings, "adaptation.entropy_first=1", "adaptation.class_mix=false")
    run = adapted(cameras, source, tmp_path / "run", settings)
    entries = [json.loads(line) for line in run.path.joinpath("log.jsonl").read_text().splitlines()]
    assert not [name for entry in entries for name in entry if name.startswith("share.")]
    assert entries[-1]["entropy"] > 0
    assert entries[-1]["confidence"] is None


FAST = ("adaptation.learning_rate=1e-2", "adaptation.entropy_first=0")


def weights_of(folder):
    """What was trained, without statistics."""
    state = load_checkpoint(folder).segmenter_state
    return {name: value for name, value in state.items() if "running" not in name and "num_batches" not in name}


def test_what_is_scored_at_the_end_of_a_run_is_its_result(cameras, source, tmp_path, monkeypatch):
    """The weights of the last validation are those of the checkpoint."""
    scored, score = [], run_module.validation_miou

    def noted(segmenter, *others):
        scored.append({name: value.detach().clone() for name, value in segmenter.named_parameters()})
        return score(segmenter, *others)

    monkeypatch.setattr(run_module, "validation_miou", noted)
    run = adapted(cameras, source, tmp_path / "run", FAST, val=str(cameras / "new"))
    result, facts = weights_of(run.adapted), load_checkpoint(run.adapted).facts
    lines = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    *_, last = (line["miou"] for line in lines if "miou" in line)
    assert facts["adapted_miou"] == f"{last:.2f} % on 2 images of new, split val"
    assert (facts["source"], facts["target"]) == ("4 images of old, split train", "4 images of new")
    assert re.fullmatch(r"4 steps of 2 images, seed \d, \d{4}-\d\d-\d\d, clst .*\(commit .*\)", facts["adaptation"])
    assert facts["source_training"] == load_checkpoint(source).facts["source_training"], "of the run before"
    assert "source_miou" not in facts, "the old network was not scored"
    assert scored[-1].keys() == result.keys()
    for name, value in scored[-1].items():
        assert torch.equal(value, result[name]), name
