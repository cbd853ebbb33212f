"""Which temperature makes a network's confidence how often it is right, and which score finds its wrong pixels.

    python -m benchmarks.adaptation.calibration NAME --source OLD --target NEW --data LABELLED… [--held HELD] CKPT…

Each place is ROOT, ROOT:SPLIT or ROOT:SPLIT:MAPPING of a data set. Of NEW no label is read; LABELLED are the new
camera's images that only the score reads; no network learnt from HELD, images of the old camera. A candidate's error is
the expected calibration error of the confidence as it is deployed. The result is the entry NAME of
benchmarks/results/calibration.json, whose other networks stay.

Legend: P points of images, C classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
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
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.reliability import Reliability
from clst_runtime.evaluation.resampling import points_of
from clst_train.data.fitting import FittedSample, fitted
from clst_train.data.look import COMPARED, look_of
from clst_train.engine.temperature import IMAGES, SMALLER, Seen, in_smaller, logits_at, matching
from clst_train.models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from clst_train.models.deployable import Deployable

SCORED = 101
"""Labelled images of the new camera, at most."""
SHARES = (0.5, SMALLER, 0.75)
FEWER = (32, 64)
"""Images of each camera that the rule is tried with, beside `IMAGES`."""
GRID = np.exp(np.linspace(np.log(0.5), np.log(4.0), 64))
"""Temperatures that are tried where the best one is looked for."""
Samples = Sequence[FittedSample]


class Cameras:
    """Images of an old and a new camera as networks of one size and class list see them, read once for all."""

    def __init__(self, like: Checkpoint, source: str, target: str, held: str | None, data: tuple[str, ...]) -> None:
        self.like = like
        self.old, self.new = self._read(source, IMAGES), self._read(target, IMAGES)
        self.held = [] if held is None else self._read(held, IMAGES)
        self.scored = {_named(place): self._read(place, SCORED) for place in data}

    def _read(self, place: str, most: int) -> list[FittedSample]:
        images = labelled(place, self.like.classes)
        places = evenly_spread(len(images), most)
        return [fitted(images[each], self.like.input_hw, self.like.fit) for each in places]

    def in_new_look(self, samples: Samples) -> list[FittedSample]:
        """Images of the old camera as the new one would have shown them."""
        old, new = ([each.image for each in samples[:COMPARED]] for samples in (self.old, self.new))
        look = look_of(((each, None) for each in old), ((each, None) for each in new), self.like.input_hw)
        rng = np.random.default_rng(0)
        return [
            dataclasses.replace(each, image=look.put_on(each.image, new[number % len(new)], rng))
            for number, each in enumerate(samples)
        ]

    def temperatures(self, network: Deployable) -> dict[str, float]:
        """Every candidate; the checkpoint's own was fitted on the images of its run."""
        old, new = seen_in(network, self.old), [logits_at(network, each.image) for each in self.new]
        smaller = {
            share: [
                (logits, in_smaller(network, each.image, each.content.padding(self.like.input_hw), share))
                for logits, each in zip(new, self.new, strict=True)
            ]
            for share in SHARES
        }
        found = {
            "none": 1.0,
            "in the checkpoint": network.segmenter.temperature,
            "source": matching(old),
            "source, by likelihood": by_likelihood(old),
            "source in the new look": matching(seen_in(network, self.in_new_look(self.old))),
            **{f"smaller, {share:g}": matching(each) for share, each in smaller.items()},
        }
        for count in (*FEWER, IMAGES):
            few = [[each[place] for place in evenly_spread(len(each), count)] for each in (old, smaller[SMALLER])]
            found[f"source and smaller, {count} images"] = max(map(matching, few))
        if self.held:
            found["held out"] = matching(seen_in(network, self.held))
            found["held out in the new look"] = matching(seen_in(network, self.in_new_look(self.held)))
        return found


def _named(place: str) -> str:
    root, _, split = place.partition(":")
    return f"{Path(root).name}:{split.partition(':')[0] or 'train'}"


def seen_in(network: Deployable, samples: Samples) -> list[Seen]:
    """Logits and labels."""
    return [(logits_at(network, each.image), points_of(each.labels)) for each in samples]


def known(seen: Sequence[Seen]) -> tuple[Tensor, Tensor]:
    """P,C logits and P classes of labelled points."""
    logits = torch.cat([each for each, _ in seen])
    truth = torch.from_numpy(np.concatenate([each for _, each in seen]))
    return logits[truth != IGNORE_ID], truth[truth != IGNORE_ID].long()


def by_likelihood(seen: Sequence[Seen]) -> float:
    """The temperature of GRID by which the labels are most probable."""
    logits, truth = known(seen)
    return float(min(GRID, key=lambda each: F.cross_entropy(logits / each, truth).item()))


def exported(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """P confidences 0 … 255 and P classes, as a graph gives them."""
    top, classes = (logits / temperature).softmax(1).max(1)
    return (255 * top).round(), classes


def error(logits: Tensor, truth: Tensor, temperature: float) -> float:
    """Expected calibration error, in points."""
    sure, classes = exported(logits, temperature)
    found = Reliability()
    found.update(*(each.numpy().astype(np.uint8) for each in (truth, classes, sure)))
    return 100 * found.ece()


def scores(logits: Tensor, temperature: float, usual: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """P values, high where a point may be wrong, by every score; `usual`: C means and deviations of largest logits."""
    probabilities, (top, classes) = logits.softmax(1), logits.max(1)
    two = probabilities.topk(2, 1).values
    return {
        "confidence": -two[:, 0],
        "confidence as exported": -exported(logits, temperature)[0],
        "entropy": -(probabilities * probabilities.clamp_min(1e-9).log()).sum(1),
        "margin": two[:, 1] - two[:, 0],
        "energy": -logits.logsumexp(1),
        "largest logit": -top,
        "standardised largest logit": (usual[0][classes] - top) / usual[1][classes],
    }


def usual_logits(seen: Sequence[Seen]) -> tuple[Tensor, Tensor]:
    """C means and standard deviations of the largest logit of what is taken for each class."""
    top, classes = torch.cat([each for each, _ in seen]).max(1)
    count = seen[0][0].shape[1]
    of_each = [top[classes == each] for each in range(count)]
    of_each = [each if len(each) > 1 else top for each in of_each]
    return torch.stack([each.mean() for each in of_each]), torch.stack([each.std() for each in of_each])


def auroc(score: Tensor, wrong: npt.NDArray[np.bool_]) -> float:
    """Of pairs of a wrong and a right point, in percent, those whose wrong one has the higher score; a tie is half."""
    _, which, counts = np.unique(score.numpy(), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    count = int(wrong.sum())
    return 100 * float((ranks[wrong].sum() - count * (count + 1) / 2) / (count * (len(wrong) - count)))


def measured(network: Deployable, cameras: Cameras) -> dict[str, Any]:
    """One network."""
    temperatures, found = cameras.temperatures(network), {}
    usual = usual_logits(seen_in(network, cameras.old))
    for name, samples in cameras.scored.items():
        logits, truth = known(seen_in(network, samples))
        top, classes = logits.softmax(1).max(1)
        wrong = (classes != truth).numpy()
        best = min(GRID, key=lambda each: error(logits, truth, each))
        every = scores(logits, network.segmenter.temperature, usual)
        found[name] = {
            "right": round(100 * float(1 - wrong.mean()), 2),
            "confidence": round(100 * float(top.mean()), 2),
            "error": {each: round(error(logits, truth, value), 2) for each, value in temperatures.items()},
            "best": {"temperature": round(float(best), 3), "error": round(error(logits, truth, best), 2)},
            "auroc of wrong points": {each: round(auroc(score, wrong), 2) for each, score in every.items()},
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
    cameras = Cameras(load_checkpoint(checkpoints[0]), source, target, held, data)
    path = RESULTS / "calibration.json"
    for checkpoint in checkpoints:
        network = Deployable(build_from_checkpoint(load_checkpoint(checkpoint)), cameras.like.input_hw)
        key = "/".join(part for part in checkpoint.with_suffix("").parts[-2:] if part != "checkpoints")
        found, now = measured(network, cameras), provenance()
        errors = {each: values["error"] for each, values in found["data"].items()}
        click.echo(f"{key} {json.dumps(found['temperatures'])} {json.dumps(errors)}")
        before = json.loads(path.read_text()) if path.is_file() else {}
        networks = before.get(name, {}).get("networks", {}) | {key: {"commit": now["commit"], **found}}
        write_result(path, {**before, name: {**now, "networks": networks}})


if __name__ == "__main__":
    main()
