"""How the verdict without labels does on networks and scenes that its constants have never seen.

    python -m benchmarks.adaptation.unlabelled_unseen see CHANGE --work TABLE --data DATA --out SEEN
    python -m benchmarks.adaptation.unlabelled_unseen judge SEEN

`see` takes the networks that `benchmarks.adaptation.compare` left in TABLE, spoils more of each old network (BatchNorm
statistics of one scene, of neighbouring frames or of four images; entropy minimised on one scene; noise on the weights;
classes swapped), and keeps what all of them see on labelled images of the new camera, none of which is of a pair's
test. Some are seven seconds of one street: a network whose statistics are those of that scene is judged on it.
`judge` asks `Estimate.verdict` about every ordered pair, and writes benchmarks/results/unlabelled_unseen.json.

Legend: K images, C classes, H rows and W columns of an image; changes are in points of mIoU.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.adaptation.pairs import DAY, DUSK, PAIRS, Labelled, Pair, link_drives
from benchmarks.adaptation.unlabelled import EACH
from benchmarks.adaptation.unlabelled_judge import BROKEN, is_right, of_labels
from benchmarks.record import RESULTS, provenance, write_result
from clst_runtime.classes.labels import ClassList
from clst_runtime.data.dataset import Sample
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.change import Verdict
from clst_runtime.evaluation.confusion import confusion_of
from clst_runtime.evaluation.unlabelled import (
    MOST_IMAGES,
    MOST_OFF,
    OF_MIOU,
    Calibration,
    Counts,
    Estimate,
    Seen,
    estimate_of,
    labelled_pixels,
    predictions,
)
from clst_runtime.imaging.geometry import fit_frame
from clst_runtime.imaging.image_files import write_png
from clst_runtime.system.files.atomic import write_text, written_whole
from clst_runtime.system.numbers import finite_or_none
from clst_train.data.reimaged import reimage_folder
from clst_train.method.batchnorm import estimate_statistics
from clst_train.method.losses.entropy import entropy_loss
from clst_train.models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from clst_train.models.checkpoint_backend import segmenter_backend
from clst_train.models.deployable import normalise
from clst_train.models.segmenter import Segmenter
from clst_train.synthetic.camera_model import find_camera

UNSEEN = ("synthetic-to-camvid", "country-idd-to-camvid")
CHANGES = (*UNSEEN, "camera-middle", "light-dusk-to-day")
"""The last two are of kinds that the constants know; their networks are new ones."""
KEPT = ("source", "statistics", "mean_teacher_extras", "clst")
"""Networks of `compare` that no label of the new camera has taught."""
ORACLE = "oracle_long"
"""Taught with labels of the choice split, so it is judged on other drives alone."""
WEIGHTS = ("noise", "swapped classes")
"""Ways of spoiling that change weights as no adaptation does."""
NOISE, NEIGHBOURS = 0.1, 20
"""Standard deviation of what is added to the weights, in parts of each tensor's own."""
ENTROPY_STEPS, ENTROPY_RATE = 12, 1e-4
PUBLISHED = Calibration(agreement=1.55, shares=5.9, of_estimate=0.20, of_disagreement=7.9)
"""The constants before these networks were seen."""
BANDS = (1.0, 1.5, 2.0, 2.5, 3.0, 100.0)
"""Factors by which both networks' shares of classes are off."""
COUNTED = 4
"""Of the kept maps' rows and columns, every fourth counts for the disagreement of two networks."""

Maps = npt.NDArray[np.uint8]


def scenes(pair: Pair, work: Path, data: Path, root: Path) -> dict[str, Labelled]:
    """Labelled images of the new camera by name: whole drives, and seven seconds of one street."""
    if pair.name not in {each.replace("-", "_") for each in UNSEEN}:
        return {"choice": pair.choice}
    form = {"classes": pair.choice.classes, "mapping": pair.choice.mapping}
    found = {"choice": pair.choice, "dusk": Labelled(root=work / "camvid_by_drive", split="dusk_first", **form)}
    clip = root / "clip"
    link_drives(data / "camvid", clip, "clip", (*DUSK, *DAY), ("val",))
    found["clip"] = Labelled(root=clip, split="clip", **form)
    for severity in ("middle", "severe"):
        if not (root / severity).is_dir():
            reimage_folder(clip, root / severity, find_camera(severity), splits=("clip",))
        found[f"clip-{severity}"] = Labelled(root=root / severity, split="clip", **form)
    _crop(clip, root / "road")
    found["clip-road"] = Labelled(root=root / "road", split="clip", **form)
    return found


def _crop(old: Path, new: Path) -> None:
    """The road ahead alone, of few classes: 0.6 of both sides, from the middle of the lower border."""
    dataset = Labelled(root=old, split="clip").open()
    for file, sample in zip(dataset.files, dataset, strict=True):
        rows, columns = sample.labels.shape
        cut = slice(rows - round(0.6 * rows), rows), slice(round(0.2 * columns), round(0.8 * columns))
        for kind, values in (("images", sample.image), ("labels", sample.labels)):
            (new / kind / "clip").mkdir(parents=True, exist_ok=True)
            write_png(new / kind / "clip" / f"{file.image.stem}.png", np.ascontiguousarray(values[cut]))
    write_text(new / "classes.json", (old / "classes.json").read_text())


def frames_of(images: Sequence[Maps], held: Checkpoint) -> torch.Tensor:
    """K,3,H,W: the images as the network takes them, normalised."""
    by = build_from_checkpoint(held).normalisation
    return normalise(torch.from_numpy(np.stack([fit_frame(each, held.input_hw, held.fit) for each in images])), by)


def with_statistics(network: Segmenter, frames: torch.Tensor) -> Segmenter:
    """BatchNorm statistics of nothing but these frames, in batches of 4."""
    estimate_statistics(network, frames[torch.randperm(len(frames), generator=_rng(0))].split(4))  # type: ignore[no-untyped-call]
    return network


def with_noise(network: Segmenter, share: float) -> Segmenter:
    """Noise on all weights and biases, of `share` of each tensor's standard deviation."""
    rng = _rng(1)
    with torch.no_grad():
        for values in (each for each in network.parameters() if each.numel() > 1):
            values.add_(share * values.std() * torch.randn(values.shape, generator=rng))
    return network


def with_least_entropy(network: Segmenter, frames: torch.Tensor) -> Segmenter:
    """After statistics of the frames, a few steps that make the network surer of them, whatever it sees."""
    with_statistics(network, frames).eval()
    optimiser, rng = torch.optim.Adam(network.parameters(), ENTROPY_RATE), _rng(2)
    for _ in range(ENTROPY_STEPS):
        logits = network(frames[torch.randperm(len(frames), generator=rng)[:4]])
        optimiser.zero_grad()
        entropy_loss(logits, torch.ones_like(logits[:, 0], dtype=torch.bool)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network


def with_swapped(network: Segmenter) -> Segmenter:
    """Two classes, drawn by lot, have changed places."""
    first, second = torch.randperm(network.class_count, generator=_rng(3))[:2].tolist()
    with torch.no_grad():
        for name in ("classifier.weight", "classifier.bias"):
            values = network.get_parameter(name)
            values[[first, second]] = values[[second, first]].clone()
    return network


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


Make = Callable[[Segmenter], Segmenter]


def spoilt(images: Sequence[Maps], held: Checkpoint) -> dict[str, Make]:
    """Ways to spoil an old network with images of a scene: K of it, and a few neighbours."""
    whole = frames_of([images[place] for place in evenly_spread(len(images), MOST_IMAGES)], held)
    neighbours = frames_of([images[place] for place in range(min(len(images), NEIGHBOURS))], held)
    return {
        "statistics of the scene": lambda network: with_statistics(network, whole),
        "statistics of 20 neighbours": lambda network: with_statistics(network, neighbours),
        "statistics of 4 images": lambda network: with_statistics(network, whole[::10]),
        "entropy": lambda network: with_least_entropy(network, whole),
        "noise": lambda network: with_noise(network, NOISE),
        "swapped classes": with_swapped,
    }


def networks(pair: Pair, work: Path, images: Sequence[Maps], *, oracle: bool) -> Iterator[tuple[str, Checkpoint, Make]]:
    """Name, checkpoint, and what is made of it."""
    for folder in sorted((work / "networks" / pair.name).glob("seed*")):
        for name in (*KEPT, *[ORACLE] * oracle):
            if (folder / f"{name}.pt").is_file():
                yield f"{folder.name}/{name}", load_checkpoint(folder / f"{name}.pt"), lambda network: network
        held = load_checkpoint(folder / "source.pt")
        for name, make in spoilt(images, held).items():
            yield f"{folder.name}/{BROKEN}, {name}", held, make


def see(held: Checkpoint, make: Make, samples: Sequence[Sample], labelled: Counts) -> dict[str, Any]:
    """All that is kept of a network on one scene."""
    count, total = len(held.classes), Seen.nothing(len(held.classes))
    truth, maps = np.zeros((count, count), np.int64), []
    network = make(build_from_checkpoint(held).eval()).eval()
    with segmenter_backend(
        network, network=held.network, classes=held.classes, input_hw=held.input_hw, fit=held.fit
    ) as model:
        for sample in samples:
            whole, small = predictions(model, sample.image)
            total += Seen.of(whole, small, count)
            truth += confusion_of(sample.labels, whole, count)
            maps.append(whole[::EACH, ::EACH])
    return {"smaller": total.agreement, "predicted": total.predicted, "truth": truth, "maps": np.stack(maps),
            "labelled": labelled}  # fmt: skip


@click.group(help=__doc__)
def main() -> None:
    torch.set_num_threads(1)


@main.command("see")
@click.argument("change", type=click.Choice(CHANGES))
@click.option("--work", required=True, type=click.Path(path_type=Path, exists=True), help="That of `compare`.")
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), help="Real images.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where what is seen is kept.")
def see_change(change: str, work: Path, data: Path, out: Path) -> None:
    """Keep what the networks of one change of camera see."""
    pair = PAIRS[change](work, data)
    classes = pair.source.open().classes
    labelled = labelled_pixels(pair.source.open(classes))
    for scene, place in scenes(pair, work, data, out / "scenes").items():
        images = place.open(classes)
        folder = out / "seen" / change / scene
        folder.mkdir(parents=True, exist_ok=True)
        samples = [images[index] for index in evenly_spread(len(images), MOST_IMAGES)]
        every = [images[index].image for index in range(len(images))]
        for name, held, make in networks(pair, work, every, oracle=scene != "choice"):
            kept = folder / f"{name.replace('/', ', ')}.npz"
            if not kept.is_file():
                with written_whole(kept) as part:
                    np.savez_compressed(part, name=name, **see(held, make, samples, labelled))
                click.echo(f"{change}/{scene}: {name}")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An old and a new network on one scene."""

    old: str
    """Its name: seed, and what it is."""
    new: str
    truth: float
    """Change by labels."""
    estimate: Estimate

    @property
    def old_is_spoilt(self) -> bool:
        return BROKEN in self.old

    @property
    def from_its_source(self) -> bool:
        """The new network was made of the old one, as an adaptation is."""
        seed = self.old.removesuffix("source")
        return seed != self.old and self.new.startswith(seed)

    @property
    def is_adaptation(self) -> bool:
        """The old network is as it was trained, and the new one's weights are none that no adaptation makes."""
        return not self.old_is_spoilt and not self.new.endswith(WEIGHTS)

    def way(self, *, guarded: bool = True) -> int:
        """1 better, -1 worse, 0 neither; without the guard whatever the images show."""
        verdict = self.estimate.verdict if guarded else self.estimate.by_signs
        return {Verdict.BETTER: 1, Verdict.WORSE: -1}.get(verdict, 0)


def open_scene(folder: Path) -> tuple[dict[str, float], list[Asked]]:
    """mIoU in points of each network, and all ordered pairs."""
    kept = [dict(np.load(file)) for file in sorted(folder.glob("seed*.npz"))]
    count = len(kept[0]["predicted"])
    classes = ClassList(name="", names=tuple(map(str, range(count))), colours=((0, 0, 0),) * count)
    names = [str(each["name"]) for each in kept]
    miou = [float(np.nanmean(of_labels(each["truth"]))) for each in kept]
    seen = [Seen(agreement=each["smaller"], predicted=each["predicted"]) for each in kept]
    maps = [each["maps"][:, ::COUNTED, ::COUNTED].ravel().astype(np.int64) for each in kept]
    pairs = []
    for old, new in itertools.permutations(range(len(kept)), 2):
        between = np.bincount(maps[old] * count + maps[new], minlength=count**2).reshape(count, count)
        found = estimate_of(seen[old], seen[new], between, kept[old]["labelled"], classes, len(kept[old]["maps"]))
        pairs.append(Asked(old=names[old], new=names[new], truth=miou[new] - miou[old], estimate=found))
    return dict(zip(names, miou, strict=True)), pairs


def figures(pairs: Sequence[Asked], by: Calibration, way_of: Callable[[Asked], int]) -> dict[str, float]:
    """How often a verdict is given, and is right, and how the estimate and its interval do."""
    way, truth = np.array([way_of(each) for each in pairs]), np.array([each.truth for each in pairs])
    points = np.array([by.estimate(each.estimate.disagreement, *each.estimate.ahead) for each in pairs])
    ends = np.array([by.interval(each.estimate.disagreement, float(value))
                     for each, value in zip(pairs, points, strict=True)])  # fmt: skip
    right, large, loss, gain = is_right(way, truth), np.abs(truth) > 1, truth < -1, truth > 1
    return {
        "pairs": len(pairs),
        "decided_from_1_point": mean(way != 0, large),
        "right": mean(right, way != 0),
        "better_right": mean(right, way > 0),
        "gains_found": mean(way > 0, gain),
        "losses_found": mean(way < 0, loss),
        "losses_called_better": mean(way > 0, loss),
        "mean_change_where_better_is_wrong": mean(truth, (way > 0) & ~right),
        "mean_change": float(np.abs(truth).mean()),
        "mean_error": float(np.abs(truth - points).mean()),
        "mean_half_width": float((ends[:, 1] - points).mean()),
        "interval_holds_it": float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()),
    }


Rule = Callable[[Asked], int]


def without_guard(asked: Asked) -> int:
    return asked.way(guarded=False)


def disagreeing_less(limit: float) -> Rule:
    """No verdict where the two disagree by as much."""
    return lambda asked: without_guard(asked) if asked.estimate.disagreement < limit else 0


def beyond_zero(asked: Asked) -> int:
    """No verdict where the published interval has 0 in it."""
    low, high = PUBLISHED.interval(asked.estimate.disagreement, asked.estimate.points)
    return without_guard(asked) if low > 0 or high < 0 else 0


OTHER_GUARDS: dict[str, Rule] = {
    **{f"disagreement below {limit}": disagreeing_less(limit) for limit in (0.6, 0.7, 0.8)},
    "the interval excludes 0": beyond_zero,
}


def mean(values: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> float:
    return float(values[where].mean()) if where.any() else float("nan")


def means(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """Over scenes, which weigh alike; where one has no such pair it does not count."""
    table = list(rows)
    return {name: float(np.nanmean([each[name] for each in table])) for name in table[0] if name != "pairs"}


def by_shares_off(pairs: Sequence[Asked]) -> list[dict[str, Any]]:
    """How right each verdict is, without the guard, where the shares of classes are off by so much."""
    found = []
    for low, high in itertools.pairwise(BANDS):
        some = [each for each in pairs if low <= min(each.estimate.off) < high]
        row: dict[str, Any] = {"from": low, "below": high}
        for name, way in (("better", 1), ("worse", -1)):
            truth = np.array([each.truth for each in some if each.way(guarded=False) == way])
            right = is_right(np.full(len(truth), way), truth)
            row[name] = rounded({"given": len(truth), "right": mean(right, right | ~right),
                                 "mean_change_where_wrong": mean(truth, ~right)})  # fmt: skip
        found.append(row)
    return found


def of_disagreement(some: Sequence[Sequence[Asked]], by: Calibration) -> float:
    """What the calibration's part has to be so that 95 % of the changes are held; scenes weigh alike."""
    needed, weight = [], []
    for pairs in some:
        for each in pairs:
            estimate = each.estimate
            points = by.estimate(estimate.disagreement, *estimate.ahead)
            rest = ((each.truth - points) / 1.96) ** 2 - (by.of_estimate * points) ** 2
            needed.append(float(np.sqrt(max(rest, 0.0))) / max(estimate.disagreement, 1e-9))
            weight.append(1 / len(pairs))
    order = np.argsort(needed)
    held = np.cumsum(np.array(weight)[order]) / sum(weight)
    return float(np.array(needed)[order][np.searchsorted(held, 0.95)])


@main.command("judge")
@click.argument("seen", type=click.Path(path_type=Path, exists=True))
def judge(seen: Path) -> None:
    """Ask for the verdicts, and write the result."""
    opened = {
        f"{folder.parent.name}/{folder.name}": open_scene(folder)
        for folder in sorted((seen / "seen").glob("*/*")) if any(folder.glob("seed*.npz"))
    }  # fmt: skip
    pairs = {name: found for name, (_, found) in opened.items()}
    unseen = [name for name in pairs if name.startswith(UNSEEN)]
    own = {name: [each for each in found if each.from_its_source] for name, found in pairs.items()}
    adaptations = {name: [each for each in found if each.is_adaptation] for name, found in pairs.items()}
    result: dict[str, Any] = {
        **provenance(),
        "networks": {name: rounded(miou) for name, (miou, _) in opened.items()},
        "of_disagreement_for_95_percent": {
            "adaptations": of_disagreement([adaptations[name] for name in unseen], PUBLISHED),
            "adaptations within the guard": of_disagreement([
                [each for each in adaptations[name] if min(each.estimate.off) < MOST_OFF] for name in unseen
            ], PUBLISHED),
        },
        "by_shares_off": {
            "all pairs": by_shares_off(list(itertools.chain(*pairs.values()))),
            "adaptations": by_shares_off(list(itertools.chain(*adaptations.values()))),
            **{change: by_shares_off([each for name in pairs if name.startswith(change) for each in adaptations[name]])
               for change in UNSEEN},
        },
    }  # fmt: skip
    result["other_guards"] = {
        guard: rounded(means(figures(adaptations[name], PUBLISHED, rule) for name in unseen))
        for guard, rule in OTHER_GUARDS.items()
    }
    for rule, by, way_of in (("as_published", PUBLISHED, without_guard), ("with_the_guard", OF_MIOU, Asked.way)):
        for some, of in (("all pairs", pairs), ("adaptations", adaptations), ("from its own old network", own)):
            rows = {name: figures(of[name], by, way_of) for name in of}
            summary = {"mean of the unseen": means(rows[name] for name in unseen)}
            result.setdefault(rule, {})[some] = {name: rounded(row) for name, row in (rows | summary).items()}
    write_result(RESULTS / "unlabelled_unseen.json", result)
    click.echo(json.dumps({name: result[name] for name in list(result)[4:]}, indent=1))


def rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {name: finite_or_none(round(value, 3)) for name, value in values.items()}


if __name__ == "__main__":
    main()
