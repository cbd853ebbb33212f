import math

import pytest
import torch
from torch.nn import functional as F

from clst_train.method.losses.contrastive import contrastive_loss
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.method.prototypes import ClassMeans, Prototypes, class_means, labels_at_stride

CPU = torch.device("cpu")


def test_class_means_equal_a_plain_loop():
    torch.manual_seed(0)
    projections = F.normalize(torch.randn(2, 5, 4, 6), dim=1)
    labels = torch.randint(0, 3, (2, 4, 6))
    labels[0, 0] = 255
    result = class_means(projections, labels, 4, 1)
    for image in range(2):
        for index in range(4):
            pixels = projections[image].permute(1, 2, 0)[labels[image] == index]
            assert bool(result.present[image, index]) == (len(pixels) > 0)
            if len(pixels):
                assert torch.allclose(result.means[image, index], F.normalize(pixels.mean(0), dim=0), atol=1e-6)


def test_a_class_with_too_few_pixels_is_not_present():
    labels = torch.tensor([[[0, 0, 1]]])
    assert class_means(torch.ones(1, 2, 1, 3), labels, 2, 2).present.tolist() == [[True, False]]


def prototypes_of(*vectors: list[float], seen: list[bool] | None = None) -> Prototypes:
    """Prototypes at these unit vectors."""
    prototypes = Prototypes(len(vectors), len(vectors[0]), CPU)
    present = torch.tensor([seen or [True] * len(vectors)])
    prototypes.update(ClassMeans(means=torch.tensor([vectors]), present=present))
    return prototypes


def test_all_ignored_means_nothing_is_present_and_the_loss_is_zero_with_a_gradient():
    projections = torch.ones(1, 2, 4, 4, requires_grad=True)
    loss = contrastive_loss(projections, torch.full((1, 4, 4), 255), prototypes_of([1.0, 0.0], [0.0, 1.0]))
    loss.backward()
    assert loss.item() == 0.0
    assert projections.grad.abs().sum().item() == 0.0


def test_the_contrast_is_the_cross_entropy_of_pixels_each_class_counting_alike():
    """Class 0 has eight pixels on its prototype, class 1 four on the other's: log(1 + e^∓10), each with weight ½."""
    projections = torch.zeros(1, 2, 3, 4)
    projections[:, 0] = 1.0
    labels = torch.tensor([[[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]])
    loss = contrastive_loss(projections, labels, prototypes_of([1.0, 0.0], [0.0, 1.0]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-10)) + math.log1p(math.exp(10))) / 2, abs=1e-4)


def test_a_pixels_term_is_that_of_explicit_logits():
    torch.manual_seed(1)
    vectors = F.normalize(torch.randn(3, 4), dim=1)
    prototypes = prototypes_of(*vectors.tolist())
    projections = F.normalize(torch.randn(2, 4, 2, 2), dim=1)
    labels = torch.tensor([[[2, 2], [2, 255]], [[255, 2], [2, 2]]])
    pixels = projections.permute(0, 2, 3, 1)[labels == 2]
    expected = F.cross_entropy(pixels @ prototypes.vectors().T / 0.1, torch.full((6,), 2))
    assert contrastive_loss(projections, labels, prototypes).item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(("few", "term"), [(3, 0.0), (4, 10.0)])
def test_a_class_of_less_than_four_pixels_does_not_count(few, term):
    """Those of class 1 lie on the prototype of class 0, at a loss of log(1 + e^10) = 10; class 0 loses nothing."""
    projections = torch.zeros(1, 2, 1, 8)
    projections[:, 0] = 1.0
    labels = torch.zeros(1, 1, 8, dtype=torch.long)
    labels[..., :few] = 1
    loss = contrastive_loss(projections, labels, prototypes_of([1.0, 0.0], [0.0, 1.0]))
    assert loss.item() == pytest.approx(term / 2, abs=1e-3)


def test_classes_never_seen_stay_out_of_the_denominator():
    prototypes = prototypes_of([1.0, 0.0], [0.0, 1.0], seen=[True, False])
    projections = torch.zeros(1, 2, 1, 8)
    projections[:, 0] = 1.0
    labels = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    assert contrastive_loss(projections, labels, prototypes).item() == pytest.approx(0.0, abs=1e-6)


def test_prototypes_are_a_running_mean_without_start_up_bias():
    prototypes = Prototypes(2, 2, CPU, momentum=0.9)
    for vector in ([1.0, 0.0], [0.0, 1.0]):
        batch = ClassMeans(means=torch.tensor([[vector, vector]]), present=torch.tensor([[True, False]]))
        prototypes.update(batch)
    # weights: first 0.1 · 0.9 = 0.09, second 0.1
    assert torch.allclose(prototypes.sums[0], torch.tensor([0.09, 0.1]))
    assert prototypes.weights[0].item() == pytest.approx(0.19)
    assert prototypes.seen.tolist() == [True, False]


def test_labels_at_stride_take_the_nearest_pixel():
    labels = torch.arange(16).reshape(1, 1, 16)
    assert labels_at_stride(labels, (1, 2)).tolist() == [[[4, 12]]]


def test_segmentation_loss_ignores_255_and_is_zero_when_all_is_ignored():
    logits = torch.zeros(1, 4, 1, 1)
    labels = torch.tensor([[[0, 255]]])
    assert segmentation_loss(logits, labels).item() == pytest.approx(torch.tensor(4.0).log().item())
    assert segmentation_loss(logits, torch.full((1, 1, 2), 255)).item() == 0.0
