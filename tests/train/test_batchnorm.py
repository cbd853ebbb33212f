import pytest
import torch
from torch import nn

from clst_train.batchnorm import estimate_statistics, frozen_statistics


def test_statistics_become_those_of_the_images_and_no_weight_moves():
    network = nn.Sequential(nn.BatchNorm2d(1))
    weight = network[0].weight.clone()
    count = estimate_statistics(network, [torch.full((2, 1, 2, 2), 3.0), torch.full((2, 1, 2, 2), 5.0)])
    assert count == 2
    assert network[0].running_mean.item() == 4.0
    assert torch.equal(network[0].weight, weight)
    assert network[0].momentum == 0.1


def test_no_batches_leave_the_statistics_as_they_were():
    network = nn.Sequential(nn.BatchNorm2d(1))
    network[0].running_mean.fill_(7.0)
    assert estimate_statistics(network, []) == 0
    assert network[0].running_mean.item() == 7.0


def test_frozen_statistics_normalise_by_the_batch_and_move_nothing():
    network = nn.Sequential(nn.BatchNorm2d(1)).eval()
    with frozen_statistics(network):
        out = network(torch.tensor([[[[1.0, 3.0]]]]))
    assert out.ravel().tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
    assert network[0].running_mean.item() == 0.0
    assert network[0].momentum == 0.1
    assert not network.training
