"""The whole life of a network that knows nothing of this project: a U-Net with dropout, unused and frozen weights."""

import shutil

import pytest
import torch

from clst_runtime.cli.evaluate import main as clst_eval
from clst_train.cli.data import main as clst_data
from clst_train.cli.train import main as clst_train
from clst_train.engine.run_folder import open_run
from clst_train.models.checkpoint import load_checkpoint
from clst_train.training import finish_run
from tests.support import foreign
from tests.support.broken_off import broken_off_after_two_steps
from tests.support.command_line import call

pytestmark = [pytest.mark.usefixtures("no_pictures", "no_export"), pytest.mark.slow]
SMALL = (
    *("--recipe", "demo", "--size", "64x96", "--set", "augmentation.crop_hw=[64,64]", "--set", "source.batch=2"),
    *("--set", "source.iterations=4", "--set", "adaptation.iterations=4", "--set", "adaptation.batch=2"),
    *("--set", "run.checkpoint_every=2", "--set", "run.precision=fp32"),
    *("--network", "tests.support.foreign:DropoutUNet"),
)


def trained(cameras, out, *arguments):
    places = ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train", "--out", out)
    done = call(clst_train, *SMALL, *places, *arguments)
    assert done.exit_code == 0, done.stderr
    return out


def weights(path):
    return load_checkpoint(path).segmenter_state


@pytest.fixture(scope="module")
def run(cameras, tmp_path_factory):
    return trained(cameras, tmp_path_factory.mktemp("runs") / "whole", "--val", cameras / "new")


@pytest.mark.parametrize("stage", ["source", "adapted"])
def test_a_resumed_run_draws_the_same_dropout(run, tmp_path, stage):
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(run / "config.toml", half)
    with broken_off_after_two_steps(stage):
        finish_run(*open_run(half), None)
    done = call(clst_train, "--resume", half)
    assert done.exit_code == 0, done.stderr
    first, second = (weights(folder / "checkpoints" / "adapted.pt") for folder in (run, half))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_run_whose_network_has_changed_is_not_resumed(run, tmp_path, monkeypatch):
    half = tmp_path / "half"
    shutil.copytree(run, half)
    (half / "checkpoints" / "adapted.pt").unlink()
    monkeypatch.setattr(foreign, "DropoutUNet", foreign.Plain)
    done = call(clst_train, "--resume", half)
    line = done.stderr.splitlines()[-1]
    assert done.exit_code == 4
    assert line.startswith(f"error: {half}/checkpoints/resume.pt: weights do not fit tests.support.foreign:DropoutUNet")
    assert "(its code has changed since it was trained): only in the checkpoint: down1.0.weight" in line


def test_frozen_and_unused_weights_stay(run):
    source, adapted = (weights(run / "checkpoints" / f"{stage}.pt") for stage in ("source", "adapted"))
    assert set(source) == set(foreign.DropoutUNet(10).state_dict())
    for name in ("down1.0.weight", "unused.weight"):
        assert torch.equal(source[name], adapted[name])
    assert not torch.equal(source["down1.0.bias"], adapted["down1.0.bias"])


def test_its_run_is_evaluated_and_shown_in_feature_space(run, cameras, tmp_path):
    result = run / "checkpoints" / "adapted.pt"
    for command, arguments in (
        (clst_eval, (result, "--data", cameras / "new")),
        (clst_data, ("features", run, "--out", tmp_path / "features.png")),
    ):
        done = call(command, *arguments)
        assert done.exit_code == 0, done.stderr
