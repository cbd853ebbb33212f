"""Which frames the comparison of few labels with many looks at, and its numbers, by hand."""

import numpy as np

from benchmarks.adaptation.picking import choices, points, prelabelling, summary
from tests.conftest import RGB_CLASSES
from tests.unit.runtime.evaluation.test_change import BAD, GOOD, HALF, change


def test_choices_take_one_frame_of_each_stretch_by_what_is_in_it():
    """Fifty frames: of the first part, frames 0 … 40, the stretches are two frames long, the last three."""
    old = np.zeros((50, 2, 2), np.uint8)
    new = old.copy()
    new[1, 0, 0], new[4] = 2, 1  # a rare class, and a frame that is all different
    found = list(choices(old, new, 3, np.random.default_rng(0)))
    assert len(found) == 3 * 10 + 20
    by_name = dict(reversed(found))
    assert by_name["middle of each stretch"][:3] == [1, 3, 5]
    assert by_name["most disagreement in each stretch"][:3] == [1, 2, 4]
    assert by_name["rarest classes in each stretch"][:3] == [1, 2, 4]
    assert all(len(picked) == len(set(picked)) == 20 and max(picked) < 50 for _, picked in found)


def test_few_labels_that_tell_the_same_and_others_that_do_not():
    better, worse = change([HALF] * 6, [GOOD] * 6), change([GOOD] * 6, [HALF] * 6)  # +25 and −25
    much_better = change([BAD] * 6, [GOOD] * 6)  # +50
    found = summary([(better, better), (better, much_better), (worse, better)])
    assert found == {
        "comparisons": 3,
        "mean_absolute_error": 25.0,
        "too_large_by": -25.0,
        "same_sign": round(2 / 3, 4),
        "same_sign_from_1_point": round(2 / 3, 4),
        "same_verdict": round(2 / 3, 4),
        "opposite_verdict": round(1 / 3, 4),
        "interval_holds_it": round(1 / 3, 4),
    }


def test_mistakes_left_in_prelabels_favour_the_network_they_come_from():
    """Two networks, each wrong in a quarter of the pixels, at other places: neither is better."""
    labels = np.zeros((20, 4, 4), np.uint8)
    labels[:, 2:] = 1
    one, other = labels.copy(), labels.copy()
    one[:, 0], other[:, 1] = 1, 1
    assert points(one, other, labels, RGB_CLASSES) == 0
    found = prelabelling([one, other], labels, RGB_CLASSES, np.random.default_rng(0))["80% corrected"]
    assert found["of the new network"]["too_good_by"] > 5
    assert found["open where they differ"]["mean_absolute_error"] == 0
