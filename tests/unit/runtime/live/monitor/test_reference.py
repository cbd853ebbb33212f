"""Distances, what is usual, and the way into a manifest and out of it."""

import json

import numpy as np
import pytest

from clst_runtime.errors import DataError, ModelFileError
from clst_runtime.live.monitor.reference import LEAST_LIMIT, WHOLE, Reference, Spread, shrunk, windows

A, L = "colour: mean a", "brightness: quantile 0.5"  # 1.0 and 2.0 of them are nothing to speak of


def column(*values):
    return np.array(values, np.float64)[:, None]


def test_a_distance_is_in_spreads_and_correlated_numbers_that_move_together_are_nearer():
    everything = np.arange(2)
    plain = Spread(mean=np.zeros(2), scale=np.array([1.0, 2.0]), correlation=np.eye(2))
    assert plain.distance(np.array([3.0, 0.0]), everything) == pytest.approx(3 / np.sqrt(2))
    assert plain.distance(np.array([3.0, 6.0]), everything) == pytest.approx(3.0)
    together = Spread(mean=np.zeros(2), scale=np.ones(2), correlation=np.array([[1.0, 0.5], [0.5, 1.0]]))
    assert together.distance(np.array([1.0, 1.0]), everything) == pytest.approx(np.sqrt(2 / 1.5 / 2))
    assert together.distance(np.array([1.0, -1.0]), everything) == pytest.approx(np.sqrt(2 / 0.5 / 2))
    assert together.distance(np.array([5.0, 1.0]), np.array([1])) == pytest.approx(1.0)  # the other one is left out


def test_the_spread_is_never_below_what_is_nothing_to_speak_of():
    spread = Spread.of(np.zeros((5, 2)), (A, L))
    assert spread.scale.tolist() == [1.0, 2.0]
    assert spread.correlation == pytest.approx(np.eye(2))
    wide = Spread.of(np.array([[-3.0, 0.0], [3.0, 0.0]]), (A, L))
    assert wide.scale == pytest.approx([np.sqrt(10), 2.0])
    assert np.diag(wide.correlation).sum() == pytest.approx(2.0)


def test_shrinking_is_ledoit_and_wolfs_and_less_the_more_frames_there_are():
    random = np.random.default_rng(3)
    mixing = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.5], [0.0, 0.0, 0.9]])
    shares = []
    for count in (6, 600):
        scaled = random.normal(size=(count, 3)) @ mixing
        scaled -= scaled.mean(axis=0)
        sample = scaled.T @ scaled / count
        level = np.trace(sample) / 3
        between = ((sample - level * np.eye(3)) ** 2).sum()
        noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in scaled) / count**2
        share = min(noise / between, 1.0)
        expected = share * level * np.eye(3) + (1 - share) * sample
        assert shrunk(scaled, np.zeros(3)) == pytest.approx(expected)
        shares.append(share)
    assert shares[0] > 5 * shares[1]


def test_usual_are_nine_in_ten_of_the_left_out_quarters_windows():
    """Quarters 0, 0, 0 and 3, a window in each.

    Without the last one the spread is 1, and it is 3 away. Without another one the mean is 1 and the variance 2, so
    that it is 1/√3 away. The quantile 0.9 of four lies seven tenths of the way from the third to the fourth.
    """
    reference = Reference.of([column(*[0.0] * 24, *[3.0] * 8)], (A,))
    limit = 0.3 / np.sqrt(3) + 0.7 * 3.0
    assert reference.limits[8] == {WHOLE: pytest.approx(limit), "colour": pytest.approx(limit)}
    # Of all: mean 0.75, variance (24 · 0.75² + 8 · 2.25²) / 32 = 1.6875, scale² 2.6875.
    window = column(*[0.75 + 6 * np.sqrt(2.6875)] * 8)
    found = reference.compare(window)
    assert found.shift == pytest.approx(6 / limit)
    assert (found.part, found.strongest, found.strongest_spreads) == ("colour", A, pytest.approx(6.0))


def test_a_reference_without_any_variation_has_a_limit_above_0():
    reference = Reference.of([np.zeros((32, 1))], (A,))
    assert reference.limits[8][WHOLE] == LEAST_LIMIT
    assert reference.compare(column(*[0.3] * 8)).shift == pytest.approx(1.0)


def test_the_part_that_moved_most_is_named():
    random = np.random.default_rng(0)
    reference = Reference.of([random.normal(0.0, (2.0, 4.0), (64, 2))], (A, L))
    found = reference.compare(np.tile([0.0, -40.0], (8, 1)))
    assert (found.part, found.strongest) == ("brightness", L)
    assert found.strongest_spreads < -5
    assert found.parts["brightness"] > 4 * found.parts["colour"]


@pytest.mark.parametrize(("count", "sizes"), [(32, [8]), (63, [8]), (64, [8, 16]), (128, [8, 16, 32])])
def test_limits_are_of_the_windows_that_fit_into_every_quarter(count, sizes):
    reference = Reference.of([np.random.default_rng(1).normal(size=(count, 1))], (A,))
    assert sorted(reference.limits) == sizes
    assert reference.frames == count


@pytest.mark.parametrize("stretches", [[], [np.zeros((31, 1))], [np.zeros((1, 1))] * 31])
def test_too_few_frames_are_refused_with_the_number(stretches):
    with pytest.raises(DataError, match=r"^(0|31) images of the camera are too few.*at least 32"):
        Reference.of(stretches, (A,))


def test_frames_of_many_small_folders_are_one_row():
    assert Reference.of([np.zeros((2, 1))] * 16, (A,)).frames == 32


def test_a_window_never_reaches_from_one_stretch_into_another():
    """Eight stretches 0, 10, 0, 10 …: a window across two would be half way between."""
    stretches = [np.full((8, 1), 10.0 * (place % 2)) for place in range(8)]
    limit = Reference.of(stretches, (A,)).limits[8][WHOLE]
    # Every quarter holds one of each; the rest has mean 5, variance 25: 5 / √26.
    assert limit == pytest.approx(5 / np.sqrt(26))


def test_windows_overlap_by_half_and_none_is_short():
    assert [w.ravel().tolist() for w in windows(column(*range(7)), 4)] == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert windows(column(1, 2, 3), 4) == []


def test_a_larger_window_uses_the_largest_limit_that_is_stored_and_a_smaller_one_is_refused():
    reference = Reference.of([column(*np.sin(np.arange(64.0)) * 5)], (A,))
    mean = reference.spread.mean[0]
    far = [reference.compare(column(*[mean + 20.0] * count)).shift for count in (8, 15, 16, 100)]
    assert far[0] == pytest.approx(far[1])
    assert far[2] == pytest.approx(far[3])
    with pytest.raises(DataError, match="7 frames cannot be compared; at least 8"):
        reference.compare(column(*[0.0] * 7))


@pytest.fixture
def stored():
    prints = np.random.default_rng(5).normal(0.0, (2.0, 4.0), (64, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]])
    return Reference.of([prints], (A, L))


def test_it_goes_through_json_unchanged(stored):
    again = Reference.from_json(json.loads(json.dumps(stored.to_json())), (A, L))
    window = np.tile([4.0, -3.0], (16, 1))
    assert again.compare(window).shift == pytest.approx(stored.compare(window).shift, rel=1e-4)
    assert (again.frames, again.limits) == (64, stored.limits)
    assert again.spread.correlation == pytest.approx(stored.spread.correlation, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "of version 2, not 1"),
        ({"names": [A, "classes: sky"]}, "2 numbers"),
        ({"mean": [1.0]}, "damaged"),
        ({"mean": [1.0, float("nan")]}, "damaged"),
        ({"scale": [1.0, 0.0]}, "damaged"),
        ({"correlation": [1.0, 2.0, 1.0]}, "damaged"),
        ({"correlation": [1.0]}, "damaged"),
        ({"limits": {}}, "damaged"),
        ({"limits": {"8": {"whole": 0.0, "colour": 1.0, "brightness": 1.0}}}, "damaged"),
        ({"limits": {"8": {"whole": 1.0}}}, "damaged"),
        ({"limits": None}, "damaged"),
        ({"frames": "many"}, "damaged"),
    ],
)
def test_a_damaged_reference_is_refused_in_one_line(stored, change, told):
    with pytest.raises(ModelFileError, match=told) as error:
        Reference.from_json({**stored.to_json(), **change}, (A, L))
    assert "\n" not in error.value.message
    assert "export the model again with --calib" in error.value.message


def test_something_else_than_a_mapping_is_refused():
    with pytest.raises(ModelFileError, match="of version None"):
        Reference.from_json([1, 2], (A, L))
