"""The confidence of the network that is deployed, counted by hand."""

import math

import numpy as np
import pytest
import torch

from clst_export.graph.trace import deployable_of
from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import ModelFileError
from clst_train.config import MEAN, STD
from clst_train.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clst_train.models.checkpoint_backend import open_checkpoint, segmenter_backend
from clst_train.models.networks import build_segmenter
from clst_train.models.segmenter import Segmenter, TrainingOutputs

NAMED = ClassList(name="n", names=("a", "b", "c"), colours=((0, 0, 0), (1, 1, 1), (2, 2, 2)))
SIZE_HW = (4, 6)


class Gives(Segmenter):
    """A network that gives every pixel the same logits."""

    feature_channels, output_stride, class_count = 3, 1, 3

    def __init__(self, *logits, temperature=1.0):
        super().__init__()
        self.temperature = temperature
        self.given = torch.nn.Parameter(torch.tensor(logits, dtype=torch.float32).view(1, 3, 1, 1))

    def training_outputs(self, images):
        logits = self.given.expand(len(images), -1, *images.shape[2:])
        return TrainingOutputs(features=images, logits=logits, auxiliary=None)


def said(segmenter, **options):
    backend = segmenter_backend(segmenter, network="tiny", classes=NAMED, input_hw=SIZE_HW, **options)
    return backend.manifest, backend.predict(np.zeros((*SIZE_HW, 3), np.uint8))


@pytest.mark.parametrize(("logits", "share"), [((0, 0, 0), 1 / 3), ((math.log(8), 0, 0), 0.8), ((30, 0, 0), 1)])
def test_the_confidence_is_the_softmax_of_the_winner(logits, share):
    manifest, found = said(Gives(*logits), with_confidence=True)
    assert manifest.has_confidence
    assert found.classes.shape == found.confidence.shape == SIZE_HW
    assert set(found.confidence.ravel()) == {round(255 * share)}


def test_a_network_that_validates_in_training_has_none():
    manifest, found = said(Gives(1, 0, 0))
    assert (manifest.has_confidence, found.confidence) == (False, None)


def test_a_temperature_divides_the_logits_of_the_confidence_and_of_nothing_else():
    """Twice the logits of 80 % at a temperature of 2; the class and the logits that are given stay as they are."""
    twice = Gives(2 * math.log(8), 0, 0, temperature=2.0)
    manifest, found = said(twice, with_confidence=True)
    assert manifest.temperature == 2
    assert set(found.confidence.ravel()) == {204}
    assert (found.classes == said(twice)[1].classes).all()
    assert twice(torch.zeros(1, 3, *SIZE_HW))[0, 0, 0, 0].item() == pytest.approx(2 * math.log(8))


def checkpoint(**values):
    torch.manual_seed(0)
    return Checkpoint(
        network="ddrnet23_slim", classes=NAMED, input_hw=(32, 64), mean=MEAN, std=STD, stage="adapted", iteration=1,
        segmenter_state=build_segmenter("ddrnet23_slim", 3).state_dict(), **values,
    )  # fmt: skip


@pytest.fixture
def saved(narrow, tmp_path):
    save_checkpoint(tmp_path / "c.pt", checkpoint(temperature=1.5))
    return tmp_path / "c.pt"


def test_a_checkpoint_keeps_its_temperature_for_whatever_is_made_of_it(saved):
    loaded = load_checkpoint(saved)
    deployable, manifest = deployable_of(loaded, with_confidence=True)
    assert (loaded.temperature, deployable.segmenter.temperature, manifest.temperature) == (1.5, 1.5, 1.5)
    with open_checkpoint(saved) as backend:
        assert backend.manifest.temperature == 1.5
        frame = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
        logits = deployable.logits(torch.from_numpy(frame)[None])[0]
        expected = 255 * (logits / 1.5).softmax(0).amax(0).detach().numpy()
        np.testing.assert_array_equal(backend.predict(frame).confidence, expected.round())


def test_one_from_before_there_were_temperatures_divides_by_nothing(saved):
    content = torch.load(saved)
    del content["temperature"]
    torch.save(content, saved)
    assert load_checkpoint(saved).temperature == 1


@pytest.mark.parametrize("damaged", [0.0, -1.0, math.nan, math.inf, "2", None])
def test_one_that_is_no_number_above_0_is_refused(saved, damaged):
    torch.save(torch.load(saved) | {"temperature": damaged}, saved)
    with pytest.raises(ModelFileError, match="temperature"):
        load_checkpoint(saved)
