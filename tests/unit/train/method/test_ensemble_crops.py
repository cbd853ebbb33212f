"""Predictions of crops in the cells of the whole image, and back."""

import numpy as np
import pytest
import torch

from clst_train.config import AugmentationConfig
from clst_train.data.augment import Geometry, draw_geometry
from clst_train.method.ensemble.store import EnsembleStore, StoreLayout
from clst_train.method.ensemble.temporal import TemporalEnsemble
from clst_train.method.step import pseudo_labels_of

STRIDE = 8


def make(images, classes, size_hw, *, momentum=0.9, top_k=None):
    layout = StoreLayout(images=images, classes=classes, size_hw=size_hw, top_k=top_k, target="t")
    return TemporalEnsemble(EnsembleStore(layout, np.zeros(layout.file_bytes, np.uint8)), momentum)


def at(grid, y, x):
    """Bilinear value of C,k,l at continuous cell coordinates, edges repeated; written out with loops' arithmetic."""
    rows, columns = grid.shape[1:]
    y, x = min(max(y - 0.5, 0), rows - 1), min(max(x - 0.5, 0), columns - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    fy, fx = y - top, x - left
    above = (1 - fx) * grid[:, top, left] + fx * grid[:, top, right]
    below = (1 - fx) * grid[:, down, left] + fx * grid[:, down, right]
    return (1 - fy) * above + fy * below


class DenseReference:
    """Equation 2 cell by cell in float64, with geometry as plain loops."""

    def __init__(self, classes, size_hw, momentum):
        self.mean, self.visits = np.zeros((classes, *size_hw)), np.zeros(size_hw, int)
        self.momentum = momentum

    def update(self, crop, view, valid):
        rows, columns = self.visits.shape
        for r in range(rows):
            for c in range(columns):
                y = (r + 0.5) * view.zoomed_hw[0] / rows - view.top
                x = (c + 0.5) * view.zoomed_hw[1] / columns - view.left
                if not (0 <= y < view.crop_hw[0] and 0 <= x < view.crop_hw[1]):
                    continue
                x = view.crop_hw[1] - x if view.mirrored else x
                y, x = y * crop.shape[1] / view.crop_hw[0], x * crop.shape[2] / view.crop_hw[1]
                if at(valid[None].astype(float), y, x)[0] < 0.999:
                    continue
                self.visits[r, c] += 1
                gain = (1 - self.momentum) / (1 - self.momentum ** self.visits[r, c])
                self.mean[:, r, c] += gain * (at(crop, y, x) - self.mean[:, r, c])


def test_crops_with_zoom_offset_and_mirror_follow_the_dense_reference():
    rng = np.random.default_rng(3)
    input_hw, crop_hw, classes = (64, 96), (48, 64), 4
    size_hw = (input_hw[0] // STRIDE, input_hw[1] // STRIDE)
    ensemble = make(3, classes, size_hw)
    dense = [DenseReference(classes, size_hw, 0.9) for _ in range(3)]
    settings, mirrored = AugmentationConfig(scale=(0.75, 1.5)), 0
    for _ in range(60):
        chosen = rng.permutation(3)[:2]
        views = [draw_geometry(rng, settings, input_hw, crop_hw) for _ in chosen]
        mirrored += sum(view.mirrored for view in views)
        crops = rng.dirichlet(np.ones(classes), (2, crop_hw[0] // STRIDE, crop_hw[1] // STRIDE)).transpose(0, 3, 1, 2)
        valid = rng.random((2, *crops.shape[2:])) < 0.9
        ensemble.update_crops(chosen, torch.tensor(crops).float(), views, torch.tensor(valid))
        for image, crop, view, shown in zip(chosen, crops, views, valid, strict=True):
            dense[image].update(crop, view, shown)
    assert 40 < mirrored < 80
    read = ensemble.read(np.arange(3))
    assert np.array_equal(ensemble.store.records["visits"], np.stack([image.visits for image in dense]))
    assert len(np.unique(ensemble.store.records["visits"])) > 10  # the cells' counts do differ
    assert np.abs(read - np.stack([image.mean for image in dense])).max() < 1e-4


def test_whole_images_and_crops_share_one_count_for_each_cell():
    ensemble = make(1, 2, (1, 2), momentum=0.5)
    ensemble.update(np.array([0]), torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2))
    right = Geometry(zoomed_hw=(8, 16), top=0, left=8, crop_hw=(8, 8), mirrored=False)
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    ensemble.update_crops(np.array([0]), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1), [right], valid)
    # gain of the second visit: (1−½)/(1−¼) = 2/3
    assert ensemble.read(np.array([0]))[0, 0, 0].tolist() == pytest.approx([1.0, 1 / 3], abs=2e-5)
    assert ensemble.store.records["visits"][0].tolist() == [[1, 2]]
    assert ensemble.visits.tolist() == [2]


def test_a_mirrored_crop_lands_mirrored_and_is_seen_mirrored():
    ensemble = make(1, 2, (1, 4))
    view = Geometry(zoomed_hw=(8, 32), top=0, left=8, crop_hw=(8, 16), mirrored=True)
    crop = torch.tensor([[0.9, 0.2], [0.1, 0.8]]).view(1, 2, 1, 2)  # class 0: 0.9 left, 0.2 right
    seen = ensemble.update_crops(np.array([0]), crop, [view], torch.ones(1, 1, 2, dtype=torch.bool))
    assert ensemble.read(np.array([0]))[0, 0, 0].tolist() == pytest.approx([0, 0.2, 0.9, 0], abs=2e-5)
    assert torch.allclose(seen, crop, atol=1e-5)


@pytest.mark.parametrize("top_k", [None, 2])
def test_cells_outside_the_crop_or_not_valid_stay_to_the_bit(top_k):
    rng = np.random.default_rng(0)
    ensemble = make(2, 6, (4, 6), top_k=top_k)
    for _ in range(3):
        ensemble.update(np.array([0, 1]), torch.tensor(rng.dirichlet(np.ones(6), (2, 4, 6)).transpose(0, 3, 1, 2)))
    ensemble.flush()
    before = ensemble.store.records.copy()
    view = Geometry(zoomed_hw=(32, 48), top=8, left=16, crop_hw=(16, 24), mirrored=False)  # rows 1–2, columns 2–4
    valid = torch.ones(1, 2, 3, dtype=torch.bool)
    valid[0, 0, 1] = False  # row 1, column 3
    crop = torch.tensor(rng.dirichlet(np.ones(6), (1, 2, 3)).transpose(0, 3, 1, 2)).float()
    ensemble.update_crops(np.array([1]), crop, [view], valid)
    ensemble.flush()
    after = ensemble.store.records
    changed = (after["values"][1] != before["values"][1]).any(0)
    expected = np.zeros((4, 6), bool)
    expected[1:3, 2:5] = True
    expected[1, 3] = False
    assert np.array_equal(changed, expected)
    assert np.array_equal(after["visits"][1] - before["visits"][1], expected.astype(int))
    assert np.array_equal(after["values"][0], before["values"][0])
    if top_k is not None:
        assert np.array_equal(after["classes"][1][:, ~expected], before["classes"][1][:, ~expected])


def test_a_cell_outside_the_crop_keeps_its_classes_even_where_all_are_equally_probable():
    ensemble = make(1, 7, (1, 2), top_k=2)
    # All seven are 9362 of 65535 once rounded, and classes 5 and 6 are the stored ones.
    p = torch.tensor([9362.04] * 5 + [9362.4] * 2) / 65535
    ensemble.update(np.array([0]), p.view(1, 7, 1, 1).expand(1, 7, 1, 2))
    ensemble.flush()
    assert sorted(ensemble.store.records["classes"][0, :, 0, 1]) == [5, 6]
    left = Geometry(zoomed_hw=(8, 16), top=0, left=0, crop_hw=(8, 8), mirrored=False)
    ensemble.update_crops(np.array([0]), torch.full((1, 7, 1, 1), 1 / 7), [left], torch.ones(1, 1, 1, dtype=torch.bool))
    ensemble.flush()
    assert sorted(ensemble.store.records["classes"][0, :, 0, 1]) == [5, 6]


def test_cells_never_visited_do_not_water_down_what_a_crop_sees():
    ensemble = make(1, 2, (1, 4))
    left = Geometry(zoomed_hw=(8, 32), top=0, left=0, crop_hw=(8, 16), mirrored=False)
    crop = torch.tensor([[0.6, 0.6], [0.4, 0.4]]).view(1, 2, 1, 2)
    ensemble.update_crops(np.array([0]), crop, [left], torch.ones(1, 1, 2, dtype=torch.bool))
    wider = Geometry(zoomed_hw=(8, 32), top=0, left=4, crop_hw=(8, 28), mirrored=False)
    unknown = torch.zeros(1, 1, 7, dtype=torch.bool)
    seen = ensemble.update_crops(np.array([0]), torch.zeros(1, 2, 1, 7), [wider], unknown)
    # crop cells of 4 pixels, centres at 6, 10, 14, 18, … ; cells 0 and 1 (centres 4 and 12) are known, 20 and 28 not
    assert seen[0, 0, 0].tolist() == pytest.approx([0.6, 0.6, 0.6, 0.6, 0, 0, 0], abs=2e-5)


def test_nothing_valid_moves_nothing():
    ensemble = make(1, 2, (2, 2))
    view = Geometry(zoomed_hw=(16, 16), top=0, left=0, crop_hw=(16, 16), mirrored=False)
    nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
    seen = ensemble.update_crops(np.array([0]), torch.full((1, 2, 2, 2), 0.5), [view], nothing)
    assert not seen.any()
    assert not ensemble.read(np.array([0])).any()
    assert not ensemble.store.records["visits"].any()


def test_a_crop_of_one_cell_reaches_the_cell_it_lies_on():
    ensemble = make(1, 2, (3, 3))
    view = Geometry(zoomed_hw=(24, 24), top=8, left=8, crop_hw=(8, 8), mirrored=True)
    crop = torch.tensor([0.3, 0.7]).view(1, 2, 1, 1)
    ensemble.update_crops(np.array([0]), crop, [view], torch.ones(1, 1, 1, dtype=torch.bool))
    assert ensemble.store.records["visits"][0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]  # not landed yet
    assert ensemble.read(np.array([0]))[0, 1, 1, 1] == pytest.approx(0.7, abs=2e-5)
    assert ensemble.store.records["visits"][0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_pseudo_labels_are_read_through_the_crop_and_the_mirror():
    probabilities = torch.zeros(1, 2, 1, 4)
    probabilities[0, 1, 0, 2:] = 1.0  # right half is class 1
    probabilities[0, 0, 0, :2] = 1.0
    plain = Geometry(zoomed_hw=(2, 8), top=0, left=2, crop_hw=(2, 4), mirrored=False)
    mirrored = Geometry(zoomed_hw=(2, 8), top=0, left=3, crop_hw=(2, 4), mirrored=True)
    assert pseudo_labels_of(probabilities, (plain,)).tolist() == [[[0, 0, 1, 1]] * 2]
    assert pseudo_labels_of(probabilities, (mirrored,)).tolist() == [[[1, 1, 1, 0]] * 2]
