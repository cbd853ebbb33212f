"""The steps before self-training, which minimise the entropy of target predictions without pseudo-labels.

Self-training keeps the starting network's errors on large areas. Minimising the entropy first lets the confident part
of an area win over the rest (ADVENT's direct form, Vu et al. 2019; decision 23).
"""

from __future__ import annotations

import dataclasses

from clst_train.data.loading import SourceBatch, TargetBatch
from clst_train.method.learner import Learner
from clst_train.method.step import StepResult, adaptation_step

NOT_YET = ("self_training", "contrastive")
"""Parts of a step by labels that have no weight here."""

WEIGHT = 0.1
"""Of the entropy."""


def entropy_step(learner: Learner, source: SourceBatch, target: TargetBatch, *, target_weight: float) -> StepResult:
    """Losses of one such step: source cross-entropy and the entropy of target crops, nothing pasted and nothing hidden.

    `target_weight` is the warm-up's 0 … 1. Prototypes and a mean teacher follow the network as in later steps, and
    another network to learn from teaches already.
    """
    if learner.mean_teacher is not None:
        learner.mean_teacher.follow(learner.segmenter)
    settings = dataclasses.replace(
        learner.settings,
        self_training_weight=0.0,
        contrastive_weight=0.0,
        class_mix=False,
        entropy_weight=WEIGHT,
    )
    unlabelled = dataclasses.replace(learner, settings=settings, ensemble=None, mean_teacher=None)
    whole = dataclasses.replace(target, hidden=None)
    result = adaptation_step(unlabelled, source, whole, target_weight=target_weight)
    parts = {name: part for name, part in result.parts.items() if name not in NOT_YET}
    return dataclasses.replace(result, parts=parts)
