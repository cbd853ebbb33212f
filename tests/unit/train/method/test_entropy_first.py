"""Steps of entropy minimisation before self-training begins."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from clst_train.engine.schedule import steps_before_labels
from clst_train.method.entropy_first import entropy_step
from clst_train.method.step import adaptation_step
from clst_train.training import start_run
from tests.support.tiny import SIZE_HW, batches, learner, observed

pytestmark = pytest.mark.usefixtures("narrow", "no_pictures")
SMALL = (
    *("augmentation.crop_hw=[64,64]", "adaptation.batch=2", "adaptation.iterations=4", "source.iterations=1"),
    *("source.batch=2", "run.precision=fp32", "run.threads=1"),
)


@pytest.mark.parametrize(
    ("iterations", "fraction", "steps"), [(1000, 0.3, 300), (1000, 0.0, 0), (3, 0.3, 1), (0, 0.3, 0), (1, 0.3, 0)]
)
def test_the_steps_before_labels_are_a_fraction_of_all(iterations, fraction, steps):
    assert steps_before_labels(iterations, fraction) == steps


def test_such_a_step_is_source_and_entropy_of_the_crops_with_nothing_pasted():
    """A tenth of the mean entropy, at half of the warm-up a twentieth, over log 3 of every pixel as it is."""
    source, target = batches()
    result = entropy_step(learner(), source, target, target_weight=0.5)
    twin = learner()
    with torch.no_grad():
        p = twin.segmenter(twin.tensor(target.crops)).softmax(1)
        expected = -(p * p.log()).sum(1).mean() / torch.tensor(3.0).log()
    assert result.parts["entropy"].item() == pytest.approx(expected.item(), abs=1e-6)
    contrast = result.parts["contrastive"].item()
    assert contrast > 0, "the head learns from source pixels"
    loss = result.parts["source"] + 0.5 * (0.1 * result.parts["entropy"] + 0.1 * contrast)
    assert result.loss.item() == pytest.approx(loss.item(), abs=1e-6)
    assert set(result.pseudo_labels.flatten().tolist()) == {255}
    assert result.parts.keys() == {"source", "contrastive", "entropy"}


def test_such_a_step_asks_no_teacher_but_prototypes_follow():
    one, (source, target) = learner(teacher="mean_teacher"), batches()
    result = entropy_step(one, source, target, target_weight=1.0)
    assert bool(one.prototypes.seen.all())
    assert observed(one, result).read()[2] == 0  # no image's labels were seen


def test_no_pixel_under_the_ignore_mask_has_entropy():
    """Half of the crops' pixels are ignored: the mean is over the others."""
    source, target = batches()
    covered = np.zeros((2, *SIZE_HW), bool)
    covered[:, :2] = True
    result = entropy_step(learner(), source, dataclasses.replace(target, ignored=covered), target_weight=1.0)
    twin = learner()
    with torch.no_grad():
        p = twin.segmenter(twin.tensor(target.crops)).softmax(1)
    expected = -(p * p.log()).sum(1)[:, 2:].mean() / torch.tensor(3.0).log()
    assert result.parts["entropy"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_fully_ignored_target_has_no_entropy_to_minimise():
    source, target = batches(ignored=True)
    assert entropy_step(learner(), source, target, target_weight=1.0).parts["entropy"].item() == 0.0


def test_labels_are_what_they_would_be_without_such_a_step():
    """The step itself changes no setting of the learner: the next one pastes, asks the ensemble and contrasts."""
    one, two = learner(), learner()
    entropy_step(one, *batches(), target_weight=1.0)
    first, second = (adaptation_step(each, *batches(), target_weight=1.0) for each in (one, two))
    assert first.parts.keys() == second.parts.keys() == {"source", "self_training", "contrastive"}
    assert one.ensemble.visits.tolist() == two.ensemble.visits.tolist() == [1, 1]


def half_of_entropy(cameras, tmp_path):
    """A run of two steps of entropy and two of labels."""
    options = {
        "source": str(cameras / "old"), "target": (str(cameras / "new" / "images" / "train"),), "size": "64x96",
        "settings": (*SMALL, "adaptation.entropy_first=0.5"),
    }  # fmt: skip
    return start_run(recipe="demo", out=tmp_path / "run", init=None, resume=None, options=options)


def entries_of(run):
    """The adaptation's log lines, one for each step, and those that tell class shares."""
    lines = [json.loads(line) for line in run.path.joinpath("log.jsonl").read_text().splitlines()]
    adapted = [line for line in lines if line["stage"] == "adapted"]
    return [line for line in adapted if "loss" in line], [line for line in adapted if "share.road" in line]


def test_a_run_begins_with_entropy_then_learns_from_labels_each_with_its_warm_up(cameras, tmp_path, capsys):
    """Four steps, half of them for entropy, a warm-up of less than a step: weights 0, 0.1, then 0, 1 anew."""
    run = half_of_entropy(cameras, tmp_path)
    said = capsys.readouterr().err
    assert "entropy: for 2 of 4 steps, before self-training begins" in said
    assert "(adaptation.entropy_first = 0.5)" in said
    steps, shares = entries_of(run)
    assert [line["iteration"] for line in shares] == [3, 4]
    assert ["entropy" in line for line in steps] == [True, True, False, False]
    sums = [
        0.0,
        0.1 * steps[1]["entropy"] + 0.1 * steps[1]["contrastive"],
        0.0,
        steps[3]["self_training"] + 0.1 * steps[3]["contrastive"],
    ]
    for line, unsupervised in zip(steps, sums, strict=True):
        assert line["loss"] == pytest.approx(line["source"] + unsupervised, abs=1e-5)


def test_labels_begin_with_statistics_of_the_target_by_the_weights_of_then(cameras, tmp_path, monkeypatch):
    """At first, where labels begin, and last; where labels begin the network has learnt already."""
    import clst_train.stages.adaptation as stage

    seen = []
    estimate = stage.estimate_statistics

    def noted(network, batches):
        seen.append(next(iter(network.parameters())).detach().clone())
        return estimate(network, batches)

    monkeypatch.setattr(stage, "estimate_statistics", noted)
    monkeypatch.setattr(stage, "old_ones_stay", lambda run, old: False)
    half_of_entropy(cameras, tmp_path)
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_prototypes_begin_anew_with_the_labels(cameras, tmp_path, monkeypatch):
    """Two steps of entropy, two of labels: the last look at them is of two steps, 1 − 0.99² of the weight."""
    import clst_train.stages.adaptation as stage

    seen = []
    true = stage.adaptation_step

    def noted(learner, *arguments, **more):
        result = true(learner, *arguments, **more)
        seen.append(learner.prototypes.weights.max().item())
        return result

    monkeypatch.setattr(stage, "adaptation_step", noted)
    half_of_entropy(cameras, tmp_path)
    assert seen == pytest.approx([0.01, 1 - 0.99**2], abs=1e-6)
