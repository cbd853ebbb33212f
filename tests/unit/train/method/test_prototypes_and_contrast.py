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


def test_all_ignored_means_nothing_is_present_and_the_loss_is_zero_with_a_gradient():
    projections = torch.ones(1, 2, 1, 1, requires_grad=True)
    means = class_means(projections, torch.full((1, 1, 1), 255), 3, 1)
    loss = contrastive_loss(means, Prototypes(3, 2, CPU), 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert projections.grad.abs().sum().item() == 0.0


def test_the_contrast_is_the_cross_entropy_of_explicit_logits():
    torch.manual_seed(1)
    prototypes = Prototypes(3, 4, CPU)
    vectors = F.normalize(torch.randn(1, 3, 4), dim=2)
    prototypes.update(ClassMeans(means=vectors, present=torch.tensor([[True, True, True]])))
    means = F.normalize(torch.randn(2, 3, 4), dim=2)
    present = torch.tensor([[True, False, True], [False, True, False]])
    rows = [(0, 0), (0, 2), (1, 1)]
    logits = torch.stack([means[i, c] @ prototypes.vectors().T / 0.5 for i, c in rows])
    expected = F.cross_entropy(logits, torch.tensor([0, 2, 1]))
    assert contrastive_loss(ClassMeans(means=means, present=present), prototypes, 0.5).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


def test_classes_never_seen_stay_out_of_the_denominator():
    prototypes = Prototypes(2, 2, CPU, momentum=0.9)
    means = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    prototypes.update(ClassMeans(means=means, present=torch.tensor([[True, False]])))
    loss = contrastive_loss(ClassMeans(means=means, present=torch.tensor([[True, True]])), prototypes, 0.1)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


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
