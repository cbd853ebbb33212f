"""What a checkpoint says of its fit, and which one a run takes that starts from it."""

import pytest
import torch

from clst_export.graph.trace import deployable_of
from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import ModelFileError
from clst_runtime.imaging.geometry import Fit
from clst_train.config import MEAN, STD
from clst_train.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clst_train.models.checkpoint_backend import open_checkpoint
from clst_train.models.networks import build_segmenter
from clst_train.recipes.recipe import config_from_mapping
from clst_train.training import _as_checkpoint

CLASSES = ClassList(name="two", names=("road", "sky"), colours=((0, 0, 0), (1, 1, 1)))


def checkpoint(config, state=None):
    return Checkpoint(
        network="ddrnet23_slim", classes=CLASSES, input_hw=(32, 64), mean=MEAN, std=STD, stage="adapted", iteration=1,
        segmenter_state=state or {}, config=config,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "fit"),
    [
        ({}, Fit.STRETCH),
        ({"model": {"input_hw": [32, 64]}}, Fit.STRETCH),  # from before there was a choice
        ({"model": {"fit": "stretch"}}, Fit.STRETCH),
        ({"model": {"fit": "letterbox"}}, Fit.LETTERBOX),
    ],
)
def test_a_checkpoint_s_fit_is_that_of_whatever_is_made_of_it(tmp_path, config, fit):
    torch.manual_seed(0)
    path = tmp_path / "c.pt"
    save_checkpoint(path, checkpoint(config, build_segmenter("ddrnet23_slim", 2).state_dict()))
    assert load_checkpoint(path).fit is fit
    assert open_checkpoint(path).manifest.fit is fit
    assert deployable_of(load_checkpoint(path))[1].fit is fit


def test_a_checkpoint_of_an_unknown_fit_is_refused():
    with pytest.raises(ModelFileError, match=r"model.fit 'crop' is unknown; known are stretch, letterbox"):
        _ = checkpoint({"model": {"fit": "crop"}}).fit


BOXED, STRETCHED = {"model": {"fit": "letterbox"}}, {}


@pytest.mark.parametrize(
    ("own", "recipe", "setting", "taken", "words"),
    [
        (BOXED, "stretch", "", "letterbox", ""),  # kept as its classes and its size are
        (BOXED, "letterbox", "model.fit=letterbox", "letterbox", ""),
        (BOXED, "stretch", "model.fit=stretch", "stretch", "model.fit = stretch as asked, though the checkpoint was"),
        (STRETCHED, "stretch", "", "stretch", ""),
        (STRETCHED, "letterbox", " model.fit = letterbox", "letterbox", "trained with stretch: shapes will differ"),
        (
            STRETCHED,
            "letterbox",
            "",
            "stretch",
            "as the checkpoint has it, not the recipe's letterbox; --set model.fit",
        ),
    ],
)
def test_adaptation_keeps_the_checkpoint_s_fit_unless_it_is_told_otherwise(capsys, own, recipe, setting, taken, words):
    config = config_from_mapping({"model": {"fit": recipe}}, where="test")
    options = {"settings": (setting,)} if setting else {}
    found = _as_checkpoint(config, checkpoint(own), options)
    assert (found.model.fit, found.model.input_hw) == (taken, (32, 64))
    told = capsys.readouterr().err
    assert told.count("\n") == bool(words)
    assert words in told
