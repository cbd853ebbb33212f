"""One training run: what both stages share, and how it is looked at while it goes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clst_runtime.dataset import LabelledDataset
from clst_runtime.errors import ClstError
from clst_runtime.labels import ClassList
from clst_train.checkpoint import Checkpoint, load_checkpoint
from clst_train.config import Config
from clst_train.data.sampling import RareClasses
from clst_train.data.target import TargetImages
from clst_train.logbook import Logbook
from clst_train.models.deployable import MEAN, STD
from clst_train.models.segmenter import Segmenter
from clst_train.run_folder import RunFolder
from clst_train.validation import validation_miou

SOURCE, ADAPTED = "source", "adapted"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What both stages share."""

    config: Config
    """The run's configuration."""
    folder: RunFolder
    """Where its files go."""
    classes: ClassList
    """The model's classes."""
    segmenter: Segmenter
    """The network, on its device; changed in place."""
    source: LabelledDataset | None
    """The labelled old camera; None when nothing is trained on it."""
    target: TargetImages | None
    """The unlabelled new camera; None when there is only source training."""
    validation: LabelledDataset | None
    """Labelled images to report on; never used for a decision."""
    logbook: Logbook
    """The run's log."""
    device: torch.device
    """Where the network is."""
    autocast: torch.autocast
    """Precision of the forward passes."""
    rare: RareClasses | None = None
    """Draws source images by their rarest classes; None = in turn."""

    def checkpoint(self, stage: str, iteration: int, training_state: dict[str, Any] | None = None) -> Checkpoint:
        """The network as it is now."""
        return Checkpoint(
            network=self.config.model.network,
            classes=self.classes,
            input_hw=self.config.model.input_hw,
            mean=MEAN,
            std=STD,
            stage=stage,
            iteration=iteration,
            segmenter_state={name: value.detach().cpu() for name, value in self.segmenter.state_dict().items()},
            training_state=training_state,
            config=self.config.to_mapping(),
        )


def resume_point(folder: RunFolder) -> Checkpoint | None:
    """The checkpoint to go on from, if the run has left one."""
    return load_checkpoint(folder.resume) if folder.resume.is_file() else None


def log_step(
    run: Run, stage: str, done: int, values: dict[str, Tensor], *, iterations: int, batches: Iterable[Tensor] | None
) -> None:
    """Read the values off the device every n steps only; stop on a loss that is not a number.

    `batches` of whole target images give validation its BatchNorm statistics; None = the network's own.
    """
    settings = run.config.run
    if done % settings.log_every == 0 or done == iterations:
        numbers = {name: float(value) for name, value in values.items()}
        if not math.isfinite(numbers["loss"]):
            raise ClstError(
                f"{stage}: the loss is {numbers['loss']} at iteration {done}; lower the learning rate and go on with "
                f"--resume {run.folder.path} (the last checkpoint is kept)"
            )
        run.logbook.add(stage, done, **numbers)
    if run.validation is not None and (done % settings.validate_every == 0 or done == iterations):
        run.logbook.add(stage, done, miou=100.0 * validation_miou(run.segmenter, run.validation, run.config, batches))
        run.logbook.draw()


def needed(value: Any) -> Any:
    if value is None:
        raise ClstError("this stage needs images that were not opened; this is a fault of clst-train, please report it")
    return value
