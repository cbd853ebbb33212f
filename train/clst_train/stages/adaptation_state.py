"""The state of an adaptation: how it begins, is saved and is restored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clst_runtime.errors import ModelFileError
from clst_train.compute.distributed import report, together, total
from clst_train.compute.forward_pass import forward_pass_of
from clst_train.data.target import TargetImages
from clst_train.engine.optimizer import Descent
from clst_train.engine.run import ADAPTED, Run, needed
from clst_train.inspection.diagnostics import Diagnostics
from clst_train.method.batchnorm import FollowedStatistics
from clst_train.method.ensemble.store import (
    create_store,
    remove_other_copies,
    restore_store,
    save_copy,
    shape_of,
    target_hash,
)
from clst_train.method.ensemble.temporal import TemporalEnsemble
from clst_train.method.learner import Learner
from clst_train.method.prototypes import Prototypes
from clst_train.method.teachers import MeanTeacher
from clst_train.models.checkpoint import Checkpoint, save_checkpoint
from clst_train.models.projection import WIDTH, ProjectionHead


@dataclass(kw_only=True)
class AdaptationState:
    """What the steps of an adaptation change."""

    learner: Learner
    """The method's part."""
    descent: Descent
    """The optimiser."""
    diagnostics: Diagnostics
    """Counters for the log; nothing is learnt from them."""
    anew_since: int = 0
    """The step from which the ensemble has begun anew, because averages of some images were lost."""


def learner_of(run: Run, target: TargetImages) -> Learner:
    """Everything that a step reads or changes; the ensemble, where it teaches, is empty in the process's own file."""
    settings, cells_hw, ensemble = run.config.adaptation, cells_of(run), None
    with together():
        run.folder.remove_leftovers()
    if settings.teacher == "ensemble":
        shape, visits = shape_of(run.ranks, len(target), len(run.classes), cells_hw), np.zeros(len(target), np.int64)
        with together():
            store = create_store(run.folder.store(run.ranks), shape)
        ensemble = TemporalEnsemble(store, visits, settings.ensemble_momentum, processes=run.ranks.count)
    return new_learner(run, cells_hw, ensemble)


def cells_of(run: Run) -> tuple[int, int]:
    """Rows and columns of the cells that have pseudo-labels, by a prediction of the network."""
    size_hw = run.config.model.input_hw
    with torch.no_grad():
        probe = run.segmenter.eval()(torch.zeros(1, 3, *size_hw, device=run.device))
    return run.segmenter.cells_hw(size_hw, (probe.shape[2], probe.shape[3]))


def new_learner(run: Run, cells_hw: tuple[int, int], ensemble: TemporalEnsemble | None) -> Learner:
    """A learner whose first step is still to come."""
    segmenter, settings = run.segmenter, run.config.adaptation
    projection = ProjectionHead(segmenter.feature_channels).to(run.device)
    return Learner(
        segmenter=segmenter,
        projection=projection,
        prototypes=Prototypes(len(run.classes), WIDTH, run.device),
        cells_hw=cells_hw,
        settings=settings,
        device=run.device,
        autocast=run.autocast,
        statistics=FollowedStatistics(segmenter),
        ensemble=ensemble,
        mean_teacher=MeanTeacher(segmenter),
        forward_pass=forward_pass_of(segmenter, projection),
    )


def save_state(run: Run, state: AdaptationState, done: int) -> None:
    """A checkpoint to go on from; `method/ensemble/store.py` explains the order of its files."""
    ensemble, checkpoints, target = state.learner.ensemble, run.folder.resume.parent, needed(run.target)
    visits = torch.zeros(len(target), dtype=torch.int64)
    if ensemble is not None:
        ensemble.flush()
        with together():
            save_copy(run.folder.store(run.ranks), checkpoints, done, run.ranks)
        visits = total(torch.from_numpy(ensemble.visits))
    with together():
        if run.ranks.first:
            facts = {"visits": visits, "processes": run.ranks.count, "anew_since": state.anew_since}
            facts["target"] = target_hash(target)
            save_checkpoint(run.folder.resume, run.checkpoint(ADAPTED, done, _values(state, facts)))
    with together():
        remove_other_copies(checkpoints, done)


def _values(state: AdaptationState, ensemble: dict[str, Any]) -> dict[str, Any]:
    learner, descent = state.learner, state.descent
    return {
        "optimiser": descent.optimiser.state_dict(),
        "descent": descent.state_dict(),
        "projection": learner.projection.state_dict(),
        "prototypes": learner.prototypes.state_dict(),
        "ensemble": ensemble,
        "averaged_weights": learner.mean_teacher.state_dict(),
        "diagnostics": state.diagnostics.state_dict(),
        "statistics": None if learner.statistics is None else learner.statistics.state_dict(),
    }


def restore_state(run: Run, state: AdaptationState, resume: Checkpoint) -> None:
    """Restore a checkpoint's state.

    Raises:
        ModelFileError: the checkpoint was made by an earlier version or with other target images.
    """
    learner, values = state.learner, resume.training_state or {}
    lacking = [name for name in ("averaged_weights", "descent", "diagnostics", "statistics") if name not in values]
    if not lacking and "anew_since" not in values["ensemble"]:
        lacking = ["the ensemble's visits"]
    other = f"lacks {', '.join(lacking)}" if lacking else "has statistics of both cameras"
    if lacking or values.get("old_statistics") is not None:
        raise ModelFileError(
            f"{run.folder.resume} {other}: an earlier version made it; adapt again with --init {run.folder.source}"
        )
    learner.segmenter.load_state_dict(resume.segmenter_state)
    learner.projection.load_state_dict(values["projection"])
    learner.prototypes.load_state_dict(values["prototypes"])
    learner.mean_teacher.load_state_dict(values["averaged_weights"])
    if values["statistics"] is None:
        learner = state.learner = dataclasses.replace(learner, statistics=None)
    elif learner.statistics is not None:
        learner.statistics.load_state_dict(values["statistics"])
    state.diagnostics.load_state_dict(values["diagnostics"])
    state.descent.optimiser.load_state_dict(values["optimiser"])
    state.descent.load_state_dict(values["descent"])
    _restore_ensemble(run, state, values["ensemble"], resume.iteration)


def _restore_ensemble(run: Run, state: AdaptationState, facts: dict[str, Any], iteration: int) -> None:
    """The averages of this process's images, where it keeps some, from all copies that it can read."""
    ensemble, found, lost = state.learner.ensemble, target_hash(needed(run.target)), 0
    with together():
        if facts["target"] != found:
            raise ModelFileError(
                f"{run.folder.resume} was saved with other target images (hash {facts['target']}, now {found}); "
                "put those back, or start a new run"
            )
        if ensemble is not None:
            ensemble.visits[:] = facts["visits"].numpy()
            lost = restore_store(
                ensemble.store, run.folder.resume.parent, iteration, facts["processes"], ensemble.visits, run.ranks
            )
    state.anew_since = facts["anew_since"]
    if missing := int(total(torch.tensor(lost))):
        state.anew_since = iteration
        report(
            f"note: the ensemble's averages of {missing} target images lie in no file that their process can read "
            f"({run.folder.resume.parent}); these images begin anew"
        )
