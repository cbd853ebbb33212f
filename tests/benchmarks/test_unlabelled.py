"""The benchmark of verdicts without labels: what is fitted, and what counts as right."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from benchmarks.adaptation import unlabelled_judge as judge
from benchmarks.adaptation import unlabelled_unseen as unseen
from benchmarks.adaptation.unlabelled import _head, _prototypes
from clst_runtime.classes.labels import ClassList
from clst_runtime.evaluation.unlabelled import Calibration, Seen, estimate_of


def camera(kind, *, factor=2.0, count=40, seed=0, noise=0.0):
    """Pairs whose change is `factor` points for each point of agreement and 10 for each ln, times the disagreement."""
    rng = np.random.default_rng(seed)
    agreement, shares, differ = rng.normal(0, 5, count), rng.normal(0, 0.5, count), rng.uniform(0.1, 0.5, count)
    truth = differ * (factor * agreement + 10 * shares) + noise * rng.normal(0, 1, count)
    signs = {judge.AGREEMENT: agreement, judge.SHARES: shares}
    rows = np.stack([truth, differ, agreement, shares], 1)
    pairs = tuple((place, place + 1) for place in range(count))
    return judge.Camera(
        f"{kind}/x", (("a", 1.0, "c"),) * (count + 1), pairs, truth, differ, np.ones(count), signs, rows
    )


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


def test_nothing_is_decided_where_shares_are_off_by_two_and_a_half():
    signs = {judge.AGREEMENT: np.array([2, 2, -2]), judge.SHARES: np.array([0.2, 0.2, -0.2])}
    found = dataclasses.replace(camera("a", count=3), signs=signs, off=np.array([2.4, 2.5, 2.5]))
    assert judge.decided(found, np.array([3, 3, -3])).tolist() == [1, 0, 0]


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
    assert found.off == pytest.approx([1, 1])  # the second has the labels' shares


TWO = ClassList(name="", names=("a", "b"), colours=((0, 0, 0),) * 2)


def asked(truth, *, old="seed1/source", new="seed1/clst", labelled=25):
    """The new network is ahead in both signs, and its shares are those of labels with 25 of 100 in the first class."""
    before = Seen(agreement=np.array([[60, 40], [40, 60]]), predicted=np.array([50, 50]))
    after = Seen(agreement=np.array([[90, 10], [10, 90]]), predicted=np.array([25, 75]))
    between = np.array([[50, 10], [0, 40]])
    found = estimate_of(before, after, between, np.array([labelled, 100 - labelled]), TWO, 12)
    return unseen.Asked(old=old, new=new, truth=truth, estimate=found)


def test_a_network_comes_from_the_source_of_its_own_seed():
    assert asked(1).from_its_source
    assert not asked(1, new="seed2/clst").from_its_source
    assert not asked(1, old="seed1/clst").from_its_source
    assert asked(1, new="seed1/broken, entropy").is_adaptation
    assert not asked(1, new="seed1/broken, noise").is_adaptation
    assert not asked(1, old="seed1/broken, entropy").is_adaptation


def test_figures_of_verdicts_with_and_without_the_guard():
    """Three are called better: a gain, a slight loss, a loss; of the last the labels show other things."""
    by = Calibration(agreement=0, shares=0, of_estimate=0, of_disagreement=0)
    pairs = [asked(5), asked(-0.4), asked(-3, labelled=1)]
    found = unseen.figures(pairs, by, unseen.without_guard)
    assert (found["right"], found["losses_called_better"], found["gains_found"]) == (pytest.approx(2 / 3), 1, 1)
    assert (found["mean_change_where_better_is_wrong"], found["mean_error"]) == (-3, pytest.approx(8.4 / 3))
    assert found["interval_holds_it"] == 0
    found = unseen.figures(pairs, by, unseen.Asked.way)
    assert (found["right"], found["losses_called_better"], found["gains_found"]) == (1, 0, 1)
    assert (found["losses_found"], np.isnan(found["mean_change_where_better_is_wrong"])) == (0, True)


def test_other_guards_ask_for_less_disagreement_or_an_interval_beyond_0():
    """The two disagree by 1 minus the mean of 50/60 and 40/50: 0.18. The interval is the published one."""
    found = asked(5)
    assert [unseen.disagreeing_less(limit)(found) for limit in (0.18, 0.19)] == [0, 1]
    assert (found.estimate.points > 8, unseen.beyond_zero(found)) == (True, 1)


def test_bands_of_shares_that_are_off():
    """By 25 times 1.32, of two classes the square root: 5.7."""
    rows = unseen.by_shares_off([asked(5), asked(-3, labelled=1), asked(4, labelled=1)])
    given = {(row["from"], row["below"]): row["better"] for row in rows if row["better"]["given"]}
    assert given == {
        (1.0, 1.5): {"given": 1, "right": 1.0, "mean_change_where_wrong": None},
        (3.0, 100.0): {"given": 2, "right": 0.5, "mean_change_where_wrong": -3.0},
    }


def test_the_part_of_disagreement_that_holds_95_percent():
    """Of twenty changes of 1 to 20 points without an estimate, 95 % are at most 19."""
    by = Calibration(agreement=0, shares=0, of_estimate=0, of_disagreement=0)
    pairs = [asked(change) for change in range(1, 21)]
    disagreement = pairs[0].estimate.disagreement
    assert unseen.of_disagreement([pairs], by) == pytest.approx(19 / 1.96 / disagreement)


def test_statistics_of_a_scene_and_noise_spoil_a_network():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    frames = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before = network[0].weight.clone()
    unseen.with_statistics(network.eval(), frames)
    of_frames = network[0](frames).mean((0, 2, 3))
    assert torch.allclose(network[1].running_mean, of_frames, atol=1e-6)
    assert torch.equal(network[0].weight, before)
    unseen.with_noise(network, 0.1)
    ratio = float(((network[0].weight - before).std() / before.std()).detach())
    assert 0.05 < ratio < 0.2
