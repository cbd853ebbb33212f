import numpy as np
import pytest
import torch
from torch import nn

from clst_train.method.batchnorm import FollowedStatistics, estimate_statistics, keep_statistics
from clst_train.models.deployable import normalise
from clst_train.models.normalisation import IMAGENET
from clst_train.stages.whole_images import statistics_batches


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


def test_layers_without_running_statistics_are_left_out():
    """The first layer keeps none, so that the statistics of the second are not taken for its own."""
    network = nn.Sequential(nn.BatchNorm2d(1, affine=False, track_running_stats=False), nn.BatchNorm2d(1)).train()
    statistics = FollowedStatistics(network, 1.0)
    with torch.no_grad(), statistics.used_by(network):
        network(torch.tensor([[[[1.0, 3.0]]]]))
    assert statistics.means[0].item() == pytest.approx(0.0, abs=1e-6)  # of the first layer's output
    assert network.training
    estimate_statistics(network, [torch.tensor([[[[1.0, 3.0]]]])])
    assert network[1].running_var.item() == pytest.approx(2.0, abs=1e-3)  # of −1 and 1


def test_statistics_are_estimated_without_dropout():
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1)).train()
    estimate_statistics(network, [torch.full((2, 1, 8, 8), 3.0)])
    assert network[1].running_mean.item() == pytest.approx(3.0)
    assert network[0].training


def test_without_such_layers_no_image_is_looked_at():
    def batches():
        raise AssertionError
        yield

    assert estimate_statistics(nn.Sequential(nn.GroupNorm(1, 1)), batches()) == 0


def test_a_network_that_keeps_its_statistics_learns_by_them_and_they_do_not_move():
    """Mean 4 and variance 8 + 1 make 10 a 2, whatever the batch is; without, a batch of one value would be 0."""
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1, eps=1.0)).train()
    network[1].running_mean.fill_(4.0)
    network[1].running_var.fill_(8.0)
    kept = FollowedStatistics(network)
    keep_statistics(network)
    assert network[0].training
    assert network[1](torch.full((2, 1, 2, 2), 10.0)).flatten().tolist() == [2.0] * 8
    estimate_statistics(network, [torch.full((2, 1, 2, 2), 7.0)])
    kept.give(network)
    assert (network[1].running_mean.item(), network[1].running_var.item()) == (4.0, 8.0)


def test_a_batch_for_the_statistics_is_no_stretch_of_the_drive():
    """Images 0 … 19, each of that grey; every one once, in an order that mixes them and is always the same."""
    drive = [np.full((2, 2, 3), index, np.uint8) for index in range(20)]
    found = [
        torch.cat([b[:, 0, 0, 0] for b in statistics_batches(IMAGENET, drive, count=20, size=4)]) for _ in range(2)
    ]
    assert torch.equal(found[0], found[1])
    greys = [normalise(torch.from_numpy(image[None]), IMAGENET)[0, 0, 0, 0].item() for image in drive]
    order = [greys.index(value) for value in found[0].tolist()]
    assert sorted(order) == list(range(20))
    assert all(max(order[k : k + 4]) - min(order[k : k + 4]) >= 8 for k in range(0, 20, 4))


def test_fewer_images_for_the_statistics_are_spread_over_the_whole_set():
    drive = [np.full((2, 2, 3), index, np.uint8) for index in range(20)]
    batches = list(statistics_batches(IMAGENET, drive, count=4, size=2))
    expected = normalise(torch.from_numpy(np.stack([drive[index] for index in (0, 5, 10, 15)])), IMAGENET)
    assert torch.equal(torch.cat(batches).sort(dim=0).values, expected)


def layer(mean=0.0, variance=1.0):
    network = nn.Sequential(nn.BatchNorm2d(1))
    network[0].running_mean.fill_(mean)
    network[0].running_var.fill_(variance)
    return network


PAIR = torch.tensor([[[[1.0, 3.0]]]])
"""Mean 2, variance 2 as an estimate from two values."""


def test_a_batch_first_moves_the_statistics_and_is_then_normalised_by_them():
    """From mean 0 and variance 1, half of the way to 2 and 2: mean 1, variance 1.5; (1−1)/√1.5 = 0, (3−1)/√1.5."""
    network = layer().train()
    statistics = FollowedStatistics(network, 0.5)
    with statistics.used_by(network):
        out = network(PAIR)
    assert out.ravel().tolist() == pytest.approx([0.0, 2 / 1.5**0.5], abs=1e-4)
    assert statistics.state_dict()["means"][0].tolist() == [1.0]
    assert statistics.state_dict()["variances"][0].tolist() == [1.5]
    with statistics.used_by(network):  # mean 1.5, variance 1.75
        out = network(PAIR)
    assert out.ravel().tolist() == pytest.approx([-0.5 / 1.75**0.5, 1.5 / 1.75**0.5], abs=1e-4)


def test_the_networks_own_statistics_and_mode_stay_even_when_something_goes_wrong():
    network = layer(7.0, 4.0).train()
    statistics = FollowedStatistics(network, 0.5)
    with pytest.raises(KeyError), statistics.used_by(network):
        network(PAIR)
        raise KeyError
    assert (network[0].running_mean.item(), network[0].running_var.item()) == (7.0, 4.0)
    assert network.training
    assert not network[0]._forward_pre_hooks
    assert statistics.means[0].item() == 4.5


def test_momentum_0_keeps_the_statistics_of_the_start_and_1_takes_the_batchs():
    for momentum, mean, variance in ((0.0, 5.0, 9.0), (1.0, 2.0, 2.0)):
        network = layer(5.0, 9.0)
        statistics = FollowedStatistics(network, momentum)
        with statistics.used_by(network):
            network(PAIR)
        assert (statistics.means[0].item(), statistics.variances[0].item()) == (mean, variance)


def test_a_single_value_moves_nothing():
    network = layer(5.0, 9.0)
    statistics = FollowedStatistics(network, 0.5)
    with statistics.used_by(network):
        out = network(torch.full((1, 1, 1, 1), 8.0))
    assert out.item() == pytest.approx(1.0, abs=1e-4)
    assert statistics.means[0].item() == 5.0


def test_followed_statistics_go_on_from_their_state():
    network = layer()
    statistics, other = FollowedStatistics(network, 0.5), FollowedStatistics(layer(3.0, 3.0), 0.5)
    with statistics.used_by(network):
        network(PAIR)
    other.load_state_dict(statistics.state_dict())
    for each in (statistics, other):
        with each.used_by(network):
            network(PAIR)
    assert other.means[0].item() == statistics.means[0].item() == 1.5


def test_followed_statistics_begin_anew_with_the_networks_own_and_leave_those_alone():
    network = nn.Sequential(nn.BatchNorm2d(1))
    statistics = FollowedStatistics(network, 0.5)
    network[0].running_mean.fill_(3.0)
    network[0].running_var.fill_(2.0)
    statistics.begin_anew(network)
    with statistics.used_by(network):
        network(torch.full((1, 1, 2, 1), 5.0))
    assert statistics.state_dict()["means"][0].tolist() == [4.0]
    assert network[0].running_mean.tolist() == [3.0]
    assert network[0].running_var.tolist() == [2.0]
