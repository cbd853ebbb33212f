"""What the speed benchmark takes as a step."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.performance import training_speed

RUN = SimpleNamespace(segmenter=torch.nn.Identity(), target=None)


def test_a_clst_step_is_told_its_iteration_so_that_the_ensemble_has_its_turns_and_no_more(monkeypatch):
    told = []

    def adaptation_step(learner, source, target, *, target_weight, iteration):
        told.append((source, iteration))
        return SimpleNamespace(loss=torch.zeros(()), lesson=None, target_means=None)

    monkeypatch.setattr("clst_train.method.step.adaptation_step", adaptation_step)
    stage, target = "clst_train.stages.adaptation_state.", SimpleNamespace(indices=(), shared_indices=())
    learner = SimpleNamespace(projection=None, prototypes=None)
    monkeypatch.setattr(f"{stage}learner_of", lambda *_: learner)
    monkeypatch.setattr(f"{stage}diagnostics_of", lambda *_: SimpleNamespace(see=lambda *_: None))
    monkeypatch.setattr(training_speed, "_descent", lambda *_: SimpleNamespace(descend=lambda *_: None))
    training_speed.block(training_speed.clst_step(RUN), [("a", target), ("b", target)], 3)
    assert told == [("a", 0), ("b", 1), ("a", 2)]


def test_a_block_is_the_mean_of_its_steps_since_few_of_them_have_the_turn(monkeypatch):
    """Steps of 1, 1, 1 and 5 seconds: 2 on average, 1 in the middle."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(training_speed.time, "perf_counter", lambda: clock.now)

    def step(place, _):
        clock.now += 5.0 if place == 3 else 1.0

    assert training_speed.block(step, [None], 4) == pytest.approx(2.0)
