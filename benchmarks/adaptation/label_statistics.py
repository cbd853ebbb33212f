"""How good pseudo-labels are by which BatchNorm statistics, before any training.

    python -m benchmarks.adaptation.label_statistics PAIR CHECKPOINT --work FOLDER [--data DIR]
        [--images N] [--name NAME]

CHECKPOINT is a source network of the pair (benchmarks/adaptation/compare.py leaves them in its work folder). It labels
the pair's own target images, four at a time in a random order, by the statistics of the source, of each batch alone,
and of the target; the latter follow the batches, and views are averaged. At most N images are labelled, drawn at
random; their own labels are read for the score alone. The result goes to benchmarks/results/<name>.json.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.adaptation.compare import with_statistics
from benchmarks.adaptation.pairs import PAIRS, Pair
from benchmarks.adaptation.scoring import mean_iou, merged, per_class

HERE = Path(__file__).parents[1]

BATCH = 4
VIEWS: dict[str, tuple[tuple[float, bool], ...]] = {
    "whole": ((1.0, False),),
    "whole and mirrored": ((1.0, False), (1.0, True)),
    "0.8 times as large": ((0.8, False),),
    "1.25 times as large": ((1.25, False),),
    "whole and 1.25 times as large": ((1.0, False), (1.25, False)),
    "whole, 0.8 and 1.25 times as large": ((1.0, False), (0.8, False), (1.25, False)),
    "whole, mirrored, 1.25 times as large": ((1.0, False), (1.0, True), (1.25, True)),
}
"""Zoom and mirror of each view whose probabilities are averaged."""


def probabilities(network: Any, images: Tensor, views: tuple[tuple[float, bool], ...]) -> Tensor:
    """B,C,h,w: mean over the views, each brought back to the plain one's place."""
    size_hw = images.shape[-2:]
    found: list[Tensor] = []
    for zoom, mirrored in views:
        zoomed = [32 * round(size * zoom / 32) if zoom != 1 else size for size in size_hw]
        seen = images if zoom == 1 else F.interpolate(images, size=zoomed, mode="bilinear", align_corners=False)
        said = network(seen.flip(-1) if mirrored else seen).float().softmax(1)
        said = said.flip(-1) if mirrored else said
        found.append(F.interpolate(said, size=found[0].shape[-2:], mode="bilinear") if found else said)
    return torch.stack(found).mean(0)


@torch.no_grad()
def matrix(pair: Pair, checkpoint: Path, views: tuple[tuple[float, bool], ...], way: str, most: int) -> Any:
    """Confusions C,C of the labels given to at most `most` images by `own`, `batch` or `followed` statistics."""
    from clst_runtime.classes.labels import IGNORE_ID
    from clst_runtime.errors import ConfigError
    from clst_runtime.imaging.geometry import Fit, resize_frame
    from clst_train.config import AdaptationConfig
    from clst_train.method.batchnorm import FollowedStatistics
    from clst_train.models.checkpoint import build_from_checkpoint, load_checkpoint
    from clst_train.models.deployable import normalise

    content = load_checkpoint(checkpoint)
    if content.fit is not Fit.STRETCH:
        raise ConfigError(f"{checkpoint} was trained with fit {content.fit.value}; this measures networks that stretch")
    network, data = build_from_checkpoint(content).eval(), pair.oracle.open(content.classes)
    momentum = {"own": 0.0, "batch": 1.0, "followed": AdaptationConfig().statistics_momentum}[way]
    statistics, count = FollowedStatistics(network, momentum), len(content.classes)
    sums = np.zeros((count, count), np.int64)
    # As in training in a random order: neighbours in time are much alike
    order = np.random.default_rng(0).permutation(len(data))[:most]
    for start in range(0, len(order), BATCH):
        samples = [data[int(index)] for index in order[start : start + BATCH]]
        frames = np.stack([resize_frame(sample.image, content.input_hw) for sample in samples])
        with statistics.used_by(network):
            said = probabilities(network, normalise(torch.from_numpy(frames)), views).clamp_min(1e-4).log()
        for sample, cells in zip(samples, said, strict=True):
            shown = F.interpolate(cells[None], size=sample.labels.shape, mode="bilinear", align_corners=False)[0]
            known = sample.labels != IGNORE_ID
            place = sample.labels[known].astype(np.int64) * count + shown.argmax(0).numpy()[known]
            sums += np.bincount(place, minlength=count * count).reshape(count, count)
    return sums


def merged_score(pair: Pair, sums: Any, names: tuple[str, ...]) -> dict[str, float]:
    """The second score of a pair that has merged groups."""
    if not pair.merged:
        return {}
    groups = [[names.index(each) for each in members] for members in pair.merged]
    return {"miou_merged": 100 * mean_iou(merged(sums, groups), list(range(len(groups))))}


@click.command()
@click.argument("pair_name", metavar="PAIR", type=click.Choice(sorted(PAIRS)))
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--work", required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder that holds camvid/ and idd_lite/.")
@click.option("--images", default=200, show_default=True, type=click.IntRange(BATCH), help="Most that are labelled.")
@click.option("--name", help="Of the result file.")
def main(
    pair_name: str, checkpoints: tuple[Path, ...], work: Path, data: Path | None, images: int, name: str | None
) -> None:
    """Score the labels that CHECKPOINTS give the target images of PAIR."""
    from clst_runtime.system.files.atomic import write_text
    from clst_runtime.system.machine import machine_facts

    pair = PAIRS[pair_name](work, data)
    names = pair.classes()
    headline = [names.index(each) for each in pair.headline] or list(range(len(names)))
    told: list[dict[str, Any]] = []
    for place, checkpoint in enumerate(checkpoints):
        adapted = with_statistics(checkpoint, pair)
        ways: list[tuple[str, Path, str, str]] = [
            ("the source's statistics", checkpoint, "own", "whole"),
            ("each batch's own", checkpoint, "batch", "whole"),
            *(("the target's, followed", adapted, "followed", views) for views in VIEWS),
            ("the target's", adapted, "own", "whole"),
        ]
        for title, path, way, views in ways:
            sums = matrix(pair, path, VIEWS[views], way, images)
            row = {"network": place + 1, "statistics": title, "views": views, "miou": 100 * mean_iou(sums, headline)}
            told.append({**row, **merged_score(pair, sums, names), "iou": per_class(sums, names)})
            click.echo(f"{row['network']} {title:26} {views:38} {row['miou']:6.2f}")
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    facts = {"pair": pair.name, "title": pair.title, "size": pair.size, "batch": BATCH, "images": images,
             "date": time.strftime("%Y-%m-%d"), "commit": commit, "machine": machine_facts()}  # fmt: skip
    result = HERE / "results" / f"{name or f'label_statistics_{pair.name}'}.json"
    write_text(result, json.dumps(facts | {"rows": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
