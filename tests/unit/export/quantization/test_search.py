"""The search on made-up losses, so that the fewest kept convolutions are known beforehand."""

import numpy as np
import pytest
from PIL import Image

from clst_export.quantization.search import arithmetic_cost, curve_table, draw_curve, search
from clst_export.verification.evaluator import Comparison
from tests.conftest import RGB_CLASSES

MACS = {"a": 100, "b": 300, "c": 200, "d": 400}
LOSS = {"a": 0.10, "b": 0.02, "c": 0.04, "d": 0.01}


def comparison(drop, *, labelled=True):
    reference, candidate = np.array([0.5] * 3), np.array([0.5 - drop] * 3)
    return Comparison(classes=RGB_CLASSES, frames=1, labelled=labelled, agreement=1.0 - drop,
                   reference_iou=reference, candidate_iou=candidate)  # fmt: skip


def additive(kept):
    """Each quantised convolution loses its own share."""
    return comparison(sum(loss for name, loss in LOSS.items() if name not in kept))


def found(max_drop, trial=additive):
    return search(MACS, trial, additive, max_drop)


@pytest.mark.parametrize(
    ("max_drop", "kept"),
    [(0.17, set()), (0.071, {"a"}), (0.0301, {"a", "c"}), (0.011, {"a", "b", "c"}), (0.0, {"a", "b", "c", "d"})],
)
def test_the_most_sensitive_are_kept_and_no_more_than_needed(max_drop, kept):
    result = found(max_drop + 1e-9)
    assert result.holds
    assert result.chosen.kept == kept


def test_nothing_is_tried_beyond_the_first_when_it_holds():
    result = found(1.0)
    assert len(result.curve) == 1
    assert result.sensitivities == {}


def test_a_convolution_that_turns_out_harmless_is_quantised_again():
    """Alone `c` hurts, but not beside the others: after the bisection it is taken out of the kept ones."""

    def together(kept):
        return comparison(sum(LOSS[name] for name in "abd" if name not in kept))

    result = found(0.0101, together)
    assert result.chosen.kept == {"a", "b"}


def test_a_budget_that_cannot_hold_gives_the_best_there_is():
    result = found(0.005, lambda kept: comparison(0.01 + additive(kept).drop))
    assert not result.holds
    assert result.chosen.kept == set(MACS)


def test_sensitivities_come_most_sensitive_first():
    assert list(found(0.0).sensitivities) == ["a", "c", "b", "d"]
    assert found(0.0).sensitivities["a"] == pytest.approx(0.10)


def test_the_cost_counts_int8_as_half():
    assert arithmetic_cost(MACS, frozenset()) == 0.5
    assert arithmetic_cost(MACS, frozenset("d")) == 0.7  # (600·0.5 + 400) / 1000
    assert arithmetic_cost(MACS, frozenset(MACS)) == 1.0
    assert arithmetic_cost({}, frozenset()) == 1.0


def test_a_network_without_convolutions_to_quantise_has_nothing_to_keep():
    result = search({}, lambda kept: comparison(0.0), additive, 0.0)
    assert (result.holds, result.chosen.kept) == (True, frozenset())


def test_the_curve_as_a_table_and_as_a_picture(tmp_path):
    result = found(0.0301)
    lines = curve_table(result).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [str(len(each.kept)) for each in result.curve]
    chosen = next(line for line in lines if "←" in line)
    assert chosen.split()[:4] == ["2", "47.000", "3.000", "0.650"]
    draw_curve(result, tmp_path / "curve.png", max_drop=0.0301)
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (1320, 960)
    draw_curve(found(1.0), tmp_path / "one.png", max_drop=1.0)
    assert "pixels equal %" in curve_table(search(MACS, lambda k: comparison(0.0, labelled=False), additive, 0.0))
