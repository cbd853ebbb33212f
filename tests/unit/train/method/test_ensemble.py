"""The temporal ensemble against dense references."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clst_train.method.ensemble.temporal import TemporalEnsemble

STEP = 1 / 65535
"""The least difference that 16 bits tell apart."""


def make(images=3, classes=4, size_hw=(5, 6), *, momentum=0.9):
    return TemporalEnsemble(np.zeros((images, classes, *size_hw), np.uint16), np.zeros(images, np.int64), momentum)


def predictions(rng, *shape, sharpness=1.0):
    return torch.tensor(sharpness * rng.normal(size=shape), dtype=torch.float32).softmax(1)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
def test_the_store_follows_equation_2_over_many_visits(momentum):
    rng = np.random.default_rng(0)
    ensemble = make(momentum=momentum)
    dense, visits = np.zeros((3, 4, 5, 6)), np.zeros(3)
    for _ in range(60):
        chosen = rng.permutation(3)[:2]
        p = predictions(rng, 2, 4, 5, 6)
        averaged = ensemble.update(chosen, p)
        visits[chosen] += 1
        dense[chosen] = momentum * dense[chosen] + (1 - momentum) * p.numpy()
        corrected = dense[chosen] / (1 - momentum ** visits[chosen])[:, None, None, None]
        # Each visit rounds by half a step at most, and the later ones keep α of it.
        most = min(60, 1 / (1 - momentum)) * STEP / 2 + 1e-6
        assert np.abs(averaged.numpy() - corrected).max() <= most
    assert ensemble.visits.tolist() == visits.astype(int).tolist()


def test_the_first_visit_is_the_prediction_itself():
    ensemble = make(1, 3, (1, 1), momentum=0.99)
    p = torch.tensor([[[[0.25]], [[0.7]], [[0.05]]]])
    assert torch.equal(ensemble.update(np.array([0]), p), p)
    assert ensemble.read(np.array([0])).ravel()[1] == pytest.approx(0.7, abs=STEP)
    assert ensemble.read(np.array([0])).ravel().argmax() == 1


def test_an_image_never_visited_reads_as_zeros():
    ensemble = make()
    ensemble.update(np.array([1]), torch.full((1, 4, 5, 6), 0.25))
    assert ensemble.read(np.array([0, 2])).shape == (2, 4, 5, 6)
    assert not ensemble.read(np.array([0, 2])).any()
    assert ensemble.visits.tolist() == [0, 1, 0]


def test_certainty_fits_into_16_bits():
    ensemble = make(1, 2, (1, 1))
    certain = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    for _ in range(3):
        assert ensemble.update(np.array([0]), certain).ravel().tolist() == [1.0, 0.0]
    assert ensemble.read(np.array([0])).ravel().tolist() == [1.0, 0.0]


def test_after_many_visits_the_gain_is_that_of_the_momentum():
    ensemble = make(1, 2, (1, 1), momentum=0.99)
    ensemble.visits[0], ensemble.store[0] = 999, np.array([0.6, 0.4])[:, None, None] * 65535
    moved = ensemble.update(np.array([0]), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    # 0.6 + 0.4 · 0.01 / (1 − 0.99^1000), where 0.99^1000 = 0.00004
    assert moved.ravel()[0].item() == pytest.approx(0.604, abs=3 * STEP)
    assert ensemble.visits.tolist() == [1000]


def test_differences_that_float16_would_lose_still_move_the_average():
    """At α = 0.9 each prediction of 0.999 moves an average of 0.998 by 0.0001; float16's steps are 0.0005 there."""
    ensemble = make(1, 2, (1, 1))
    ensemble.visits[0], ensemble.store[0] = 999, np.array([0.998, 0.002])[:, None, None] * 65535
    for _ in range(40):
        ensemble.update(np.array([0]), torch.tensor([0.999, 0.001]).view(1, 2, 1, 1))
    assert ensemble.read(np.array([0])).ravel()[0] == pytest.approx(0.999 - 0.001 * 0.9**40, abs=1e-4)


def test_a_process_keeps_every_rth_image_in_the_next_row():
    """Of five images process 1 of 2 has images 1 and 3."""
    ensemble = TemporalEnsemble(np.zeros((2, 2, 1, 1), np.uint16), np.zeros(5, np.int64), 0.9, processes=2)
    ensemble.update(np.array([3]), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    ensemble.update(np.array([1]), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))
    ensemble.flush()
    assert ensemble.store[:, :, 0, 0].tolist() == [[0, 65535], [65535, 0]]
    assert ensemble.visits.tolist() == [0, 1, 0, 1, 0]
    assert ensemble.read(np.array([3])).ravel().tolist() == [1.0, 0.0]


def test_no_images_are_no_update():
    ensemble = make()
    assert ensemble.update(np.array([], np.int64), torch.zeros(0, 4, 5, 6)).shape == (0, 4, 5, 6)
    assert ensemble.visits.tolist() == [0, 0, 0]


def test_an_image_twice_in_one_update_and_a_wrong_shape_are_faults():
    ensemble = make()
    with pytest.raises(ValueError, match="twice"):
        ensemble.update(np.array([1, 1]), torch.full((2, 4, 5, 6), 0.25))
    with pytest.raises(RuntimeError):
        ensemble.update(np.array([1]), torch.full((1, 4, 6, 5), 0.25))
    with pytest.raises(RuntimeError):
        ensemble.update(np.array([1]), torch.full((1, 3, 5, 6), 0.25))
    ensemble.flush()
    assert ensemble.visits.tolist() == [0, 0, 0]
    assert not ensemble.store.any()


class SlowArrival:
    """A copy that has not arrived until somebody waits for it."""

    def __init__(self, waited):
        self.waited = waited

    def query(self):
        return False

    def synchronize(self):
        self.waited.append(self)


@pytest.fixture
def slow():
    """An ensemble whose device takes for ever to send cells back, and the list of those waited for."""
    waited = []
    ensemble = make(6, 3, (2, 2))
    ensemble._arrival = lambda device: SlowArrival(waited)
    return ensemble, waited


def test_cells_are_written_only_after_they_have_arrived(slow):
    ensemble, waited = slow
    ensemble.update(np.array([0]), torch.full((1, 3, 2, 2), 1 / 3))
    assert not waited
    assert not ensemble.store.any()
    ensemble.flush()
    assert len(waited) == 1
    assert ensemble.store[0].all()
    ensemble.flush()
    assert len(waited) == 1


def test_an_image_that_comes_again_before_its_cells_have_arrived_is_waited_for(slow):
    ensemble, waited = slow
    prompt = make(6, 3, (2, 2))
    rng = np.random.default_rng(0)
    for visit in range(4):
        p = predictions(rng, 2, 3, 2, 2)
        assert torch.equal(ensemble.update(np.array([2, 4]), p), prompt.update(np.array([2, 4]), p))
        assert len(waited) == visit
    assert np.array_equal(ensemble.read(np.array([4])), prompt.read(np.array([4])))


def test_other_images_are_not_waited_for_until_three_updates_are_under_way(slow):
    ensemble, waited = slow
    counts = []
    for image in range(6):
        ensemble.update(np.array([image]), torch.full((1, 3, 2, 2), 1 / 3))
        counts.append(len(waited))
    assert counts == [0, 0, 0, 1, 2, 3]


def test_the_caller_may_change_its_arrays_afterwards():
    ensemble = make()
    indices, p = np.array([0, 1]), torch.full((2, 4, 5, 6), 0.25)
    averaged = ensemble.update(indices, p)
    indices[:] = 2
    p.zero_()
    averaged.zero_()
    ensemble.flush()
    assert ensemble.read(np.array([0, 1, 2])).reshape(3, -1).max(1).tolist() == pytest.approx([0.25, 0.25, 0], abs=STEP)


class NoValueLeavesTheDevice(TorchDispatchMode):
    """Raises where an operation has to wait for a value: `.item()`, `if tensor`, boolean indexing, `nonzero`."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = str(function)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select", "unique")):
            raise AssertionError(name)
        return function(*arguments, **(options or {}))


def test_an_update_asks_the_device_for_no_value():
    ensemble, p = make(), torch.full((2, 4, 5, 6), 0.25)
    with NoValueLeavesTheDevice():
        ensemble.update(np.array([0, 1]), p)
        ensemble.recall(np.array([1, 2]), p.device)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            p[0, 0, 0, 0].item()
