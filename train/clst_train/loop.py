"""The two stages of a run: source training and adaptation. Both go on exactly where a checkpoint left them.

Legend: N images, H rows and W columns of the model's input size.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clst_runtime.dataset import LabelledDataset
from clst_runtime.errors import ClstError
from clst_runtime.labels import ClassList
from clst_runtime.optional import require
from clst_train.batchnorm import estimate_statistics
from clst_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from clst_train.config import Config
from clst_train.data.loading import SourceBatch, TargetBatch, prefetched, source_batch, target_batch
from clst_train.data.target import TargetImages
from clst_train.ensemble import TemporalEnsemble
from clst_train.logbook import Logbook
from clst_train.losses.segmentation import segmentation_loss
from clst_train.models.deployable import MEAN, STD, normalise
from clst_train.models.projection import ProjectionHead
from clst_train.models.segmenter import Segmenter
from clst_train.prototypes import Prototypes
from clst_train.run_folder import RunFolder
from clst_train.schedule import learning_rate_factor, ramp
from clst_train.step import Learner, adaptation_step
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


def train_source(run: Run, resume: Checkpoint | None) -> None:
    """Supervised training on the old camera; ends with `checkpoints/source.pt`."""
    settings, segmenter = run.config.source, run.segmenter
    optimiser = torch.optim.AdamW(segmenter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    first = 0
    if resume is not None and resume.training_state is not None:
        first = resume.iteration
        segmenter.load_state_dict(resume.segmenter_state)
        optimiser.load_state_dict(resume.training_state["optimiser"])
        run.logbook.forget_after(SOURCE, first)
    source = _needed(run.source)
    segmenter.train()

    def make(iteration: int) -> SourceBatch:
        return source_batch(source, run.config, settings.batch, 0, iteration)

    for iteration, batch in _progress(run, SOURCE, prefetched(make, first, settings.iterations), settings.iterations):
        _set_rate(optimiser, settings.learning_rate, iteration, settings.iterations)
        labels = torch.from_numpy(batch.labels).to(run.device).long()
        with run.autocast:
            outputs = segmenter.training_outputs(normalise(torch.from_numpy(batch.images).to(run.device)))
        loss = segmentation_loss(outputs.logits, labels)
        if outputs.auxiliary is not None:
            loss = loss + settings.auxiliary_weight * segmentation_loss(outputs.auxiliary, labels)
        _descend(optimiser, loss, [segmenter])
        done = iteration + 1
        _log(run, SOURCE, done, settings.iterations, {"loss": loss.detach()})
        if done % run.config.run.checkpoint_every == 0 or done == settings.iterations:
            state = {"optimiser": optimiser.state_dict()}
            save_checkpoint(run.folder.resume, run.checkpoint(SOURCE, done, state))
    save_checkpoint(run.folder.source, run.checkpoint(SOURCE, settings.iterations))


def adapt(run: Run, resume: Checkpoint | None) -> None:
    """CLST adaptation to the new camera; ends with `checkpoints/adapted.pt`."""
    settings, segmenter = run.config.adaptation, run.segmenter
    target = _needed(run.target)
    first = resume.iteration if resume is not None else 0
    if resume is None and settings.statistics_first:
        estimate_statistics(segmenter, target_batches(run))
    learner = _learner(run, target)
    modules = [segmenter, learner.projection]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    if resume is not None:
        _restore(run, learner, optimiser, resume)
    segmenter.train()
    batches = prefetched(lambda iteration: _both(run, iteration), first, settings.iterations)
    for iteration, (source, unlabelled) in _progress(run, ADAPTED, batches, settings.iterations):
        _set_rate(optimiser, settings.learning_rate, iteration, settings.iterations)
        weight = ramp(iteration, settings.iterations, settings.target_warm_up)
        result = adaptation_step(learner, source, unlabelled, target_weight=weight)
        _descend(optimiser, result.loss, modules)
        done = iteration + 1
        _log(run, ADAPTED, done, settings.iterations, {"loss": result.loss.detach(), **result.parts})
        if done % run.config.run.checkpoint_every == 0 or done == settings.iterations:
            save_checkpoint(run.folder.resume, run.checkpoint(ADAPTED, done, _state(learner, optimiser)))
    if settings.statistics_last:
        estimate_statistics(segmenter, target_batches(run))
    save_checkpoint(run.folder.adapted, run.checkpoint(ADAPTED, settings.iterations))


def target_batches(run: Run) -> Iterator[Tensor]:
    """Whole target images as normalised batches for BatchNorm statistics, on the run's device."""
    settings = run.config.adaptation
    batches = statistics_batches(_needed(run.target), count=settings.statistics_images, size=settings.batch)
    return (batch.to(run.device) for batch in batches)


def statistics_batches(target: TargetImages, *, count: int, size: int) -> Iterator[Tensor]:
    """At most `count` whole images, evenly spread over the set, as normalised batches size,3,H,W of at least two."""
    count, size = min(len(target), count), max(2, size)
    chosen = [place * len(target) // count for place in range(count)]
    for start in range(0, max(1, count - count % size), size):
        frames = [torch.from_numpy(target[index]) for index in chosen[start : start + size]]
        yield normalise(torch.stack(frames))


def _both(run: Run, iteration: int) -> tuple[SourceBatch, TargetBatch]:
    unlabelled = target_batch(_needed(run.target), run.config, iteration)
    size = run.config.adaptation.batch
    return source_batch(_needed(run.source), run.config, size, 1, iteration), unlabelled


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
    if len(learner.ensemble.visits) != len(_needed(run.target)):
        raise ClstError(
            f"the run was adapting to {len(learner.ensemble.visits)} target images, now there are "
            f"{len(_needed(run.target))}; restore them, or start a new run"
        )
    optimiser.load_state_dict(state["optimiser"])
    run.logbook.forget_after(ADAPTED, resume.iteration)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, modules: list[Any]) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for module in modules:
        torch.nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    optimiser.step()


def _set_rate(optimiser: torch.optim.Optimizer, peak: float, iteration: int, iterations: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = peak * learning_rate_factor(iteration, iterations)


def _log(run: Run, stage: str, done: int, iterations: int, values: dict[str, Tensor]) -> None:
    """Read the values off the device every n steps only; stop on a loss that is not a number."""
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
        batches = target_batches(run) if stage == ADAPTED else None
        run.logbook.add(stage, done, miou=100.0 * validation_miou(run.segmenter, run.validation, run.config, batches))
        run.logbook.draw()


class Lines:
    """Takes what a progress bar draws and passes it to stderr as lines of a log file."""

    def write(self, text: str) -> None:
        """Write one line; the bar's carriage returns and blanking are dropped."""
        if line := text.replace("\r", "").strip():
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


BAR: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 1.0}
PLAIN: dict[str, Any] = {
    "file": Lines(),
    "mininterval": 30.0,
    "bar_format": "{desc} {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left{postfix}",
}


def _progress(run: Run, stage: str, batches: Iterator[tuple[int, Any]], iterations: int) -> Iterator[tuple[int, Any]]:
    """The batches, with a progress bar on stderr: newest losses, images a second, time left."""
    newest: Callable[[], dict[str, Any]] = lambda: run.logbook.entries[-1] if run.logbook.entries else {}  # noqa: E731
    size = run.config.source.batch if stage == SOURCE else 2 * run.config.adaptation.batch
    manner = BAR if sys.stderr.isatty() else PLAIN
    bar = require("tqdm").tqdm(total=iterations, desc=stage, unit="step", **manner)
    started, done = time.perf_counter(), 0
    try:
        for iteration, batch in batches:
            bar.update(iteration - bar.n)
            if iteration % run.config.run.log_every == 0 and done:
                shown = {name: f"{value:.3f}" for name, value in newest().items() if isinstance(value, float)}
                speed = f"{done * size / (time.perf_counter() - started):.1f}"
                bar.set_postfix({**shown, "img/s": speed}, refresh=manner is BAR)
            yield iteration, batch
            done += 1
        bar.update(iterations - bar.n)
    finally:
        bar.close()


def _needed(value: Any) -> Any:
    if value is None:
        raise ClstError("this stage needs images that were not opened; this is a fault of clst-train, please report it")
    return value
