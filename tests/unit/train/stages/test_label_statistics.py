"""Which camera's BatchNorm statistics label images and are the result's, by an estimate without labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import clst_train.stages.adaptation as stage
import clst_train.stages.label_statistics as chosen
from clst_runtime.evaluation.unlabelled import NoEstimate
from clst_runtime.imaging.geometry import fit_frame
from clst_runtime.imaging.image_files import read_image
from clst_train.method.batchnorm import estimate_statistics, statistics_layers
from clst_train.models.checkpoint import build_from_checkpoint, load_checkpoint
from clst_train.models.deployable import normalise
from clst_train.stages.label_statistics import old_ones_stay
from clst_train.training import start_run
from tests.unit.train.method.test_entropy_first import half_of_entropy

pytestmark = pytest.mark.usefixtures("narrow", "no_pictures")
FIRST = SimpleNamespace(ranks=SimpleNamespace(first=True, count=1))


def asked(monkeypatch, points, interval=(-9.0, 9.0)):
    """What follows from such an estimate; None = there is none."""

    def estimate(run, old, new):
        if points is None:
            raise NoEstimate("3 of 40 images differ")
        return SimpleNamespace(points=points, interval=interval)

    monkeypatch.setattr(chosen, "backend_of", lambda run: None)
    monkeypatch.setattr(chosen, "estimate", estimate)
    return old_ones_stay(FIRST, None)


@pytest.mark.parametrize(("points", "stay"), [(1.2, False), (0.0, False), (-0.1, True), (None, True)])
def test_the_old_ones_stay_where_the_new_are_worse_or_nobody_knows(monkeypatch, points, stay):
    assert asked(monkeypatch, points) is stay


def test_it_is_said_in_one_line(monkeypatch, capsys):
    stay = "the old camera's stay, in training and in the result"
    asked(monkeypatch, -3.21, (-10.0, 3.6))
    assert capsys.readouterr().err == (
        "statistics: the new camera's change mIoU by about -3.2 points (estimated without labels, 95 % interval -10.0 "
        f"to +3.6); {stay}\n"
    )
    asked(monkeypatch, 2.0)
    assert capsys.readouterr().err.endswith("; pseudo-labels and the result have them\n")
    asked(monkeypatch, None)
    assert capsys.readouterr().err == f"statistics: {stay}: 3 of 40 images differ\n"


@pytest.mark.parametrize("stay", [True, False])
def test_a_resumed_run_keeps_what_was_chosen(cameras, tmp_path, monkeypatch, stay):
    monkeypatch.setattr(stage, "old_ones_stay", lambda run, old: stay)
    seen, step, restore = [], stage.adaptation_step, stage.restore_state

    def noted(learner, *arguments, **more):
        seen.append(learner.statistics is None)
        return step(learner, *arguments, **more)

    def restored(run, state, resume):
        restore(run, state, resume)
        seen.append(state.learner.statistics is None)

    monkeypatch.setattr(stage, "adaptation_step", noted)
    monkeypatch.setattr(stage, "restore_state", restored)
    run = half_of_entropy(cameras, tmp_path)
    first = load_checkpoint(run.adapted).segmenter_state
    run.adapted.unlink()
    monkeypatch.setattr(stage, "old_ones_stay", lambda run, old: pytest.fail("chosen again"))
    start_run(recipe=None, out=None, init=None, resume=run.path, options={})
    assert seen == [stay] * 3
    second = load_checkpoint(run.adapted).segmenter_state
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def statistics_of(state):
    return {name: value for name, value in state.items() if name.endswith(("running_mean", "running_var"))}


def test_the_result_has_the_new_cameras_where_they_are_better(cameras, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "old_ones_stay", lambda run, old: False)
    content = load_checkpoint(half_of_entropy(cameras, tmp_path).adapted)
    network = build_from_checkpoint(content)
    result = statistics_layers(network)[0].running_mean.clone()
    images = [read_image(path) for path in sorted((cameras / "new" / "images" / "train").iterdir())]
    whole = np.stack([fit_frame(image, content.input_hw, content.fit) for image in images])
    estimate_statistics(network, [normalise(torch.from_numpy(whole), network.normalisation)])
    assert torch.allclose(result, statistics_layers(network)[0].running_mean, atol=1e-5)


def test_images_of_few_scenes_leave_the_old_networks_statistics_to_the_bit_and_all_passes_use_them(
    cameras, tmp_path, monkeypatch
):
    """The few drawn images are too few for an estimate."""
    seen, step = [], stage._step

    def noted(run, *arguments):
        result = step(run, *arguments)
        seen.append(statistics_of(run.segmenter.state_dict()))
        assert not any(layer.training for layer in statistics_layers(run.segmenter))
        assert run.segmenter.training, "dropout of a network that has any goes on"
        return result

    monkeypatch.setattr(stage, "_step", noted)
    run = half_of_entropy(cameras, tmp_path)
    old, new = (load_checkpoint(path).segmenter_state for path in (run.source, run.adapted))
    assert len(seen) == 4
    for state in (*seen, statistics_of(new)):
        assert all(torch.equal(value, old[name]) for name, value in state.items())
        assert len(state) == len(statistics_of(old)) > 0
    assert any(not torch.equal(value, old[name]) for name, value in new.items())
