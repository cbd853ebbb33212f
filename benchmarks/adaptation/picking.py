"""How far few labels tell which of two networks is better, by which frames are labelled and how.

    python -m benchmarks.adaptation.picking NAME --data LABELLED --split SPLIT --work FOLDER OLD NEW NEW…

All pairs of the networks are compared on 20 frames of a labelled set and on all of it, each as `clst-eval OLD NEW`
does, at the networks' input size. Deterministic choices are made on ten parts of the set, each without nine frames at
its ends. WORK keeps what each network predicts. The result is the entry NAME of benchmarks/results/picking.json.

Legend: K frames, N frames picked, C classes, H rows and W columns of the input.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.record import RESULTS, provenance, write_result
from clst_runtime.classes.labels import IGNORE_ID, ClassList
from clst_runtime.data.dataset import open_dataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.change import Change, change_of, sums_of
from clst_runtime.evaluation.confusion import ConfusionMatrix
from clst_runtime.evaluation.resampling import points_of, stretches_of
from clst_runtime.imaging.geometry import fit_frame, fit_labels
from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.files.hashing import file_sha256

FRAMES, PARTS, DRAWS = 20, 10, 20
LEAST_SHARE = 0.001
"""Of a frame's pixels a class has to have to be in it."""
CORRECTED = (0.5, 0.8, 0.9)
"""Shares of the wrong pixels of a prelabel that somebody corrects."""
Maps = npt.NDArray[np.uint8]


def predictions(checkpoint: Path, data: Path, split: str, work: Path) -> tuple[Maps, Maps, ClassList]:
    """K,H,W classes that a network predicts, kept in `work`, and the labels; 255 = ignore."""
    from clst_train.models.checkpoint_backend import open_checkpoint

    kept = work / f"{file_sha256(checkpoint)[:16]}.npz"
    with open_checkpoint(checkpoint) as backend:
        classes, size_hw, fit = backend.manifest.classes, backend.manifest.input_hw, backend.manifest.fit
        dataset = open_dataset(data, split=split, classes=classes)
        if not kept.is_file():
            frames = (fit_frame(dataset[index].image, size_hw, fit) for index in range(len(dataset)))
            with written_whole(kept) as part:
                np.savez_compressed(part, pred=np.stack([backend.predict(frame).classes for frame in frames]))
        labels = np.stack([fit_labels(dataset.labels(index), size_hw, fit) for index in range(len(dataset))])
    return np.load(kept)["pred"], labels, classes


def counts(labels: Maps, predicted: Maps, classes: int) -> npt.NDArray[np.int64]:
    """K,3,C sums of each frame."""
    found = []
    for truth, each in zip(labels, predicted, strict=True):
        confusion = ConfusionMatrix(classes)
        confusion.update(truth, each)
        found.append(sums_of(confusion.matrix))
    return np.stack(found)


def choices(old: Maps, new: Maps, classes: int, rng: np.random.Generator) -> Iterator[tuple[str, list[int]]]:
    """Every choice of N frames, and by what it is made."""
    total = len(new)
    differ = (old != new).mean((1, 2))  # K
    having = np.stack([(new == each).mean((1, 2)) >= LEAST_SHARE for each in range(classes)], 1)  # K,C
    rarity = having @ (1 / np.maximum(having.sum(0), 1))
    for first in range(PARTS):
        part = range(first, total - PARTS + 1 + first)
        yield "middle of each stretch", [part[place] for place in evenly_spread(len(part), FRAMES, centred=True)]
        ends = [part[0] + stretch * len(part) // FRAMES for stretch in range(FRAMES + 1)]
        for name, score in (("most disagreement in each stretch", differ), ("rarest classes in each stretch", rarity)):
            yield name, [begin + int(score[begin:end].argmax()) for begin, end in itertools.pairwise(ends)]
    for _ in range(DRAWS):
        yield "random", sorted(rng.choice(total, FRAMES, replace=False).tolist())


def summary(found: list[tuple[Change, Change]]) -> dict[str, float]:
    """Of changes on few frames and on all: how often they tell the same, and how far they are apart, in points."""
    few, whole = (np.array([each.miou_points for each in side]) for side in zip(*found, strict=True))
    verdicts = [(a.verdict.value, b.verdict.value) for a, b in found]
    held = [a.interval[0] <= b.miou_points <= a.interval[1] for a, b in found if a.interval]
    values = {
        "mean_absolute_error": np.abs(few - whole).mean(),
        "too_large_by": ((few - whole) * np.sign(whole)).mean(),
        "same_sign": (few * whole > 0).mean(),
        "same_sign_from_1_point": (few * whole > 0)[np.abs(whole) >= 1].mean(),
        "same_verdict": np.mean([a == b for a, b in verdicts]),
        "opposite_verdict": np.mean([{a, b} == {"better", "worse"} for a, b in verdicts]),
        "interval_holds_it": np.mean(held),
    }
    return {"comparisons": len(found)} | rounded(values)


def prelabelling(networks: list[Maps], labels: Maps, classes: ClassList, rng: np.random.Generator) -> dict[str, Any]:
    """What mistakes that are left in prelabels do to a comparison, on N frames in the middle of stretches."""
    picked = evenly_spread(len(labels), FRAMES, centred=True)
    truth, known = labels[picked], labels[picked] != IGNORE_ID
    found: dict[str, Any] = {}
    for share in CORRECTED:
        corrected = (rng.random(truth.shape) < share) | ~known
        errors: dict[str, list[tuple[float, float]]] = {"of the new network": [], "open where they differ": []}
        for old, new in itertools.permutations([each[picked] for each in networks], 2):
            right = points(old, new, truth, classes)
            for name, left in (("of the new network", corrected), ("open where they differ", corrected | (old != new))):
                errors[name].append((points(old, new, np.where(left, truth, new), classes), right))
        found[f"{share:.0%} corrected"] = {name: towards_new(each) for name, each in errors.items()}
    return found


def points(old: Maps, new: Maps, labels: Maps, classes: ClassList) -> float:
    """The change in mIoU by some labels."""
    before, after = (counts(labels, each, len(classes)) for each in (old, new))
    return change_of(before, after, np.zeros(len(labels), np.int64), classes).miou_points  # no interval is asked


def towards_new(found: list[tuple[float, float]]) -> dict[str, float]:
    """Of changes by some labels and by the right ones: how far the first favour the new network, in points."""
    few, right = np.array(found).T
    return rounded(
        {
            "too_good_by": (few - right).mean(),
            "mean_absolute_error": np.abs(few - right).mean(),
            "worse_is_called_better": ((few > 0) & (right < 0)).sum() / max((right < 0).sum(), 1),
        }
    )


def rounded(values: dict[str, Any]) -> dict[str, float]:
    return {name: round(float(value), 4) + 0.0 for name, value in values.items()}


@click.command(help=__doc__)
@click.argument("name")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled set.")
@click.option("--split", default="choice", show_default=True, help="Its split.")
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Where predictions are kept.")
def main(name: str, checkpoints: tuple[Path, ...], data: Path, split: str, work: Path) -> None:
    rng = np.random.default_rng(0)
    networks = []
    for checkpoint in checkpoints:
        predicted, labels, classes = predictions(checkpoint, data, split, work)
        networks.append(predicted)
    sums = [counts(labels, each, len(classes)) for each in networks]
    grid = np.stack([points_of(each) for each in labels])
    found: dict[str, list[tuple[Change, Change]]] = {}
    for a, b in itertools.combinations(range(len(networks)), 2):
        whole = change_of(sums[a], sums[b], stretches_of(grid), classes)
        for choice, picked in choices(networks[a], networks[b], len(classes), rng):
            few = change_of(sums[a][picked], sums[b][picked], stretches_of(grid[picked]), classes)
            found.setdefault(choice, []).append((few, whole))
    path = RESULTS / "picking.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    entry = {
        **provenance(),
        "frames": len(labels),
        "picked": FRAMES,
        "networks": len(networks),
        "choices": {choice: summary(each) for choice, each in found.items()},
        "prelabels": prelabelling(networks, labels, classes, rng),
    }
    write_result(path, {**before, name: entry})
    click.echo(json.dumps(entry, indent=1))


if __name__ == "__main__":
    main()
