import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clst_train.config import AugmentationConfig
from clst_train.data.augment import Geometry, draw_geometry
from clst_train.method.crops import (
    argmax_classes,
    class_weights,
    pseudo_labels_of,
    student_crops,
    through_crops,
)


def enlarged_and_cut(maps, views):
    """The plain way: enlarge the whole map, cut the crop out, mirror it."""
    parts = []
    for whole, view in zip(maps, views, strict=True):
        zoomed = F.interpolate(whole[None], size=view.zoomed_hw, mode="bilinear", align_corners=False)[0]
        part = zoomed[:, view.top : view.top + view.crop_hw[0], view.left : view.left + view.crop_hw[1]]
        parts.append(part.flip(2) if view.mirrored else part)
    return torch.stack(parts)


@pytest.mark.parametrize("crop_hw", [(48, 64), (64, 96), (33, 17)])
def test_a_crop_sees_what_enlarging_and_cutting_would_show(crop_hw):
    torch.manual_seed(0)
    views = tuple(
        draw_geometry(np.random.default_rng(seed), AugmentationConfig(scale=(0.5, 2.0)), (64, 96), crop_hw)
        for seed in range(12)
    )
    assert {view.mirrored for view in views} == {True, False}
    maps = (3 * torch.randn(12, 5, 8, 12)).softmax(1)
    expected = enlarged_and_cut(maps, views)
    assert (through_crops(maps, views, crop_hw) - expected).abs().max() < 2e-5
    logarithms = enlarged_and_cut(maps.clamp_min(1e-4).log(), views)
    top = logarithms.topk(2, dim=1).values
    decided = top[:, 0] - top[:, 1] > 1e-3
    assert decided.float().mean() > 0.99
    assert torch.equal(pseudo_labels_of(maps, views)[decided], logarithms.argmax(1)[decided])


def test_a_map_may_be_seen_at_another_size_than_the_crops():
    """The right half of 0 1 2 3, at half the crop's size: two cells with the middles of 2 and 3."""
    view = Geometry(zoomed_hw=(2, 8), top=0, left=4, crop_hw=(2, 4), mirrored=False)
    maps = torch.arange(4.0).reshape(1, 1, 1, 4)
    assert through_crops(maps, (view,), (1, 2)).flatten().tolist() == pytest.approx([2.0, 3.0], abs=1e-5)
    mirrored = Geometry(zoomed_hw=(2, 8), top=0, left=4, crop_hw=(2, 4), mirrored=True)
    assert through_crops(maps, (mirrored,), (1, 2)).flatten().tolist() == pytest.approx([3.0, 2.0], abs=1e-5)


def test_a_map_of_one_cell_is_that_cell_everywhere():
    view = Geometry(zoomed_hw=(5, 7), top=1, left=2, crop_hw=(3, 4), mirrored=True)
    assert pseudo_labels_of(torch.tensor([0.2, 0.8]).reshape(1, 2, 1, 1), (view,)).tolist() == [[[1] * 4] * 3]


def test_pasted_pixels_bring_their_labels_and_the_ignore_mask_hides_the_rest():
    """Four pixels: plain, ignored, pasted, pasted over an ignored one."""
    ignored = torch.tensor([[[False, True, False, True]]])
    mask = torch.tensor([[[False, False, True, True]]])
    pasted = (torch.full((1, 3, 1, 4), 9.0), torch.full((1, 1, 4), 2), mask)
    view = student_crops(torch.zeros(1, 3, 1, 4), ignored, pasted)
    assert view.labels(torch.ones(1, 1, 4, dtype=torch.long)).tolist() == [[[1, 255, 2, 2]]]
    assert view.images[0, 0].tolist() == [[0.0, 0.0, 9.0, 9.0]]
    assert view.own.tolist() == [[[True, True, False, False]]]
    assert view.visible.tolist() == [[[True, False, False, False]]]
    plain = student_crops(torch.zeros(1, 3, 1, 4), ignored, None)
    assert plain.labels(torch.ones(1, 1, 4, dtype=torch.long)).tolist() == [[[1, 255, 1, 255]]]
    assert plain.own.all()


def test_weights_of_classes_are_counted_by_hand():
    """Shares 3/4 and 1/4 at γ = 1: 4/3 and 4, mean (3·4/3 + 4)/4 = 2, so 2/3 and 2; ignored pixels weigh 0."""
    labels = torch.tensor([[[0, 0, 0, 1, 255]]])
    assert class_weights(labels, 3, 1.0).flatten().tolist() == pytest.approx([2 / 3] * 3 + [2.0, 0.0])
    assert class_weights(labels, 3, 0.0).flatten().tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_a_class_of_a_few_stray_pixels_weighs_no_more_than_one_of_a_percent():
    """One pixel of 1000 counts as 1 %, not as 0.1 %: about 100 times as much as the rest, not 1000 times."""
    labels = torch.zeros(1, 1, 1000, dtype=torch.long)
    labels[0, 0, 0] = 1
    weights = class_weights(labels, 2, 1.0)[0, 0]
    assert (weights[0] / weights[1]).item() == pytest.approx(99.9)


def test_with_everything_ignored_all_weights_are_zero():
    assert class_weights(torch.full((1, 1, 2), 255), 3, 0.5).tolist() == [[[0.0, 0.0]]]


def test_between_a_sure_and_an_unsure_cell_the_middle_goes_to_the_sure_one():
    """The edge lies where a·log(0.999/0.001) = (1 − a)·log(0.7/0.3), at a = 0.11 of the way from the unsure cell."""
    whole = torch.tensor([[[[0.999, 0.3]], [[0.001, 0.7]]]])  # 1,C,1,2
    view = Geometry(zoomed_hw=(1, 200), top=0, left=50, crop_hw=(1, 100), mirrored=False)  # from middle to middle
    labels = pseudo_labels_of(whole, (view,))[0, 0]
    assert labels.sum().item() == 11  # in probabilities it would be 29: a·0.998 = (1 − a)·0.4


def test_the_argmax_classes_class_is_the_first_of_equals_and_always_a_class():
    maps = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [-3.0, -1.0, -1.0]])[..., None, None]
    assert argmax_classes(maps).flatten().tolist() == [1, 0, 1]
    assert argmax_classes(torch.full((1, 3, 1, 1), torch.nan)).item() in (0, 1, 2)
    many = torch.zeros(1, 255, 1, 2)
    many[0, 254, 0, 0] = 1.0
    assert argmax_classes(many).tolist() == [[[254, 0]]]
    noise = torch.randn(2, 7, 5, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(argmax_classes(noise.transpose(2, 3)), noise.transpose(2, 3).argmax(1))
