"""What labels show, counted by hand."""

import numpy as np

from clst_export.report.measurement import Calibration, calibration_intervals, extreme, rates

EACH = np.arange(6)


def levels(*counts):
    """2,L of (level, pixels, right) each."""
    found = np.zeros((2, 256), np.int64)
    for level, pixels, right in counts:
        found[:, level] += (pixels, right)
    return found


def test_intervals_of_the_confidence_are_over_stretches_and_there_are_none_of_few():
    """In three images all that says 100 % is right, in three none; what says 20 % is in two images alone."""
    of_images = np.stack([levels((255, 10, 10))] * 3 + [levels((255, 10, 0))] * 3)
    of_images[:2] += levels((51, 10, 2))
    found = calibration_intervals(of_images, EACH)
    assert found.bins[0] is None
    low, high = found.bins[1]
    assert 0 <= low < 0.5 < high <= 1
    assert found.error[0] < (10 * 3 + 20 * 0) / 80 < found.error[1]
    assert calibration_intervals(of_images, EACH // 2) == Calibration(error=None, bins=(None, None))


def test_shares_are_of_all_images_together_and_nothing_has_none():
    hits, of = np.array([[9, 0, 0]] + [[1, 0, 0]] * 5), np.array([[9, 0, 4]] + [[10, 0, 4]] * 5)
    found = rates(hits, of, EACH)
    assert found.values[[0, 2]].tolist() == [14 / 59, 0]
    assert np.isnan(found.values[1])
    assert found.intervals[1:] == (None, (0, 0))
    low, high = found.intervals[0]
    assert 0.1 <= low < 14 / 59 < high <= 1


def test_images_of_other_stretches_go_first_and_those_without_a_value_never():
    values = np.array([0.1, 0.2, 0.3, 0.9, np.nan, 0.15])
    stretches = np.array([0, 0, 1, 2, 3, 0])
    assert extreme(values, stretches, 2) == [0, 2]
    assert extreme(values, stretches, 4) == [0, 5, 2, 3]
    assert extreme(values, stretches, 9) == [0, 5, 1, 2, 3]
    assert extreme(np.full(6, np.nan), stretches, 3) == []
