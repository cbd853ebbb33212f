"""From a command line to a finished run: settings, data, network, the two stages, example images."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clst_runtime.classes.labels import ClassList, load_class_list
from clst_runtime.data.dataset import LabelledDataset, open_dataset
from clst_runtime.errors import ConfigError, DataError, MissingDependency
from clst_runtime.evaluation.change import check_labels
from clst_runtime.system.files.paths import newest_result
from clst_runtime.system.numbers import cores_here
from clst_runtime.system.optional import require
from clst_train.compute.acceleration import accelerate, keep_memory, repeat_exactly
from clst_train.compute.distributed import (
    check_alike,
    each_alone,
    from_first,
    is_split,
    process_group,
    report,
    synchronise_norms,
    together,
)
from clst_train.compute.ranks import ONE_PROCESS, Ranks, ranks
from clst_train.config import Config, ModelConfig
from clst_train.data.headers import check_pairs
from clst_train.data.provenance import as_fields
from clst_train.data.target import TargetImages, open_target
from clst_train.engine.logger import Logbook, SilentLogbook
from clst_train.engine.old_network import open_old_network, report_on_source
from clst_train.engine.options import check_run, configure, is_set
from clst_train.engine.preflight import run_preflight
from clst_train.engine.run import ADAPTED, SOURCE, Run, Setup, log_old_miou, resume_point
from clst_train.engine.run_folder import RunFolder, create_run, open_run
from clst_train.engine.schedule import steps_before_labels
from clst_train.engine.stopping import Stopped
from clst_train.inspection.examples import draw_examples
from clst_train.inspection.verdict import judge
from clst_train.method.ensemble.store import target_hash
from clst_train.models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint, save_checkpoint
from clst_train.models.networks import network_of
from clst_train.models.segmenter import Segmenter
from clst_train.models.weights.pretrained import load_pretrained
from clst_train.stages.adaptation import adapt
from clst_train.stages.source import train_source
from clst_train.stages.trial import try_network


def start_run(
    *, recipe: str, out: Path | None, init: Path | None, resume: Path | None, options: Mapping[str, Any]
) -> RunFolder:
    """Train as the options say, in this process or together with those that torchrun started beside it.

    Returns the finished run's folder.

    Raises:
        ClstError: a setting, a data set or a checkpoint cannot be used; nothing is made then.
    """
    with process_group():
        with together():
            if is_split() and (resume is None or ranks().first):
                check_run(recipe, out, init, resume, options)
        if resume is None:
            return _begin_run(recipe, out, init, options)
        folder = RunFolder(resume)
        with _with_interrupt_message(folder):
            with together():
                config = open_run(resume, resumes=True)[1] if ranks().first else Config()
            return finish_run(folder, from_first(config), _checkpoint(folder.resume))


def _begin_run(recipe: str, out: Path | None, init: Path | None, options: Mapping[str, Any]) -> RunFolder:
    with together(), each_alone():
        config = configure(recipe, options)
        started = _old_network(init, config, options) if init is not None else None
        if started is not None:
            config = _as_checkpoint(config, started, options)
        setup = _open_setup(config, started)
        if started is None:
            setup = _with_pretrained(setup)
        _check_batches_of_one(setup)
        _check_split(setup)
        try_network(setup, trains_source=started is None, exports=True)
        run_preflight(setup, trains_source=started is None)
        if started is not None and started.path is None and ranks().first:
            report_on_source(started, setup.source, setup.device)
    _check_alike(setup)
    folder = RunFolder(out or from_first(Path("runs") / time.strftime("%Y%m%d-%H%M%S")))
    with _with_interrupt_message(folder):
        with together():
            if ranks().first:
                create_run(folder.path, setup.config, setup.pretrained_sha256)
                if started is not None:
                    save_checkpoint(folder.source, dataclasses.replace(started, training_state=None, stage=SOURCE))
        with _with_resume_hint(folder):
            return _train(folder, setup, None)


def finish_run(folder: RunFolder, config: Config, point: Checkpoint | None) -> RunFolder:
    """Resume a run from its newest checkpoint, or from its start when it has none."""
    started = _checkpoint(folder.source)
    pretrained_sha256 = from_first(folder.pretrained.read_text().strip() if folder.pretrained.is_file() else "")
    with together(), each_alone():
        setup = _open_setup(config, started, started or point)
        setup = dataclasses.replace(setup, pretrained_sha256=pretrained_sha256 or setup.pretrained_sha256)
        _check_split(setup)
        if (last := point or started) is not None:
            build_from_checkpoint(last)  # the module that it names may have changed since
        stage = SOURCE if started is None else ADAPTED
        done = point.iteration if point is not None and point.stage == stage else 0  # a new stage has no point yet
        try_network(setup, trains_source=started is None, exports=False)
        run_preflight(setup, trains_source=started is None, done=done)
    _check_alike(setup)
    with _with_resume_hint(folder):
        return _train(folder, setup, point)


@contextmanager
def _with_resume_hint(folder: RunFolder) -> Iterator[None]:
    """Add to an error that stopped the run (a damaged image, a full disk) how to resume."""
    try:
        yield
    except DataError as error:
        kept = "; the last checkpoint is kept" if folder.resume.is_file() else ""
        raise DataError(f"{error.message}{kept}; correct it and go on with --resume {folder.path}") from error


@contextmanager
def _with_interrupt_message(folder: RunFolder) -> Iterator[None]:
    """Add to an interrupt what of the run is kept and how to resume.

    Raises:
        Stopped: with this message.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        message = "interrupted"
        try:
            message = _what_is_kept(folder) if ranks().first else message
        finally:  # even if another interrupt comes meanwhile
            raise Stopped(message) from interrupt


def _what_is_kept(folder: RunFolder) -> str:
    """The message, by the files in the folder."""
    if not folder.config.is_file():
        return "interrupted before the first step; nothing was made"
    resume = f"go on with: clst-train --resume {shlex.quote(str(folder.path))}"
    if folder.adapted.is_file():
        return f"interrupted when {folder.adapted} was whole, only example images and verdicts were missing; {resume}"
    point = resume_point(folder)
    if point is None:
        return f"interrupted before a step was saved; {resume}"
    return f"interrupted; {STAGES[point.stage]} is saved at step {point.iteration}; {resume}"


def _checkpoint(path: Path) -> Checkpoint | None:
    """A checkpoint of the first process's run folder, on every rank; None = there is none."""
    with together():
        found = load_checkpoint(path) if ranks().first and path.is_file() else None
    return from_first(found)


def _check_alike(setup: Setup) -> None:
    """Each process sees the same settings and images, also where each has a copy of its own of them.

    Raises:
        ConfigError: one sees others.
    """
    if not is_split():
        return
    facts = {f"{name}.{key}": value for name, part in setup.config.to_mapping().items() for key, value in part.items()}
    names = "\n".join(f"{each.image.name} {each.image.stat().st_size}" for each in setup.source.files)
    facts["the source images' hash"] = hashlib.sha256(names.encode()).hexdigest()[:16]
    facts["the hash of the pretrained weights"] = setup.pretrained_sha256
    facts["the target images' hash"] = "" if setup.target is None else target_hash(setup.target)
    with together():
        check_alike(facts)


STAGES = {SOURCE: "source training", ADAPTED: "adaptation"}


def _train(folder: RunFolder, setup: Setup, point: Checkpoint | None) -> RunFolder:
    source = _checkpoint(folder.source)
    with together(), each_alone():
        run = _run_of(folder, setup, begins=point is None and source is None)
    if is_split():
        with together():
            synchronise_norms(run.segmenter)
    if source is None:
        with torch.random.fork_rng(devices=[]):  # the projection head's first weights follow from the run's seed alone
            train_source(run, point if point is not None and point.stage == SOURCE else None)
        source = _checkpoint(folder.source)
    if source is not None:
        run.segmenter.load_state_dict(source.segmenter_state)
        run = dataclasses.replace(run, facts=source.facts)
    if run.target is not None and not from_first(folder.adapted.is_file()):
        with together():
            log_old_miou(run)
        adapt(run, point if point is not None and point.stage == ADAPTED else None)
    with together():
        run.logbook.draw()
        if run.target is not None and run.ranks.first:
            draw_examples(run)
            judge(run)
    return folder


def _threads_here(wanted: int) -> int:
    """At most one a core; a run that is resumed may come from a larger machine."""
    if wanted > cores_here():
        report(f"note: run.threads = {wanted}, but this machine has {cores_here()} cores, which are taken")
    return min(wanted, cores_here())


def _run_of(folder: RunFolder, setup: Setup, *, begins: bool) -> Run:
    config = setup.config
    torch.manual_seed(config.run.seed)  # for the initial weights; batches have generators of their own
    np.random.seed(config.run.seed % 2**32)
    keep_memory()
    if config.run.threads:
        torch.set_num_threads(_threads_here(config.run.threads))
    require("cv2").setNumThreads(1)  # the loaders run in parallel, not the rows of one image
    begin = steps_before_labels(config.adaptation.iterations, config.adaptation.entropy_first)
    return Run(
        **as_fields(Setup, setup),
        folder=folder,
        segmenter=_network(setup, begins=begins),
        logbook=Logbook(folder.path, steps_before_labels=begin) if setup.ranks.first else SilentLogbook(),
    )


def _open_setup(config: Config, started: Checkpoint | None, known: Checkpoint | None = None) -> Setup:
    """Open what the run is made of; `started` fixes the classes, and `known` (by default it) the architecture."""
    known = known or started
    data, model = config.data, config.model
    if not data.source:
        raise ConfigError("no source images: give --source the labelled images of the old camera")
    source = _labelled(data.source, data.source_split, data.mapping, _wanted_classes(model.classes, started))
    _note(data.source, check_pairs(source, used_hw=model.input_hw))
    if len(source.classes) < 2:
        raise ConfigError(
            f"{source.classes.name} has one class ({source.classes.names[0]}): every pixel would be that; give two or "
            "more, e.g. one for all the rest"
        )
    target = _target(config) if data.target else None
    validation = None
    if data.val:
        validation = _labelled(data.val, data.val_split, data.val_mapping, source.classes)
        _note(data.val, check_pairs(validation, used_hw=model.input_hw))
        if config.run.gate:
            check_labels(validation)
    device = _device(config.run.device, ranks())
    repeat_exactly(config.run, device)
    return Setup(
        config=config,
        classes=source.classes,
        source=source,
        target=target,
        validation=validation,
        device=device,
        autocast=_autocast(config.run.precision, device),
        architecture=None if known is None else known.architecture,
        weights_file=None if started is None else started.weights_file,
        pretrained_sha256="" if started is None else started.pretrained_sha256,
        ranks=ranks(),
    )


def _target(config: Config) -> TargetImages:
    data = config.data
    target = open_target(
        data.target,
        input_hw=config.model.input_hw,
        fit=config.fit,
        ignore_mask=data.ignore_mask,
        every=0,
    )
    for remark in target.remarks:
        report(f"note: {remark}")
    return target


def _wanted_classes(name: str, started: Checkpoint | None) -> ClassList | None:
    """Those of the checkpoint, else those named in the settings; None = the source's own."""
    wanted = load_class_list(name) if name else None
    if started is None:
        return wanted
    if wanted is not None and wanted.names != started.classes.names:
        raise ConfigError(
            f"model.classes = {name!r} are not the classes of the checkpoint "
            f"({', '.join(started.classes.names)}), which it keeps; leave --classes out"
        )
    return started.classes


def _check_batches_of_one(setup: Setup) -> None:
    """BatchNorm needs two values a channel: a batch of one small crop may leave one in the deepest layers.

    Raises:
        ConfigError: it does.
    """
    config, target = setup.config, setup.target
    sizes = [config.source.batch, *((config.adaptation.batch, len(target)) if target is not None else ())]
    if min(sizes) > 1:
        return
    rows, columns = (min(pair) for pair in zip(config.crop_hw, config.model.input_hw, strict=True))
    network = network_of(config.model, len(setup.classes), setup.architecture).train()
    try:
        with torch.no_grad():
            network.training_outputs(torch.zeros(1, 3, rows, columns))
    except ValueError as error:
        raise ConfigError(
            f"a batch of one crop of {rows}x{columns} leaves BatchNorm a single value; give larger crops "
            "(augmentation.crop_hw), or batches (source.batch, adaptation.batch) and target images of 2 or more"
        ) from error


def _check_split(setup: Setup) -> None:
    """Every rank gets an equal part of each batch.

    Raises:
        ConfigError: a batch cannot be split so, or a setting is not for several processes.
    """
    config, target, here = setup.config, setup.target, setup.ranks
    if here.count == 1:
        return
    if config.run.compile:
        raise ConfigError(f"run.compile is not for {here.count} processes together; set run.compile=false")
    here.part(config.source.batch, where="source.batch")
    if target is not None:
        here.part(config.adaptation.batch, where="adaptation.batch")
        if len(target) < config.adaptation.batch:
            here.part(len(target), where="adaptation.batch is more than the target images, whose number")


def _labelled(place: str, split: str, mapping: str, classes: ClassList | None) -> LabelledDataset:
    file = Path(mapping) if mapping else None
    dataset = open_dataset(Path(place), split=split, classes=classes, mapping_file=file)
    _note(place, dataset.remarks)
    return dataset


def _note(place: str, remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        report(f"note: {place}: {remark}")


def _old_network(init: Path, config: Config, options: Mapping[str, Any]) -> Checkpoint:
    """That of a run's folder, of a checkpoint, or of weights that others trained."""
    path = newest_result(init)
    if path != init:
        report(f"note: the network of {path}")
    return open_old_network(path, config, trust_pickle=bool(options.get("trust_pickle")))


def _as_checkpoint(config: Config, started: Checkpoint, options: Mapping[str, Any]) -> Config:
    """The network and, unless others are asked for, the input size and the fit of the checkpoint that is adapted.

    Reports it where the recipe or a setting names another fit.

    Raises:
        ConfigError: another network or normalisation is asked for.
    """
    if config.model.network != started.network and ("network" in options or is_set("model.network", options)):
        raise ConfigError(
            f"model.network = {config.model.network!r} is not the network of the checkpoint ({started.network}), which "
            "it keeps; leave it out"
        )
    _check_normalisation(config, started, options)
    size = config.model.input_hw if "size" in options else started.input_hw
    asked = is_set("model.fit", options)
    wanted, own = config.model.fit, started.fit.value
    if wanted != own and asked:
        report(f"note: model.fit = {wanted} as asked, though the checkpoint was trained with {own}: shapes will differ")
    elif wanted != own and wanted != ModelConfig().fit:
        report(f"note: model.fit = {own} as the checkpoint has it, not the recipe's {wanted}; --set model.fit={wanted}")
    fit = wanted if asked else own
    head = config.model.head if is_set("model.head", options) else started.head
    kept: dict[str, Any] = {"network": started.network, "head": head, "input_hw": size, "fit": fit}
    kept |= {"mean": started.mean, "std": started.std, "channels": started.channels}
    model = dataclasses.replace(config.model, **kept)
    return dataclasses.replace(config, model=model)


def _check_normalisation(config: Config, started: Checkpoint, options: Mapping[str, Any]) -> None:
    for name in ("mean", "std", "channels"):
        wanted, own = getattr(config.model, name), getattr(started, name)
        if wanted != own and (is_set(f"model.{name}", options) or wanted != getattr(ModelConfig(), name)):
            asked, kept = (list(value) if isinstance(value, tuple) else value for value in (wanted, own))
            raise ConfigError(
                f"model.{name} = {asked}, but the network of the checkpoint was trained with {kept} and keeps it; "
                "leave it out"
            )


def _network(setup: Setup, *, begins: bool) -> Segmenter:
    """The network on its device; one that begins to be trained has the pretrained weights."""
    config = setup.config
    segmenter = network_of(config.model, len(setup.classes), setup.architecture)
    if begins:
        load_pretrained(segmenter, config.model, setup.classes.names, expected=setup.pretrained_sha256)
    return accelerate(segmenter, config.run, setup.device)


def _with_pretrained(setup: Setup) -> Setup:
    """Try the pretrained weights before anything is made, and note the hash of their file."""
    network = network_of(setup.config.model, len(setup.classes), setup.architecture)
    pretrained_sha256, message = load_pretrained(network, setup.config.model, setup.classes.names)
    if message:
        report(message)
    return dataclasses.replace(setup, pretrained_sha256=pretrained_sha256)


def _device(name: str, here: Ranks = ONE_PROCESS) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"run.device = {name!r}; give auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise MissingDependency(f"device {name!r}: this PyTorch ({torch.__version__}) sees no CUDA device; use cpu")
    return _of_rank(device, here) if here.count > 1 and device.type == "cuda" else device


def _of_rank(device: torch.device, here: Ranks) -> torch.device:
    """Each process has a GPU of its own, by its number on this machine."""
    found = torch.cuda.device_count()
    if device.index is not None:
        raise ConfigError(
            f"run.device = '{device}' is one device for {here.count} processes; give cuda, or one process"
        )
    if here.count > found:
        raise ConfigError(f"{here.count} processes, but {found} CUDA devices; start as many processes as devices")
    own = torch.device("cuda", here.local)
    torch.cuda.set_device(own)
    return own


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    """bf16 or fp16 where asked for, and bf16 on a GPU that computes it natively; the weights stay float32."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=kind, enabled=precision != "fp32")
