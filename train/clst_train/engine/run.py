"""One training run: what both stages share, its log lines, validation and the stop at a loss that is not finite."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from clst_runtime.classes.labels import ClassList
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.inputs import place_name
from clst_runtime.errors import ClstError
from clst_runtime.evaluation.evaluate import evaluate
from clst_runtime.system.files.json_values import printable
from clst_runtime.system.machine import own_version
from clst_train.compute.cores import loader_threads
from clst_train.compute.distributed import alike, averaged_over_ranks, each_alone, report, together
from clst_train.compute.pinning import pinned
from clst_train.compute.ranks import ONE_PROCESS, Ranks
from clst_train.config import Config
from clst_train.data.loading import prefetched
from clst_train.data.look import Look
from clst_train.data.provenance import recorded
from clst_train.data.target import TargetImages
from clst_train.engine.logger import Logbook
from clst_train.engine.optimizer import Descent
from clst_train.engine.run_folder import RunFolder
from clst_train.engine.temperature import temperature_of
from clst_train.models.checkpoint import TRAINING, Checkpoint, WeightsFile, load_checkpoint
from clst_train.models.checkpoint_backend import open_checkpoint, segmenter_backend
from clst_train.models.segmenter import Segmenter

SOURCE, ADAPTED = "source", "adapted"
SECTIONS = {SOURCE: "source", ADAPTED: "adaptation"}
"""The configuration's section of each stage."""
NAMED_FILES = 8
"""Files of a bad batch that are named in full."""
Batch = TypeVar("Batch")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is known of a run before it has a folder and a network."""

    config: Config
    """The run's configuration."""
    classes: ClassList
    """The model's classes."""
    source: LabelledDataset
    """The labelled old camera."""
    target: TargetImages | None
    """The unlabelled new camera; None when there is only source training."""
    validation: LabelledDataset | None
    """Labelled images to report on; never used for a decision."""
    device: torch.device
    """Where the network is."""
    autocast: torch.autocast
    """Precision of the forward passes."""
    architecture: Mapping[str, Any] | None = None
    """Of the checkpoint that is gone on with, `Checkpoint.architecture`; None = the network's name says all."""
    weights_file: WeightsFile | None = None
    """Where the old network came from, if others trained it."""
    pretrained_sha256: str = ""
    """Of the file of weights that source training started from; empty = of none."""
    ranks: Ranks = ONE_PROCESS
    """Which process this is, of how many; batches are its part of the whole ones."""


@dataclass(frozen=True, kw_only=True)
class Run(Setup):
    """What both stages share."""

    folder: RunFolder
    """Where its files go."""
    segmenter: Segmenter
    """The network, on its device; changed in place."""
    logbook: Logbook
    """The run's log."""
    look: Look | None = None
    """What source images of the adaptation take on; None = nothing."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """`Checkpoint.facts` of the network that the adaptation starts from."""

    @property
    def scaled(self) -> bool:
        """Whether losses are scaled up before the backward pass, as fp16 needs."""
        return self.config.run.precision == "fp16"

    def checkpoint(self, stage: str, iteration: int, training_state: dict[str, Any] | None = None) -> Checkpoint:
        """The network as it is now.

        Raises:
            ClstError: a weight or a part of the state is not finite; such a checkpoint is never written.
        """
        state = self.segmenter.state_dict()
        bad = not_finite({"network": state, "training state": training_state or {}})
        if bad is not None:
            raise ClstError(
                f"{stage}: {bad} is not finite after step {iteration}, so nothing is saved; {self.hint(stage)}"
            )
        return Checkpoint(
            network=self.config.model.network,
            architecture=getattr(self.segmenter, "architecture", None),
            classes=self.classes,
            input_hw=self.config.model.input_hw,
            **dataclasses.asdict(self.segmenter.normalisation),
            stage=stage,
            iteration=iteration,
            segmenter_state={name: value.detach().cpu() for name, value in state.items()},
            training_state=training_state,
            config=self.config.to_mapping(),
            weights_file=self.weights_file,
            pretrained_sha256=self.pretrained_sha256,
        )

    def result(self, stage: str) -> Checkpoint:
        """The network at the end of a stage, with its temperature and what the run says of it; the first rank's work.

        Raises:
            DataError: an image is unreadable.
        """
        made = self.checkpoint(stage, getattr(self.config, SECTIONS[stage]).iterations)
        with each_alone():
            found = temperature_of(
                self.segmenter, self.source, self.target if stage == ADAPTED else None,
                input_hw=self.config.model.input_hw, fit=self.config.fit,
            )  # fmt: skip
        report(f"confidence: logits are divided by {found:.2f}, so that it is how often the network is right")
        return dataclasses.replace(made, facts=facts_of(self, stage), temperature=found)

    def hint(self, stage: str) -> str:
        """What to do when training has diverged, for messages."""
        change = f"lower {SECTIONS[stage]}.learning_rate (or set run.precision to fp32) in {self.folder.config}"
        kept = "the last good checkpoint is kept" if self.folder.resume.is_file() else "there is no checkpoint yet"
        return f"{kept}; {change} and go on with --resume {self.folder.path}"


def facts_of(run: Run, stage: str) -> dict[str, str]:
    """What a result says of its images, steps and mIoU, for who receives it; places by their names alone."""
    data, settings = run.config.data, getattr(run.config, SECTIONS[stage])
    made = f"seed {run.config.run.seed}, {time.strftime('%Y-%m-%d')}, {own_version()}"
    found = {
        "source": f"{len(run.source)} images of {place_name(data.source)}, split {data.source_split}",
        TRAINING[stage]: f"{settings.iterations} steps of {settings.batch} images, {made}",
    }
    if stage == ADAPTED:
        found["target"] = f"{len(needed(run.target))} images of {', '.join(map(place_name, data.target))}"
    miou = run.logbook.last(stage, settings.iterations, "miou")
    if miou is not None and run.validation is not None:
        images = f"{len(run.validation)} images of {place_name(data.val)}, split {data.val_split}"
        found[f"{stage}_miou"] = f"{miou:.2f} % on {images}"
    return {**run.facts, **{key: printable(text) for key, text in found.items()}}


def not_finite(values: Mapping[str, Any]) -> str | None:
    """Name of the first floating-point tensor, in nested mappings and lists, with a value that is no finite number."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return str(name)
            continue
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and (found := not_finite(value)) is not None:
            return f"{name} {found}"
    return None


def resume_point(folder: RunFolder) -> Checkpoint | None:
    """The checkpoint to resume from, if the run has left one."""
    return load_checkpoint(folder.resume) if folder.resume.is_file() else None


def loaded(run: Run, make: Callable[[Run, int], Batch], first: int, iterations: int) -> Iterator[tuple[int, Batch]]:
    """`(iteration, make(run, iteration))` in order, prepared ahead as the run's settings say."""
    on_cuda = run.device.type == "cuda"

    def prepare(iteration: int) -> Batch:
        batch = make(run, iteration)
        return pinned(batch) if on_cuda else batch

    return alike(prefetched(prepare, first, iterations, loaders=loader_threads(run.device.type, run.ranks.count)))


def seed_step(run: Run, stage: str, iteration: int) -> None:
    """Make what a network draws by itself (dropout) a function of the iteration, as batches are; of each rank's own."""
    entropy = [run.config.run.seed, list(SECTIONS).index(stage), iteration, run.ranks.rank]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


def files_of(run: Run, make: Callable[[Run, int], object], iteration: int) -> list[str]:
    """Images that the whole batch of an iteration was made of, on all ranks, found by making it once more."""
    read: list[str] = []
    source, target = recorded(run.source, run.target, read.append)
    for rank in range(run.ranks.count):
        make(
            dataclasses.replace(run, source=source, target=target, ranks=dataclasses.replace(run.ranks, rank=rank)),
            iteration,
        )
    return read


def log_interval(iterations: int) -> int:
    """Steps between two lines of the log: at most 20, and so few that a stage has about fifty lines."""
    return max(1, min(20, iterations // 50))


def log_step(
    run: Run,
    stage: str,
    done: int,
    values: Mapping[str, Tensor | float],
    *,
    iterations: int,
    settle: Callable[[Segmenter], object] | None,
    descent: Descent,
    make: Callable[[Run, int], object],
    stops: bool = False,
) -> None:
    """Read the values off the device every n steps only; stop on a loss or gradient that is not finite.

    Before a checkpoint is due, too: no step after the first bad one is ever saved.

    Args:
        done: finished steps of the stage.
        values: scalars; of those on the device, which are this rank's parts, the mean over ranks is logged.
        settle: gives a copy of the network the BatchNorm statistics that it is validated with; None = its own.
        descent: has checked the losses.
        make: makes the batch of an iteration; called again to name the files of a bad one.
        stops: the run is saved after this step and ends.

    Raises:
        ClstError: a loss or a gradient was not finite.
    """
    settings = run.config.run
    last = done == iterations
    if last or stops or done % log_interval(iterations) == 0 or done % settings.checkpoint_every == 0:
        with together():
            stop_if_bad(run, stage, descent, make)
    if last or done % log_interval(iterations) == 0:
        if descent.skipped is not None:
            values = {**values, "skipped": descent.skipped}
        means = averaged_over_ranks({name: value for name, value in values.items() if isinstance(value, Tensor)})
        numbers = {name: float(value) for name, value in {**values, **means}.items()}
        with together():
            run.logbook.add(stage, done, **numbers)
    if run.validation is not None and (last or done % settings.checkpoint_every == 0):
        with together():
            _validate(run, stage, done, run.validation, settle)


def _validate(
    run: Run, stage: str, done: int, validation: LabelledDataset, settle: Callable[[Segmenter], object] | None
) -> None:
    """The first rank's work; the others wait."""
    if run.ranks.first:
        with each_alone():
            miou = validation_miou(run.segmenter, validation, run.config, settle)
        run.logbook.add(stage, done, miou=100.0 * miou)
        run.logbook.draw()


def log_old_miou(run: Run) -> None:
    """The old network's mIoU as it is deployed, where it came from outside; the first rank's work.

    What the run itself has trained was validated in its last step.
    """
    if run.validation is None or not run.ranks.first or run.logbook.old_miou is not None:
        return
    with each_alone(), torch.random.fork_rng(devices=[]), open_checkpoint(run.folder.source, device=run.device) as old:
        run.logbook.add(SOURCE, 0, miou=100.0 * evaluate(old, run.validation).miou)


def validation_miou(
    segmenter: Segmenter, dataset: LabelledDataset, config: Config, settle: Callable[[Segmenter], object] | None
) -> float:
    """mIoU (0 … 1) of a copy of the network, to which `settle` gives its BatchNorm statistics; None = it has them.

    The network itself is not touched.
    """
    network = copy.deepcopy(segmenter)
    if settle is not None:
        settle(network)
    model = config.model
    backend = segmenter_backend(
        network.eval(), network=model.network, classes=dataset.classes, input_hw=model.input_hw, fit=config.fit
    )
    return evaluate(backend, dataset).miou


def stop_if_bad(run: Run, stage: str, descent: Descent, make: Callable[[Run, int], object]) -> None:
    """End the run if a loss or gradient was not finite.

    Raises:
        ClstError: with the step of the first one and the images of its batch.
    """
    bad = descent.first_bad_iteration()
    if bad is None:
        return
    files = list(dict.fromkeys(files_of(run, make, bad)))
    more = f" and {len(files) - NAMED_FILES} more" if len(files) > NAMED_FILES else ""
    raise ClstError(
        f"{stage}: loss or gradient is not finite in step {bad + 1}, with {', '.join(files[:NAMED_FILES])}{more}; "
        f"{run.hint(stage)}"
    )


def needed(target: TargetImages | None) -> TargetImages:
    """The target of a run that adapts."""
    assert target is not None  # noqa: S101 - a fault of ours
    return target
