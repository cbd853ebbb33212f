import dataclasses

import pytest
import torch

from clst_train.method.alignment import DistributionAlignment
from clst_train.method.step import adaptation_step
from clst_train.method.teachers import SoftLabels
from tests.support.tiny import CPU, batches, learner


def alignment(start, now=None, strength=1.0):
    made = DistributionAlignment(strength, len(start), CPU)
    made.begin(torch.tensor(start))
    if now is not None:
        made.now.copy_(torch.tensor(now))
    return made


def soft_labels(*cells, **more):
    """One image, a row of cells; each a list of probabilities by class."""
    return SoftLabels(probabilities=torch.tensor(cells).T[None, :, None, :], **more)


def rows(aligned):
    return aligned.probabilities[0, :, 0].T


def test_a_class_that_spread_is_held_back_and_one_that_dwindled_is_helped():
    """Shares at the start 1/2 and 1/2, now 4/5 and 1/5: the factors are 5/8 and 5/2."""
    held = alignment([0.5, 0.5], now=[0.8, 0.2])
    labels = [[0.9, 0.1]] * 4 + [[0.1, 0.9]]  # 4/5 and 1/5 in this batch too, so that they stay
    aligned = rows(held.aligned(soft_labels(*labels)))
    assert held.now.tolist() == pytest.approx([0.8, 0.2])
    first = 0.9 * 0.625 / (0.9 * 0.625 + 0.1 * 2.5)  # 9/13
    assert aligned[0].tolist() == pytest.approx([first, 1 - first], abs=1e-3)
    assert aligned[4].tolist() == pytest.approx([1 / 37, 36 / 37], abs=1e-3)  # 0.1·5/8 to 0.9·5/2


def test_a_doubtful_cell_changes_its_label_and_a_sure_one_does_not():
    held = alignment([0.5, 0.5], now=[0.8, 0.2])
    aligned = rows(held.aligned(soft_labels([0.6, 0.4], [0.9, 0.1])))
    assert aligned.argmax(dim=1).tolist() == [1, 0]


def test_shares_of_now_follow_the_labels_slowly():
    held = alignment([0.5, 0.5])
    held.aligned(soft_labels([0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]))  # 3/4 and 1/4
    assert held.now.tolist() == pytest.approx([0.505, 0.495])  # a fiftieth of the way
    assert held.start.tolist() == [0.5, 0.5]


def test_where_nothing_has_moved_nothing_changes():
    held = alignment([0.5, 0.5])
    said = soft_labels([0.7, 0.3], [0.2, 0.8])
    assert torch.allclose(held.aligned(said).probabilities, said.probabilities)


def test_half_the_strength_takes_the_root_of_the_factors():
    held = alignment([0.5, 0.5], now=[0.8, 0.2], strength=0.5)
    aligned = rows(held.aligned(soft_labels(*[[0.9, 0.1]] * 4, [0.1, 0.9])))
    ratio = 9 * 0.625**0.5 / 2.5**0.5  # 9/2
    assert aligned[0].tolist() == pytest.approx([ratio / (ratio + 1), 1 / (ratio + 1)], abs=1e-3)


def test_no_factor_is_above_four_or_below_a_quarter():
    """A class that the start saw on 90 % of the cells and that is nearly gone; another that was not there."""
    held = alignment([0.9, 0.1, 0.0], now=[0.0, 0.1, 0.9])
    aligned = rows(held.aligned(soft_labels([0.2, 0.3, 0.5])))
    whole = 0.2 * 4 + 0.3 * 1 + 0.5 / 4
    assert aligned[0].tolist() == pytest.approx([0.8 / whole, 0.3 / whole, 0.125 / whole], abs=0.02)


def test_hidden_cells_do_not_count_and_none_at_all_change_nothing():
    held = alignment([0.5, 0.5])
    hidden = torch.tensor([[[False, True, True]]])
    held.aligned(soft_labels([0.9, 0.1], [0.1, 0.9], [0.1, 0.9], hidden=hidden))
    assert held.now.tolist() == pytest.approx([0.51, 0.49])
    held.aligned(soft_labels([0.9, 0.1], hidden=torch.tensor([[[True]]])))
    assert held.now.tolist() == pytest.approx([0.51, 0.49])


def test_a_teacher_that_says_nothing_is_left_alone():
    silent = SoftLabels(probabilities=None)
    assert alignment([0.5, 0.5]).aligned(silent) is silent


def test_it_goes_on_from_a_checkpoint():
    held = alignment([0.6, 0.4], now=[0.7, 0.3])
    other = alignment([0.5, 0.5])
    other.load_state_dict(held.state_dict())
    assert [other.start.tolist(), other.now.tolist()] == [held.start.tolist(), held.now.tolist()]


@pytest.mark.parametrize("settings", [{}, {"ensemble_view": "crops"}, {"teacher": "mean_teacher"}])
def test_a_step_learns_from_the_aligned_labels(settings):
    """Every label becomes the one class that the start saw: an untrained network is sure of nothing."""

    def labels(held):
        one = dataclasses.replace(learner(class_mix=False, **settings), alignment=held)
        return adaptation_step(one, *batches(), target_weight=1.0).pseudo_labels

    start = alignment([0.0, 0.0, 1.0], now=[0.4, 0.4, 0.2])
    assert (labels(start) == 2).all()
    assert not (labels(None) == 2).all()
