"""EfficientNet-Lite: padding counted by hand, the published numbers, outputs at odd sizes."""

import pytest
import torch

from clst_train.models.built_in.efficientnet_lite import SCALES, SameConv, same_padding
from clst_train.models.networks import build_segmenter
from tests.support.narrow import narrow_networks

NETWORKS = tuple(SCALES)


@pytest.fixture
def thin():
    with narrow_networks():
        yield


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (8, 3, 1, (1, 1)),
        (8, 3, 2, (0, 1)),  # 4 windows at 0, 2, 4, 6; the last ends at 8, one behind the edge
        (7, 3, 2, (1, 1)),  # 4 windows at -1, 1, 3, 5; both ends stand out by one
        (8, 5, 2, (1, 2)),  # 4 windows at -1, 1, 3, 5; the last ends at 9
        (7, 5, 2, (2, 2)),
        (1, 5, 2, (2, 2)),
        (4, 1, 2, (0, 0)),  # 2 windows at 0, 2; nothing is needed
    ],
)
def test_same_padding_is_tensorflows(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


def test_a_stride_of_two_starts_at_the_first_value_of_an_even_row():
    convolution = SameConv(1, 1, 3, stride=2)
    convolution.weight.data = torch.tensor([[0.0, 0, 0], [1, 10, 100], [0, 0, 0]])[None, None]
    row = torch.tensor([[1.0, 2, 3, 4]]).expand(1, 1, 3, 4)
    # rows 3 → padded by 1 above and below; columns 4 → nothing before, a zero behind: windows 1 2 3 and 3 4 0
    assert convolution(row)[0, 0].tolist() == [[321.0, 43.0], [321.0, 43.0]]
    odd = torch.tensor([[1.0, 2, 3]]).expand(1, 1, 3, 3)  # a zero on both sides: windows 0 1 2 and 2 3 0
    assert convolution(odd)[0, 0, 0].tolist() == [210.0, 32.0]


# The published numbers of parameters less ImageNet's classifier (1280 · 1000 + 1000) and the 1×1 convolution to 1280
# channels with its BatchNorm (320 · 1280 or 352 · 1280, + 2560), which is for that classifier alone.
@pytest.mark.parametrize(
    ("network", "published", "last"),
    [
        ("efficientnet_lite0", 4_652_008, 320),
        ("efficientnet_lite1", 5_416_680, 320),
        ("efficientnet_lite2", 6_092_072, 352),
    ],
)
def test_the_encoders_have_the_published_parameters(network, published, last):
    with torch.device("meta"):
        encoder = build_segmenter(network, 19).encoder
    count = sum(value.numel() for value in encoder.parameters())
    assert count == published - 1_281_000 - (last * 1280 + 2560)
    assert encoder.channels[-1] == last


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("rows", "columns"), [(64, 96), (75, 101), (33, 49)])
def test_any_size_gives_outputs_at_stride_8_rounded_up(network, rows, columns, thin):
    segmenter = build_segmenter(network, 5).eval()
    images = torch.randn(1, 3, rows, columns)
    with torch.no_grad():
        out = segmenter.training_outputs(images)
        size = (-(-rows // 8), -(-columns // 8))
        assert out.logits.shape == (1, 5, *size)
        assert out.features.shape == (1, segmenter.feature_channels, *size)
        assert out.auxiliary is None
        assert torch.equal(segmenter(images), out.logits)


def test_every_weight_learns_from_a_single_image(thin):
    segmenter = build_segmenter("efficientnet_lite0", 3).train()
    segmenter.training_outputs(torch.randn(1, 3, 64, 96)).logits.square().sum().backward()
    assert [name for name, value in segmenter.named_parameters() if value.grad is None] == []
