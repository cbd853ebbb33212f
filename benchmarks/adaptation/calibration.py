"""Which temperature makes a network's confidence how often it is right, and which score finds its wrong pixels.

    python -m benchmarks.adaptation.calibration NAME --source OLD --target NEW --data LABELLED… [--held HELD] CKPT…

Each place is ROOT or ROOT:SPLIT of a data set. Of NEW no label is read; LABELLED are the new camera's images that only
the score reads; no network learnt from HELD, images of the old camera. A candidate's error is the expected calibration
error of the confidence as it is deployed. The result is the entry NAME of benchmarks/results/calibration.json.

Legend: P points of images, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.adaptation.unlabelled import labelled
from benchmarks.record import RESULTS, provenance, write_result
from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.reliability import Reliability
from clst_runtime.evaluation.resampling import points_of
from clst_train.data.fitting import fitted
from clst_train.data.look import COMPARED, look_of
from clst_train.engine.temperature import (
    IMAGES,
    SMALLER,
    Seen,
    by_labels,
    by_smaller,
    frames_of,
    logits_at,
    matching,
    places_of,
)
from clst_train.models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from clst_train.models.deployable import Deployable

SCORED = 96
"""Labelled images of the new camera, at most."""
SHARES = (0.5, SMALLER, 0.75)
GRID = np.exp(np.linspace(np.log(0.5), np.log(4.0), 64))
"""Temperatures that are tried where the best one is looked for."""
Values = npt.NDArray[np.float64]


class Camera:
    """An old and a new camera as a network sees them, read once for all networks of one size and class list."""

    def __init__(self, like: Checkpoint, source: str, target: str, held: str | None, data: tuple[str, ...]) -> None:
        self.size_hw, self.fit = like.input_hw, like.fit
        self.source, self.target = labelled(source, like.classes), labelled(target, like.classes)
        self.held = None if held is None else labelled(held, like.classes)
        self.scored = {Path(place.split(":")[0]).name: labelled(place, like.classes) for place in data}
        old, new = (self._compared(each) for each in (self.source, self.target))
        self.look = look_of(((each, None) for each in old), ((each, None) for each in new), self.size_hw)
        self.others = new

    def _compared(self, images: LabelledDataset) -> list[Any]:
        return [fitted(images[place], self.size_hw, self.fit).image for place in evenly_spread(len(images), COMPARED)]

    def in_look(self, network: Deployable, images: LabelledDataset) -> Iterator[Seen]:
        """As `by_labels`, of images in the new camera's look."""
        rng, places = np.random.default_rng(0), places_of(self.size_hw)
        for number, place in enumerate(evenly_spread(len(images), IMAGES)):
            sample = fitted(images[place], self.size_hw, self.fit)
            shown = self.look.put_on(sample.image, self.others[number % len(self.others)], rng)
            yield logits_at(network, shown, places), points_of(sample.labels)

    def temperatures(self, network: Deployable) -> dict[str, float]:
        """Every candidate."""
        old = list(by_labels(network, self.source, self.fit))
        smaller = {
            share: matching(by_smaller(network, frames_of(self.target, self.size_hw, self.fit), share))
            for share in SHARES
        }
        found = {
            "none": 1.0,
            "source": matching(old),
            "source, by likelihood": by_likelihood(old),
            "source in the new look": matching(self.in_look(network, self.source)),
            **{f"smaller, {share:g}": each for share, each in smaller.items()},
            "source and smaller": max(matching(old), smaller[SMALLER]),
        }
        if self.held is not None:
            found["held out"] = matching(by_labels(network, self.held, self.fit))
            found["held out in the new look"] = matching(self.in_look(network, self.held))
        return found


def known(seen: Iterator[Seen] | list[Seen]) -> tuple[Tensor, Tensor]:
    """P,C logits and P classes of labelled points."""
    pairs = list(seen)
    logits, truth = (
        torch.cat([each for each, _ in pairs]),
        torch.from_numpy(np.concatenate([each for _, each in pairs])),
    )
    return logits[truth != IGNORE_ID], truth[truth != IGNORE_ID].long()


def by_likelihood(seen: list[Seen]) -> float:
    """The temperature of GRID by which the labels are most probable."""
    logits, truth = known(seen)
    return float(min(GRID, key=lambda each: F.cross_entropy(logits / each, truth).item()))


def error(logits: Tensor, truth: Tensor, temperature: float) -> float:
    """Expected calibration error, in points, of the confidence in 256 levels."""
    top, classes = (logits / temperature).softmax(1).max(1)
    found = Reliability()
    found.update(*(each.numpy().astype(np.uint8) for each in (truth, classes, (255 * top).round())))
    return 100 * found.ece()


def scores(logits: Tensor, usual: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """P values, high where a point may be wrong, by every score; `usual`: C means and deviations of largest logits."""
    probabilities, (top, classes) = logits.softmax(1), logits.max(1)
    two = probabilities.topk(2, 1).values
    return {
        "confidence": -two[:, 0],
        "entropy": -(probabilities * probabilities.clamp_min(1e-9).log()).sum(1),
        "margin": two[:, 1] - two[:, 0],
        "energy": -logits.logsumexp(1),
        "largest logit": -top,
        "standardised largest logit": (usual[0][classes] - top) / usual[1][classes],
    }


def usual_logits(seen: list[Seen]) -> tuple[Tensor, Tensor]:
    """C means and standard deviations of the largest logit of what is taken for each class."""
    top, classes = torch.cat([each for each, _ in seen]).max(1)
    count = seen[0][0].shape[1]
    of_each = [top[classes == each] for each in range(count)]
    of_each = [each if len(each) > 1 else top for each in of_each]
    return torch.stack([each.mean() for each in of_each]), torch.stack([each.std() for each in of_each])


def found_wrong(score: Tensor, wrong: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Area under the curves of true by false positives, and of precision by recall, both in percent."""
    order = np.argsort(-score.numpy(), kind="stable")
    hits = wrong[order]
    ranks = np.flatnonzero(hits[::-1])  # of wrong points, from the least suspect one on
    count, others = len(ranks), len(hits) - len(ranks)
    auroc = (ranks.sum() - count * (count - 1) / 2) / (count * others)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return {"auroc": round(100 * float(auroc), 2), "aupr": round(100 * float(precision[hits].mean()), 2)}


def measured(checkpoint: Path, camera: Camera) -> dict[str, Any]:
    """One network."""
    loaded = load_checkpoint(checkpoint)
    network = Deployable(build_from_checkpoint(loaded), camera.size_hw)
    temperatures, places = camera.temperatures(network), places_of(camera.size_hw)
    usual, found = usual_logits(list(by_labels(network, camera.source, camera.fit))), {}
    for name, images in camera.scored.items():
        samples = (fitted(images[place], camera.size_hw, camera.fit) for place in evenly_spread(len(images), SCORED))
        logits, truth = known((logits_at(network, each.image, places), points_of(each.labels)) for each in samples)
        top, classes = logits.softmax(1).max(1)
        wrong = (classes != truth).numpy()
        best = min(GRID, key=lambda each: error(logits, truth, each))
        found[name] = {
            "right": round(100 * float(1 - wrong.mean()), 2),
            "confidence": round(100 * float(top.mean()), 2),
            "error": {each: round(error(logits, truth, value), 2) for each, value in temperatures.items()},
            "best": {"temperature": round(float(best), 3), "error": round(error(logits, truth, best), 2)},
            "wrong": {each: found_wrong(score, wrong) for each, score in scores(logits, usual).items()},
        }
    return {"temperatures": {each: round(value, 3) for each, value in temperatures.items()}, "data": found}


@click.command(help=__doc__)
@click.argument("name")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--source", required=True, help="Labelled images that the networks learnt from.")
@click.option("--target", required=True, help="Images that they were adapted to.")
@click.option("--data", required=True, multiple=True, help="Labelled images of the new camera, for the score.")
@click.option("--held", help="Labelled images of the old camera that no network learnt from.")
def main(
    name: str, checkpoints: tuple[Path, ...], source: str, target: str, data: tuple[str, ...], held: str | None
) -> None:
    torch.set_num_threads(1)
    camera = Camera(load_checkpoint(checkpoints[0]), source, target, held, data)
    networks = {}
    for checkpoint in checkpoints:
        key = "/".join(part for part in checkpoint.with_suffix("").parts[-3:] if part not in ("checkpoints", "runs"))
        networks[key] = measured(checkpoint, camera)
        errors = {each: values["error"] for each, values in networks[key]["data"].items()}
        click.echo(f"{key} {json.dumps(networks[key]['temperatures'])} {json.dumps(errors)}")
    path = RESULTS / "calibration.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    write_result(path, {**before, name: {**provenance(), "networks": networks}})


if __name__ == "__main__":
    main()
