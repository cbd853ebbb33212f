"""The benchmark of confidences: its measures by hand."""

import math

import numpy as np
import pytest
import torch

from benchmarks.adaptation.calibration import by_likelihood, error, found_wrong, known, scores, usual_logits


def test_areas_of_four_points_counted_by_hand():
    """Of four pairs of a wrong and a right point three have the wrong one first; precision is 1 and 2/3 at both."""
    wrong = np.array([True, False, True, False])
    assert found_wrong(torch.tensor([0.9, 0.8, 0.2, 0.1]), wrong) == {"auroc": 75.0, "aupr": 83.33}


def test_the_error_is_that_of_the_confidence_at_a_temperature():
    """80 % at 2, of which half are right."""
    logits = torch.tensor([[2 * math.log(4), 0.0]] * 2)
    assert error(logits, torch.tensor([0, 1]), 2.0) == pytest.approx(30, abs=0.1)


def test_by_likelihood_doubled_logits_are_halved():
    doubled = torch.tensor([[2 * math.log(4), 0.0]] * 5)
    assert by_likelihood([(doubled, np.array([0, 0, 0, 0, 1], np.uint8))]) == pytest.approx(2, rel=0.03)


def test_what_is_ignored_is_not_known():
    logits, truth = known([(torch.eye(2), np.array([255, 1], np.uint8))])
    assert (logits.tolist(), truth.tolist()) == ([[0, 1]], [1])


def test_every_score_suspects_the_point_with_two_equal_logits():
    logits = torch.tensor([[6.0, 1.0], [1.0, 1.0]])
    for name, values in scores(logits, usual_logits([(torch.tensor([[3.0, 0.0], [5.0, 0.0]]), np.zeros(2))])).items():
        assert values[1] > values[0], name
