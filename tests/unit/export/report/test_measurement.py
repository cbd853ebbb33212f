"""What labels show, counted by hand."""

import numpy as np

from clst_export.report.measurement import calibration_interval, extreme

EACH = np.arange(6)


def levels(*counts):
    """2,L of (level, pixels, right) each."""
    found = np.zeros((2, 256), np.int64)
    for level, pixels, right in counts:
        found[:, level] += (pixels, right)
    return found


def test_the_interval_of_the_calibration_error_is_over_stretches_and_there_is_none_of_few():
    """In three images all that says 100 % is right, in three none; what says 20 % is right in a fifth."""
    of_images = np.stack([levels((255, 10, 10))] * 3 + [levels((255, 10, 0))] * 3)
    of_images[:2] += levels((51, 10, 2))
    low, high = calibration_interval(of_images, EACH)
    assert 0 <= low < (10 * 3 + 20 * 0) / 80 < high <= 1
    assert calibration_interval(of_images, EACH // 2) is None


def test_images_of_other_stretches_go_first_and_those_without_a_value_never():
    values = np.array([0.1, 0.2, 0.3, 0.9, np.nan, 0.15])
    stretches = np.array([0, 0, 1, 2, 3, 0])
    assert extreme(values, stretches, 2) == [0, 2]
    assert extreme(values, stretches, 4) == [0, 5, 2, 3]
    assert extreme(values, stretches, 9) == [0, 5, 1, 2, 3]
    assert extreme(np.full(6, np.nan), stretches, 3) == []
