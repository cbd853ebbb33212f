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
from clst_train.data.look import look_of
from clst_train.engine.temperature import IMAGES, SMALLER, Seen, in_smaller, logits_at, matching
from clst_train.models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from clst_train.models.deployable import Deployable

SCORED = 101
"""Labelled images of the new camera, at most; where they are NEW itself, as many as the rule looks at."""
SHARES = (0.5, 0.6, 0.75)
"""Of both sides: what images made smaller have."""
FEWER = (32, 64)
"""Images of each camera that the rule is tried with, beside `IMAGES`."""
EACH = 2
"""Candidates that are not the rule or a part of it look at every second image."""
GRID = np.exp(np.linspace(np.log(0.5), np.log(4.0), 64))
"""Temperatures that are tried where the best one is looked for."""
Samples = Sequence[FittedSample]


class Cameras:
    """Images of an old and a new camera as networks of one size and class list see them, read once for all."""

    def __init__(self, like: Checkpoint, source: str, target: str, held: str | None, data: tuple[str, ...]) -> None:
        self.like = like
        self.old, self.new = self._read(source, IMAGES), self._read(target, IMAGES)
        self.held = [] if held is None else self._read(held, IMAGES)[::EACH]
        self.scored = {_named(place): self.new if place == target else self._read(place, SCORED) for place in data}
        self.old_as_new, self.held_as_new = self._in_new_look(self.old[::EACH]), self._in_new_look(self.held)

    def _read(self, place: str, most: int) -> list[FittedSample]:
        images = labelled(place, self.like.classes)
        places = evenly_spread(len(images), most)
        return [fitted(images[each], self.like.input_hw, self.like.fit) for each in places]

    def _in_new_look(self, samples: Samples) -> list[FittedSample]:
        """Images of the old camera as the new one would have shown them."""
        old, new = ([each.image for each in samples[::EACH]] for samples in (self.old, self.new))
        look = look_of(((each, None) for each in old), ((each, None) for each in new), self.like.input_hw)
        rng = np.random.default_rng(0)
        return [
            dataclasses.replace(each, image=look.put_on(each.image, new[number % len(new)], rng))
            for number, each in enumerate(samples)
        ]

    def smaller(self, network: Deployable, new: Sequence[Seen], share: float, every: int = 1) -> list[Seen]:
        """Logits of the new camera's images, and the classes in them made smaller."""
        return [
            (logits, in_smaller(network, each.image, each.content.padding(self.like.input_hw), share))
            for (logits, _), each in list(zip(new, self.new, strict=True))[::every]
        ]

    def temperatures(self, network: Deployable, old: Sequence[Seen], new: Sequence[Seen]) -> dict[str, float]:
        """Every candidate; the checkpoint's own was fitted on the images of its run."""
        source, smaller = matching(old), self.smaller(network, new, SMALLER)
        of_shares = {
            share: matching(smaller if share == SMALLER else self.smaller(network, new, share, EACH))
            for share in SHARES
        }
        found = {
            "none": 1.0,
            "in the checkpoint": network.segmenter.temperature,
            "source": source,
            "source, by likelihood": by_likelihood(old),
            "source in the new look": matching(seen_in(network, self.old_as_new)),
            **{f"smaller, {share:g}": each for share, each in of_shares.items()},
            **{f"source and smaller, {share:g}": max(source, each) for share, each in of_shares.items()},
        }
        for count in FEWER:
            few = [[each[place] for place in evenly_spread(len(each), count)] for each in (old, smaller)]
            found[f"source and smaller, {SMALLER:g}, {count} images"] = max(map(matching, few))
        if self.held:
            found["held out"] = matching(seen_in(network, self.held))
            found["held out in the new look"] = matching(seen_in(network, self.held_as_new))
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
    old, new = seen_in(network, cameras.old), seen_in(network, cameras.new)
    temperatures, usual, found = cameras.temperatures(network, old, new), usual_logits(old), {}
    for name, samples in cameras.scored.items():
        logits, truth = known(new if samples is cameras.new else seen_in(network, samples))
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
