import pytest
import torch

from clst_runtime.errors import ConfigError
from clst_train.config import MEAN, STD
from clst_train.models.deployable import Deployable
from clst_train.models.networks import build_segmenter
from clst_train.models.projection import ProjectionHead
from clst_train.models.segmenter import Segmenter, TrainingOutputs


def parameters(network, *, without="auxiliary_head"):
    return sum(value.numel() for name, value in network.named_parameters() if not name.startswith(without))


def test_ddrnet_has_the_published_5_7_million_parameters():
    with torch.device("meta"):
        count = parameters(build_segmenter("ddrnet23_slim", 19))
    assert abs(count / 5.7e6 - 1) < 0.01


def test_deeplab_has_resnet_101s_parameters_and_its_classifier():
    with torch.device("meta"):
        network = build_segmenter("deeplabv2_resnet101", 19)
    # torchvision's ResNet-101 has 44,549,160 parameters, of which 2048·1000 + 1000 are the ImageNet classifier
    classifier = 4 * (2048 * 19 * 9 + 19)
    assert parameters(network) == 44_549_160 - 2_049_000 + classifier


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (96, 160), (72, 120)])
def test_outputs_lie_at_stride_8_and_training_equals_inference_path(rows, columns):
    network = build_segmenter("ddrnet23_slim", 5).eval()
    images = torch.randn(1, 3, rows, columns)
    with torch.no_grad():
        out = network.training_outputs(images)
        assert out.logits.shape == (1, 5, rows // 8, columns // 8)
        assert out.features.shape == (1, network.feature_channels, rows // 8, columns // 8)
        assert out.auxiliary.shape == out.logits.shape
        assert torch.equal(network(images), out.logits)


def test_a_single_small_image_can_be_trained_on():
    network = build_segmenter("ddrnet23_slim", 3).train()
    network.training_outputs(torch.randn(1, 3, 128, 64)).logits.sum().backward()


def test_deeplab_runs():
    network = build_segmenter("deeplabv2_resnet101", 3).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 33, 65)).shape == (1, 3, 5, 9)


def test_an_unknown_network_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'ddrnet23_slim'"):
        build_segmenter("ddrnet23slim", 3)


def test_projections_have_length_one():
    out = ProjectionHead(6, 8, 4)(torch.randn(2, 6, 3, 3))
    assert torch.allclose(out.norm(dim=1), torch.ones(2, 3, 3), atol=1e-5)


class ChannelReader(Segmenter):
    """Says of each pixel its colour channels, unnormalised by the known mean and deviation."""

    feature_channels, output_stride, class_count = 3, 1, 3

    def training_outputs(self, images):
        pixels = images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
        return TrainingOutputs(features=pixels, logits=pixels, auxiliary=None)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_red_image_is_red_through_the_deployable_network(channel):
    frame = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
    frame[..., channel] = 9
    classes = Deployable(ChannelReader(), (4, 6))(frame)
    assert classes.dtype == torch.uint8
    assert classes.unique().tolist() == [channel]


def test_confidence_is_the_winners_probability():
    frame = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    _, confidence = Deployable(ChannelReader(), (2, 2), with_confidence=True)(frame)
    assert confidence.unique().tolist() == [85]  # a third of 255


def test_nothing_of_the_auxiliary_head_is_deployed_and_the_network_keeps_it():
    network = build_segmenter("ddrnet23_slim", 3)
    deployable = Deployable(network, (64, 64))
    assert not [name for name in deployable.state_dict() if "auxiliary" in name]
    assert [name for name in network.state_dict() if "auxiliary" in name]
