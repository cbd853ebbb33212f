"""The temporal ensemble's store: how small it is, what it costs in labels, in the step and at a checkpoint.

    python -m benchmarks.performance.ensemble_store CHECKPOINT IMAGES --work FOLDER

A run's visits are imitated: the checkpoint's network is visited by each image many times, its weights wander a little,
its BatchNorm takes the statistics of the batch, and the image's colours change, so that predictions vary over time as
they do in training (compare `agreement` with the column of that name in a run's log.jsonl). Every store and the dense
float32 references take in the same predictions. The result goes to benchmarks/results/ensemble_store.json.

Legend: N images, C classes, H,W the input size, h,w cells at output stride, B images of a batch.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.machine import machine_facts
from clst_train.config import AdaptationConfig, AugmentationConfig
from clst_train.data.augment import draw_geometry, mixing_mask, vary_colours
from clst_train.data.loading import SourceBatch, TargetBatch
from clst_train.data.target import TargetImages, open_target
from clst_train.engine.optimizer import Descent
from clst_train.inspection.diagnostics import Diagnostics
from clst_train.method.batchnorm import FollowedStatistics
from clst_train.method.ensemble.cells import FULL_SCALE, Cells
from clst_train.method.ensemble.snapshot import restore_snapshot, save_snapshot
from clst_train.method.ensemble.store import EnsembleStore, StoreLayout
from clst_train.method.ensemble.temporal import TemporalEnsemble
from clst_train.method.learner import Learner
from clst_train.method.prototypes import Prototypes
from clst_train.method.step import adaptation_step
from clst_train.models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from clst_train.models.deployable import normalise
from clst_train.models.projection import ProjectionHead

HERE = Path(__file__).parents[1]
CITYSCAPES = {"images": 2975, "classes": 19, "size_hw": (64, 128), "target": "benchmark"}
CITYSCAPES_DENSE_BYTES = 512 * 1024 * 19 * 4
MODES = {"exact": None, "top_2": 2, "top_3": 3, "top_5": 5}


class Forgetful(TemporalEnsemble):
    """For comparison: probability outside the k classes is dropped instead of shared out."""

    def _decoded(self, cells: Cells) -> Tensor:
        if cells.classes is None:
            raise ValueError("a store of every class forgets nothing")
        values = (cells.values.to(torch.int32) & FULL_SCALE).float() / FULL_SCALE
        shape = (len(values), self.store.layout.classes, *values.shape[2:])
        return torch.zeros(shape).scatter_(1, cells.classes.long(), values)


class Dense:
    """Equation 2 in float32 without any store; whole images are visited, so visits are counted by image."""

    def __init__(self, images: int, classes: int, size_hw: tuple[int, int], momentum: float) -> None:
        self.mean, self.visits = torch.zeros(images, classes, *size_hw), torch.zeros(images)
        self.momentum = momentum

    def update(self, indices: np.ndarray, probabilities: Tensor) -> None:
        self.visits[indices] += 1
        gain = (1 - self.momentum) / (1 - self.momentum ** self.visits[indices])
        self.mean[indices] += gain[:, None, None, None] * (probabilities - self.mean[indices])


@torch.no_grad()
def visits(
    checkpoint: Checkpoint, images: TargetImages, count: int, rounds: int, strength: float
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Batches of four images' logits B,C,h,w while the network's weights wander by `strength` of their size."""
    segmenter, rng = build_from_checkpoint(checkpoint), np.random.default_rng(0)
    statistics = FollowedStatistics(segmenter, AdaptationConfig().statistics_momentum)
    generator = torch.Generator().manual_seed(0)
    weights = {name: value.clone() for name, value in segmenter.named_parameters()}
    away = {name: torch.zeros_like(value) for name, value in weights.items()}
    settings = AugmentationConfig()
    for _ in range(rounds):
        order = rng.permutation(count)
        for start in range(0, count - count % 4, 4):
            for name, value in segmenter.named_parameters():
                noise = torch.randn(value.shape, generator=generator)
                away[name] = 0.8 * away[name] + 0.6 * noise  # keeps a spread of 1
                value.copy_(weights[name] * (1 + strength * away[name]))
            chosen = order[start : start + 4]
            frames = np.stack([vary_colours(rng, images[int(index)], settings) for index in chosen])
            with statistics.used_by(segmenter):
                yield chosen, segmenter(normalise(torch.from_numpy(frames)))


def full_size(cells: Tensor, input_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(cells, size=input_hw, mode="bilinear", align_corners=False)


def make_stores(images: int, classes: int, size_hw: tuple[int, int], momentum: float) -> dict[str, TemporalEnsemble]:
    """Every store by its name, in memory."""
    stores = {}
    for name, top_k in MODES.items():
        layout = StoreLayout(images=images, classes=classes, size_hw=size_hw, top_k=top_k, target="benchmark")
        stores[name] = TemporalEnsemble(EnsembleStore.in_memory(layout), momentum)
        if top_k is not None:
            stores[f"{name}, rest dropped"] = Forgetful(EnsembleStore.in_memory(layout), momentum)
    return stores


def agreement(checkpoint: Checkpoint, images: TargetImages, count: int, rounds: int, strength: float) -> dict[str, Any]:
    """How often each store's arg-max is that of the dense references, after the last visit."""
    momentum, classes, input_hw = 0.9, len(checkpoint.classes), images.input_hw
    with torch.no_grad():
        size_hw = tuple(build_from_checkpoint(checkpoint)(torch.zeros(1, 3, *input_hw)).shape[2:])
    same, whole = Dense(count, classes, size_hw, momentum), Dense(count, classes, input_hw, momentum)
    stores = make_stores(count, classes, size_hw, momentum)
    with_itself, outside = [], []
    for chosen, logits in visits(checkpoint, images, count, rounds, strength):
        p = logits.softmax(1)
        same.update(chosen, p)
        whole.update(chosen, full_size(logits, input_hw).softmax(1))
        for store in stores.values():
            store.update(chosen, p)
        with_itself.append(_equal(same.mean[chosen].argmax(1), p.argmax(1)))
        outside.append(1 - same.mean[chosen].topk(5, dim=1).values.sum(1).mean().item())
    truth = whole.mean.argmax(1)  # N,H,W
    as_log = full_size(same.mean.clamp_min(1e-9).log(), input_hw).argmax(1)
    rows: dict[str, Any] = {
        "dense float32": {"full_size": _equal(full_size(same.mean, input_hw).argmax(1), truth)},
        "dense float32, logarithms interpolated": {"full_size": _equal(as_log, truth)},
    }
    for name, store in stores.items():
        read, record = torch.from_numpy(store.read(np.arange(count))), store.store.layout.record.itemsize
        rows[name] = {
            "same_stride": _equal(read.argmax(1), same.mean.argmax(1)),
            "full_size": _equal(full_size(read, input_hw).argmax(1), truth),
            "mean_difference": (read - same.mean).abs().mean().item(),
            "bytes_per_image": record,
            "of_dense_float32": input_hw[0] * input_hw[1] * classes * 4 / record,
        }
    return {
        "strength": strength,
        "visits_per_image": rounds,
        "agreement": float(np.mean(with_itself[len(with_itself) // 2 :])),
        "probability_outside_top_5": float(np.mean(outside)),
        "stores": rows,
    }


def _equal(first: Tensor, second: Tensor) -> float:
    return (first == second).double().mean().item()


def median_cpu_s(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of `work`, after one run to warm up; other processes on the machine do not count."""
    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return float(np.median(times[1:]))


def step_share(checkpoint: Checkpoint, images: TargetImages, top_k: int | None) -> dict[str, float]:
    """An adaptation step with backward pass and optimiser, and the ensemble's update alone, on one batch of four."""
    segmenter, rng = build_from_checkpoint(checkpoint).train(), np.random.default_rng(0)
    settings, crop_hw = AdaptationConfig(), images.input_hw
    with torch.no_grad():
        logits = segmenter(normalise(torch.from_numpy(np.stack([images[index] for index in range(4)]))))
    layout = StoreLayout(
        images=4, classes=len(checkpoint.classes), size_hw=logits.shape[2:], top_k=top_k, target="benchmark"
    )
    learner = Learner(
        segmenter=segmenter,
        projection=ProjectionHead(segmenter.feature_channels, 128, 128),
        prototypes=Prototypes(len(checkpoint.classes), 128, 0.99, torch.device("cpu")),
        ensemble=TemporalEnsemble(EnsembleStore.in_memory(layout), settings.ensemble_momentum),
        settings=settings,
        device=torch.device("cpu"),
        autocast=torch.autocast("cpu", enabled=False),
        diagnostics=Diagnostics(4, len(checkpoint.classes), layout.size_hw, torch.device("cpu")),
    )
    source, target = _batches(images, logits, crop_hw, rng)
    modules = [segmenter, learner.projection]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    descent = Descent(torch.optim.AdamW(parameters, lr=1e-5), modules, torch.device("cpu"))

    def step() -> None:
        descent.descend(adaptation_step(learner, source, target, target_weight=1.0).loss, 0)

    p = logits.softmax(1)
    step_s = median_cpu_s(step, 5)
    update_s = median_cpu_s(lambda: learner.ensemble.update(target.indices, p), 20)
    return {"step_s": step_s, "update_s": update_s, "share": update_s / step_s}


def _batches(
    images: TargetImages, logits: Tensor, crop_hw: tuple[int, int], rng: np.random.Generator
) -> tuple[SourceBatch, TargetBatch]:
    whole = np.stack([images[index] for index in range(4)])
    views = tuple(draw_geometry(rng, AugmentationConfig(), images.input_hw, crop_hw) for _ in whole)
    labels = full_size(logits, images.input_hw).argmax(1).to(torch.uint8).numpy()
    crops = np.stack([view.image(image) for view, image in zip(views, whole, strict=True)])
    source = SourceBatch(images=whole, labels=labels, mixing=np.stack([mixing_mask(rng, part, 255) for part in labels]))
    ignored = np.zeros((4, *crop_hw), bool)
    return source, TargetBatch(indices=np.arange(4), whole=whole, crops=crops, ignored=ignored, geometries=views)


def checkpoint_cost(work: Path, top_k: int | None) -> dict[str, Any]:
    """Wall seconds for the store of 2975 images of 1024×512 and 19 classes, its disk's flush included."""
    layout = StoreLayout(top_k=top_k, **CITYSCAPES)  # type: ignore[arg-type]
    working, rng = work / "ensemble.store", np.random.default_rng(0)
    started = time.perf_counter()
    store = EnsembleStore.create(working, layout)
    create_s = time.perf_counter() - started
    for index in range(layout.images):  # written, as after the first epoch
        store.content[layout.records_start :].reshape(layout.images, -1)[index] = rng.integers(
            256, size=layout.record.itemsize, dtype=np.uint8
        )
    ensemble, times = TemporalEnsemble(store, 0.9), []
    for iteration in range(3):
        started = time.perf_counter()
        state = save_snapshot(ensemble, working, work / "checkpoints", iteration)
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    restore_snapshot(state, work / "checkpoints", working, layout)
    restore_s = time.perf_counter() - started
    for path in [working, *(work / "checkpoints").glob("ensemble-*.store")]:
        path.unlink()
    return {
        "file_mib": layout.file_bytes / 2**20,
        "bytes_per_image": layout.record.itemsize,
        "of_dense_float32": CITYSCAPES_DENSE_BYTES / layout.record.itemsize,
        "create_s": create_s,
        "checkpoint_s": float(np.median(times)),
        "restore_s": restore_s,
    }


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("images", type=click.Path(path_type=Path, exists=True))
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder with a GB of room.")
@click.option("--count", default=24, show_default=True, help="Images to visit, a multiple of four.")
@click.option("--rounds", default=24, show_default=True, help="Visits of each image.")
@click.option("--strength", default=(0.05, 0.1), multiple=True, show_default=True, help="How far weights wander.")
def main(checkpoint: Path, images: Path, work: Path, count: int, rounds: int, strength: tuple[float, ...]) -> None:
    """Measure the stores of the temporal ensemble."""
    torch.set_num_threads(1)
    network = load_checkpoint(checkpoint)
    target = open_target([str(images)], input_hw=network.input_hw, fit=network.fit)
    count = min(count, len(target) - len(target) % 4)
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    result = {
        "name": "ensemble_store",
        "date": time.strftime("%Y-%m-%d"),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "machine": machine_facts(),
        "network": network.network,
        "classes": len(network.classes),
        "input_hw": list(network.input_hw),
        "images": count,
        "agreement": [agreement(network, target, count, rounds, value) for value in strength],
        "step": {name: step_share(network, target, k) for name, k in MODES.items() if name in ("exact", "top_5")},
        "2975_images_of_512x1024": {n: checkpoint_cost(work, k) for n, k in MODES.items() if n in ("exact", "top_5")},
    }
    write_text(HERE / "results" / "ensemble_store.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
