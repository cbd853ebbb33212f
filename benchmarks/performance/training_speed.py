"""Images a second of loading and training, peak memory, and what a CLST step costs beside a plain one.

    python -m benchmarks.performance.training_speed [--set SECTION.KEY=VALUE …] [--rounds N] [--steps N]
        [--compile] [--name NAME]

Everything is measured interleaved in one process: a round is a block of steps of each variant, a ratio is taken within
a round, and the median over the rounds is reported, so that other work on the machine falls on all alike. A block of
CLST steps holds whole periods of its ensemble, which predicts as seldom as in any run. Synthetic scenes of twice the
model's size (they have to be resized, as camera images have) go to a temporary folder.
The plain step is two-domain cross-entropy on the same batch: source crops with labels, target crops with given ones.
The result goes to benchmarks/results/<name>.json.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.export.one_quantizer import peak_mib
from benchmarks.performance.rounds import interleaved, ratio
from benchmarks.record import RESULTS, provenance, write_result
from clst_runtime.system.memory import resident_bytes

PARTS = {
    "soft_labels_of": "whole-image prediction (no gradient) and ensemble",
    "pseudo_labels_of": "pseudo-labels through the crops",
    "_student_crops_of": "ClassMix and student crops",
    "class_means": "class means",
    "contrastive_loss": "contrastive loss",
    "segmentation_loss": "cross-entropies",
}
"""Functions of step.py whose forward time is taken, where they are still called so."""


def prepare(folder: Path, settings: tuple[str, ...]) -> Any:
    """A run on synthetic scenes below `folder`; the scenes are made at the first call."""
    from clst_train.engine.options import configure
    from clst_train.engine.run_folder import RunFolder
    from clst_train.synthetic.camera_looks import LOOKS, find_look
    from clst_train.synthetic.scenes import write_scenes
    from clst_train.training import _open_setup, _run_of

    options = {"source": str(folder / "old"), "target": (str(folder / "new" / "images" / "train"),)}
    config = configure("demo", {**options, "settings": settings})
    rows, columns = config.model.input_hw
    for seed, look in enumerate(map(find_look, LOOKS)):
        if not (folder / look.name).exists():
            counts = {"train": 16, "val": 1}
            write_scenes(folder / look.name, look=look, counts=counts, size_hw=(2 * rows, 2 * columns), seed=seed)
    run = _run_of(RunFolder(folder / "run"), _open_setup(config, None), begins=True)
    run.segmenter.train()
    return run


def changed(run: Any, *settings: str) -> Any:
    """The same data with a fresh network under other settings."""
    from clst_train.recipes.recipe import config_from_mapping, with_settings
    from clst_train.training import _autocast, _network

    config = config_from_mapping(with_settings(run.config.to_mapping(), settings), where="benchmark")
    return dataclasses.replace(
        run,
        config=config,
        segmenter=_network(dataclasses.replace(run, config=config), begins=True).train(),
        autocast=_autocast(config.run.precision, run.device),
    )


def clst_step(run: Any) -> Callable[[int, Any], None]:
    """A whole CLST step on a prepared batch; its iteration decides whether the ensemble predicts whole images."""
    from clst_train.engine.schedule import LONGEST_INTERVAL
    from clst_train.inspection.diagnostics import Diagnostics
    from clst_train.method.step import adaptation_step
    from clst_train.stages.adaptation_state import learner_of

    learner = learner_of(run, run.target)
    ensemble: Any = learner.ensemble
    diagnostics = Diagnostics(len(run.classes), run.device)
    run.segmenter.train()
    descent = _descent(run, [run.segmenter, learner.projection])

    def step(iteration: int, batch: Any) -> None:
        predicts = iteration % LONGEST_INTERVAL == 0 or not ensemble.visits[batch[1].indices].all()
        result = adaptation_step(learner, *batch, target_weight=1.0, predicts=predicts)
        diagnostics.see(result.soft_labels, result.target_means, learner.prototypes)
        with timed("backward and optimiser"):
            descent.descend(result.loss, iteration)
        with timed("averaged weights"):
            learner.mean_teacher.follow(learner.segmenter)

    step.learner = learner  # type: ignore[attr-defined]
    return step


def plain_step(run: Any) -> Callable[[int, Any], None]:
    """Two-domain cross-entropy on the same crops, with labels given for both."""
    from clst_train.method.losses.segmentation import segmentation_loss
    from clst_train.models.deployable import normalise

    descent = _descent(run, [run.segmenter])

    def step(iteration: int, batch: Any) -> None:
        source, target = batch
        labels = torch.from_numpy(source.labels).to(run.device).long()
        losses = []
        for images in (source.images, target.crops):
            with run.autocast:
                outputs = run.segmenter.training_outputs(
                    normalise(torch.from_numpy(images).to(run.device), run.segmenter.normalisation)
                )
            losses.append(segmentation_loss(outputs.logits, labels[: len(images)]))
        descent.descend(losses[0] + losses[1], iteration)

    return step


def _descent(run: Any, modules: list[Any]) -> Any:
    from clst_train.engine.optimizer import Descent, adamw

    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimiser = adamw(parameters, learning_rate=1e-4, device=run.device)
    return Descent(optimiser, modules, run.device, scaled=run.scaled)


_spent: dict[str, float] = {}


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Add the seconds inside to those of a part."""
    synchronise()
    started = time.perf_counter()
    yield
    synchronise()
    _spent[name] = _spent.get(name, 0.0) + time.perf_counter() - started


def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its time taken."""

    def call(*arguments: Any, **options: Any) -> Any:
        with timed(name):
            return function(*arguments, **options)

    return call


def watch_parts(learner: Any) -> None:
    """Take the time of each part of the step from now on; costs nothing that matters."""
    import clst_train.method.step as step_module

    for name, title in PARTS.items():
        if hasattr(step_module, name):
            setattr(step_module, name, watched(title, getattr(step_module, name)))
    learner.prototypes.update = watched("prototypes", learner.prototypes.update)
    segmenter = learner.segmenter
    segmenter.training_outputs = watched("two training passes", segmenter.training_outputs)


def block(step: Callable[[int, Any], None], batches: list[Any], steps: int) -> float:
    """Mean seconds of a step over a block: in CLST's some predict whole images and some do not."""
    synchronise()
    started = time.perf_counter()
    for place in range(steps):
        step(place, batches[place % len(batches)])
    synchronise()
    return (time.perf_counter() - started) / steps


def measure_steps(run: Any, batches: list[Any], rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of a step: CLST beside plain, and where the time goes."""
    from clst_train.engine.schedule import LONGEST_INTERVAL

    clst, plain = clst_step(run), plain_step(changed(run))
    steps = LONGEST_INTERVAL * math.ceil(max(steps, len(batches)) / LONGEST_INTERVAL)
    for step in (clst, plain):
        block(step, batches, len(batches))  # an image never visited is predicted at once
    values = interleaved(
        {"plain": lambda: block(plain, batches, steps), "clst": lambda: block(clst, batches, steps)}, rounds
    )
    watch_parts(clst.learner)  # type: ignore[attr-defined]
    _spent.clear()
    total = statistics.mean(block(lambda i, b: _whole(clst, i, b), batches, steps) for _ in range(max(1, rounds // 2)))
    whole = _spent.pop("whole")
    parts = {name: round(seconds / whole, 4) for name, seconds in sorted(_spent.items(), key=lambda p: -p[1])}
    parts["the rest"] = round(1 - sum(parts.values()), 4)
    images = 2 * run.config.adaptation.batch
    return {
        "clst_over_plain": ratio(values, "clst", "plain"),
        "goal": 1.15,
        "steps_a_block": steps,
        "seconds": {name: round(statistics.median(v), 4) for name, v in values.items()},
        "images_a_second": {name: round(images / statistics.median(v), 2) for name, v in values.items()},
        "share_of_the_clst_step": parts,
        "seconds_while_parts_were_timed": round(total, 4),
    }


def _whole(step: Callable[[int, Any], None], iteration: int, batch: Any) -> None:
    with timed("whole"):
        step(iteration, batch)


def measure_manners(run: Any, batches: list[Any], rounds: int, steps: int, *, compiled: bool) -> dict[str, Any]:
    """A plain step in each precision, as a multiple of the one in fp32.

    A CPU without them computes bf16 and fp16 very slowly, so there only one step a block is.
    """
    on_gpu = run.device.type == "cuda"
    manners: dict[str, tuple[str, ...]] = {
        "fp32": ("run.precision=fp32",),
        "bf16": ("run.precision=bf16",),
        "fp16": ("run.precision=fp16",),
    }
    if compiled:
        precision = "bf16" if on_gpu else "fp32"  # each device's usual one
        manners[f"{precision}, compile"] = (f"run.precision={precision}", "run.compile=true")
    variants: dict[str, Callable[[], float]] = {}
    first = {}
    for name, settings in manners.items():
        step = plain_step(changed(run, *settings))
        started = time.perf_counter()
        block(step, batches, 2)
        first[name] = round(time.perf_counter() - started, 2)
        count = steps if on_gpu or name == "fp32" or "compile" in name else 1
        variants[name] = partial(block, step, batches, count)
    values = interleaved(variants, rounds)
    return {
        "times_of_fp32": {name: ratio(values, name, "fp32") for name in manners},
        "seconds_of_the_first_two_steps": first,
    }


def loading(run: Any, count: int, loaders: int, step: Callable[[int, Any], None] | None = None) -> float:
    """Images a second of loading `count` batches with threads, and of training on them if a step is given."""
    from clst_train.data.loading import prefetched
    from clst_train.stages.adaptation import both_batches

    started = time.perf_counter()
    for iteration, batch in prefetched(partial(both_batches, run), 0, count, loaders=loaders):
        if step is not None:
            step(iteration, batch)
    synchronise()
    return float(count * 2 * run.config.adaptation.batch / (time.perf_counter() - started))


def measure_loading(run: Any, step: Callable[[int, Any], None], rounds: int, steps: int) -> dict[str, Any]:
    """Images a second of loading alone and of loading and training together, by loader threads."""
    ways = {"1 thread": 1, "2 threads": 2}

    def measured(count: int, step: Callable[[int, Any], None] | None) -> dict[str, Any]:
        variants = {name: partial(loading, run, count, loaders, step) for name, loaders in ways.items()}
        values = interleaved(variants, rounds)
        return {
            "images_a_second": {name: round(statistics.median(v), 2) for name, v in values.items()},
            "times_of_1_thread": {name: ratio(values, name, "1 thread") for name in values},
        }

    return {"loading_alone": measured(2 * steps, None), "loading_and_clst_step": measured(steps, step)}


def peak(folder: Path, settings: tuple[str, ...], stage: str) -> dict[str, float]:
    """Memory in MiB: what this process holds before its first step, its peak over some steps, and what was planned."""
    from clst_train.engine.preflight import memory_plans
    from clst_train.engine.run import loaded
    from clst_train.stages.adaptation import both_batches
    from clst_train.stages.source import labelled_crops, supervised_loss

    run = prepare(folder, settings)
    held = (resident_bytes() or 0) / 2**20
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if stage == "source":
        descent = _descent(run, [run.segmenter])
        for iteration, batch in loaded(run, labelled_crops, 0, 4):
            descent.backward(supervised_loss(run, batch))
            descent.step(iteration)
    else:
        step = clst_step(run)
        for iteration, both in loaded(run, both_batches, 0, 4):
            step(iteration, both)
    facts = {"resident_before": held, "resident_peak": peak_mib()}
    if run.device.type == "cuda":
        facts["cuda_peak"] = torch.cuda.max_memory_allocated() / 2**20
    plan = memory_plans(run, run.segmenter, trains_source=True)[0 if stage == "source" else 1]
    facts["planned"] = (plan.on_device() + plan.on_host()) / 2**20
    return {name: round(value, 1) for name, value in facts.items()}


def measure_peaks(folder: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """Peak memory of both stages, each in a process of its own."""
    found = {}
    for name, stage, more in (
        ("source", "source", ()),
        ("adapted", "adapted", ()),
    ):
        given = [part for setting in (*settings, *more) for part in ("--set", setting)]
        module = ("-m", "benchmarks.performance.training_speed")
        call = [sys.executable, *module, "--peak", stage, "--folder", str(folder), *given]
        done = subprocess.run(call, check=True, capture_output=True, text=True)
        found[name] = json.loads(done.stdout)
    return found


@click.command()
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting of the demo recipe.")
@click.option("--rounds", default=5, show_default=True, help="Rounds that each variant is measured in.")
@click.option("--steps", default=4, show_default=True, help="Steps of a block.")
@click.option("--compile", "compiled", is_flag=True, help="Measure run.compile too; takes minutes to compile.")
@click.option("--name", default="training_speed", show_default=True, help="Name of the result file.")
@click.option("--peak", "peak_of", hidden=True)
@click.option("--folder", hidden=True, type=click.Path(path_type=Path))
def main(
    settings: tuple[str, ...],
    rounds: int,
    steps: int,
    compiled: bool,  # noqa: FBT001 (click passes it by name)
    name: str,
    peak_of: str | None,
    folder: Path | None,
) -> None:
    """Measure the speed and memory of training on synthetic scenes."""
    import cv2

    cv2.setNumThreads(1)  # as clst-train does
    if peak_of is not None and folder is not None:
        print(json.dumps(peak(folder, settings, peak_of)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), settings, rounds, steps, compiled=compiled, result_name=name)


def measure(
    folder: Path, settings: tuple[str, ...], rounds: int, steps: int, *, compiled: bool, result_name: str
) -> dict[str, Any]:
    """All of it; each part is printed, and the result file written anew, when it is there."""
    from clst_train.stages.adaptation import both_batches

    run = prepare(folder, settings)
    batches = [both_batches(run, iteration) for iteration in range(3)]
    config = run.config
    result: dict[str, Any] = {
        "network": config.model.network,
        "input_hw": config.model.input_hw,
        "crop_hw": config.crop_hw,
        "batch": [config.adaptation.batch] * 2,
        "threads": torch.get_num_threads(),
        "settings": list(settings),
        "rounds": rounds,
        "steps_a_block": steps,
    }
    parts: dict[str, Callable[[], Any]] = {
        "step": lambda: measure_steps(changed(run), batches, rounds, steps),
        "memory_mib": lambda: measure_peaks(folder, settings),
        "loading": lambda: measure_loading(run, clst_step(changed(run)), rounds, steps),
        "manner": lambda: measure_manners(run, batches, rounds, steps, compiled=compiled),
    }
    for name, part in parts.items():
        result[name] = part()
        print(name, json.dumps(result[name], indent=1), flush=True)
        write_result(RESULTS / f"{result_name}.json", {"name": result_name, **provenance(), **result})
    return result


if __name__ == "__main__":
    main()
