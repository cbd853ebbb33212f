import math

import pytest
import torch

from clst_train.method.losses.entropy import entropy_loss
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.method.prototypes import at_stride


def test_entropy_is_one_where_all_classes_are_alike_and_zero_where_one_is_sure():
    logits = torch.zeros(1, 4, 1, 2)
    logits[0, 2, 0, 1] = 100.0
    assert entropy_loss(logits, torch.tensor([[[True, False]]])).item() == pytest.approx(1.0)
    assert entropy_loss(logits, torch.tensor([[[False, True]]])).item() == pytest.approx(0.0, abs=1e-6)
    assert entropy_loss(logits, torch.tensor([[[True, True]]])).item() == pytest.approx(0.5)


def test_entropy_of_a_quarter_and_three_quarters_counted_by_hand():
    logits = torch.tensor([0.25, 0.75]).log().reshape(1, 2, 1, 1)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert entropy_loss(logits, torch.ones(1, 1, 1, dtype=torch.bool)).item() == pytest.approx(expected)


def test_the_gradient_of_the_entropy_is_that_of_the_explicit_formula():
    """d/dz_k of H = −Σ p log p is −p_k (log p_k + H); the loss is its mean over 5 of 6 cells, over log C."""
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 2, 3, requires_grad=True)
    counted = torch.ones(1, 2, 3, dtype=torch.bool)
    counted[0, 1, 2] = False
    entropy_loss(logits, counted).backward()
    p = logits.detach().softmax(1)
    entropy = -(p * p.log()).sum(1, keepdim=True)
    expected = -p * (p.log() + entropy) / math.log(3) / 5 * counted[:, None]
    assert torch.allclose(logits.grad, expected, atol=1e-6)
    assert logits.grad[0, :, 1, 2].abs().sum().item() == 0.0


def test_entropy_with_no_cell_counted_is_zero_with_a_gradient_of_zero():
    logits = torch.randn(2, 3, 1, 1, requires_grad=True)
    loss = entropy_loss(logits, torch.zeros(2, 1, 1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().sum().item() == 0.0


def test_a_sure_prediction_has_a_finite_gradient():
    logits = torch.tensor([500.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    entropy_loss(logits, torch.ones(1, 1, 1, dtype=torch.bool)).backward()
    assert torch.isfinite(logits.grad).all()


def test_weights_scale_each_pixel_and_the_divisor_stays_the_number_of_labelled_pixels():
    """Three labelled pixels of −log ½ = 0.693 weigh 1, 0.5 and 0; the ignored one weighs 9: (1.5 · 0.693) / 3."""
    logits, labels = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 0, 255]]])
    weights = torch.tensor([[[1.0, 0.5, 0.0, 9.0]]])
    assert segmentation_loss(logits, labels, weights).item() == pytest.approx(0.5 * math.log(2))
    assert segmentation_loss(logits, labels, torch.ones(1, 1, 4)).item() == pytest.approx(math.log(2))


def test_all_ignored_is_zero_with_weights_too():
    logits = torch.zeros(1, 2, 1, 1, requires_grad=True)
    loss = segmentation_loss(logits, torch.tensor([[[255]]]), torch.ones(1, 1, 1))
    loss.backward()
    assert (loss.item(), logits.grad.abs().sum().item()) == (0.0, 0.0)


def test_a_mask_at_stride_takes_the_same_pixels_as_labels_do():
    mask = torch.zeros(1, 1, 16, dtype=torch.bool)
    mask[0, 0, 12] = True
    assert at_stride(mask, (1, 2)).tolist() == [[[False, True]]]
