"""How frames become a network's images: mean and deviation, in the network's own order of channels."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.errors import ConfigError, ModelFileError
from clst_train.cli.train import main as clst_train
from clst_train.config import ModelConfig
from clst_train.method.step import adaptation_step
from clst_train.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clst_train.models.checkpoint_backend import open_checkpoint
from clst_train.models.deployable import Deployable, normalise, normalise_in_training
from clst_train.models.networks import network_of
from clst_train.models.normalisation import IMAGENET, Normalisation
from clst_train.models.segmenter import Segmenter
from clst_train.recipes.recipe import config_from_mapping
from tests.conftest import RGB_CLASSES, rgb_manifest
from tests.support.command_line import call
from tests.support.tiny import CLASSES, batches, learner

FRAME = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 1, 1, 3)  # red, green, blue
BY = {"rgb": [9.0, 9.0, 5.4], "bgr": [29.0, 9.0, 1.4]}
"""(10 − 1) / 1, (20 − 2) / 2, (30 − 3) / 5 in order; turned, (30 − 1) / 1, (20 − 2) / 2, (10 − 3) / 5."""


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("function", [normalise, normalise_in_training])
def test_mean_and_deviation_are_in_the_network_s_own_order_of_channels(function, channels):
    by = Normalisation((1.0, 2.0, 3.0), (1.0, 2.0, 5.0), channels)
    torch.testing.assert_close(function(FRAME, by).flatten(), torch.tensor(BY[channels]))
    assert function(FRAME, by).shape == (1, 3, 1, 1)


def test_what_is_not_said_is_imagenet_s_in_rgb():
    assert Normalisation(ModelConfig().mean, ModelConfig().std, ModelConfig().channels) == IMAGENET == Normalisation()
    assert Segmenter.normalisation == IMAGENET
    found = normalise(FRAME, IMAGENET).flatten().tolist()
    assert found == pytest.approx([(10 - 123.675) / 58.395, (20 - 116.28) / 57.12, (30 - 103.53) / 57.375])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"std": [0, 1, 1]}, r"model.std = \[0.0, 1.0, 1.0\]; give three positive numbers, on the 0–255 scale"),
        ({"std": [1, 1, -2]}, "give three positive numbers"),
        ({"std": [1, float("nan"), 1]}, "model.std = nan; give a finite number"),
        ({"mean": [float("inf"), 1, 1]}, "model.mean = inf; give a finite number"),
        ({"mean": [1, 2]}, "expected 3 values"),
        ({"mean": [-1, 2, 3]}, "give three numbers from 0 to 255"),
        ({"mean": [1, 2, 256]}, "give three numbers from 0 to 255"),
        ({"mean": "grey"}, "expected a list"),
        ({"channels": "gbr"}, "model.channels = 'gbr'; give rgb or bgr"),
        (
            {"mean": [0.485, 0.456, 0.406]},
            r"model.mean = \[0.485, 0.456, 0.406\] looks like the 0–1 scale; on the 0–255 scale it is "
            r"\[123.675, 116.28, 103.53\]",
        ),
        ({"std": [0.229, 0.224, 0.225]}, r"on the 0–255 scale it is \[58.395, 57.12, 57.375\]"),
    ],
)
def test_what_cannot_be_a_normalisation_is_one_line(values, words):
    with pytest.raises(ConfigError, match=words) as error:
        config_from_mapping({"model": values}, where="x")
    assert error.value.exit_code == 3
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0, 0, 0), (1, 1, 1)), ((0, 0, 0), (255, 255, 255)), ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
     ((103.939, 116.779, 123.68), (1, 1, 1))],
)  # fmt: skip
def test_the_usual_ones_of_other_projects_are_taken(mean, std):
    model = ModelConfig(mean=mean, std=std, channels="bgr")
    assert network_of(model, 2).normalisation == Normalisation(mean, std, "bgr")


def test_the_command_says_so_before_anything_is_made(tmp_path):
    done = call(clst_train, "--source", tmp_path, "--out", tmp_path / "out", "--set", "model.std=[0.2, 0.2, 0.2]")
    assert done.exit_code == 3
    assert done.stderr.count("\n") == 1
    assert "on the 0–255 scale it is [51.0, 51.0, 51.0]" in done.stderr
    assert not (tmp_path / "out").exists()


def turned(by):
    """The same for a network that takes the channels the other way round."""
    return Normalisation(by.mean[::-1], by.std[::-1], "bgr" if by.channels == "rgb" else "rgb")


def turn_weights(network):
    """Its images may come the other way round then."""
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(network.norm, name)
            value.copy_(value.flip(0))
        network.body.weight.copy_(network.body.weight.flip(1))


def test_a_bgr_network_learns_what_its_rgb_twin_does():
    """Students, ensemble and source crops: turned weights, numbers and order together change nothing but roundings."""
    one, other = learner(), learner()
    for network in (other.segmenter, other.mean_teacher.network):
        turn_weights(network)
    other.segmenter.normalisation = turned(IMAGENET)
    first, second = (adaptation_step(each, *batches(), target_weight=1.0) for each in (one, other))
    assert first.loss.item() == pytest.approx(second.loss.item(), rel=1e-5)
    other.segmenter.normalisation = IMAGENET
    assert adaptation_step(other, *batches(), target_weight=1.0).loss.item() != pytest.approx(
        first.loss.item(), rel=1e-3
    )


def checkpoint(**values):
    model = ModelConfig(input_hw=(64, 96))
    return Checkpoint(
        network=model.network, classes=RGB_CLASSES, input_hw=(64, 96), stage="source", iteration=1,
        segmenter_state=network_of(model, CLASSES).state_dict(), **dataclasses.asdict(IMAGENET) | values,
    )  # fmt: skip


def test_a_checkpoint_keeps_the_order_and_is_predicted_by_it(narrow, tmp_path):
    """The manifest that a program sees says so, too; the masks of a coloured frame are those of the deployable."""
    torch.manual_seed(0)
    saved = checkpoint(mean=(1.0, 2.0, 3.0), channels="bgr")
    save_checkpoint(tmp_path / "c.pt", saved)
    assert load_checkpoint(tmp_path / "c.pt").channels == "bgr"
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    with open_checkpoint(tmp_path / "c.pt") as backend:
        assert (backend.manifest.channels, backend.manifest.mean) == ("bgr", (1.0, 2.0, 3.0))
        found = backend.predict(frame).classes
    network = network_of(ModelConfig(input_hw=(64, 96)), CLASSES)
    network.load_state_dict(saved.segmenter_state)
    masks = {}
    for channels in ("rgb", "bgr"):
        network.normalisation = Normalisation((1.0, 2.0, 3.0), IMAGENET.std, channels)
        masks[channels] = Deployable(network, (64, 96))(torch.from_numpy(frame)[None])[0].numpy()
    assert np.array_equal(found, masks["bgr"])
    assert not np.array_equal(found, masks["rgb"])


def test_files_from_before_the_setting_are_rgb(narrow, tmp_path):
    save_checkpoint(tmp_path / "c.pt", checkpoint())
    content = torch.load(tmp_path / "c.pt")
    del content["channels"]
    torch.save(content, tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt").channels == "rgb"
    torch.save(content | {"channels": "hsv"}, tmp_path / "other.pt")
    with pytest.raises(ModelFileError, match="channels is 'hsv'"):
        load_checkpoint(tmp_path / "other.pt")
    old = json.loads(rgb_manifest().to_json())
    assert old.pop("channels") == "rgb"
    assert Manifest.from_json(json.dumps(old), where="x") == rgb_manifest()
    with pytest.raises(ModelFileError, match="channels"):
        Manifest.from_json(json.dumps(old | {"channels": "BGR"}), where="x")
