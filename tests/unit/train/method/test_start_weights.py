"""The result's weights lie between those that self-training begins with and those that it ends with."""

import pytest
import torch
from torch import nn

from clst_train.method.start_weights import StartWeights


def network(weight, statistic=0.0):
    one = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    with torch.no_grad():
        one[0].weight.fill_(weight)
        one[1].running_mean.fill_(statistic)
    return one


@pytest.mark.parametrize(("share", "weight"), [(0.25, 5.0), (0.0, 6.0), (1.0, 2.0)])
def test_each_weight_goes_its_share_of_the_way_back(share, weight):
    """From 2 to 6; a quarter of 2 and three quarters of 6 are 5. Statistics are not weights."""
    one, kept = network(2.0, statistic=1.0), StartWeights(share)
    kept.begin(one)
    with torch.no_grad():
        one[0].weight.fill_(6.0)
        one[1].running_mean.fill_(3.0)
    kept.join(one)
    assert one[0].weight.item() == weight
    assert one[1].running_mean.item() == 3.0
    assert one[0].weight.requires_grad


def test_a_network_stays_as_it_is_where_nothing_was_remembered():
    one = network(6.0)
    StartWeights(0.5).join(one)
    assert one[0].weight.item() == 6.0


def test_what_is_remembered_goes_through_a_checkpoint():
    one, kept, other = network(2.0), StartWeights(0.5), StartWeights(0.5)
    kept.begin(one)
    other.load_state_dict(kept.state_dict())
    with torch.no_grad():
        one[0].weight.fill_(6.0)
    other.join(one)
    assert one[0].weight.item() == 4.0
