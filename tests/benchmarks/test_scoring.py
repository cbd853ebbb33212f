"""The arithmetic of the tables, on counts that can be done by hand."""

import json
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest

from benchmarks.adaptation import compare
from benchmarks.adaptation.compare import Job, Rows, best_oracle, found_rows, summary, table, write
from benchmarks.adaptation.pairs import Labelled, Pair
from benchmarks.adaptation.scoring import (
    by_stretch,
    compared,
    difference,
    mean_iou,
    merged,
    per_class,
    recovered,
    score,
    spread,
)
from clst_runtime.imaging.image_files import write_png

RIGHT = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 0]])  # class 2 does not occur
HALF = np.array([[2, 2, 0], [0, 4, 0], [0, 0, 0]])  # 2/4 and 4/6
STEPS = {"oracle": 5, "oracle_long": 9}
GAP = 100 - 100 * (0.5 + 4 / 6) / 2


def test_iou_by_hand_and_a_class_that_does_not_occur_is_left_out():
    assert mean_iou(HALF, [0, 1, 2]) == pytest.approx(50 * (0.5 + 4 / 6))
    assert mean_iou(HALF, [1]) == pytest.approx(400 / 6)
    assert np.isnan(mean_iou(HALF, [2]))
    assert mean_iou(np.stack([HALF, RIGHT]), [0, 1]).tolist() == pytest.approx([100 - GAP, 100])
    assert per_class(HALF, ["a", "b", "c"]) == {"a": 0.5, "b": pytest.approx(4 / 6), "c": None}


def test_the_spread_is_that_of_a_sample():
    """Deviations −1, 0, 1: their squares over two, not three."""
    assert spread([1.0, 2.0, 3.0]) == 1.0
    assert spread([1.0]) is None


def test_images_of_one_stretch_are_counted_together():
    counts = np.stack([HALF, RIGHT, RIGHT])
    assert by_stretch(counts, ["b", "a", "b"]).tolist() == [RIGHT.tolist(), (HALF + RIGHT).tolist()]


def test_the_difference_of_a_method_from_itself_is_nothing_in_every_resample():
    each = {1: np.stack([RIGHT, HALF, HALF])}
    assert difference(each, each, [0, 1]) == {"mean": 0, "std": None, "low": 0, "high": 0, "seeds": [0]}


def test_equal_stretches_leave_no_doubt_and_seeds_are_paired():
    right, half = np.stack([RIGHT] * 4), np.stack([HALF] * 4)
    found = difference({1: right, 2: half, 3: right}, {2: half, 1: half}, [0, 1])
    assert [found[key] for key in ("mean", "low", "high")] == pytest.approx([GAP / 2] * 3)
    assert found["seeds"] == pytest.approx([GAP, 0]), "of the two seeds that both have"
    assert found["std"] == pytest.approx(GAP / 2**0.5)


def test_a_gain_on_one_stretch_of_two_is_in_doubt_however_many_images_it_has():
    """Drawn twice, the first stretch gives the whole gap; the second gives none."""
    ours, theirs = np.stack([RIGHT] * 40), np.stack([HALF] * 20 + [RIGHT] * 20)
    places = ["a"] * 20 + ["b"] * 20
    found = difference({1: by_stretch(ours, places)}, {1: by_stretch(theirs, places)}, [0, 1])
    assert found["low"] == 0
    assert found["high"] == pytest.approx(GAP)
    assert 0 < found["mean"] < found["high"]


@pytest.mark.parametrize(("adapted", "expected"), [(30.0, 0.5), (20.0, 0.0), (15.0, -0.25), (40.0, 1.0)])
def test_recovered_is_the_share_of_the_way_to_the_oracle(adapted, expected):
    found = {"source": {1: 20.0, 2: 90.0}, "oracle": {1: 40.0}, "clst": {1: adapted, 2: 0.0}}
    assert recovered(found, "clst", "oracle") == pytest.approx(expected)


def test_nothing_is_recovered_without_an_oracle_of_the_same_seeds_that_is_better():
    found = {"source": {1: 20.0}, "clst": {1: 30.0}}
    assert recovered(found, "clst", "oracle") is None
    assert recovered(found | {"oracle": {1: 20.0}}, "clst", "oracle") is None
    assert recovered(found | {"oracle": {2: 40.0}}, "clst", "oracle") is None


def test_every_row_has_its_score_and_clsts_lead():
    right, half = np.stack([RIGHT] * 2), np.stack([HALF] * 2)
    found = compared({"source": {1: half, 2: half}, "clst": {1: right, 2: half}}, [0, 1], "oracle")
    assert found["clst"]["miou"] == pytest.approx([100, 100 - GAP])
    assert found["clst"]["miou_std"] == pytest.approx(GAP / 2**0.5)
    assert found["source"]["clst_ahead"]["mean"] == pytest.approx(GAP / 2)
    assert "clst_ahead" not in found["clst"]
    assert "clst_ahead" not in compared({"source": {1: half}}, [0, 1], "oracle")["source"]
    assert score({"source": {1: half}}, [0])["source"] == {"miou": [50.0], "miou_mean": 50.0, "miou_std": None}


def test_classes_that_are_merged_count_as_one():
    """Of HALF 0 and 1 in one group: its eight pixels are right; 2, which does not occur, stays by itself."""
    assert merged(HALF, [[0, 1], [2]]).tolist() == [[8, 0], [0, 0]]
    assert merged(HALF, [[1], [0], [2]]).tolist() == [[4, 0, 0], [2, 2, 0], [0, 0, 0]]
    assert merged(np.stack([RIGHT, HALF]), [[0], [1, 2]]).tolist() == [[[4, 0], [0, 4]], [[2, 2], [0, 4]]]


def pair_of(**more):
    here = Labelled(root=Path(), split="val")
    return Pair(name="p", title="P", size="8x8", source=here, oracle=here, choice=here, test=here, **more)


def rows_of(test, choice=None):
    """One image, which is a stretch, and one seed."""
    each = {name: {1: counts[None]} for name, counts in test.items()}
    runs = {name: [{"seed": 1, "commit": "abc"}] for name in test}
    return Rows(runs=runs, test=each, choice={name: {1: counts[None]} for name, counts in (choice or {}).items()})


def test_the_score_is_over_the_headline_classes_and_the_merged_groups_stand_beside_it():
    """Truth b: two of four taken for c, which is its group; truth a: one of four taken for b."""
    counts = np.array([[3, 1, 0], [0, 2, 2], [0, 0, 4]])
    pair = pair_of(headline=("b",), merged=(("a",), ("b", "c")))
    rows = rows_of({"source": counts, "clst": counts}, {"clst": RIGHT})
    found = summary(pair, rows, {}, ("a", "b", "c"))
    assert found["methods"]["clst"]["miou"] == [pytest.approx(40)]
    assert found["methods"]["clst"]["choice"]["miou"] == [100.0]
    assert "choice" not in found["methods"]["source"]
    assert found["methods"]["source"]["iou"] == [{"a": 0.75, "b": pytest.approx(0.4), "c": pytest.approx(4 / 6)}]
    assert found["merged"]["clst"]["miou"] == [pytest.approx(50 * (3 / 4 + 8 / 9))]
    assert found["merged"]["clst"]["choice"]["miou"] == [100.0]
    assert "merged" not in summary(pair_of(), rows, {}, ("a", "b", "c"))


def test_the_oracle_is_the_best_on_the_choice_split_or_where_it_has_learnt_that_the_longest_trained():
    assert best_oracle({"oracle": 58.0, "oracle_long": 60.0, "clst": 70.0}, STEPS) == "oracle_long"
    assert best_oracle({"oracle": 60.0, "oracle_long": 58.0, "clst": 70.0}, STEPS) == "oracle"
    assert best_oracle({"oracle": None, "oracle_long": None, "clst": 70.0}, STEPS) == "oracle_long"
    assert best_oracle({"oracle": 60.0, "oracle_long": None}, STEPS) == "oracle_long"
    assert best_oracle({"oracle": 60.0}, STEPS) == "oracle"
    assert best_oracle({"clst": 70.0}, STEPS) == ""


@pytest.fixture
def at_commit(monkeypatch):
    """Sets the commit that a result file is of."""

    def sets(commit):
        monkeypatch.setattr(compare, "provenance", lambda: {"commit": commit})

    return sets


def test_a_later_run_adds_rows_replaces_its_own_and_marks_those_of_another_commit(tmp_path, at_commit, capsys):
    path, facts = tmp_path / "p.json", {"name": "p", "title": "P", "steps": 5}
    classes = ("a", "b", "c")
    at_commit("abc")
    write(path, facts, summary(pair_of(), rows_of({"source": HALF, "clst": HALF}), STEPS, classes), STEPS)
    assert "at commit" not in capsys.readouterr().out
    later = rows_of({"clst": RIGHT, "oracle": RIGHT})
    for runs in later.runs.values():
        runs[0]["commit"] = "def"
    at_commit("def")
    write(path, facts, summary(pair_of(), later, STEPS, classes), STEPS)
    result = json.loads(path.read_text())
    assert {name: row["miou"] for name, row in result["methods"].items()} == {
        "source": [pytest.approx(100 - GAP)], "clst": [100.0], "oracle": [100.0],
    }  # fmt: skip
    assert [line.partition(" ")[0] for line in table(result) if "at commit abc" in line] == ["source"]


def test_a_row_is_measured_by_an_oracle_that_only_the_file_has_and_a_kept_row_by_no_other_clst(tmp_path, at_commit):
    path, facts, classes = tmp_path / "p.json", {"name": "p", "title": "P", "steps": 5}, ("a", "b", "c")
    at_commit("abc")
    every = {"source": HALF, "clst": HALF, "without_contrast": HALF, "oracle": RIGHT}
    write(path, facts, summary(pair_of(), rows_of(every), STEPS, classes), STEPS)
    write(path, facts, summary(pair_of(), rows_of({"source": HALF, "clst": HALF}), STEPS, classes), STEPS)
    kept = json.loads(path.read_text())
    assert kept["methods"]["without_contrast"]["clst_ahead"]["mean"] == 0.0
    write(path, facts, summary(pair_of(), rows_of({"source": HALF, "clst": RIGHT}), STEPS, classes), STEPS)
    found = json.loads(path.read_text())
    assert found["oracle"] == "oracle"
    recovery = {name: row["recovery"] for name, row in found["methods"].items()}
    assert recovery == {"source": 0.0, "clst": 1.0, "without_contrast": 0.0, "oracle": 1.0}
    assert {name for name, row in found["methods"].items() if "clst_ahead" in row} == {"source"}


@pytest.mark.parametrize(
    ("kept", "new", "oracle", "share"),
    [(RIGHT, HALF, "oracle_long", 0.46), (HALF, RIGHT, "oracle", 1.0), (None, None, "oracle_long", 0.46)],
)
def test_of_two_oracles_the_better_one_counts_where_the_file_alone_has_it(
    tmp_path, at_commit, kept, new, oracle, share
):
    """CLST: 3/4 and 4/5 on the test, like the new oracle; the one in the file is right everywhere and trained longer.

    By the choice split, or where they have learnt that, by the steps.
    """
    path, facts, classes = tmp_path / "p.json", {"name": "p", "title": "P", "steps": 5}, ("a", "b", "c")
    near = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    at_commit("abc")
    before = rows_of({"oracle_long": RIGHT}, {} if kept is None else {"oracle_long": kept})
    write(path, facts, summary(pair_of(), before, STEPS, classes), STEPS)
    rows = rows_of({"source": HALF, "clst": near, "oracle": near}, {} if new is None else {"oracle": new})
    write(path, facts, summary(pair_of(), rows, STEPS, classes), STEPS)
    found = json.loads(path.read_text())
    assert found["oracle"] == oracle
    assert found["methods"]["clst"]["recovery"] == pytest.approx(share)


def test_rows_of_another_measurement_are_refused(tmp_path, at_commit):
    path, rows = tmp_path / "p.json", rows_of({"source": HALF})
    at_commit("abc")
    write(path, {"name": "p", "title": "P", "steps": 5}, summary(pair_of(), rows, STEPS, ("a", "b", "c")), STEPS)
    with pytest.raises(click.UsageError, match="another steps; give --name"):
        write(path, {"name": "p", "title": "P", "steps": 6}, summary(pair_of(), rows, STEPS, ("a", "b", "c")), STEPS)


def test_rows_follow_from_the_networks_that_lie_there_and_were_made_with_the_same_settings(tmp_path):
    """Two frames of one drive are a stretch; the row of other settings is left where it is."""
    here = tmp_path / "data"
    for name in ("1_10", "1_20", "2_10"):
        write_png(here / "images" / "test" / f"{name}.png", np.zeros((4, 4, 3), np.uint8))
        write_png(here / "labels" / "test" / f"{name}.png", np.zeros((4, 4), np.uint8))
    (here / "classes.json").write_text(json.dumps({"names": ["a", "b", "c"]}))
    pair = replace(pair_of(), test=Labelled(root=here, split="test"))
    jobs = [
        Job(pair=pair, work=tmp_path, seed=1, method=name, source_steps=9, steps=9, oracle_times=1, settings=())
        for name in ("source", "clst", "oracle", "both")
    ]
    for job in jobs[:3]:
        job.network.parent.mkdir(parents=True, exist_ok=True)
        other = ["run.threads=1"] if job.method == "oracle" else []
        job.network.with_suffix(".json").write_text(json.dumps({"settings": [*job.all_settings(), *other]}))
        np.save(job.network.with_suffix(".test.npy"), np.stack([RIGHT, HALF, HALF]))
    np.save(jobs[1].network.with_suffix(".choice.npy"), np.stack([RIGHT]))
    found = found_rows(jobs)
    assert found.test.keys() == found.runs.keys() == {"source", "clst"}
    assert found.test["clst"][1].tolist() == [(RIGHT + HALF).tolist(), HALF.tolist()]
    assert found.choice.keys() == {"clst"}
