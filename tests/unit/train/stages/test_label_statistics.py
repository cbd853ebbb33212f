"""The new camera's BatchNorm statistics alone label its images and are the result's, where an estimate is for them."""

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
from clst_train.stages.label_statistics import need_the_old
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
    return need_the_old(FIRST, None)


@pytest.mark.parametrize(("points", "half"), [(1.2, False), (0.0, False), (-0.1, True), (None, True)])
def test_the_old_cameras_have_a_share_where_the_new_ones_alone_are_worse_or_nobody_knows(monkeypatch, points, half):
    assert asked(monkeypatch, points) is half


def test_it_is_said_in_one_line(monkeypatch, capsys):
    asked(monkeypatch, -3.21, (-10.0, 3.6))
    assert capsys.readouterr().err == (
        "statistics: the new camera's alone change mIoU by about -3.2 points (estimated without labels, 95 % interval "
        "-10.0 to +3.6); pseudo-labels and the result have half of them and half of the old camera's\n"
    )
    asked(monkeypatch, 2.0)
    assert capsys.readouterr().err.endswith("; pseudo-labels and the result have them\n")
    asked(monkeypatch, None)
    assert "no estimate: 3 of 40 images differ" in capsys.readouterr().err


@pytest.mark.parametrize("half", [True, False])
def test_a_resumed_run_keeps_what_was_chosen(cameras, tmp_path, monkeypatch, half):
    monkeypatch.setattr(stage, "need_the_old", lambda run, old: half)
    seen, step, restore = [], stage.adaptation_step, stage.restore_state

    def noted(learner, *arguments, **more):
        seen.append(learner.old_statistics is not None)
        return step(learner, *arguments, **more)

    def restored(run, state, resume):
        restore(run, state, resume)
        seen.append(state.learner.old_statistics is not None)

    monkeypatch.setattr(stage, "adaptation_step", noted)
    monkeypatch.setattr(stage, "restore_state", restored)
    run = half_of_entropy(cameras, tmp_path)
    run.adapted.unlink()
    monkeypatch.setattr(stage, "need_the_old", lambda run, old: pytest.fail("chosen again"))
    start_run(recipe=None, out=None, init=None, resume=run.path, options={})
    assert seen == [half] * 3


@pytest.mark.parametrize("half", [True, False])
def test_the_result_has_the_statistics_that_were_chosen(cameras, tmp_path, monkeypatch, half):
    monkeypatch.setattr(stage, "need_the_old", lambda run, old: half)
    content = load_checkpoint(half_of_entropy(cameras, tmp_path).adapted)
    network, means = build_from_checkpoint(content), {}
    result = statistics_layers(network)[0].running_mean.clone()
    for name in ("old", "new"):
        images = [read_image(path) for path in sorted((cameras / name / "images" / "train").iterdir())]
        whole = np.stack([fit_frame(image, content.input_hw, content.fit) for image in images])
        estimate_statistics(network, [normalise(torch.from_numpy(whole), network.normalisation)])
        means[name] = statistics_layers(network)[0].running_mean.clone()
    assert not torch.allclose(means["old"], means["new"], atol=1e-3)
    expected = (means["old"] + means["new"]) / 2 if half else means["new"]
    assert torch.allclose(result, expected, atol=1e-5)
