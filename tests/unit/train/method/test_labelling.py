"""What classifier and prototypes say together."""

import dataclasses

import pytest
import torch

from clst_train.method.labelling import agreed, soft_labels_of
from clst_train.method.prototypes import ClassMeans
from tests.support.tiny import batches, learner


def cell(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, :, None, None]


def test_a_class_is_as_likely_as_classifier_and_root_of_prototypes_have_it():
    """0.5·√0.16 : 0.3·√0.64 : 0.2·√0.2 = 0.2 : 0.24 : 0.0894, so the second class comes to be the first."""
    found = agreed(cell(0.5, 0.3, 0.2), cell(0.16, 0.64, 0.2), torch.tensor([True, True, True]))
    assert found.flatten().tolist() == pytest.approx([0.3777, 0.4533, 0.1689], abs=1e-4)


def test_a_class_that_no_source_image_has_shown_keeps_its_probability():
    """The two others share their 0.6 as 0.2·√0.01 : 0.4·√0.04 = 1 : 4."""
    found = agreed(cell(0.2, 0.4, 0.4), cell(0.01, 0.04, 0.0), torch.tensor([True, True, False]))
    assert found.flatten().tolist() == pytest.approx([0.12, 0.48, 0.4])


def test_without_any_prototype_the_classifier_has_the_say():
    found = agreed(cell(0.2, 0.8), cell(0.5, 0.5), torch.tensor([False, False]))
    assert found.flatten().tolist() == pytest.approx([0.2, 0.8])


@pytest.mark.parametrize("sure", [(1.0, 0.0), (0.0, 1.0)])
def test_neither_a_certain_classifier_nor_certain_prototypes_leave_nothing(sure):
    found = agreed(cell(*sure), cell(*reversed(sure)), torch.tensor([True, True]))
    assert found.flatten().tolist() == pytest.approx(sure)
    assert agreed(cell(0.0, 0.0), cell(0.5, 0.5), torch.tensor([True, True])).sum() == 0


def prototypes_near_class_1(one):
    """Every projection is the prototype of class 1 and at a right angle to the others'."""
    with torch.no_grad():
        one.projection.output.weight.zero_()
        one.projection.output.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))
        one.mean_teacher.network.head.weight.zero_()
        one.mean_teacher.network.head.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    one.prototypes.update(ClassMeans(means=torch.eye(3, 5)[None], present=torch.tensor([[True] * 3])))


def test_pseudo_labels_are_those_of_both_and_without_contrast_the_classifier_s():
    """Logits 1, 0, 0 and similarities 0, 1/τ = 10, 0, of which half counts: 1, 5, 0."""
    _, target = batches()
    for weight, logits in ((0.1, [1.0, 5.0, 0.0]), (0.0, [1.0, 0.0, 0.0])):
        one = learner(teacher="mean_teacher", contrastive_weight=weight)
        prototypes_near_class_1(one)
        found = soft_labels_of(one, target, predicts=True).probabilities
        assert found is not None
        assert not found.requires_grad
        expected = torch.tensor(logits).softmax(0)
        assert torch.allclose(found.amax((0, 2, 3)), expected, atol=2e-3)
        assert torch.allclose(found.amin((0, 2, 3)), expected, atol=2e-3)


def test_prototypes_of_a_coarser_map_are_brought_to_the_cells():
    one, (_, target) = learner(teacher="mean_teacher"), batches()
    prototypes_near_class_1(one)
    rows, columns = one.cells_hw
    found = soft_labels_of(dataclasses.replace(one, cells_hw=(rows * 2, columns * 2)), target, predicts=True)
    assert found.probabilities is not None
    assert found.probabilities.shape[-2:] == (rows * 2, columns * 2)
    assert set(found.probabilities.argmax(1).flatten().tolist()) == {1}
