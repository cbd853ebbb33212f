"""Networks of segmentation_models_pytorch, torchvision and timm, by stand-ins."""

import builtins
import sys

import pytest
import torch

from clst_runtime.errors import ConfigError, MissingDependency, ModelFileError
from clst_train.config import ModelConfig
from clst_train.models.networks import build_segmenter, network_of
from clst_train.models.weights.pretrained import load_pretrained
from tests.fakes import libraries

CLASSES = ("road", "traffic light", "sky")


@pytest.fixture(autouse=True)
def installed(monkeypatch, tmp_path):
    for name in ("timm", "segmentation_models_pytorch", "torchvision"):
        monkeypatch.setitem(sys.modules, name, getattr(libraries, name)())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)


def loaded(network, classes=CLASSES, **settings):
    """The network with what its name brings, and what is reported."""
    model = ModelConfig(network=network, input_hw=(64, 96), **settings)
    segmenter = network_of(model, len(classes))
    return segmenter, load_pretrained(segmenter, model, classes)[1]


def values(segmenter, prefix):
    state = segmenter.state_dict()
    return {value.item() for name in state if name.startswith(prefix) for value in state[name].unique()}


def test_an_encoder_of_timm_gets_the_light_decoder_and_names_its_weights():
    network, message = loaded("timm:small?width=6")
    assert (network.head, network.feature_channels, network.output_stride) == ("classifier", 96, 8)
    assert message == "note: timm:small?width=6 starts from random weights: it names none (?pretrained=true)"
    network, message = loaded("timm:small?pretrained=true")
    assert values(network, "encoder.") == {0.25}
    assert values(network, "classifier.weight") != {0.25}
    assert "timm:small?pretrained=true: 10 of " in message
    assert "images of mean 127.5, 127.5, 127.5 and deviation 63.75, 63.75, 63.75" in message
    network, message = loaded("timm:small?pretrained=true", pretrained="none")
    assert (values(network, "encoder.") == {0.25}, message) == (False, "")


@pytest.mark.parametrize("network", ["timm:small?pretrained=true", "smp:Unet?weights=imagenet"])
def test_reading_weights_leaves_the_runs_random_numbers(network):
    """A run that is resumed after source training reads none, and draws its projection head all the same."""
    model = ModelConfig(network=network, input_hw=(64, 96))
    segmenter, before = network_of(model, 3), torch.get_rng_state()
    load_pretrained(segmenter, model, CLASSES)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("network", "library"),
    [("timm:small", "timm"), ("smp:Unet", "segmentation_models_pytorch"), ("torchvision:lraspp_tiny", "torchvision")],
)
def test_a_checkpoint_is_to_name_the_library(network, library):
    assert build_segmenter(network, 3).architecture["package"] == library


def test_maps_with_channels_last_are_turned():
    torch.manual_seed(0)
    network = build_segmenter("timm:small", 3).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network(images)
        inner, encoder = network.network, network.network.encoder
        inner.encoder = torch.nn.Module()
        inner.encoder.forward = lambda images: [each.permute(0, 2, 3, 1) for each in encoder(images)]
        inner.innermost = True
        assert torch.equal(network(images), expected)


def test_a_unet_of_smp_names_its_encoder_and_the_encoders_weights():
    network, message = loaded("smp:Unet?encoder=resnet18&decoder_width=6")
    assert (network.head, network.feature_channels, network.output_stride) == ("segmentation_head.0", 6, 4)
    assert "starts from random weights" in message
    assert values(network, "encoder.") != {0.25}
    network, message = loaded("smp:Unet?encoder=resnet18&weights=imagenet")
    assert values(network, "encoder.") == {0.25}
    assert message.startswith("smp:Unet?encoder=resnet18&weights=imagenet: 2 of 6 tensors loaded; random: ")


def save(tmp_path, name, tensors):
    torch.save(tensors, tmp_path / "hub" / "checkpoints" / name)


def test_weights_of_torchvision_keep_their_classifiers_for_the_same_classes_alone(tmp_path):
    whole = libraries.weighted(libraries.TwoScales(3, aux=True), 0.25).state_dict()
    save(tmp_path, "network.pth", whole)
    network, message = loaded("torchvision:lraspp_tiny?weights=DEFAULT")
    assert values(network, "") == {0.25}
    assert "its classifier stays" in message
    network, message = loaded("torchvision:lraspp_tiny?weights=VOC&aux_loss=true", ("road", "sky", "traffic light"))
    assert values(network, "backbone.") == {0.25}
    heads = ("classifier.low_classifier.weight", "classifier.high_classifier.weight", "aux_classifier.0.weight")
    assert all(values(network, head) != {0.25} for head in heads)
    assert "new one of 3; class 1 is 'traffic_light' there, 'sky' here" in message
    network, message = loaded("torchvision:lraspp_tiny?weights=DEFAULT", CLASSES[:2])
    assert "classifier of 3 classes replaced by a new one of 2" in message


def test_weights_of_an_encoder_of_torchvision_start_the_encoder_alone(tmp_path):
    encoder = {"features.0.weight": torch.full((4, 3, 3, 3), 0.25), "features.0.bias": torch.full((4,), 0.25)}
    save(tmp_path, "backbone.pth", encoder | {"classifier.0.weight": torch.zeros(2, 2)})
    network, message = loaded("torchvision:lraspp_tiny?weights_backbone=IMAGENET")
    assert values(network, "backbone.") == {0.25}
    assert values(network, "classifier.") != {0.25}
    assert "2 of 6 tensors loaded" in message


def test_an_auxiliary_head_of_torchvision_is_trained():
    network, _ = loaded("torchvision:lraspp_tiny?aux_loss=true")
    assert network.training_outputs(torch.randn(2, 3, 64, 96)).auxiliary.shape == (2, 3, 16, 24)


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        ("timm:nothing", ConfigError, r"timm:nothing cannot be built: RuntimeError: Unknown model"),
        ("timm:coarse", ConfigError, "maps have strides 8, 16, 32; 4, 8, 16 and 32 are needed"),
        ("timm:small?out_indices=(1,2)", ConfigError, "leave out_indices out"),
        ("timm:small?checkpoint_path=a.pth", ConfigError, "leave checkpoint_path out: give a file by --pretrained"),
        ("timm:small?height=3", ConfigError, "cannot be built: TypeError.*height"),
        ("timm:other?pretrained=true", ModelFileError, "not on this machine.*HF_HUB_OFFLINE=0"),
        ("smp:Unte", ConfigError, "did you mean 'Unet'"),
        ("smp:Unet?encoder=res", ConfigError, "cannot be built: KeyError.*Wrong encoder name"),
        ("smp:Unet?activation=sigmoid", ConfigError, "leave activation out: training and export need logits"),
        ("smp:Unet?decoder_widths=3", ConfigError, "no argument 'decoder_widths'; did you mean 'decoder_width'"),
        ("smp:Unet?weights=other", ModelFileError, "not on this machine.*HF_HUB_OFFLINE=0"),
        ("torchvision:lraspp", ConfigError, "did you mean 'lraspp_tiny'"),
        ("torchvision:lraspp_tiny?num_classes=3", ConfigError, "leave num_classes out"),
        ("torchvision:lraspp_tiny?width=3", ConfigError, "no argument 'width'"),
        ("torchvision:lraspp_tiny?weights=COCO", ConfigError, "no weights 'COCO' of lraspp_tiny; it has VOC, DEFAULT"),
        ("torchvision:lraspp_tiny?weights=VOC", ModelFileError, "no .*network.pth; fetch it once by: python -c"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_in_one_line(network, error, message):
    with pytest.raises(error, match=message) as caught:
        loaded(network)
    assert "\n" not in caught.value.format_message()


def test_a_library_beside_another_pytorch_is_named(monkeypatch):
    """torchvision raises RuntimeError then."""
    monkeypatch.delitem(sys.modules, "torchvision")
    real = builtins.__import__

    def importing(name, *arguments):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *arguments)

    monkeypatch.setattr("clst_runtime.system.optional.importlib.import_module", importing)
    with pytest.raises(MissingDependency, match=r"torchvision .*does not work with torch .*nms does not exist"):
        build_segmenter("torchvision:lraspp_tiny", 3)
