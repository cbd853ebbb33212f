"""What a run says at its end, by the verdicts that it left."""

import dataclasses
import json

import pytest

from clst_runtime.errors import BudgetNotHeld, DataError
from clst_train.config import Config
from clst_train.engine.run_folder import create_run
from clst_train.inspection.verdict import check_gate, next_steps, warning_of


def ended(tmp_path, *, gate=False, **verdicts):
    """A finished run's folder with `estimate` and `verdict` of those names."""
    config = Config()
    data = dataclasses.replace(config.data, target=("new.mp4",))
    config = dataclasses.replace(config, data=data, run=dataclasses.replace(config.run, gate=gate))
    folder = create_run(tmp_path / "run", config)
    folder.adapted.parent.mkdir()
    folder.adapted.touch()
    for name, verdict in verdicts.items():
        points = {"worse": -3.25}.get(verdict, 1.5)
        values = {"verdict": verdict, "text": f"{verdict}: …", "miou": {"change_points": points}}
        getattr(folder, name).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("verdicts", "first", "lines"),
    [
        ({}, "next, frames to label: clst-data pick new.mp4", 2),
        ({"estimate": "unclear"}, "next, frames to label: clst-data pick new.mp4", 2),
        ({"estimate": "better"}, "next: clst-export", 2),
        ({"estimate": "worse"}, "next: do not export it", 2),
        ({"estimate": "worse", "verdict": "better"}, "next: clst-export", 2),
        ({"estimate": "better", "verdict": "worse"}, "next: do not export it", 1),
        ({"estimate": "better", "verdict": "unclear"}, "next, frames to label: clst-data pick new.mp4", 2),
    ],
)
def test_labels_count_before_the_estimate(tmp_path, verdicts, first, lines):
    steps = next_steps(ended(tmp_path, **verdicts))
    assert (steps[0].startswith(first), len(steps)) == (True, lines)


def test_an_estimate_is_followed_by_how_to_be_surer(tmp_path):
    folder = ended(tmp_path, estimate="better")
    pick = f"clst-data pick new.mp4 --model {folder.source} --model {folder.path} --out FEW"
    assert next_steps(folder)[1] == f"to be surer, label a few frames: {pick}"


@pytest.mark.parametrize(("gate", "verdicts", "fails"), [
    (True, {"estimate": "worse"}, True),
    (True, {"estimate": "worse", "verdict": "better"}, False),
    (True, {"estimate": "better", "verdict": "worse"}, True),
    (True, {}, False),
    (False, {"estimate": "worse"}, False),
])  # fmt: skip
def test_the_gate_ends_with_6_where_it_is_worse(tmp_path, gate, verdicts, fails):
    folder = ended(tmp_path, gate=gate, **verdicts)
    if not fails:
        assert check_gate(folder) is folder
        return
    with pytest.raises(BudgetNotHeld, match="worse: …; the old network is "):
        check_gate(folder)


def test_a_picture_is_warned_of_by_how_it_is_known(tmp_path):
    by_labels = "on labelled images the adapted network is worse, by 3.25 points of mIoU, whatever this shows"
    assert warning_of(ended(tmp_path / "a", verdict="worse", estimate="better")) == by_labels
    assert warning_of(ended(tmp_path / "b", estimate="worse")).startswith("by an estimate without labels the adapted")
    assert warning_of(ended(tmp_path / "c", verdict="unclear", estimate="worse")) == ""


@pytest.mark.parametrize("values", [{"verdict": "worse"}, {"verdict": "worse", "text": "worse: …", "miou": 3}])
def test_a_damaged_verdict_is_told_with_what_makes_it_anew(tmp_path, values):
    folder = ended(tmp_path / "a run")
    folder.verdict.write_text(json.dumps(values))
    with pytest.raises(DataError, match="verdict.json is damaged .*; make it again with .* --resume '.*/a run/run'"):
        warning_of(folder)
