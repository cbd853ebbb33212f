"""Stretches of images that show the same scene, and what is drawn from them."""

from statistics import NormalDist

import numpy as np
import pytest

from clst_runtime.evaluation.resampling import (
    FEWEST_STRETCHES,
    RESAMPLES,
    draws,
    interval,
    points_of,
    stretches_of,
    summed,
)


def scenes(count, *, length=1, seed=0):
    """N,P class ids of two classes by chance; so many images in a row are the same scene."""
    found = np.random.default_rng(seed).integers(0, 2, (count // length, 1024), np.uint8)
    return np.repeat(found, length, axis=0)


def sizes(points):
    return np.bincount(stretches_of(points)).tolist()


def test_images_that_have_nothing_in_common_are_stretches_of_their_own():
    assert sizes(scenes(12)) == [1] * 12
    assert sizes(scenes(2)) == [1, 1]


def test_a_stretch_is_as_long_as_a_scene_at_whatever_rate_it_was_taken():
    assert sizes(scenes(60, length=3)) == [3] * 20
    assert sizes(scenes(100, length=5)) == [5] * 20


def test_images_are_shared_out_evenly_where_the_length_does_not_divide_them():
    """Of 58 images in scenes of three there are 19 stretches, one of four."""
    assert sorted(sizes(scenes(60, length=3)[:-2])) == [3] * 18 + [4]


@pytest.mark.parametrize("count", [2, 5, 40])
def test_the_same_labels_in_every_image_are_one_stretch(count):
    assert sizes(np.repeat(scenes(1), count, axis=0)) == [count]


def test_a_slow_pan_over_one_scene_gives_too_few_stretches_for_an_interval():
    """Sixty images of a second of video: each is its neighbour but for a fortieth."""
    scene = scenes(1)[0].repeat(40)
    assert len(sizes(np.stack([scene[step : step + 1024] for step in range(60)]))) < FEWEST_STRETCHES


def test_ignored_points_are_not_compared_and_labels_without_any_class_are_one_stretch():
    points = scenes(12)
    points[:, ::2] = 255
    assert sizes(points) == [1] * 12
    assert sizes(np.full((3, 1024), 255, np.uint8)) == [3]
    apart = np.full((4, 1024), 255, np.uint8)
    apart[np.arange(4), np.arange(4)] = 1
    assert sizes(apart) == [4], "no point is labelled in two of them, so that nothing is known"


def test_points_lie_in_the_middle_of_equal_parts_also_of_labels_that_are_smaller():
    labels = np.arange(64, dtype=np.uint8)[:, None].repeat(96, 1)
    assert points_of(labels).reshape(32, 32)[:, 0].tolist() == list(range(1, 64, 2))
    assert points_of(np.array([[3, 4]], np.uint8)).tolist() == ([3] * 16 + [4] * 16) * 32


def test_images_are_summed_by_stretch():
    assert summed(np.array([[1, 2], [3, 4], [5, 6]]), np.array([0, 1, 0])).tolist() == [[6, 8], [3, 4]]


def test_each_resample_draws_as_many_stretches_as_there_are_and_the_same_ones_every_time():
    found = draws(7)
    assert found.shape == (RESAMPLES, 7)
    assert (found.sum(1) == 7).all()
    assert (found == draws(7)).all()


def test_the_interval_of_many_stretches_leaves_a_fortieth_at_either_end_and_resamples_without_a_value():
    assert interval(np.array([*range(41), np.nan]), 10**6) == pytest.approx((1, 39), abs=1e-3)


def test_the_interval_of_few_stretches_is_as_wide_as_student_says():
    """Of normal resamples the ends lie at t·√(S / (S − 1)), for five stretches at 2.776·√1.25 = 3.10."""
    values = np.array([NormalDist().inv_cdf((each + 0.5) / 200_000) for each in range(200_000)])
    assert interval(values, 5)[1] == pytest.approx(3.10, abs=0.06)
    assert interval(values, 12)[0] == pytest.approx(-2.201 * (12 / 11) ** 0.5, abs=0.01)
    assert interval(np.array([3.0]), 1) == (3, 3)
