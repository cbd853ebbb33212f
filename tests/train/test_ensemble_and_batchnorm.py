import numpy as np
import pytest
import torch
from torch import nn

from clst_train.batchnorm import estimate_statistics, frozen_statistics
from clst_train.data.augment import Geometry
from clst_train.ensemble import TemporalEnsemble
from clst_train.step import pseudo_labels_of


def test_the_store_follows_the_dense_reference_over_many_visits():
    rng = np.random.default_rng(0)
    ensemble, momentum = TemporalEnsemble(3, 4, (5, 6), 0.9), 0.9
    dense, visits = np.zeros((3, 4, 5, 6)), np.zeros(3)
    for _ in range(60):
        chosen = rng.permutation(3)[:2]
        p = torch.tensor(rng.random((2, 4, 5, 6)), dtype=torch.float32).softmax(1)
        read = ensemble.update(chosen, p)
        visits[chosen] += 1
        dense[chosen] = momentum * dense[chosen] + (1 - momentum) * p.numpy()
        corrected = dense[chosen] / (1 - momentum ** visits[chosen])[:, None, None, None]
        assert np.abs(read.numpy() - corrected).max() < 1e-4
    assert ensemble.visits.tolist() == visits.astype(int).tolist()


def test_the_first_visit_is_the_prediction_itself():
    ensemble = TemporalEnsemble(1, 2, (1, 1), 0.99)
    p = torch.tensor([[[[0.25]], [[0.75]]]])
    assert torch.allclose(ensemble.update(np.array([0]), p), p, atol=1e-6)
    assert ensemble.read(np.array([0])).ravel().tolist() == pytest.approx([0.25, 0.75], abs=1e-5)


def test_the_state_survives_a_checkpoint(tmp_path):
    first = TemporalEnsemble(2, 3, (2, 2), 0.9)
    first.update(np.array([1]), torch.rand(1, 3, 2, 2))
    torch.save(first.state_dict(), tmp_path / "e.pt")
    second = TemporalEnsemble(2, 3, (2, 2), 0.9)
    second.load_state_dict(torch.load(tmp_path / "e.pt", weights_only=True))
    assert (first.store == second.store).all()
    assert second.visits.tolist() == [0, 1]


def test_pseudo_labels_are_read_through_the_crop_and_the_mirror():
    probabilities = torch.zeros(1, 2, 1, 4)
    probabilities[0, 1, 0, 2:] = 1.0  # right half is class 1
    probabilities[0, 0, 0, :2] = 1.0
    plain = Geometry(zoomed_hw=(2, 8), top=0, left=2, crop_hw=(2, 4), mirrored=False)
    mirrored = Geometry(zoomed_hw=(2, 8), top=0, left=3, crop_hw=(2, 4), mirrored=True)
    assert pseudo_labels_of(probabilities, (plain,)).tolist() == [[[0, 0, 1, 1]] * 2]
    assert pseudo_labels_of(probabilities, (mirrored,)).tolist() == [[[1, 1, 1, 0]] * 2]


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
