"""In a step of the adaptation, padding of a target image is as good as not there. Legend as in tiny.py."""

import dataclasses

import numpy as np
import pytest
import torch

from clst_train.method.step import adaptation_step
from tests.support.tiny import CLASSES, SIZE_HW, batches, learner, observed

PADDING = np.zeros((2, *SIZE_HW), bool)
PADDING[0, :1], PADDING[1, :, 4:] = True, True  # another one in each image
EVERYTHING = {
    "class_balance": 0.5,
    "class_mix": False,
}


def padded(target, padding=PADDING):
    return dataclasses.replace(target, ignored=padding, covered=padding)


def step(stored, **settings):
    """One step that reads an ensemble B,h,w of class ids, each said with 0.8, in a set with that padding."""
    one = learner(**(EVERYTHING | settings))
    _, target = batches()
    said = torch.full((2, CLASSES, *SIZE_HW), 0.1).scatter(1, torch.from_numpy(stored)[:, None], 0.8)
    one.ensemble.update(target.indices, said)
    # The first look makes prototypes, without which the contrastive loss of the second would be nothing
    first, result = (
        adaptation_step(one, batches(seed=seed)[0], padded(target), target_weight=1.0, predicts=False)
        for seed in (1, 0)
    )
    result.loss.backward()
    gradients = [parameter.grad.clone() for parameter in one.segmenter.parameters() if parameter.grad is not None]
    return result, gradients, observed(one, first, result).read()


def stored(seed=3):
    return np.random.default_rng(seed).integers(0, CLASSES, (2, *SIZE_HW))


@pytest.mark.parametrize("settings", [{}, {"class_mix": True}])
def test_what_is_stored_for_padding_changes_neither_loss_nor_gradient_nor_log(settings):
    plain, spoilt = stored(), stored()
    spoilt[PADDING] = (spoilt[PADDING] + 1) % CLASSES
    (one, first, told), (two, second, other) = step(plain, **settings), step(spoilt, **settings)
    assert one.loss.item() == two.loss.item()
    assert {name: part.item() for name, part in one.parts.items()} == {
        name: part.item() for name, part in two.parts.items()
    }
    assert one.parts["contrastive"].item() != 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert told[1:] == other[1:]
    assert told[0] == pytest.approx(other[0], nan_ok=True)
    if not settings:
        assert (one.pseudo_labels.numpy()[PADDING] == 255).all()


def test_this_test_would_notice_a_single_pixel_of_the_picture():
    spoilt = stored()
    spoilt[0, 1, 0] = (spoilt[0, 1, 0] + 1) % CLASSES
    assert step(stored())[0].loss.item() != step(spoilt)[0].loss.item()


@pytest.mark.parametrize("settings", [{}, {"teacher": "mean_teacher"}])
def test_no_cell_of_padding_is_in_the_shares_that_are_logged(settings):
    """Of 2×24 cells 6 and 8 are padding: 34 pseudo-labels are counted."""
    one, (source, target) = learner(class_mix=False, **settings), batches()
    counted = observed(one, adaptation_step(one, source, padded(target), target_weight=1.0))
    assert counted.counts.sum().item() == 34


def test_source_padding_carries_no_loss():
    """Labels 255 in a column: whatever the network says there, nothing flows back from it."""
    one, (source, target) = learner(self_training_weight=0.0, contrastive_weight=0.0, class_mix=False), batches()
    source.labels[:, :, 4:] = 255
    seen = []
    true = one.segmenter.training_outputs

    def training_outputs(images):
        outputs = true(images)
        if outputs.logits.requires_grad:  # whole images are predicted without
            outputs.logits.retain_grad()
            seen.append(outputs.logits)
        return outputs

    one.segmenter.training_outputs = training_outputs
    adaptation_step(one, source, target, target_weight=1.0).loss.backward()
    assert (seen[0].grad[:, :, :, 4:] == 0).all()
    assert (seen[0].grad[:, :, :, :4] != 0).any()


def test_everything_padded_is_a_step_without_a_target():
    one, (source, target) = learner(class_mix=False), batches()
    result = adaptation_step(one, source, padded(target, np.ones_like(PADDING)), target_weight=1.0)
    assert result.parts["self_training"].item() == 0
    assert torch.isfinite(result.loss)
