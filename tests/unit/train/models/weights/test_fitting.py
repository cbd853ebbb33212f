"""Weights that others trained go into a network by name and shape; what does not fit is told or refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import ConfigError, ModelFileError
from clst_train.models.networks import build_segmenter
from clst_train.models.weights.files import Weights
from clst_train.models.weights.fitting import check_complete, fit_weights, load_weights


class Tiny(nn.Module):
    """Ten tensors besides BatchNorm's counter: encoder 2 + 4, classifier 2, auxiliary head 2."""

    def __init__(self, class_count=3, width=4):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
        self.classifier = nn.Conv2d(width, class_count, 1)
        self.aux_head = nn.Conv2d(width, class_count, 1)


THREE = ClassList(name="three", names=("road", "traffic light", "sky"), colours=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def weights_of(tensors, classes=None, path="w.pth"):
    return Weights(path=path, tensors=dict(tensors), classes=classes)


def given(network=None, prefix="", **changes):
    """A network's tensors with a prefix before their names."""
    state = (network or Tiny()).state_dict() | {name.replace("__", "."): value for name, value in changes.items()}
    return {prefix + name: value for name, value in state.items() if value is not None}


def checked(report, classes=THREE):
    return check_complete(report, "tiny", classes, hint="train it")


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "backbone.", "network.", "state_dict.module.model.", "model_state_dict.", "ema."],
)
def test_a_prefix_of_the_file_s_names_is_taken_off(prefix):
    network, others = Tiny(), Tiny()
    report = fit_weights(network, weights_of(given(others, prefix)))
    assert torch.equal(network.classifier.weight, others.classifier.weight)
    assert (len(report.loaded), report.random, report.unused) == (10, (), ())
    under = f", under '{prefix[:-1]}'" if prefix else ""
    assert report.line() == f"w.pth: 10 of 10 tensors loaded{under}"
    checked(report)


def test_a_prefix_that_the_network_has_and_the_file_lacks_is_added():
    network, encoder = Tiny(), Tiny().encoder
    file = weights_of({f"module.{name}": value for name, value in encoder.state_dict().items()})
    report = fit_weights(network, file)
    assert torch.equal(network.encoder[0].weight, encoder[0].weight)
    assert report.line() == "w.pth: 6 of 10 tensors loaded, under 'module'; random: classifier (2), aux_head (2)"


def test_what_stayed_random_and_what_was_not_used_is_told_in_groups():
    moments = {f"optimizer.state.{index}.exp_avg": torch.zeros(4) for index in range(2)}
    tensors = given(aux_head__weight=None, aux_head__bias=None) | {"loss.weight": torch.zeros(3)} | moments
    report = fit_weights(Tiny(), weights_of(tensors))
    assert report.line() == ("w.pth: 8 of 10 tensors loaded; random: aux_head (2); not used: loss (1), optimizer (2)")
    checked(report)  # an auxiliary head may be missing


def test_old_files_without_batchnorm_s_counter_are_complete():
    checked(fit_weights(Tiny(), weights_of(given(encoder__1__num_batches_tracked=None))))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_kinds_of_floats_become_the_network_s(kind):
    network, half = Tiny(), Tiny().to(kind)
    report = fit_weights(network, weights_of(half.state_dict()))
    assert network.classifier.weight.dtype == torch.float32
    assert torch.equal(network.classifier.weight, half.classifier.weight.float())
    assert f"loaded, from {str(kind)[6:]}" in report.line()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (given(Tiny(width=5)), "2 of 10 tensors fit this network, 'encoder.0.weight' has the shape 5x3x3x3 in it, 4x3"),
        ({"layer.weight": torch.zeros(1)}, "0 of 10 tensors fit this network, 'encoder.0.weight' is not in it"),
        (given(encoder__1__running_var=torch.tensor([1, 1, float("nan"), 1])), "'encoder.1.running_var' has value"),
        (given(encoder__0__weight=torch.full((4, 3, 3, 3), float("inf"))), "'encoder.0.weight' has values that are no"),
        (given(classifier__weight=torch.full((3, 4, 1, 1), 1e300, dtype=torch.float64)), "'classifier.weight' has val"),
        (given(classifier__weight=torch.zeros(3, 4, 1, 1, dtype=torch.int8)), "'classifier.weight' is int8, in the ne"),
        (given(classifier__bias=torch.zeros(3, dtype=torch.complex64)), "'classifier.bias' is complex64, in the ne"),
        (given(prefix="student.") | given(prefix="teacher."), "this network 2 times, under 'student' and 'teacher'"),
        (given() | given(prefix="ema."), "this network 2 times, under no prefix and 'ema'"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_meant_are_refused(tensors, words):
    with pytest.raises(ModelFileError) as caught:
        fit_weights(Tiny(), weights_of(tensors))
    assert words in caught.value.message
    assert caught.value.message.startswith("w.pth")


def test_a_network_of_two_equal_branches_is_no_ambiguous_file():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = Tiny(), Tiny()

    others = Twins()
    network = Twins()
    report = fit_weights(network, weights_of(given(others, "module.")))
    assert len(report.loaded) == 20
    assert torch.equal(network.right.classifier.weight, others.right.classifier.weight)


def test_another_number_of_classes_is_refused_with_both_numbers():
    report = fit_weights(Tiny(3), weights_of(given(Tiny(5))))
    with pytest.raises(
        ConfigError, match=r"w.pth has 5 classes, three has 3 \(road, .*a list of its 5 classes.*train it"
    ):
        checked(report)


def test_a_missing_classifier_is_no_old_network():
    report = fit_weights(Tiny(), weights_of(given(classifier__weight=None, classifier__bias=None)))
    with pytest.raises(
        ModelFileError, match=r"2 of 10 tensors of tiny would stay random, 'classifier.weight' is not in it;.*or"
    ):
        checked(report)


def test_names_of_classes_are_compared_by_their_words():
    checked(fit_weights(Tiny(), weights_of(given(), ("Road", "traffic_light", "Sky"))))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("road", "sky", "traffic light"), "names class 1 'sky', three names it 'traffic light'; give --classes"),
        (("road", "sky"), r"names 2 classes (road, sky), three has 3"),
    ],
)
def test_other_names_or_another_order_are_refused(names, words):
    with pytest.raises(ConfigError) as caught:
        checked(fit_weights(Tiny(), weights_of(given(), names)))
    assert words in caught.value.message


def test_backbone_weights_load_by_torchvision_s_names(tmp_path, narrow):
    network = build_segmenter("deeplabv2_resnet101", 2)
    state = {name: torch.full_like(each, 2) for name, each in network.state_dict().items() if "classifier" not in name}
    torch.save(state | {"fc.weight": torch.zeros(10, 20)}, tmp_path / "r.pth")
    report = load_weights(network, tmp_path / "r.pth")
    assert "; random: classifier (8); not used: fc (1)" in report.line()
    assert network.layer3[1].conv3.weight.unique().tolist() == [2.0]


def official_logits(state, images):  # noqa: C901
    """The published DDRNet-23-slim in eval mode, by its own names and in the functions that it is made of."""

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)

    def norm(x, name):
        statistics = (state[f"{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics)

    def shortcut(x, name, stride):
        if f"{name}.downsample.0.weight" not in state:
            return x
        return norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")

    def layer(x, name, stride=1):
        for index in range(2):
            block, step = f"{name}.{index}", stride if index == 0 else 1
            out = norm(conv(x, f"{block}.conv1", step), f"{block}.bn1").relu()
            out = norm(conv(out, f"{block}.conv2"), f"{block}.bn2") + shortcut(x, block, step)
            x = out.relu() if index == 0 else out
        return x

    def bottleneck(x, name, stride=1):
        out = norm(conv(x, f"{name}.0.conv1"), f"{name}.0.bn1").relu()
        out = norm(conv(out, f"{name}.0.conv2", stride), f"{name}.0.bn2").relu()
        return norm(conv(out, f"{name}.0.conv3"), f"{name}.0.bn3") + shortcut(x, f"{name}.0", stride)

    def enlarged(x, like):
        return F.interpolate(x, size=like.shape[-2:], mode="bilinear")

    def pre(x, name, first=0):
        return conv(norm(x, f"{name}.{first}").relu(), f"{name}.{first + 2}")

    def pyramid(x):
        maps = [pre(x, "spp.scale0")]
        for scale, (size, stride) in enumerate(((5, 2), (9, 4), (17, 8)), start=1):
            pooled = F.avg_pool2d(x, size, stride, size // 2)
            maps.append(pre(enlarged(pre(pooled, f"spp.scale{scale}", 1), x) + maps[-1], f"spp.process{scale}"))
        pooled = x.mean(dim=(2, 3), keepdim=True)
        maps.append(pre(enlarged(pre(pooled, "spp.scale4", 1), x) + maps[-1], "spp.process4"))
        return pre(torch.cat(maps, 1), "spp.compression") + pre(x, "spp.shortcut")

    def head(x, name):
        return conv(norm(conv(norm(x, f"{name}.bn1").relu(), f"{name}.conv1"), f"{name}.bn2").relu(), f"{name}.conv2")

    x = norm(conv(images, "conv1.0", 2), "conv1.1").relu()
    x = layer(norm(conv(x, "conv1.3", 2), "conv1.4").relu(), "layer1")
    stem = layer(x.relu(), "layer2", 2)
    low, high = layer(stem.relu(), "layer3", 2), layer(stem.relu(), "layer3_")
    down = norm(conv(high.relu(), "down3.0", 2), "down3.1")
    high = high + enlarged(norm(conv(low.relu(), "compression3.0"), "compression3.1"), high)
    extra = head(high, "seghead_extra")
    low, high = layer((low + down).relu(), "layer4", 2), layer(high.relu(), "layer4_")
    down = norm(conv(high.relu(), "down4.0", 2), "down4.1").relu()
    down = norm(conv(down, "down4.3", 2), "down4.4")
    high = bottleneck(
        (high + enlarged(norm(conv(low.relu(), "compression4.0"), "compression4.1"), high)).relu(), "layer5_"
    )
    context = pyramid(bottleneck((low + down).relu(), "layer5", 2))
    return head(high + enlarged(context, high), "final_layer"), extra


def test_the_published_ddrnet_s_names_load_to_equal_logits(narrow):
    """Its segmentation checkpoints have `model.` before each name, and entries of the loss."""
    torch.manual_seed(3)
    trained, network, images = (
        build_segmenter("ddrnet23_slim", 19),
        build_segmenter("ddrnet23_slim", 19),
        torch.randn(1, 3, 128, 192),
    )
    trained.train().training_outputs(torch.randn(2, 3, 128, 192))  # statistics that are not those of the start
    names = {name: name.replace("auxiliary_head", "seghead_extra") for name in trained.state_dict()}
    official = {names[name]: value for name, value in trained.state_dict().items()}
    file = {f"model.{name}": value for name, value in official.items()} | {"loss.criterion.weight": torch.ones(19)}
    report = fit_weights(network, weights_of(file))
    assert report.random == ()
    assert report.unused == ("loss.criterion.weight",)
    with torch.no_grad():
        found, expected = network.eval().training_outputs(images), official_logits(official, images)
    assert (found.logits - expected[0]).abs().max() < 1e-4 * expected[0].abs().max()
    assert (found.auxiliary - expected[1]).abs().max() < 1e-4 * expected[1].abs().max()
