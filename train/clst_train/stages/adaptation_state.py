"""The state of an adaptation: how it begins, is saved and is restored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from clst_runtime.errors import ClstError, ModelFileError
from clst_train.compute.distributed import report, together, wait_for_all
from clst_train.compute.forward_pass import forward_pass_of
from clst_train.config import AdaptationConfig
from clst_train.data.target import TargetImages
from clst_train.engine.optimizer import Descent
from clst_train.engine.run import ADAPTED, Run
from clst_train.engine.schedule import ensemble_interval, steps_before_labels, times_shown
from clst_train.inspection.diagnostics import Diagnostics
from clst_train.method.batchnorm import FollowedStatistics
from clst_train.method.ensemble.snapshot import remove_other_snapshots, restore_snapshot, save_snapshot
from clst_train.method.ensemble.store import EnsembleStore, StoreLayout, choose_layout, target_hash
from clst_train.method.ensemble.temporal import TemporalEnsemble
from clst_train.method.learner import Learner
from clst_train.method.prototypes import Prototypes
from clst_train.method.start_weights import StartWeights
from clst_train.method.teachers import Distiller, MeanTeacher, open_distiller
from clst_train.models.checkpoint import Checkpoint, save_checkpoint
from clst_train.models.projection import WIDTH, ProjectionHead

OPTIONAL = ("statistics", "mean_teacher", "start")
"""Parts of a learner that a run may have, with a state of their own."""


@dataclass(frozen=True, kw_only=True)
class AdaptationState:
    """What the steps of an adaptation change."""

    learner: Learner
    """The method's part."""
    descent: Descent
    """The optimiser."""
    diagnostics: Diagnostics
    """Counters for the log; nothing is learnt from them."""


def diagnostics_of(run: Run, learner: Learner) -> Diagnostics:
    """Empty counters for the run's target images."""
    layout = learner.ensemble.store.layout
    return Diagnostics(layout.images, layout.classes, layout.size_hw, run.device)


def learner_of(run: Run, target: TargetImages, resume: Checkpoint | None) -> Learner:
    """Everything that a step reads or changes; the ensemble as `resume` has it, or empty."""
    settings = with_ensemble_interval(run.config.adaptation, len(target))
    layout = store_layout(run, settings, images=len(target), target=target_hash(target))
    return new_learner(run, settings, _store(run, layout, resume))


def store_layout(run: Run, settings: AdaptationConfig, *, images: int, target: str) -> StoreLayout:
    """What the ensemble of so many images is kept in, by a prediction of the network."""
    size_hw = run.config.model.input_hw
    with torch.no_grad():
        probe = run.segmenter.eval()(torch.zeros(1, 3, *size_hw, device=run.device))
    cells_hw = run.segmenter.cells_hw(size_hw, (probe.shape[2], probe.shape[3]))
    return choose_layout(settings, images=images, classes=len(run.classes), size_hw=cells_hw, target=target)


def new_learner(run: Run, settings: AdaptationConfig, store: EnsembleStore) -> Learner:
    """A learner whose first step is still to come, with its ensemble in `store`."""
    segmenter = run.segmenter
    projection = ProjectionHead(segmenter.feature_channels).to(run.device)
    return Learner(
        segmenter=segmenter,
        projection=projection,
        prototypes=Prototypes(len(run.classes), WIDTH, run.device),
        ensemble=TemporalEnsemble(store, settings.ensemble_momentum),
        settings=settings,
        device=run.device,
        autocast=run.autocast,
        distiller=_distiller(run),
        statistics=FollowedStatistics(segmenter),
        mean_teacher=MeanTeacher(segmenter) if settings.teacher == "mean_teacher" else None,
        start=StartWeights(settings.start_share) if settings.start_share > 0 else None,
        forward_pass=forward_pass_of(segmenter, projection),
    )


def with_ensemble_interval(settings: AdaptationConfig, images: int) -> AdaptationConfig:
    """The settings with `ensemble_every` chosen by the number of target images, where it is 0."""
    if settings.ensemble_every > 0:
        return settings
    steps = settings.iterations - steps_before_labels(settings.iterations, settings.entropy_first)
    shown = times_shown(steps, settings.batch, images)
    interval = ensemble_interval(shown)
    if settings.teacher == "ensemble" and settings.ensemble_view == "whole":
        report(
            f"ensemble: self-training shows each of the {images} target images {shown:.1f} times, so they are "
            f"predicted in one step of {interval} (adaptation.ensemble_every = 0)"
        )
    return dataclasses.replace(settings, ensemble_every=interval)


def _distiller(run: Run) -> Distiller | None:
    distiller = open_distiller(run.config.adaptation.distil_from, run.classes, run.config.model)
    if distiller is not None:
        distiller.network.to(run.device)
    return distiller


def _store(run: Run, layout: StoreLayout, resume: Checkpoint | None) -> EnsembleStore:
    """The working store: as the checkpoint has it, or empty. The first rank writes it, then all open it."""
    state = None if resume is None else (resume.training_state or {})["ensemble"]
    folder = run.folder
    with together():
        if run.ranks.first:
            folder.remove_leftovers()
            if state is None:
                EnsembleStore.create(folder.store, layout)
            else:
                restore_snapshot(state, folder.resume.parent, folder.store, layout)
    with together():
        return EnsembleStore.open(folder.store, layout, 0 if state is None else int(state["iteration"]))


def save_state(run: Run, state: AdaptationState, done: int) -> None:
    """A checkpoint to go on from; `method/ensemble/snapshot.py` explains the order of its files."""
    state.learner.ensemble.flush()
    wait_for_all()  # every rank's part is in the store
    with together():
        if run.ranks.first:
            checkpoints = run.folder.resume.parent
            ensemble = save_snapshot(state.learner.ensemble, run.folder.store, checkpoints, done)
            save_checkpoint(run.folder.resume, run.checkpoint(ADAPTED, done, _values(state, ensemble)))
            remove_other_snapshots(checkpoints, ensemble)


def _values(state: AdaptationState, ensemble: dict[str, Any]) -> dict[str, Any]:
    learner, descent = state.learner, state.descent
    return {
        "optimiser": descent.optimiser.state_dict(),
        "descent": descent.state_dict(),
        "projection": learner.projection.state_dict(),
        "prototypes": learner.prototypes.state_dict(),
        "ensemble": ensemble,
        "distiller": learner.distiller.sha256 if learner.distiller is not None else "",
        "diagnostics": state.diagnostics.state_dict(),
        **{name: None if (part := getattr(learner, name)) is None else part.state_dict() for name in OPTIONAL},
    }


def restore_state(run: Run, state: AdaptationState, resume: Checkpoint) -> None:
    """Restore a checkpoint's state, except the ensemble, whose store `learner_of` has restored.

    Raises:
        ModelFileError: the checkpoint was made by an earlier version. ClstError: `distil_from` is another file now.
    """
    learner, values = state.learner, resume.training_state or {}
    lacking = [name for name in ("descent", "diagnostics", "distiller", *OPTIONAL) if name not in values]
    if lacking:
        raise ModelFileError(
            f"{run.folder.resume} lacks {', '.join(lacking)}: an earlier version made it; adapt again with "
            f"--init {run.folder.source}"
        )
    learner.segmenter.load_state_dict(resume.segmenter_state)
    learner.projection.load_state_dict(values["projection"])
    learner.prototypes.load_state_dict(values["prototypes"])
    for name in OPTIONAL:
        if (part := getattr(learner, name)) is not None:
            part.load_state_dict(values[name])
    if learner.distiller is not None and learner.distiller.sha256 != values["distiller"]:
        raise ClstError(
            f"adaptation.distil_from = {run.config.adaptation.distil_from!r} is another file than the run began with; "
            "put that one back, or start a new run"
        )
    state.diagnostics.load_state_dict(values["diagnostics"])
    state.descent.optimiser.load_state_dict(values["optimiser"])
    state.descent.load_state_dict(values["descent"])
