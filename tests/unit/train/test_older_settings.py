"""Settings of an older version that are gone: how recipes, runs and checkpoints that have them are treated."""

import dataclasses

import numpy as np
import pytest

from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.errors import ConfigError
from clst_runtime.imaging.image_files import write_png
from clst_train.cli.train import main as clst_train
from clst_train.config import Config
from clst_train.engine.options import configure
from clst_train.engine.run_folder import open_run
from clst_train.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clst_train.models.networks import build_segmenter
from clst_train.recipes.recipe import REMOVED, RENAMED, config_from_mapping, read_recipe, removed_settings
from tests import ROOT
from tests.conftest import RGB_CLASSES, write_labelled
from tests.support.command_line import call

OLDER = ROOT / "tests/support/older_run.toml"


def older():
    return {f"{section}.{key}": value for section, given in read_recipe(OLDER).items() for key, value in given.items()}


def test_every_older_setting_is_there_or_named_as_gone():
    config = Config()
    there = {f"{part.name}.{key}" for part in dataclasses.fields(config) for key in vars(getattr(config, part.name))}
    assert set(older()) - there == set(REMOVED)
    assert not there & {f"{section}.{key}" for section, key in RENAMED}


@pytest.mark.parametrize("name", REMOVED)
def test_a_recipe_or_an_option_with_a_setting_that_is_gone_is_one_line_that_says_why(name, tmp_path):
    section, _, key = name.partition(".")
    path = tmp_path / "r.toml"
    path.write_text(f"[{section}]\n{key} = 1\n")
    with pytest.raises(ConfigError, match=f"r.toml: {name} is gone: .+; leave it out$"):
        configure(str(path), {})
    done = call(clst_train, "--source", "x", "--set", f"{name}=1")
    assert done.exit_code == 3
    assert f"{name} is gone: {REMOVED[name]}; leave it out" in done.stderr
    assert done.stderr.count("\n") == 1


def test_several_are_named_at_once():
    first, *others = REMOVED
    values = {}
    for name in REMOVED:
        values.setdefault(name.partition(".")[0], {})[name.partition(".")[2]] = 1
    with pytest.raises(ConfigError) as caught:
        config_from_mapping(values, where="x")
    assert str(caught.value).startswith(f"x: {first} is gone")
    assert all(name in str(caught.value) for name in others)


def test_an_older_run_can_be_looked_at_but_not_gone_on_with(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(OLDER.read_text().replace('source = ""', 'source = "old"'))
    assert open_run(run)[1].data.source == "old"
    done = call(clst_train, "--resume", run)
    assert done.exit_code == 3
    first = removed_settings(read_recipe(OLDER))[0]
    assert f"begun by an older version of clst, with {first}, which is gone" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("narrow", "no_pictures")
def test_an_older_checkpoint_is_scored_and_adapted(tmp_path):
    data = write_labelled(tmp_path / "data", size_hw=(64, 64))
    old = Checkpoint(
        network="ddrnet23_slim", classes=RGB_CLASSES, input_hw=(64, 64), mean=(120.0, 120.0, 120.0),
        std=(60.0, 60.0, 60.0), stage="source", iteration=4, config=read_recipe(OLDER),
        segmenter_state=build_segmenter("ddrnet23_slim", 3).state_dict(),
    )  # fmt: skip
    save_checkpoint(tmp_path / "old.pt", old)
    known = load_checkpoint(tmp_path / "old.pt").provenance  # what an export writes of the configuration
    assert known == {"source_training": "4 steps"}
    assert call(clst_eval, tmp_path / "old.pt", "--data", data, "--split", "val").exit_code == 0
    (tmp_path / "new").mkdir()
    for name in ("a", "b"):
        write_png(tmp_path / "new" / f"{name}.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    settings = ("source.batch=2", "adaptation.batch=2", "adaptation.iterations=1", "augmentation.crop_hw=[64,64]")
    done = call(
        clst_train, "--init", tmp_path / "old.pt", "--source", data, "--split", "val",
        "--target", tmp_path / "new", "--out", tmp_path / "run", *(x for s in settings for x in ("--set", s)),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert load_checkpoint(tmp_path / "run/checkpoints/adapted.pt").mean == (120.0, 120.0, 120.0)
