"""The arithmetic of the tables, on counts that can be done by hand."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.adaptation.compare import Row, merged_summary, recovery, summary
from benchmarks.adaptation.pairs import Labelled, Pair
from benchmarks.adaptation.scoring import bootstrap_difference, mean_iou, merged, per_class
from clst_runtime.evaluation.confusion import iou

RIGHT = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 0]])  # class 2 does not occur
HALF = np.array([[2, 2, 0], [0, 4, 0], [0, 0, 0]])  # 2/4 and 4/6


def test_iou_by_hand_and_a_class_that_does_not_occur_is_left_out():
    assert iou(HALF)[:2].tolist() == [0.5, pytest.approx(4 / 6)]
    assert np.isnan(iou(HALF)[2])
    assert mean_iou(HALF, [0, 1, 2]) == pytest.approx((0.5 + 4 / 6) / 2)
    assert mean_iou(HALF, [1]) == pytest.approx(4 / 6)
    assert per_class(HALF, ["a", "b", "c"]) == {"a": 0.5, "b": pytest.approx(4 / 6), "c": None}


def test_the_difference_of_a_method_from_itself_is_nothing_in_every_resample():
    images = np.stack([RIGHT, HALF, HALF])
    assert bootstrap_difference([images], [images], [0, 1], resamples=50) == {
        "mean": 0, "low": 0, "high": 0, "seeds": [0],
    }  # fmt: skip


def test_equal_images_leave_no_doubt_and_seeds_are_averaged():
    right, half = np.stack([RIGHT] * 4), np.stack([HALF] * 4)
    gap = 100 - 100 * (0.5 + 4 / 6) / 2
    found = bootstrap_difference([right, half], [half, half], [0, 1], resamples=50)
    assert [found[key] for key in ("mean", "low", "high")] == pytest.approx([gap / 2] * 3)
    assert found["seeds"] == pytest.approx([gap, 0])


def test_a_gain_on_one_image_of_two_is_in_doubt():
    """Sampled twice, the first image gives the whole gap; the second gives none."""
    ours, theirs = np.stack([RIGHT, RIGHT]), np.stack([HALF, RIGHT])
    found = bootstrap_difference([ours], [theirs], [0, 1], resamples=400)
    assert found["low"] == 0
    assert found["high"] == pytest.approx(100 - 100 * (0.5 + 4 / 6) / 2)
    assert 0 < found["mean"] < found["high"]


@pytest.mark.parametrize(("adapted", "expected"), [(30.0, 0.5), (20.0, 0.0), (15.0, -0.25), (40.0, 1.0)])
def test_recovery_is_the_share_of_the_way_to_the_oracle(adapted, expected):
    found = {"source": [20.0], "oracle": [40.0], "clst": [adapted]}
    assert recovery(found, "clst") == pytest.approx(expected)


def test_no_recovery_without_an_oracle_of_the_same_seeds_that_is_better():
    found = {"source": [20.0], "clst": [30.0]}
    assert recovery(found, "clst") is None
    assert recovery(found | {"oracle": [20.0]}, "clst") is None
    assert recovery(found | {"oracle": [40.0, 40.0]}, "clst") is None


def test_the_score_is_over_the_headline_classes_and_all_classes_stand_beside_it():
    here = Labelled(root=Path(), split="val")
    pair = Pair(name="p", title="p", size="8x8", source=here, oracle=here, choice=here, test=here,
                headline=("b",))  # fmt: skip
    rows = {
        name: Row(title=name, seeds=[1], matrices=[np.stack([HALF])], seconds=[None]) for name in ("source", "clst")
    }
    found = summary(pair, rows, ("a", "b", "c"))
    assert found["clst"]["miou"] == [pytest.approx(400 / 6)]
    assert found["clst"]["miou_all_classes"] == [pytest.approx(50 * (0.5 + 4 / 6))]
    assert found["source"]["clst_ahead"]["mean"] == 0


def test_classes_that_are_merged_count_as_one():
    """Of HALF 0 and 1 in one group: its eight pixels are right; 2, which does not occur, stays by itself."""
    assert merged(HALF, [[0, 1], [2]]).tolist() == [[8, 0], [0, 0]]
    assert merged(HALF, [[1], [0], [2]]).tolist() == [[4, 0, 0], [2, 2, 0], [0, 0, 0]]
    assert merged(np.stack([RIGHT, HALF]), [[0], [1, 2]]).tolist() == [[[4, 0], [0, 4]], [[2, 2], [0, 4]]]


def test_the_second_score_is_of_the_merged_groups():
    """Truth b: two of four taken for c, which is its group; truth a: one of four taken for b."""
    counts = np.array([[[3, 1, 0], [0, 2, 2], [0, 0, 4]]])
    here = Labelled(root=Path(), split="val")
    pair = Pair(name="p", title="p", size="8x8", source=here, oracle=here, choice=here, test=here,
                headline=("a", "b"), merged=(("a",), ("b", "c")))  # fmt: skip
    rows = {name: Row(title=name, seeds=[1], matrices=[counts], seconds=[None]) for name in ("source", "clst")}
    found = merged_summary(pair, rows, ("a", "b", "c"))
    assert found["clst"]["miou"] == [pytest.approx(100 * (3 / 4 + 8 / 9) / 2)]
    assert found["clst"]["iou"] == [{"a": 0.75, "b + c": pytest.approx(8 / 9)}]
    assert found["source"]["clst_ahead"]["mean"] == 0
    plain = Pair(name="p", title="p", size="8x8", source=here, oracle=here, choice=here, test=here)
    assert merged_summary(plain, rows, ("a", "b", "c")) == {}


def test_images_adapted_to_have_a_score_of_their_own_where_no_label_of_them_was_learnt():
    """Test images: all right; images adapted to: 2/4 and 4/6, merged all right."""
    here = Labelled(root=Path(), split="val")
    pair = Pair(name="p", title="p", size="8x8", source=here, oracle=here, choice=here, test=here,
                headline=("a",), merged=(("a", "b"), ("c",)))  # fmt: skip
    rows = {
        name: Row(title=name, seeds=[1], matrices=[RIGHT[None]], seen=[HALF[None]], seconds=[None])
        for name in ("source", "clst")
    }
    rows["oracle"] = Row(title="oracle", seeds=[1], matrices=[RIGHT[None]], seconds=[None])
    found, second = summary(pair, rows, ("a", "b", "c")), merged_summary(pair, rows, ("a", "b", "c"))
    assert found["clst"]["miou"] == [100.0]
    assert found["clst"]["seen"]["miou"] == [50.0]
    assert found["source"]["seen"]["clst_ahead"]["mean"] == 0
    assert second["clst"]["seen"]["miou"] == [100.0]
    assert "seen" not in found["oracle"]
    assert "seen" not in second["oracle"]
    assert found["clst"]["seen"]["recovery"] is None


def test_without_labels_of_the_images_adapted_to_there_is_no_such_score():
    here = Labelled(root=Path(), split="val")
    pair = Pair(name="p", title="p", size="8x8", source=here, oracle=here, choice=here, test=here)
    rows = {name: Row(title=name, seeds=[1], matrices=[HALF[None]], seconds=[None]) for name in ("source", "clst")}
    assert "seen" not in summary(pair, rows, ("a", "b", "c"))["clst"]
