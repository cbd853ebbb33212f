"""What the speed benchmark takes as a step, and its rounds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.performance import training_speed
from benchmarks.performance.rounds import interleaved, ratio

RUN = SimpleNamespace(segmenter=torch.nn.Identity(), target=None, classes=(), device=None)


def test_the_ensemble_predicts_in_its_period_and_no_more(monkeypatch):
    steps = []

    def adaptation_step(learner, source, target, *, target_weight, predicts):
        steps.append((source, predicts))
        return SimpleNamespace(loss=torch.zeros(()), soft_labels=None, target_means=None)

    monkeypatch.setattr("clst_train.method.step.adaptation_step", adaptation_step)
    target = SimpleNamespace(indices=[0])
    teacher = SimpleNamespace(follow=lambda _: None)
    learner = SimpleNamespace(
        projection=None,
        prototypes=None,
        ensemble=SimpleNamespace(visits=np.ones(1)),
        mean_teacher=teacher,
        segmenter=None,
    )
    monkeypatch.setattr("clst_train.stages.adaptation_state.learner_of", lambda *_: learner)
    diagnostics = SimpleNamespace(see=lambda *_: None)
    monkeypatch.setattr("clst_train.inspection.diagnostics.Diagnostics", lambda *_: diagnostics)
    monkeypatch.setattr(training_speed, "_descent", lambda *_: SimpleNamespace(descend=lambda *_: None))
    training_speed.block(training_speed.clst_step(RUN), [("a", target), ("b", target)], 5)
    assert steps == [("a", True), ("b", False), ("a", False), ("b", False), ("a", True)]


def test_a_block_is_the_mean_of_its_steps_since_few_of_them_predict_whole_images(monkeypatch):
    """Steps of 1, 1, 1 and 5 seconds: 2 on average, 1 in the middle."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(training_speed.time, "perf_counter", lambda: clock.now)

    def step(place, _):
        clock.now += 5.0 if place == 3 else 1.0

    assert training_speed.block(step, [None], 4) == pytest.approx(2.0)


def test_every_other_round_goes_backwards_and_ratios_are_taken_within_a_round():
    order = []
    variants = {name: lambda name=name: float(order.append(name) or len(order)) for name in ("base", "other")}
    values = interleaved(variants, 3)
    assert order == ["base", "other", "other", "base", "base", "other"]
    assert values == {"base": [1, 4, 5], "other": [2, 3, 6]}
    assert ratio(values, "other", "base") == 1.2  # the median of 2, 3/4 and 6/5
