"""The benchmark of verdicts without labels: what is fitted, and what counts as right."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.adaptation import unlabelled_judge as judge
from benchmarks.adaptation.unlabelled import _head, _prototypes


def camera(kind, *, factor=2.0, count=40, seed=0, noise=0.0):
    """Pairs whose change is `factor` points for each point of agreement and 10 for each ln, times the disagreement."""
    rng = np.random.default_rng(seed)
    agreement, shares, differ = rng.normal(0, 5, count), rng.normal(0, 0.5, count), rng.uniform(0.1, 0.5, count)
    truth = differ * (factor * agreement + 10 * shares) + noise * rng.normal(0, 1, count)
    signs = {judge.AGREEMENT: agreement, judge.SHARES: shares}
    rows = np.stack([truth, differ, agreement, shares], 1)
    pairs = tuple((place, place + 1) for place in range(count))
    return judge.Camera(f"{kind}/x", (("a", 1.0, "c"),) * (count + 1), pairs, truth, differ, signs, rows)


def test_coefficients_are_found_again_though_one_camera_has_more_pairs():
    rows = [judge.of_pairs(camera("a")), judge.of_pairs(camera("b", count=10, seed=1))]
    coefficients, in_parts, of_disagreement = judge.fit(rows)
    assert coefficients == pytest.approx([2, 10], rel=0.05)
    assert in_parts < 0.05
    assert of_disagreement < 1.5


def test_the_interval_is_as_wide_as_the_errors_on_another_kind():
    """The second kind's changes are twice the first's: estimates are half of them there, and twice here."""
    rows = [judge.of_pairs(camera("a")), judge.of_pairs(camera("b", factor=4, seed=1))]
    _, in_parts, of_disagreement = judge.fit(rows)
    errors = []
    for here, other in (rows, rows[::-1]):
        estimate = here.inputs @ judge.proportion([other.inputs], [other.truth])
        half = 1.96 * np.hypot(in_parts * estimate, of_disagreement * here.disagreement)
        errors.append((np.abs(here.truth - estimate) <= half).mean())
    assert np.mean(errors) == pytest.approx(0.95, abs=0.02)


def test_both_signs_and_an_estimate_that_is_not_slight_decide():
    signs = {judge.AGREEMENT: np.array([2, -2, 2, 2, -2]), judge.SHARES: np.array([0.2, -0.2, -0.2, 0.2, -0.2])}
    found = dataclasses.replace(camera("a", count=5), signs=signs)
    assert judge.decided(found, np.array([3, -3, 3, 1.4, -1.4])).tolist() == [1, -1, 0, 0, 0]


def test_a_slight_change_may_be_called_either_way():
    assert judge.is_right(np.array([1, 1, -1]), np.array([-0.4, -0.6, -3])).tolist() == [True, False, True]


def test_pairs_with_a_spoilt_network_are_left_out():
    found = camera("a", count=2)
    found = dataclasses.replace(found, networks=(("x/a", 1, ""), ("broken/x", 1, ""), ("x/c", 1, "")),
                                      pairs=((0, 1), (0, 2)))  # fmt: skip
    kept = judge.without_broken(found)
    assert (kept.pairs, kept.truth.tolist()) == (((0, 2),), [found.truth[1]])


def test_a_linear_head_tells_classes_apart_and_prototypes_have_length_1():
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 50)
    features = rng.normal(0, 0.1, (100, 3)) + np.eye(3)[classes]
    assert (_head(features, classes, 3)(features) == classes).all()
    found = _prototypes(features, classes, 3)
    assert np.linalg.norm(found[:2], axis=1) == pytest.approx([1, 1])
    assert np.isnan(found[2]).all()


def test_cameras_are_read_from_what_was_kept(tmp_path):
    """Two networks of two classes: the first has half of its pixels right, the second all."""
    folder = tmp_path / "camera" / "x"
    folder.mkdir(parents=True)
    for name, wrong in (("a", 5), ("b", 0)):
        counts = np.array([[10 - wrong, wrong], [wrong, 10 - wrong]])
        values = dict.fromkeys(("truth", "smaller", "mirrored", "larger", "reverse validation", "source head"), counts)
        values |= {
            "predicted": counts.sum(0),
            "labelled": counts.sum(1),
            "maps": np.array([[[0, 1]], [[wrong > 0, 1]]], np.uint8),
        }
        values |= {
            "expected": np.ones((3, 2)),
            "entropy": wrong / 10,
            "prototypes": np.eye(2),
            "source prototypes": np.eye(2),
        }
        np.savez(folder / name, name=name, origin=json.dumps({"commit": "abc"}), **values)
    found = judge.open_camera(folder)
    assert (found.kind, found.pairs, found.networks[1]) == ("camera", ((0, 1), (1, 0)), ("b", 100.0, "abc"))
    gain = 100 - 100 * 5 / 15
    assert found.truth == pytest.approx([gain, -gain])
    assert found.signs[judge.AGREEMENT] == pytest.approx([gain, -gain])
    assert found.disagreement == pytest.approx(2 * [(1 - 1 / 2 + 1 - 2 / 3) / 2])
