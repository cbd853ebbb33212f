"""CLST adaptation to the new camera; goes on exactly where a checkpoint left it.

Legend: N images, H rows and W columns of the model's input size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from clst_runtime.errors import ClstError
from clst_runtime.optional import require
from clst_train.batchnorm import estimate_statistics
from clst_train.checkpoint import Checkpoint, save_checkpoint
from clst_train.data.loading import SourceBatch, TargetBatch, prefetched, source_batch, target_batch
from clst_train.data.target import TargetImages
from clst_train.diagnostics import START_IMAGES, CollapseWatch, Diagnostics, hidden_cells
from clst_train.ensemble import TemporalEnsemble
from clst_train.ensemble_snapshot import remove_other_snapshots, restore_snapshot, save_snapshot
from clst_train.ensemble_store import EnsembleStore, StoreLayout, choose_layout, target_hash
from clst_train.learner import Learner
from clst_train.models.deployable import normalise
from clst_train.models.projection import ProjectionHead
from clst_train.optimisation import descend, set_rate
from clst_train.progress import with_progress
from clst_train.prototypes import Prototypes
from clst_train.run import ADAPTED, Run, log_step, needed
from clst_train.run_folder import RunFolder
from clst_train.schedule import ramp
from clst_train.step import adaptation_step
from clst_train.teachers import Distiller, MeanTeacher, open_distiller


def adapt(run: Run, resume: Checkpoint | None) -> None:
    """CLST adaptation to the new camera; ends with `checkpoints/adapted.pt`."""
    settings, segmenter = run.config.adaptation, run.segmenter
    target = needed(run.target)
    first = resume.iteration if resume is not None else 0
    if resume is None and settings.statistics_first:
        estimate_statistics(segmenter, target_batches(run))
    learner = _learner(run, target, resume)
    modules = [segmenter, learner.projection]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if resume is not None:
        _restore(run, learner, optimiser, resume)
    elif settings.teacher != "none":
        start = statistics_batches(target, count=START_IMAGES, size=settings.batch)
        needed(learner.diagnostics).begin(segmenter, (batch.to(run.device) for batch in start), run.autocast)
    run.logbook.forget_after(ADAPTED, first)
    watch = CollapseWatch(run.classes.names, needed(learner.diagnostics).start.tolist())
    segmenter.train()
    batches = prefetched(lambda iteration: _expected(learner, _both(run, iteration)), first, settings.iterations)
    for iteration, (source, unlabelled) in with_progress(run, ADAPTED, batches, settings.iterations):
        set_rate(optimiser, settings.learning_rate, iteration, settings.iterations)
        weight = ramp(iteration, settings.iterations, settings.target_warm_up)
        result = adaptation_step(learner, source, unlabelled, target_weight=weight, iteration=iteration)
        descend(optimiser, result.loss, modules)
        done = iteration + 1
        values = {"loss": result.loss.detach(), **result.parts, **_looked_at(run, learner, watch, done)}
        log_step(run, ADAPTED, done, values, iterations=settings.iterations, batches=target_batches(run))
        if done % run.config.run.checkpoint_every == 0 or done == settings.iterations:
            _save(run, learner, optimiser, done)
    if settings.statistics_last:
        estimate_statistics(segmenter, target_batches(run))
    save_checkpoint(run.folder.adapted, run.checkpoint(ADAPTED, settings.iterations))
    run.folder.store.unlink()  # the last checkpoint has a copy


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


def _looked_at(run: Run, learner: Learner, watch: CollapseWatch, done: int) -> dict[str, Any]:
    """Every n steps: a log line of its own with class shares and prototypes, warnings, and means for the main line."""
    if learner.diagnostics is None or (done % run.config.run.log_every and done != run.config.adaptation.iterations):
        return {}
    means, shares, images = learner.diagnostics.read()
    for line in watch.warnings(means["flip_rate"], shares, images):
        require("tqdm").tqdm.write(line, file=sys.stderr)  # does not tear the bar
    apart = {name: means.pop(name) for name in ("own_cosine", "other_cosine", "separation")}
    if images:
        apart |= {f"share.{name}": share for name, share in zip(run.classes.names, shares, strict=True)}
    run.logbook.add(ADAPTED, done, **apart)
    return means


def _both(run: Run, iteration: int) -> tuple[SourceBatch, TargetBatch]:
    unlabelled = target_batch(needed(run.target), run.config, iteration)
    size = run.config.adaptation.batch
    return source_batch(needed(run.source), run.config, size, 1, iteration, run.rare), unlabelled


def _expected(learner: Learner, batches: tuple[SourceBatch, TargetBatch]) -> tuple[SourceBatch, TargetBatch]:
    """In the loader's thread: from a disk, the ensemble's records are read while the batch waits for its turn."""
    learner.ensemble.expect(batches[1].indices)
    return batches


def _learner(run: Run, target: TargetImages, resume: Checkpoint | None) -> Learner:
    settings, segmenter = run.config.adaptation, run.segmenter
    with torch.no_grad():
        probe = segmenter.eval()(torch.zeros(1, 3, *run.config.model.input_hw, device=run.device))
    width = settings.projection_width
    layout = choose_layout(
        settings,
        images=len(target),
        classes=len(run.classes),
        size_hw=(probe.shape[2], probe.shape[3]),
        target=target_hash(target),
    )
    return Learner(
        segmenter=segmenter,
        projection=ProjectionHead(segmenter.feature_channels, width, width).to(run.device),
        prototypes=Prototypes(len(run.classes), width, settings.prototype_momentum, run.device),
        ensemble=TemporalEnsemble(_store(run.folder, layout, resume), settings.ensemble_momentum),
        settings=settings,
        device=run.device,
        autocast=run.autocast,
        distiller=_distiller(run),
        diagnostics=_diagnostics(run, target, (probe.shape[2], probe.shape[3])),
        mean_teacher=MeanTeacher(segmenter, settings.teacher_momentum) if settings.teacher == "mean_teacher" else None,
    )


def _distiller(run: Run) -> Distiller | None:
    distiller = open_distiller(run.config.adaptation.distil_from, run.classes)
    if distiller is not None:
        distiller.network.to(run.device)
    return distiller


def _diagnostics(run: Run, target: TargetImages, size_hw: tuple[int, int]) -> Diagnostics:
    diagnostics = Diagnostics(len(target), len(run.classes), size_hw, run.device)
    if target.ignored is not None:
        diagnostics.hidden = hidden_cells(target.ignored, size_hw).to(run.device)
    return diagnostics


def _store(folder: RunFolder, layout: StoreLayout, resume: Checkpoint | None) -> EnsembleStore:
    """The ensemble's store at work: as the checkpoint has it, or empty."""
    folder.remove_leftovers()
    if resume is None:
        return EnsembleStore.create(folder.store, layout)
    state = (resume.training_state or {})["ensemble"]
    return restore_snapshot(state, folder.resume.parent, folder.store, layout)


def _save(run: Run, learner: Learner, optimiser: torch.optim.Optimizer, done: int) -> None:
    """A checkpoint to go on from; the order of its files is told in `ensemble_snapshot.py`."""
    checkpoints = run.folder.resume.parent
    ensemble = save_snapshot(learner.ensemble, run.folder.store, checkpoints, done)
    save_checkpoint(run.folder.resume, run.checkpoint(ADAPTED, done, _state(learner, optimiser, ensemble)))
    remove_other_snapshots(checkpoints, ensemble)


def _state(learner: Learner, optimiser: torch.optim.Optimizer, ensemble: dict[str, Any]) -> dict[str, Any]:
    return {
        "optimiser": optimiser.state_dict(),
        "projection": learner.projection.state_dict(),
        "prototypes": learner.prototypes.state_dict(),
        "ensemble": ensemble,
        "distiller": learner.distiller.sha256 if learner.distiller is not None else "",
        "diagnostics": needed(learner.diagnostics).state_dict(),
        "mean_teacher": learner.mean_teacher.state_dict() if learner.mean_teacher is not None else None,
    }


def _restore(run: Run, learner: Learner, optimiser: torch.optim.Optimizer, resume: Checkpoint) -> None:
    state = resume.training_state or {}
    learner.segmenter.load_state_dict(resume.segmenter_state)
    learner.projection.load_state_dict(state["projection"])
    learner.prototypes.load_state_dict(state["prototypes"])
    if learner.mean_teacher is not None:
        learner.mean_teacher.load_state_dict(state["mean_teacher"])
    if learner.distiller is not None and learner.distiller.sha256 != state["distiller"]:
        raise ClstError(
            f"adaptation.distil_from = {run.config.adaptation.distil_from!r} is another file than the run began with; "
            "put that one back, or start a new run"
        )
    needed(learner.diagnostics).load_state_dict(state["diagnostics"])
    optimiser.load_state_dict(state["optimiser"])
