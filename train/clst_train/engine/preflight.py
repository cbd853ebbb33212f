"""Preflight: what would fail after an hour is tried in the first seconds, before a run folder is made.

A pass forward and back at the run's own sizes and precision, a memory plan against what is free, and one image
through validation. The network used is a throw-away one; nothing here touches the run's weights or its log.
Legend: K rows, L columns of a crop; H rows, W columns of the model's input; h,w at output stride.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping

import torch

from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.errors import ConfigError
from clst_runtime.evaluation.unlabelled import FEWEST_SCENES, MOST_IMAGES, differing, visible
from clst_runtime.system.numbers import cores_here
from clst_train.compute.acceleration import accelerate, check_compiler
from clst_train.compute.cores import loader_threads, on_first_core
from clst_train.compute.distributed import report
from clst_train.compute.memory_plan import MemoryPlan, amount, free_bytes, parameter_bytes, saved_bytes, weight_bytes
from clst_train.data.loading import steps_of_pass
from clst_train.data.target import TargetImages, hides
from clst_train.engine.run import Setup, validation_miou
from clst_train.engine.schedule import predicts, steps_before_labels
from clst_train.method.ensemble.store import shape_of
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.models.networks import network_of
from clst_train.models.projection import ProjectionHead
from clst_train.models.segmenter import Segmenter

_log = logging.getLogger(__name__)
AHEAD = 3
"""Batches beside those of the loaders: two that wait and the one in use."""
LEAST_DIFFERING = 2 / 3
"""Of 40 spread target images: of drives of minutes 0.85 and more differ, of seven seconds in a city 0.45, of nine on a
highway 0.25 (decision 46)."""


def run_preflight(setup: Setup, *, trains_source: bool, done: int = 0) -> None:
    """Try the passes and the validation; report what the run computes on, how long it will take, and the memory plan.

    Args:
        setup: what the run is made of.
        trains_source: whether source training is to come.
        done: steps of the first stage to come that are done already.

    Raises:
        ConfigError: a batch is too small, the precision has no kernels here, or memory cannot suffice.
        MissingDependency: the C++ compiler is missing, and asked for.
        DataError: the labels of the validation images cannot be used, or a target image is unreadable.
    """
    run = setup.config.run
    if run.compile:
        check_compiler()
    network = network_of(setup.config.model, len(setup.classes), setup.architecture)
    segmenter = accelerate(network, dataclasses.replace(run, compile=False), setup.device)
    plans = memory_plans(setup, segmenter, trains_source=trains_source)
    free, host_free = free_bytes(setup.device), free_bytes(torch.device("cpu"))
    for plan in plans:
        check_fit(plan, setup.device, free=free, host_free=host_free)
    seconds = expected_seconds(setup, segmenter, trains_source=trains_source, done=done)
    report(f"{run_line(setup)}; {duration_line(seconds)}")
    where = "this machine" if setup.device.type == "cpu" else str(setup.device)
    available = f"{amount(free)} free on {where}" if free is not None else "this system does not report what is free"
    each = f" for each of {setup.ranks.count} processes" if setup.ranks.count > 1 else ""
    if plans:
        report(f"memory{each}: {'; '.join(plan.line() for plan in plans)}; {available}")
    if setup.target is not None and setup.ranks.first and (doubt := doubt_of_scenes(setup.target)):
        _log.warning(f"warning: {doubt}")
    if setup.validation is not None:
        try_validation(setup, segmenter, setup.validation)


def doubt_of_scenes(target: TargetImages) -> str:
    """What may come of images that show few differing scenes, by a spread sample of them; empty where they show enough.

    Raises:
        DataError: one of the sample is unreadable.
    """
    places = evenly_spread(len(target), MOST_IMAGES, centred=True)
    count = differing(visible(*target.shown(place)) for place in places)
    if count >= max(FEWEST_SCENES, LEAST_DIFFERING * len(places)):
        return ""
    seen = f"{len(places)} target images" + (f", spread over all {len(target)}," if len(target) > len(places) else "")
    few = f"only {count} target image{'s' * (count > 1)}" if count == len(target) else f"only {count} of {seen} differ"
    return (
        f"{few}: self-training of so few scenes can make the network fit these alone; add drives in other places "
        "(--target takes several), or look well at the run's examples and label a few frames before its network is used"
    )


def memory_plans(setup: Setup, segmenter: Segmenter, *, trains_source: bool) -> list[MemoryPlan]:
    """The plan of source training, and of the adaptation where there is a target: what one process needs."""
    config, target = setup.config, setup.target
    (rows, columns), (crop_rows, crop_columns) = config.model.input_hw, config.crop_hw
    whole, crop = rows * columns, crop_rows * crop_columns
    ahead = AHEAD + loader_threads(setup.device.type, setup.ranks.count)
    plans = []
    if trains_source:
        batch = config.source.batch // setup.ranks.count
        plans.append(
            MemoryPlan(
                stage="source training",
                crops=batch,
                weights=weight_bytes([segmenter]),
                activations=activation_bytes(setup, segmenter, None, count=batch, setting="source.batch"),
                batches=ahead * batch * 5 * crop,  # image 3, labels 1, mixing 1
                ensemble=0,
                frames=0,
            )
        )
    if target is not None:
        settings, stride = config.adaptation, segmenter.output_stride
        batch = settings.batch // setup.ranks.count
        projection = ProjectionHead(segmenter.feature_channels).to(setup.device)
        cells_hw = (-(-rows // stride), -(-columns // stride))
        store = shape_of(setup.ranks, len(target), len(setup.classes), cells_hw)
        passes = 2  # source crops and target crops are both held until the backward pass
        once = activation_bytes(setup, segmenter, projection, count=batch, setting="adaptation.batch")
        plans.append(
            MemoryPlan(
                stage="adaptation",
                crops=passes * batch,
                weights=weight_bytes([segmenter, projection]) + parameter_bytes([segmenter]),
                activations=passes * once,
                batches=ahead * batch * ((4 if hides(target) else 3) * whole + 9 * crop),
                ensemble=2 * math.prod(store) if settings.teacher == "ensemble" else 0,
                frames=3 * whole * len(target.video_frames),
            )
        )
    return plans


def activation_bytes(
    setup: Setup, segmenter: Segmenter, projection: ProjectionHead | None, *, count: int, setting: str
) -> int:
    """Bytes that one training pass over `count` crops keeps, from a pass over one or two of them.

    Raises:
        ConfigError: the crops are too few for BatchNorm, the precision has no kernel, or memory ran out already.
    """
    tried = min(2, count * setup.ranks.count)  # BatchNorm sees the crops of all processes
    modules = [segmenter] if projection is None else [segmenter, projection]
    segmenter.train()
    try:
        return saved_bytes(training_pass(setup, segmenter, projection, tried), list(modules)) * count // tried
    except RuntimeError as error:
        raise _as_config_error(error, setup, setting) from error


def training_pass(
    setup: Setup, segmenter: Segmenter, projection: ProjectionHead | None, tried: int
) -> Callable[[], torch.Tensor]:
    """A forward pass over so many empty crops, to a scalar loss."""
    crops = torch.zeros(tried, *setup.config.crop_hw, 3, device=setup.device).permute(0, 3, 1, 2)
    labels = torch.zeros(tried, *setup.config.crop_hw, dtype=torch.int64, device=setup.device)

    def forward() -> torch.Tensor:
        with setup.autocast:
            outputs = segmenter.training_outputs(crops)
            projected = projection(outputs.features).float().sum() if projection is not None else 0.0
        loss = segmentation_loss(outputs.logits, labels) + projected
        if outputs.auxiliary is not None and projection is None:
            loss = loss + segmentation_loss(outputs.auxiliary, labels)
        return loss

    return forward


def expected_seconds(setup: Setup, segmenter: Segmenter, *, trains_source: bool, done: int) -> dict[str, float]:
    """Seconds of each stage that is to come, by a pass over two crops and a prediction of one image, both timed here.

    Reading images that keeps the training waiting, validations and pictures are left out.
    """
    config, (rows, columns) = setup.config, setup.config.model.input_hw
    frame = torch.zeros(1, 3, rows, columns, device=setup.device)
    step = training_pass(setup, segmenter, None, 2)

    def predict() -> None:
        with torch.no_grad(), setup.autocast:
            segmenter(frame)

    before = torch.get_num_threads()
    torch.set_num_threads(threads_of(setup))
    try:
        with on_first_core(setup.device.type):  # as the stages train: else a busy machine seems several times as slow
            segmenter.train()
            a_crop = _timed(lambda: step().backward(), setup.device) / 2  # type: ignore[no-untyped-call]
            segmenter.eval()
            a_whole = _timed(predict, setup.device)
    finally:
        torch.set_num_threads(before)
    found = {}
    if trains_source:
        source = config.source
        found["source training"] = (source.iterations - done) * source.batch * a_crop / setup.ranks.count
    if setup.target is not None:
        settings = config.adaptation
        steps = range(0 if trains_source else done, settings.iterations)
        begin = steps_before_labels(settings.iterations, settings.entropy_first)
        pass_steps = steps_of_pass(len(setup.target), settings.batch)
        predicted = sum(
            settings.teacher == "mean_teacher"
            or predicts(step, since=begin, iterations=settings.iterations, pass_steps=pass_steps)
            for step in steps
            if settings.teacher != "none" and step >= begin
        )
        images = len(steps) * 2 * a_crop + predicted * a_whole
        found["adaptation"] = images * settings.batch / setup.ranks.count
    return found


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of its fastest run after the first, which chooses kernels and gets memory; of two to five runs."""
    end, times = time.perf_counter() + 1.0, list[float]()
    while len(times) < 2 or (time.perf_counter() < end and len(times) < 5):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def threads_of(setup: Setup) -> int:
    """CPU threads of the run's PyTorch."""
    return min(setup.config.run.threads, cores_here()) or torch.get_num_threads()


def run_line(setup: Setup) -> str:
    """Device, precision and threads."""
    device, threads = setup.device, threads_of(setup)
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}[setup.autocast.fast_dtype]
    if not setup.autocast._enabled:
        precision = "fp32"
    processes = f", {setup.ranks.count} processes" if setup.ranks.count > 1 else ""
    return f"training on {name}, {precision}, {threads} thread{'s' * (threads != 1)}{processes}"


def duration_line(seconds: Mapping[str, float]) -> str:
    """`about 5 min (source training 4 min, adaptation 1 min)`."""
    if not seconds:
        return "nothing left to train"
    stages = ", ".join(f"{stage} {_rounded(value)}" for stage, value in seconds.items())
    return f"about {_rounded(sum(seconds.values()))} ({stages})"


def _rounded(seconds: float) -> str:
    return next(
        (f"{seconds / unit:.0f} {name}" for unit, name in ((3600, "h"), (60, "min")) if seconds >= 2 * unit),
        f"{seconds:.0f} s",
    )


def _as_config_error(error: RuntimeError, setup: Setup, setting: str) -> Exception:
    text = str(error).splitlines()[0]
    if "not implemented for" in text:
        return ConfigError(
            f"run.precision = {setup.config.run.precision!r}: this PyTorch ({torch.__version__}) cannot train "
            f"{setup.config.model.network} so on {setup.device} ({text}); give bf16 or fp32"
        )
    if isinstance(error, torch.OutOfMemoryError) or "alloc" in text:
        return ConfigError(
            f"two crops of {setup.config.crop_hw[0]}x{setup.config.crop_hw[1]} alone do not fit into the memory of "
            f"{setup.device} ({text[:120]}); lower augmentation.crop_hw or {setting}"
        )
    return error


def check_fit(plan: MemoryPlan, device: torch.device, *, free: int | None, host_free: int | None) -> None:
    """Refuse a stage that plainly cannot fit; the plan is a lower bound, so that what fits is not refused.

    Raises:
        ConfigError: it takes more than is free.
    """
    shared = device.type == "cpu"
    needs = [(plan.on_device() + plan.on_host() if shared else plan.on_device(), free, str(device))]
    if not shared:
        needs.append((plan.on_host(), host_free, "the computer"))
    for size, available, place in needs:
        if available is not None and size > available:
            raise ConfigError(
                f"{plan.line()} does not fit into the {amount(available)} that are free on {place}; lower the batch, "
                "augmentation.crop_hw or the number of target images"
            )


def try_validation(setup: Setup, segmenter: Segmenter, validation: LabelledDataset) -> None:
    """One image through validation; its result is thrown away, an image without any usable label is reported.

    Raises:
        DataError: image or label cannot be used. ModelFileError: the classes do not fit.
    """
    first = dataclasses.replace(validation, files=validation.files[:1])
    validation_miou(segmenter, first, setup.config, None)
    sample = first[0]
    if (sample.labels == IGNORE_ID).all():
        report(f"note: {validation.root}: {sample.name} has no pixel of a known class; is --val-mapping right?")
