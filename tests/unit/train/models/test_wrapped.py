"""Any module as a network: its features, its classifier, and what is refused."""

import copy
import dataclasses
import inspect
import sys
from collections import OrderedDict

import pytest
import torch
from torch import nn

from clst_runtime.classes.labels import load_class_list
from clst_runtime.errors import ConfigError, MissingDependency, ModelFileError
from clst_train.config import MEAN, STD
from clst_train.models.adapters import factory
from clst_train.models.checkpoint import (
    Checkpoint,
    WeightsFile,
    build_from_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from clst_train.models.networks import build_segmenter
from clst_train.models.wrapped import WrappedNetwork
from tests.support import foreign

HERE = "tests.support.foreign:"


def measured(network, classes=10, size_hw=(64, 96), **options):
    return build_segmenter(f"{HERE}{network}", classes, input_hw=size_hw, **options)


def test_a_unets_features_go_into_its_last_convolution_and_are_averaged_to_stride_4():
    network = measured("unet?width=6").eval()
    assert (network.head, network.feature_channels, network.output_stride, network.size_multiple) == (
        "classifier", 6, 4, 4,
    )  # fmt: skip
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        outputs = network.training_outputs(images)
        assert torch.equal(outputs.logits, network(images))
    assert outputs.features.shape == (2, 6, 16, 24)
    assert outputs.logits.shape == (2, 10, 64, 96)
    assert outputs.auxiliary is None
    assert network.cells_hw((64, 96), (64, 96)) == (16, 24)


def test_features_are_exactly_what_goes_into_the_classifier():
    network = measured("Plain")
    images = torch.randn(1, 3, 64, 96)
    assert (network.output_stride, network.size_multiple) == (4, 4)
    assert torch.equal(network.training_outputs(images).features, torch.relu(network.network.features(images)))


def test_features_of_a_linear_classifier_have_their_channels_brought_forward():
    network = measured("ChannelsLast")
    images = torch.randn(1, 3, 64, 96)
    assert (network.head, network.feature_channels, network.output_stride) == ("classifier", 6, 4)
    outputs = network.training_outputs(images)
    assert torch.equal(outputs.features, network.network.features(images))
    assert outputs.logits.shape == (1, 10, 16, 24)


def test_a_factory_may_be_a_partial_of_one():
    assert measured("small_unet").feature_channels == 2


def test_an_auxiliary_head_is_used_and_not_taken_for_the_classifier():
    """It is called last, but the logits do not depend on it."""
    network = measured("TwoHeads")
    assert (network.head, network.feature_channels, network.output_stride) == ("classifier.2", 5, 8)
    outputs = network.training_outputs(torch.randn(1, 3, 64, 96))
    assert outputs.auxiliary.shape == outputs.logits.shape == (1, 10, 64, 96)
    assert not torch.equal(outputs.auxiliary, outputs.logits)


def test_weights_keep_their_own_names_and_copies_do_not_share_features():
    network = measured("Plain")
    assert set(network.state_dict()) == set(foreign.Plain(10).state_dict())
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.network.features.bias += 100
    images = torch.zeros(1, 3, 64, 96)
    assert not torch.equal(other.training_outputs(images).features, network.training_outputs(images).features)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.training_outputs(images).features, network.training_outputs(images).features)


def test_the_classifier_is_found_where_no_gradient_is_wanted():
    network = build_segmenter(f"{HERE}Plain", 3).eval()
    with torch.inference_mode():
        outputs = network.training_outputs(torch.zeros(2, 3, 32, 32))
    assert (network.head, outputs.features.shape) == ("classifier", (2, 6, 8, 8))


def test_a_classifier_that_cannot_be_found_is_named_by_the_user():
    with pytest.raises(ConfigError, match=r"no layer gives 10 channels.*model\.head.*last"):
        measured("Folded")
    network = measured("Folded", head="last")
    assert (network.feature_channels, network.output_stride) == (6, 8)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("Softmax", "returns probabilities; return logits"),
        ("InAList", "returns list; return logits NxCxhxw, or a dict"),
        ("OneSize", "size has to follow the image's"),
        ("OnlyAt64x96", "takes images of 64x96 alone"),
        ("one_class_more", "returns 1x11x16x24 for 10 classes; .* called with the number of classes"),
        ("broken", r"broken\(10\) failed \(foreign.py, line \d+\): ZeroDivisionError: no weights for that many"),
        ("unet?depth=3", r"unet\(10, depth=3\) failed.*TypeError.*depth"),
        ("no_module", "returned list; return a torch.nn.Module"),
        ("not_callable", "not_callable is int; name a function or class that makes a network"),
        ("made_already", "made_already is Plain; name a function or class that makes a network"),
        ("os.abort", "os.abort is posix.abort, which makes no network"),
        ("os.environ.clear", "which makes no network"),
        ("functools.partial", "functools.partial, which makes no network"),
        ("torch.hub.load", "torch.hub.load, which makes no network"),
        ("os.sys.path.append", "append is builtin_function_or_method; name a function or class"),
        ("missing", "has no 'missing'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(network, message):
    with pytest.raises(ConfigError, match=message):
        measured(network)


def double(classes):
    return foreign.Plain(classes).double()


def frozen(classes):
    return foreign.Plain(classes).requires_grad_(False)


def without_values(classes):
    return foreign.Plain(classes).to("meta")


def scripted(classes):
    return torch.jit.trace(foreign.Plain(classes), torch.zeros(1, 3, 64, 96))


def compiled(classes):
    return torch.compile(foreign.Plain(classes))


class WithExtraState(foreign.Plain):
    def get_extra_state(self):
        return {"version": 3}


class WithoutGradient(foreign.Plain):
    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


class ListInTraining(foreign.Plain):
    def forward(self, images):
        return [super().forward(images)] if self.training else super().forward(images)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (double, r"mine: 'features.weight' is float64; return the network in float32 \(network.float\(\)\)"),
        (frozen, r"mine cannot be trained: all of its 4 weights are frozen \(requires_grad is False\)"),
        (lambda classes: nn.Identity(), "mine cannot be trained: it has no weights"),
        (without_values, "mine: 'features.weight' is on the device meta and so without values"),
        (scripted, "mine is a TorchScript module, .*; return the nn.Module"),
        (compiled, "mine is compiled; return the module as it was before, and set run.compile=true"),
        (WithExtraState, r"mine: '_extra_state' in its state_dict\(\) is no tensor"),
        (WithoutGradient, r"mine: no gradient leads from its logits to its weights; leave torch.no_grad\(\)"),
    ],
)
def test_a_module_that_cannot_be_trained_or_kept_is_refused(factory, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        WrappedNetwork(factory(3), 3, name="mine").measure((66, 96))


def test_what_it_returns_in_training_alone_is_said_so():
    network = WrappedNetwork(ListInTraining(3), 3, name="mine")
    network.measure((64, 96))
    with pytest.raises(ConfigError, match="mine returns list in training; return logits NxCxhxw"):
        network.train().training_outputs(torch.zeros(2, 3, 64, 96))


def test_a_size_that_fails_names_the_multiple_that_works():
    with pytest.raises(ConfigError, match=r"cannot take an image of 66x96.*multiples of 4: give --size 64x96"):
        measured("unet", size_hw=(66, 96))


def test_logits_that_are_larger_at_odd_sizes_alone_need_multiples():
    """33 rows are 9 cells of 4 pixels, which are 36 rows again."""
    assert measured("Enlarged").size_multiple == 4


def test_a_failure_names_its_layer():
    with pytest.raises(ConfigError, match=r"in its layer 'body.1': .*channels"):
        body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 3, 1))
        WrappedNetwork(nn.Sequential(OrderedDict(body=body)), 3, name="mine").measure((32, 32))


def test_a_layer_that_is_not_there_lists_the_last_ones():
    with pytest.raises(ConfigError, match=r"model.head = 'head'.*features, classifier"):
        measured("Plain", head="head")
    with pytest.raises(ConfigError, match="is for networks that are not built in"):
        build_segmenter("ddrnet23_slim", 3, head="conv1")


def test_a_layer_that_sees_no_map_is_refused():
    with pytest.raises(ConfigError, match="nothing goes into 'aux_classifier'|goes into"):
        WrappedNetwork(SeesNoMap(3), 3, name="mine", head="unused").measure((32, 32))


class SeesNoMap(foreign.Plain):
    def __init__(self, classes):
        super().__init__(classes)
        self.unused = nn.Conv2d(6, classes, 1)


def test_a_module_of_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_network_here.py").write_text("from tests.support.foreign import Plain as build\n")
    monkeypatch.chdir(tmp_path)
    assert build_segmenter("my_network_here:build", 3, input_hw=(32, 32)).class_count == 3
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("import nothing_of_that_name", MissingDependency, "needs nothing_of_that_name, which is not installed"),
        ("def build(:", ConfigError, "SyntaxError"),
        ("1/0", ConfigError, r"cannot be imported \(faulty_network.py, line 1\): ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch, text, error, message):
    (tmp_path / "faulty_network.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("faulty_network", None)
    with pytest.raises(error, match=message):
        build_segmenter("faulty_network:build", 3)


def leaves(classes):
    sys.exit(0)


def meddles(classes):
    print("made by a factory")
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(3)
    return foreign.Plain(classes).float()


def test_a_factory_that_ends_the_program_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"leaves\(3\) failed .*: SystemExit: 0"):
        build_segmenter(f"{__name__}:leaves", 3)
    (tmp_path / "leaving_network.py").write_text("raise SystemExit('no licence')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="leaving_network cannot be imported .*: SystemExit: no licence"):
        build_segmenter("leaving_network:build", 3)


def needs_more(classes):
    return nn.Conv2d(3, classes, 0, padding="nothing")  # the line that the message names


def test_a_factory_that_fails_inside_of_pytorch_is_named_by_its_own_line():
    line = inspect.getsourcelines(needs_more)[1] + 1
    with pytest.raises(ConfigError, match=rf"needs_more\(3\) failed \(test_wrapped.py, line {line}\): ValueError"):
        build_segmenter(f"{__name__}:needs_more", 3)


def test_a_call_that_the_factory_does_not_take_names_no_line_of_this_project():
    with pytest.raises(ConfigError, match=r"leaves\(3, width=4\) failed: TypeError: leaves\(\) got an unexpected"):
        build_segmenter(f"{__name__}:leaves?width=4", 3)


def test_what_a_factory_prints_and_sets_does_not_reach_the_results_and_the_run(capsys):
    threads = torch.get_num_threads()
    build_segmenter(f"{__name__}:meddles", 3)
    assert capsys.readouterr() == ("", "made by a factory\n")
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == (
        torch.float32, True, threads,
    )  # fmt: skip


KEPT = foreign.Plain(3)


def kept(classes):
    return KEPT


def test_a_factory_that_returns_one_module_again_and_again_gives_each_run_its_own_weights():
    first, second = build_segmenter(f"{__name__}:kept", 3), build_segmenter(f"{__name__}:kept", 3)
    with torch.no_grad():
        next(first.parameters()).fill_(7.0)
    assert not (next(second.parameters()) == 7.0).any()
    assert not (next(KEPT.parameters()) == 7.0).any()


class Stops(foreign.Plain):
    def __init__(self, classes, error):
        super().__init__(classes)
        self.error = {"exit": SystemExit, "file": OSError, "import": ImportError, "zero": ZeroDivisionError}[error]

    def forward(self, images):
        raise self.error(f"by {self.error.__name__}")


@pytest.mark.parametrize("error", ["exit", "file", "import", "zero"])
def test_whatever_a_forward_pass_ends_by_is_said_with_its_line(error):
    with pytest.raises(ConfigError, match=r"cannot take an image of 64x96, at `raise self.error.*: by \w+$"):
        build_segmenter(f"{__name__}:Stops?error={error}", 3, input_hw=(64, 96))


def checkpoint_of(network, classes, state, **values):
    return Checkpoint(
        network=network, classes=classes, input_hw=(64, 96), mean=MEAN, std=STD, stage="source", iteration=1,
        segmenter_state=state, **values,
    )  # fmt: skip


def test_a_checkpoint_is_opened_where_its_package_is_and_names_it_where_it_is_not(tmp_path, monkeypatch):
    classes = load_class_list("scenes10")
    network = measured("unet?width=6")
    path = tmp_path / "own.pt"
    save_checkpoint(path, checkpoint_of(f"{HERE}unet?width=6", classes, network.state_dict()))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(build_from_checkpoint(load_checkpoint(path))(images), network.eval()(images))
    save_checkpoint(path, checkpoint_of("vehicle_package.networks:unet", classes, network.state_dict()))
    with pytest.raises(MissingDependency, match="no module 'vehicle_package' here"):
        build_from_checkpoint(load_checkpoint(path))
    save_checkpoint(path, checkpoint_of(f"{HERE}gone", classes, network.state_dict()))
    with pytest.raises(ModelFileError, match=r"own.pt: its network cannot be built: .* has no 'gone'"):
        build_from_checkpoint(load_checkpoint(path))


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        ({"package": "vehicle-nets", "version": "1.2"}, "it came from the package vehicle-nets 1.2; install that"),
        ({"folder": "working folder"}, "vehicle_nets lay in the folder that training was started in; start there"),
        ({}, "install its package, or start where vehicle_nets lies"),
        (None, "install its package, or start where vehicle_nets lies"),
        ({"package": 7}, "it came from the package 7; install that"),
    ],
)
def test_a_missing_module_is_said_to_be_where_it_was(origin, hint):
    checkpoint = checkpoint_of("vehicle_nets.road:unet", load_class_list("scenes10"), {}, architecture=origin)
    with pytest.raises(MissingDependency, match=f"checkpoint: .*no module 'vehicle_nets' here; {hint}"):
        build_from_checkpoint(checkpoint)


def test_where_a_module_came_from_is_kept(tmp_path, monkeypatch):
    for name in ("lies_here", "lies_in_a_package"):
        (tmp_path / f"{name}.py").write_text("from tests.support.foreign import Plain as build\n")
    monkeypatch.chdir(tmp_path)
    assert build_segmenter("lies_here:build", 3).architecture == {"folder": "working folder"}
    monkeypatch.setattr(factory, "_package_of", lambda top: "pytest" if top == "lies_in_a_package" else None)
    found = build_segmenter("lies_in_a_package:build", 3).architecture
    assert found == {"package": "pytest", "version": pytest.__version__}
    assert measured("Plain").architecture == {}  # tests/ lies in no package, and not in this folder


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("Plain", "only in the checkpoint: down1.0.weight, down1.0.bias, down1.1.weight and"),
        ("Plain", "only in the network: features.weight, features.bias$"),
        ("unet?width=5", r"of another shape: down1.0.weight \(trained 4x3x3x3, here 5x3x3x3\), .* and 28 more"),
    ],
)
def test_a_factory_that_has_changed_says_which_tensors_differ(network, words):
    state = foreign.unet(10).state_dict()
    state.pop("classifier.weight"), state.pop("classifier.bias")
    state |= {name: value for name, value in foreign.Plain(10).state_dict().items() if name.startswith("classifier")}
    if network != "Plain":
        state = foreign.unet(10).state_dict()
    checkpoint = checkpoint_of(f"{HERE}{network}", load_class_list("scenes10"), state)
    with pytest.raises(ModelFileError, match=f"its code has changed since it was trained.*{words}"):
        build_from_checkpoint(checkpoint)


def test_versions_of_a_package_that_differ_are_named_with_the_tensors():
    state = foreign.Plain(9).state_dict()
    checkpoint = checkpoint_of(
        f"{HERE}Plain", load_class_list("scenes10"), state, architecture={"package": "nets", "version": "1"}
    )
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ModelFileError) as caught:
        patch.setattr(factory, "_origin_of", lambda module: {"package": "nets", "version": "2"})
        build_from_checkpoint(checkpoint)
    assert "with 10 classes (trained with nets 1, here is nets 2): of another shape: classifier.weight" in str(
        caught.value
    )


def test_provenance_is_what_is_known_and_old_checkpoints_have_their_steps_and_the_names_of_places():
    classes = load_class_list("scenes10")
    assert checkpoint_of("ddrnet23_slim", classes, {}).provenance == {"source_training": "1 steps"}
    places = {"source": "/home/ada/dusk/images/train", "target": ("/mnt/e5/drive.mp4", "../new/RGB")}
    old = dataclasses.replace(checkpoint_of("a", classes, {}, config={"data": places}), stage="adapted", iteration=300)
    assert old.provenance == {"source": "dusk", "target": "drive.mp4, new", "adaptation": "300 steps"}
    new = dataclasses.replace(old, facts={"source": "703 images of dusk"})
    assert new.provenance == {**old.provenance, "source": "703 images of dusk"}
    full = checkpoint_of(
        f"{HERE}Plain", classes, {}, architecture={"package": "nets", "version": "1.2"},
        config={"model": {"head": "classifier"}}, pretrained_sha256="a" * 64,
        weights_file=WeightsFile(name="old.pth", sha256="b" * 64),
    )  # fmt: skip
    assert full.provenance == {
        "source_training": "1 steps", "head": "classifier", "package": "nets 1.2", "pretrained_sha256": "a" * 64,
        "weights_file": "old.pth", "weights_sha256": "b" * 64,
    }  # fmt: skip
