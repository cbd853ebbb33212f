"""The temporal ensemble against dense references, in both forms of the store."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clst_train.data.augment import Geometry
from clst_train.method.ensemble.cells import MOST_VISITS
from clst_train.method.ensemble.store import EnsembleStore, StoreLayout
from clst_train.method.ensemble.temporal import TemporalEnsemble

STEP = 1 / 65535
"""The least difference that 16 bits tell apart."""


def make(images=3, classes=4, size_hw=(5, 6), *, momentum=0.9, top_k=None):
    layout = StoreLayout(images=images, classes=classes, size_hw=size_hw, top_k=top_k, target="t")
    return TemporalEnsemble(EnsembleStore(layout, np.zeros(layout.file_bytes, np.uint8)), momentum)


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


def test_with_the_most_probable_classes_the_winner_is_that_of_the_dense_ensemble():
    rng = np.random.default_rng(1)
    ensemble, momentum, classes = make(1, 12, (20, 20), top_k=5), 0.9, 12
    scene = rng.normal(size=(1, classes, 20, 20))
    dense = np.zeros((1, classes, 20, 20))
    for visit in range(1, 41):
        p = torch.tensor(2 * scene + rng.normal(size=scene.shape), dtype=torch.float32).softmax(1)
        averaged = ensemble.update(np.array([0]), p).numpy()
        dense = momentum * dense + (1 - momentum) * p.numpy()
        assert (averaged.argmax(1) == dense.argmax(1)).mean() >= 0.99, visit
    assert averaged.sum(1) == pytest.approx(1.0, abs=1e-4)


def test_what_lies_outside_the_stored_classes_is_shared_out_among_the_others():
    ensemble = make(1, 5, (1, 1), momentum=0.5, top_k=2)
    ensemble.update(np.array([0]), torch.tensor([0.5, 0.3, 0.1, 0.08, 0.02]).view(1, 5, 1, 1))
    # 0.2 is left for three classes
    read = ensemble.read(np.array([0])).ravel()
    assert read.tolist() == pytest.approx([0.5, 0.3, 0.2 / 3, 0.2 / 3, 0.2 / 3], abs=2 * STEP)
    # Second visit: gain (1−½)/(1−¼) = 2/3; class 4: 0.2/9 + 2/3·1 = 0.6889, class 0: 0.5/3 = 0.1667
    second = ensemble.update(np.array([0]), torch.tensor([0.0, 0, 0, 0, 1]).view(1, 5, 1, 1)).ravel()
    assert second.tolist() == pytest.approx([0.16667, 0.1, 0.02222, 0.02222, 0.68889], abs=1e-4)
    # Kept: classes 4 and 0; 0.14444 for the other three
    assert ensemble.read(np.array([0])).ravel().tolist() == pytest.approx(
        [0.16667, 0.04815, 0.04815, 0.04815, 0.68889], abs=1e-4
    )


def test_an_unlisted_class_never_beats_a_listed_one():
    ensemble = make(1, 19, (1, 1), top_k=5)
    ensemble.update(np.array([0]), torch.full((1, 19, 1, 1), 1 / 19))
    read = ensemble.read(np.array([0])).ravel()
    listed = ensemble.store.records["classes"][0].ravel()  # written by `read`, which waits for the image
    assert read[listed].min() >= np.delete(read, listed).max()


@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_the_first_visit_is_the_prediction_itself(top_k):
    ensemble = make(1, 3, (1, 1), momentum=0.99, top_k=top_k)
    p = torch.tensor([[[[0.25]], [[0.7]], [[0.05]]]])
    assert torch.equal(ensemble.update(np.array([0]), p), p)
    assert ensemble.read(np.array([0])).ravel()[1] == pytest.approx(0.7, abs=STEP)
    assert ensemble.read(np.array([0])).ravel().argmax() == 1


@pytest.mark.parametrize("top_k", [None, 2])
def test_an_image_never_visited_reads_as_zeros(top_k):
    ensemble = make(top_k=top_k)
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


def test_beyond_255_visits_the_gain_stays():
    ensemble = make(1, 2, (1, 1), momentum=0.99)
    p = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1)
    for _ in range(MOST_VISITS + 45):
        ensemble.update(np.array([0]), p)
    assert ensemble.visits.tolist() == [300]
    moved = ensemble.update(np.array([0]), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    # 0.6 + 0.4 · 0.01 / (1 − 0.99^255), where 0.99^255 = 0.07708
    assert moved.ravel()[0].item() == pytest.approx(0.6 + 0.4 * 0.010835, abs=3 * STEP)


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
    assert not ensemble.store.content[4096:].any()


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
    ensemble = make(6, 3, (2, 2), top_k=2)
    ensemble._arrival = lambda device: SlowArrival(waited)
    return ensemble, waited


def test_cells_are_written_only_after_they_have_arrived(slow):
    ensemble, waited = slow
    ensemble.update(np.array([0]), torch.full((1, 3, 2, 2), 1 / 3))
    assert not waited
    assert not ensemble.store.records["values"].any()
    ensemble.flush()
    assert len(waited) == 1
    assert ensemble.store.records["values"][0].all()
    ensemble.flush()
    assert len(waited) == 1


def test_an_image_that_comes_again_before_its_cells_have_arrived_is_waited_for(slow):
    ensemble, waited = slow
    prompt = make(6, 3, (2, 2), top_k=2)
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


@pytest.mark.parametrize("top_k", [None, 2])
def test_an_update_asks_the_device_for_no_value(top_k):
    ensemble, p = make(top_k=top_k), torch.full((2, 4, 5, 6), 0.25)
    view = Geometry(zoomed_hw=(40, 48), top=0, left=8, crop_hw=(40, 40), mirrored=True)
    with NoValueLeavesTheDevice():
        ensemble.update(np.array([0, 1]), p)
        valid = torch.ones(2, 5, 5, dtype=torch.bool)
        ensemble.update_crops(np.array([1, 2]), p[..., :5], [view, view], valid)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            p[0, 0, 0, 0].item()
