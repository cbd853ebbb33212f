"""A network that is not built in is tried before there is a run: each kind of pass of both stages, and an export.

What such a network cannot do would else be found in the middle of a training, or after it. The settings are the run's
own, with two images, and everything is thrown away; the built-in networks have been tried by this project's tests.
Legend: N images, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import torch

from clst_runtime.errors import ClstError, ConfigError, MissingDependency
from clst_train.compute.acceleration import accelerate
from clst_train.compute.distributed import report, synchronise_norms
from clst_train.compute.ranks import ONE_PROCESS
from clst_train.data.provenance import as_fields
from clst_train.engine.logger import SilentLogbook
from clst_train.engine.optimizer import Descent
from clst_train.engine.run import Run, Setup
from clst_train.engine.run_folder import RunFolder
from clst_train.method.batchnorm import estimate_statistics, statistics_layers
from clst_train.method.ensemble.temporal import TemporalEnsemble
from clst_train.method.entropy_first import entropy_step
from clst_train.method.step import adaptation_step
from clst_train.method.teachers import probabilities_of
from clst_train.models.failures import FAILURES, failing_step, reason
from clst_train.models.networks import network_of
from clst_train.models.segmenter import Segmenter
from clst_train.models.specification import parse_network
from clst_train.models.wrapped import WrappedNetwork
from clst_train.stages.adaptation import both_batches, descent_of
from clst_train.stages.adaptation_state import cells_of, new_learner
from clst_train.stages.source import descent_of as source_descent_of
from clst_train.stages.source import labelled_crops, supervised_loss
from clst_train.stages.whole_images import target_batches

CHECKS = "clst.checks"
"""Entry points of floors above: `export` takes a network and H,W, and raises what keeps it from being exported."""
LONG_SECONDS = 10.0
"""A trial that takes longer is reported."""
NOISE = 1e-3
"""Two predictions of one image differ by less than this share of the largest logit, on any device."""


def try_network(setup: Setup, *, trains_source: bool, exports: bool) -> None:
    """Try what the run will ask of a network that is not built in; report what is special about it.

    Args:
        setup: what the run is made of.
        trains_source: whether source training is to come.
        exports: whether to try an export, too.

    Raises:
        ConfigError: it fails; the message names the pass, the size and the layer. DataError: an image is damaged.
    """
    name = setup.config.model.network
    if not parse_network(name).library:
        return
    began = time.perf_counter()
    network = network_of(setup.config.model, len(setup.classes), setup.architecture)
    if setup.ranks.count > 1:
        synchronise_norms(network)
    _note_frozen(network, name)
    _note_statistics(network, setup)
    run = _small(setup, network)
    with _refused(run, "prediction"):
        _try_prediction(run)
    if trains_source:
        with _refused(run, "source training"):
            _try_source(run)
    if run.target is not None:
        with _refused(run, "adaptation"):
            _try_adaptation(run)
    if exports and setup.ranks.first:
        try_export(run.segmenter, name, run.config.model.input_hw)
    seconds = time.perf_counter() - began
    if seconds > LONG_SECONDS:
        report(f"note: {name} was tried for {seconds:.0f} s, since it is not built in")


def _small(setup: Setup, network: Segmenter) -> Run:
    """A run of two images a step, in one process and without a folder."""
    config = setup.config
    source, adaptation = config.source, config.adaptation
    small = dataclasses.replace(
        config,
        source=dataclasses.replace(source, batch=min(2, source.batch)),
        adaptation=dataclasses.replace(adaptation, batch=min(2, adaptation.batch)),
    )
    values = as_fields(Setup, setup) | {"config": small, "ranks": ONE_PROCESS}
    segmenter = accelerate(network, dataclasses.replace(config.run, compile=False), setup.device)
    return Run(**values, folder=RunFolder(Path()), segmenter=segmenter, logbook=SilentLogbook())


@contextmanager
def _refused(run: Run, what: str) -> Iterator[None]:
    """Name the place of a failure inside.

    Raises:
        ConfigError: a pass of the network failed.
    """
    name, network = run.config.model.network, getattr(run.segmenter, "network", run.segmenter)
    with failing_step(network) as work:
        try:
            yield
        except ClstError:
            raise
        except FAILURES as error:
            hint = _hint(error, run, work.images)
            size = _size(work.images)
            raise ConfigError(f"{name} fails in {what}{size}{work.place(error)}: {reason(error)}{hint}") from error


def _hint(error: BaseException, run: Run, images: tuple[int, ...]) -> str:
    """What to do, where that is known."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "; lower model.input_hw or augmentation.crop_hw"
    if "inplace" in text:
        return "; compute it without changing a tensor in place"
    if run.autocast._enabled and any(kind in text for kind in ("BFloat16", "Half", "dtype")):
        return f"; it does so in {run.autocast.fast_dtype}: set run.precision=fp32"
    multiple = run.segmenter.multiple if isinstance(run.segmenter, WrappedNetwork) else 1
    if any(size % multiple for size in images[2:]):
        return f"; it needs rows and columns in multiples of {multiple}: set augmentation.crop_hw"
    return ""


def _size(images: tuple[int, ...]) -> str:
    if not images:
        return ""
    count, _, rows, columns = images
    return f" of {count} image{'s' * (count > 1)} of {rows}x{columns}"


def _note_frozen(network: Segmenter, name: str) -> None:
    weights = dict(network.named_parameters())
    frozen = [path.removeprefix("network.") for path, each in weights.items() if not each.requires_grad]
    if frozen:
        report(f"note: {len(frozen)} of the {len(weights)} weights of {name} are frozen and stay so, e.g. {frozen[0]}")


def _note_statistics(network: Segmenter, setup: Setup) -> None:
    if setup.target is not None and not statistics_layers(network):
        report(
            f"note: {setup.config.model.network} has no BatchNorm with running statistics, so there is nothing to "
            "estimate on the new camera"
        )


def _try_prediction(run: Run) -> None:
    """Whole images; logits have to be finite, and the same the second time.

    Raises:
        ConfigError: they are not.
    """
    rows, columns = run.config.model.input_hw
    images = torch.linspace(-2, 2, rows * columns * 3, device=run.device).view(1, rows, columns, 3).permute(0, 3, 1, 2)
    network, name = run.segmenter.eval(), run.config.model.network
    with torch.no_grad(), run.autocast:
        first, second = network(images).float(), network(images).float()
    if not torch.isfinite(first).all():
        raise ConfigError(f"{name}: its logits are not all finite before any training; look at its weights")
    if (first - second).abs().max() > NOISE * first.abs().max():
        raise ConfigError(
            f"{name} gives one image other logits each time, also in eval mode; draw random numbers in training alone "
            "(self.training)"
        )


def _try_source(run: Run) -> None:
    """A step of source training."""
    descent = source_descent_of(run)
    run.segmenter.train()
    descent.backward(supervised_loss(run, labelled_crops(run, 0)))
    descent.step(0)
    _check_finite(run, descent, "source training")


def _try_adaptation(run: Run) -> None:
    """The statistics of target images, one image alone, and a step of each kind."""
    settings = run.config.adaptation
    estimate_statistics(run.segmenter, itertools.islice(target_batches(run), 1))
    source, target = both_batches(run, 0)
    count = len(target.indices)
    target = dataclasses.replace(target, indices=np.arange(count))  # of a store for them alone
    cells_hw, ensemble = cells_of(run), None
    if settings.teacher == "ensemble":
        store = np.zeros((count, len(run.classes), *cells_hw), np.uint16)
        ensemble = TemporalEnsemble(store, np.zeros(count, np.int64), settings.ensemble_momentum)
    learner = new_learner(run, cells_hw, ensemble)
    descent = descent_of(run, learner)
    run.segmenter.train()
    if ensemble is not None:
        probabilities_of(run.segmenter, learner.tensor(target.whole[:1]), run.autocast, learner.statistics)
    if settings.entropy_first > 0:
        descent.descend(entropy_step(learner, source, target, target_weight=1.0).loss, 0)
    descent.descend(adaptation_step(learner, source, target, target_weight=1.0).loss, 1)
    _check_finite(run, descent, "adaptation")


def _check_finite(run: Run, descent: Descent, what: str) -> None:
    if descent.first_bad_iteration() is not None:
        raise ConfigError(
            f"{run.config.model.network}: loss or gradient is not finite in the first step of {what}; look at its "
            "weights and what it does in training mode"
        )


def try_export(segmenter: Segmenter, name: str, input_hw: tuple[int, int]) -> None:
    """Try whether clst-export can write the network, where it is installed.

    Raises:
        ConfigError: it cannot; the message names the layer.
    """
    for entry in entry_points(group=CHECKS, name="export"):
        try:
            check: Callable[[Segmenter, tuple[int, int]], None] = entry.load()
            check(segmenter, input_hw)
        except MissingDependency as error:
            report(f"note: whether clst-export can write {name} was not tried: {error.message}")
        except (ClstError, *FAILURES) as error:
            why = error.message if isinstance(error, ClstError) else reason(error)
            raise ConfigError(f"{name} cannot be exported: {why}") from error
