"""CLST adaptation to the new camera; goes on exactly where a checkpoint left it.

Legend: N images, H rows and W columns of the model's input size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from clst_runtime.errors import ClstError
from clst_train.batchnorm import estimate_statistics
from clst_train.checkpoint import Checkpoint, save_checkpoint
from clst_train.data.loading import SourceBatch, TargetBatch, source_batch, target_batch
from clst_train.data.target import TargetImages
from clst_train.ensemble import TemporalEnsemble
from clst_train.models.deployable import normalise
from clst_train.models.projection import ProjectionHead
from clst_train.optimisation import Descent, adamw, set_rate
from clst_train.progress import with_progress
from clst_train.prototypes import Prototypes
from clst_train.run import ADAPTED, Run, loaded, log_step, needed
from clst_train.schedule import ramp
from clst_train.step import Learner, adaptation_step


def adapt(run: Run, resume: Checkpoint | None) -> None:
    """CLST adaptation to the new camera; ends with `checkpoints/adapted.pt`."""
    settings, segmenter = run.config.adaptation, run.segmenter
    target = needed(run.target)
    first = resume.iteration if resume is not None else 0
    if resume is None and settings.statistics_first:
        estimate_statistics(segmenter, target_batches(run))
    learner = _learner(run, target)
    modules = [segmenter, learner.projection]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimiser = adamw(
        parameters, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, device=run.device
    )
    descent = Descent(optimiser, modules, run.device, scaled=run.scaled)
    if resume is not None:
        _restore(run, learner, optimiser, resume)
        descent.load_state_dict((resume.training_state or {}).get("descent", {}))
    run.logbook.forget_after(ADAPTED, first)
    segmenter.train()
    batches = loaded(run, _both, first, settings.iterations)
    for iteration, (source, unlabelled) in with_progress(run, ADAPTED, batches, settings.iterations):
        set_rate(optimiser, settings.learning_rate, iteration, settings.iterations)
        weight = ramp(iteration, settings.iterations, settings.target_warm_up)
        result = adaptation_step(learner, source, unlabelled, target_weight=weight)
        values = {"loss": descent.descend(result.loss, iteration), **result.parts}
        done = iteration + 1
        log_step(
            run,
            ADAPTED,
            done,
            values,
            iterations=settings.iterations,
            batches=target_batches(run),
            descent=descent,
            make=_both,
        )
        if done % run.config.run.checkpoint_every == 0 or done == settings.iterations:
            state = {**_state(learner, optimiser), "descent": descent.state_dict()}
            save_checkpoint(run.folder.resume, run.checkpoint(ADAPTED, done, state))
    if settings.statistics_last:
        estimate_statistics(segmenter, target_batches(run))
    save_checkpoint(run.folder.adapted, run.checkpoint(ADAPTED, settings.iterations))


def target_batches(run: Run) -> Iterator[Tensor]:
    """Whole target images as normalised batches for BatchNorm statistics, on the run's device."""
    settings = run.config.adaptation
    batches = statistics_batches(needed(run.target), count=settings.statistics_images, size=settings.batch)
    return (batch.to(run.device) for batch in batches)


def statistics_batches(target: TargetImages, *, count: int, size: int) -> Iterator[Tensor]:
    """At most `count` whole images, evenly spread over the set, as normalised batches size,3,H,W of at least two."""
    count, size = min(len(target), count), max(2, size)
    chosen = [place * len(target) // count for place in range(count)]
    for start in range(0, max(1, count - count % size), size):
        frames = [torch.from_numpy(target[index]) for index in chosen[start : start + size]]
        yield normalise(torch.stack(frames))


def _both(run: Run, iteration: int) -> tuple[SourceBatch, TargetBatch]:
    unlabelled = target_batch(needed(run.target), run.config, iteration)
    size = run.config.adaptation.batch
    return source_batch(needed(run.source), run.config, size, 1, iteration), unlabelled


def _learner(run: Run, target: TargetImages) -> Learner:
    settings, segmenter = run.config.adaptation, run.segmenter
    with torch.no_grad():
        probe = segmenter.eval()(torch.zeros(1, 3, *run.config.model.input_hw, device=run.device))
    width = settings.projection_width
    return Learner(
        segmenter=segmenter,
        projection=ProjectionHead(segmenter.feature_channels, width, width).to(run.device),
        prototypes=Prototypes(len(run.classes), width, settings.prototype_momentum, run.device),
        ensemble=TemporalEnsemble(
            len(target), len(run.classes), (probe.shape[2], probe.shape[3]), settings.ensemble_momentum
        ),
        settings=settings,
        device=run.device,
        autocast=run.autocast,
    )


def _state(learner: Learner, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "optimiser": optimiser.state_dict(),
        "projection": learner.projection.state_dict(),
        "prototypes": learner.prototypes.state_dict(),
        "ensemble": learner.ensemble.state_dict(),
    }


def _restore(run: Run, learner: Learner, optimiser: torch.optim.Optimizer, resume: Checkpoint) -> None:
    state = resume.training_state or {}
    learner.segmenter.load_state_dict(resume.segmenter_state)
    learner.projection.load_state_dict(state["projection"])
    learner.prototypes.load_state_dict(state["prototypes"])
    learner.ensemble.load_state_dict(state["ensemble"])
    if len(learner.ensemble.visits) != len(needed(run.target)):
        raise ClstError(
            f"the run was adapting to {len(learner.ensemble.visits)} target images, now there are "
            f"{len(needed(run.target))}; restore them, or start a new run"
        )
    optimiser.load_state_dict(state["optimiser"])
