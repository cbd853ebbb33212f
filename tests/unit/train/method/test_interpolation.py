"""Matrix products in place of interpolate: the same values and gradients, at any size."""

import pytest
import torch
from torch.nn import functional as F

from clst_train.method.interpolation import resize_by_matmul, taps


def test_two_cells_on_four_places_by_hand():
    """Places lie at −0.25, 0.25, 0.75 and 1.25 cells; beyond the outermost centres the outermost cell counts alone."""
    expected = [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    assert taps(4, 2).tolist() == expected
    assert taps(4, 2, mirrored=True).tolist() == expected[::-1]
    # the right half of a whole of 8 pixels: places at 0.625, 0.875, 1.125 and 1.375 cells
    assert taps(4, 2, start=4, length=4, whole=8)[0].tolist() == [0.375, 0.625]


def test_several_parts_at_once_are_each_as_alone():
    """The whole mirrored, the right half, and the right half mirrored."""
    whole, part = {"start": 0, "length": 8, "whole": 8}, {"start": 4, "length": 4, "whole": 8}
    alone = [taps(4, 2, **whole, mirrored=True), taps(4, 2, **part), taps(4, 2, **part, mirrored=True)]
    together = taps(4, 2, start=[0, 4, 4], length=[8, 4, 4], whole=[8, 8, 8], mirrored=[True, False, True])
    assert together.shape == (3, 4, 2)
    assert together.tolist() == torch.stack(alone).tolist()
    assert together[2][3].tolist() == [0.375, 0.625]


@pytest.mark.parametrize(
    ("cells", "size_hw"), [((3, 5), (24, 40)), ((3, 5), (25, 33)), ((8, 6), (3, 5)), ((1, 1), (4, 4))]
)
def test_values_and_gradients_are_those_of_interpolate(cells, size_hw):
    torch.manual_seed(0)
    ours, theirs = (torch.randn(2, 4, *cells, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    there = torch.randn(2, 4, *size_hw)
    made = resize_by_matmul(ours.requires_grad_(), size_hw)
    expected = F.interpolate(theirs.requires_grad_(), size=size_hw, mode="bilinear", align_corners=False)
    assert torch.allclose(made, expected, atol=1e-5)
    made.backward(there)
    expected.backward(there)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-4)


def test_maps_of_that_size_already_stay_to_the_bit():
    maps = torch.randn(1, 2, 7, 13)
    assert torch.equal(resize_by_matmul(maps, (7, 13)), maps)


def test_low_precision_is_no_matter_under_autocast():
    maps = torch.randn(1, 2, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = resize_by_matmul(maps.bfloat16(), (6, 6))
    assert made.dtype == torch.float32
    assert torch.equal(made, resize_by_matmul(maps.bfloat16(), (6, 6)))
