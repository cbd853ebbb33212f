"""The benchmark of confidences: its measures by hand."""

import math

import numpy as np
import pytest
import torch

from benchmarks.adaptation.calibration import auroc, by_likelihood, error, known, scores, usual_logits


def test_of_the_pairs_of_a_wrong_and_a_right_point_those_whose_wrong_one_is_more_suspect_count():
    """Three of four; where all are alike, half."""
    wrong = np.array([True, False, True, False])
    assert auroc(torch.tensor([0.9, 0.8, 0.2, 0.1]), wrong) == 75
    assert auroc(torch.tensor([0.9, 0.2, 0.2, 0.1]), wrong) == 87.5
    assert auroc(torch.zeros(4), wrong) == 50


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
    for name, values in scores(
        logits, 2.0, usual_logits([(torch.tensor([[3.0, 0.0], [5.0, 0.0]]), np.zeros(2))])
    ).items():
        assert values[1] > values[0], name
