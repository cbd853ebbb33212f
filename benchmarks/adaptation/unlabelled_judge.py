"""What `benchmarks.adaptation.unlabelled` has seen, against the truth: candidates, rule, constants, picture.

    python -m benchmarks.adaptation.unlabelled_judge WORK

All ordered pairs of networks on each camera are an old and a new one. Whatever is fitted is judged on another kind of
change than it was fitted on; cameras weigh alike. The result is benchmarks/results/unlabelled.json and
docs/verdict.png. Legend: P pairs, C classes; changes are in points.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.record import RESULTS, provenance, write_result
from clst_runtime.classes.labels import ClassList
from clst_runtime.evaluation.confusion import iou, means_of_known
from clst_runtime.evaluation.unlabelled import MOST_OFF, SLIGHT, Seen, estimate_of

Values = npt.NDArray[np.float64]
PICTURE = RESULTS.parents[1] / "docs" / "verdict.png"
EITHER_WAY = 0.5
"""A change by less than so many points may be called either way."""
BROKEN = "broken"
"""In the names of networks that were spoilt on purpose."""


@dataclass(frozen=True)
class Camera:
    """All pairs of networks on one new camera."""

    name: str
    networks: tuple[tuple[str, float, str], ...]
    """Name, true mIoU in points, commit."""
    pairs: tuple[tuple[int, int], ...]
    truth: Values
    """P changes of mIoU."""
    disagreement: Values
    """P values 0 … 1."""
    off: Values
    """P factors by which both models' shares of classes are off, the smaller one."""
    signs: dict[str, Values]
    """P differences of each candidate, larger is better."""
    by_class: Values
    """Rows of all pairs and classes: truth, disagreement, agreement in points, shares in ln."""

    @property
    def kind(self) -> str:
        return self.name.split("/")[0]


def mean_iou(counts: npt.NDArray[np.int64]) -> float:
    return 100 * float(means_of_known(iou(counts)))


def of_labels(counts: npt.NDArray[np.int64]) -> Values:
    """C IoU in points of counts (truth, prediction); NaN for a class that the labels lack."""
    return np.where(counts.sum(1) > 0, 100 * iou(counts), np.nan)


CANDIDATES: dict[str, Callable[[dict[str, Any]], float]] = {
    "agreement with the image made smaller": lambda kept: mean_iou(kept["smaller"]),
    "agreement with the mirrored image": lambda kept: mean_iou(kept["mirrored"]),
    "agreement with a corner made larger": lambda kept: mean_iou(kept["larger"]),
    "agreement along optical flow": lambda kept: mean_iou(kept["over time"]) if "over time" in kept else np.nan,
    "class shares as in the source's labels": lambda kept: (
        -float(Seen(agreement=kept["smaller"], predicted=kept["predicted"]).deviations(kept["labelled"]).mean())
    ),
    "expected IoU by probabilities": lambda kept: (
        100
        * float(
            np.mean(
                kept["expected"][0] / np.maximum(kept["expected"][1] + kept["expected"][2] - kept["expected"][0], 1e-9)
            )
        )
    ),
    "entropy": lambda kept: -float(kept["entropy"]),
    "reverse validation": lambda kept: float(np.nanmean(of_labels(kept["reverse validation"]))),
    "agreement with a head taught on the source": lambda kept: mean_iou(kept["source head"]),
    "prototypes apart": lambda kept: -_likeness(kept["prototypes"]),
    "prototypes as on the source": lambda kept: float(
        np.nanmean((kept["prototypes"] * kept["source prototypes"]).sum(1))
    ),
}
LARGER = "agreement with a corner made larger"
MIRRORED, PROTOTYPES = "agreement with the mirrored image", "prototypes as on the source"
AGREEMENT, SHARES = "agreement with the image made smaller", "class shares as in the source's labels"

RULES = (
    (AGREEMENT,),
    (SHARES,),
    (AGREEMENT, SHARES),
    (LARGER, SHARES),
    (MIRRORED, SHARES),
    (AGREEMENT, PROTOTYPES),
    (AGREEMENT, MIRRORED, SHARES),
    (AGREEMENT, SHARES, PROTOTYPES),
)


def _likeness(prototypes: Values) -> float:
    """Mean cosine of two of them."""
    known = prototypes[np.isfinite(prototypes).all(1)]
    products = known @ known.T
    return float((products.sum() - np.trace(products)) / max(len(known) * (len(known) - 1), 1))


def open_camera(folder: Path) -> Camera:
    """All that was kept of one camera."""
    kept = [dict(np.load(file)) for file in sorted(folder.glob("*.npz"))]
    count = len(kept[0]["predicted"])
    classes = ClassList(name="", names=tuple(map(str, range(count))), colours=((0, 0, 0),) * count)
    seen = [Seen(agreement=each["smaller"], predicted=each["predicted"]) for each in kept]
    true = np.stack([of_labels(each["truth"]) for each in kept])
    scores = {name: np.array([score(each) for each in kept]) for name, score in CANDIDATES.items()}
    pairs, differ, by_class = tuple(itertools.permutations(range(len(kept)), 2)), [], []
    off = []
    maps = [each["maps"].ravel().astype(np.int64) for each in kept]
    for old, new in pairs:
        between = np.bincount(maps[old] * count + maps[new], minlength=count**2).reshape(count, count)
        found = estimate_of(seen[old], seen[new], between, kept[old]["labelled"], classes, len(kept[0]["maps"]))
        differ.append(found.disagreement)
        off.append(min(found.off))
        ahead = 100 * (np.nan_to_num(found.agreements[1]) - np.nan_to_num(found.agreements[0]))
        rows = np.stack([true[new] - true[old], found.of_classes, ahead, found.deviations[0] - found.deviations[1]], 1)
        by_class.append(rows[np.isfinite(rows).all(1)])
    origins = [json.loads(str(each["origin"])) for each in kept]
    names = [(str(each["name"]), float(np.nanmean(iou_)), origin["commit"])
             for each, iou_, origin in zip(kept, true, origins, strict=True)]  # fmt: skip
    old, new = np.array(pairs).T
    return Camera(
        "/".join(folder.parts[-2:]),
        tuple(names),
        pairs,
        np.nanmean(true[new] - true[old], 1),
        np.array(differ),
        np.array(off),
        {name: score[new] - score[old] for name, score in scores.items()},
        np.concatenate(by_class),
    )


def weights(parts: Iterable[Values]) -> Values:
    """Of rows of several cameras, which weigh alike."""
    return np.concatenate([np.full(len(part), 1 / len(part)) for part in parts])


def proportion(inputs: list[Values], truth: list[Values]) -> Values:
    """Coefficients of P,N inputs of several cameras, by least squares with a small ridge."""
    weight = np.sqrt(weights(truth))
    values, wanted = np.concatenate(inputs) * weight[:, None], np.concatenate(truth) * weight
    scale = np.sqrt((values**2).sum(0))
    values = values / scale
    solution: Values = np.linalg.solve(values.T @ values + 0.02 * np.eye(len(scale)), values.T @ wanted)
    return np.asarray(solution / scale)


@dataclass(frozen=True)
class Rows:
    """What an estimate is made of on one camera: of pairs, or of their classes."""

    kind: str
    truth: Values
    disagreement: Values
    inputs: Values
    """R,2: both signs times the disagreement."""


def of_pairs(camera: Camera) -> Rows:
    inputs = [camera.signs[name] * camera.disagreement for name in (AGREEMENT, SHARES)]
    return Rows(camera.kind, camera.truth, camera.disagreement, np.stack(inputs, 1))


def of_classes(camera: Camera) -> Rows:
    truth, disagreement = camera.by_class[:, :2].T
    return Rows(camera.kind, truth, disagreement, disagreement[:, None] * camera.by_class[:, 2:])


def fit(some: list[Rows]) -> tuple[Values, float, float]:
    """Coefficients, and the standard error in parts of the estimate and of disagreement.

    Errors are those on a kind of change by the coefficients of the other kinds, where there are some: the likeliest
    two parts of a grid, widened until 1.96 of them hold 95 % of the errors.
    """
    errors, estimates = [], []
    for each in some:
        others = [other for other in some if other.kind != each.kind] or [each]
        known = proportion([other.inputs for other in others], [other.truth for other in others])
        estimates.append(each.inputs @ known)
        errors.append(each.truth - estimates[-1])
    weight, error, estimate = weights(errors), np.concatenate(errors), np.concatenate(estimates)
    disagreement = np.concatenate([each.disagreement for each in some])
    best, found, scaled = -np.inf, (0.0, 0.0), error
    for a, b in itertools.product(np.linspace(0, 1, 21), np.linspace(1, 60, 60)):
        variance = (a * estimate) ** 2 + (b * disagreement) ** 2 + 1e-9
        likelihood = -(weight * (np.log(variance) + error**2 / variance)).sum()
        if likelihood > best:
            best, found, scaled = likelihood, (float(a), float(b)), np.abs(error) / np.sqrt(variance)
    order = np.argsort(scaled)
    held = np.cumsum(weight[order]) / weight.sum()
    wider = float(scaled[order][np.searchsorted(held, 0.95)]) / 1.96
    coefficients = proportion([each.inputs for each in some], [each.truth for each in some])
    return coefficients, wider * found[0], wider * found[1]


def is_right(sign: Values, truth: Values) -> npt.NDArray[np.bool_]:
    return np.asarray((np.sign(sign) == np.sign(truth)) | (np.abs(truth) < EITHER_WAY))


def decided(camera: Camera, estimate: Values) -> Values:
    """P: 1 better, −1 worse, 0 unclear, as `Estimate.verdict` is."""
    signs = np.stack([camera.signs[AGREEMENT], camera.signs[SHARES]])
    way = np.where(signs.min(0) > 0, 1, np.where(signs.max(0) < 0, -1, 0))
    return np.where((np.abs(estimate) >= SLIGHT) & (camera.off < MOST_OFF), way, 0)


def rules(cameras: list[Camera]) -> dict[str, Any]:
    """Of signs that have to point the same way: how many changes from 1 point on they decide, and how many rightly.

    Means over cameras that have all signs.
    """
    found: dict[str, Any] = {}
    for names in RULES:
        decided_, right, better = [], [], []
        for camera in cameras:
            signs = np.stack([np.sign(camera.signs[name]) for name in names])
            if np.isnan(signs).any():
                continue
            way = np.where(np.abs(signs.sum(0)) == len(names), signs[0], 0)
            decided_.append((way != 0)[np.abs(camera.truth) > 1].mean())
            right.append(is_right(way, camera.truth)[way != 0].mean())
            better.append((way > 0)[camera.truth < -1].mean())
        means = {"decided": decided_, "right": right, "losses_called_better": better}
        found[" and ".join(names)] = {name: round(float(np.mean(values)), 3) for name, values in means.items()}
    return found


def judged(camera: Camera, others: list[Camera]) -> dict[str, Any]:
    """The rule and the estimate on one camera, fitted on the others."""
    here, single = of_pairs(camera), of_classes(camera)
    coefficients, a, b = fit([of_pairs(each) for each in others])
    of_class, c, d = fit([of_classes(each) for each in others])
    estimate, truth, class_estimate = here.inputs @ coefficients, camera.truth, single.inputs @ of_class
    half = 1.96 * np.hypot(a * estimate, b * camera.disagreement)
    class_half = 1.96 * np.hypot(c * class_estimate, d * single.disagreement)
    way, loss, large = decided(camera, estimate), truth < -1, np.abs(single.truth) > 3
    values = {
        "pairs": len(truth),
        "mean_change": np.abs(truth).mean(),
        "mean_error": np.abs(truth - estimate).mean(),
        "mean_half_width": half.mean(),
        "interval_holds_it": (np.abs(truth - estimate) <= half).mean(),
        "sign_right_from_1_point": (np.sign(estimate) == np.sign(truth))[np.abs(truth) > 1].mean(),
        "decided": (way != 0).mean(),
        "decided_from_1_point": (way != 0)[np.abs(truth) > 1].mean(),
        "right": is_right(way, truth)[way != 0].mean() if way.any() else np.nan,
        "losses": loss.sum(),
        "losses_found": (way < 0)[loss].mean(),
        "losses_called_better": (way > 0)[loss].mean(),
        "class_mean_change": np.abs(single.truth).mean(),
        "class_mean_error": np.abs(single.truth - class_estimate).mean(),
        "class_interval_holds_it": (np.abs(single.truth - class_estimate) <= class_half).mean(),
        "class_sign_right_from_3_points": (np.sign(class_estimate) == np.sign(single.truth))[large].mean(),
    }
    found = {name: round(float(value), 3) for name, value in values.items()}
    return found | {"estimates": estimate.round(2).tolist(), "half_widths": half.round(2).tolist()}


def without_broken(camera: Camera) -> Camera:
    """The pairs of which neither was spoilt on purpose."""
    kept = np.array([not any(BROKEN in camera.networks[place][0] for place in pair) for pair in camera.pairs])
    pairs = tuple(pair for pair, keep in zip(camera.pairs, kept, strict=True) if keep)
    signs = {name: values[kept] for name, values in camera.signs.items()}
    values = {name: getattr(camera, name)[kept] for name in ("truth", "disagreement", "off")}
    return replace(camera, pairs=pairs, signs=signs, **values)


def candidates(cameras: list[Camera]) -> dict[str, Any]:
    """Of each sign alone, how often it is right from 1 point on, on each camera; None = not seen there."""
    found: dict[str, Any] = {}
    for name in CANDIDATES:
        found[name] = {
            camera.name: None if np.isnan(camera.signs[name]).any() else round(float(
                (np.sign(camera.signs[name]) == np.sign(camera.truth))[np.abs(camera.truth) > 1].mean()), 3)
            for camera in cameras
        }  # fmt: skip
    return found


def constants(cameras: list[Camera]) -> dict[str, Any]:
    """What the runtime holds: fitted on all cameras."""
    fields = ("agreement", "shares", "of_estimate", "of_disagreement")
    found: dict[str, Any] = {}
    for name, rows in (("OF_MIOU", of_pairs), ("OF_CLASS", of_classes)):
        coefficients, a, b = fit([rows(camera) for camera in cameras])
        found[name] = dict(zip(fields, [*map(float, coefficients), a, b], strict=True))
    return found


def draw(cameras: list[Camera], rows: dict[str, Any], path: Path) -> None:
    """Estimates with intervals against the truth, a panel for each kind of change."""
    from matplotlib.figure import Figure

    kinds = sorted({camera.kind for camera in cameras})
    figure = Figure(figsize=(4.2 * len(kinds), 4.4), layout="constrained")
    for place, kind in enumerate(kinds, 1):
        axes = figure.add_subplot(1, len(kinds), place)
        for number, camera in enumerate([each for each in cameras if each.kind == kind]):
            row = rows[camera.name]
            some = np.random.default_rng(0).permutation(len(camera.truth))[:60]
            axes.errorbar(
                camera.truth[some],
                np.array(row["estimates"])[some],
                np.array(row["half_widths"])[some],
                fmt="o",
                markersize=3,
                elinewidth=0.4,
                color=f"C{number}",
                label=camera.name.split("/")[1],
            )
        ends = axes.get_xlim()
        axes.plot(ends, ends, color="black", linewidth=0.8)
        axes.axhline(0, color="grey", linewidth=0.5)
        axes.axvline(0, color="grey", linewidth=0.5)
        axes.set(
            title=f"{kind}, fitted on the other kinds",
            xlabel="change of mIoU by labels, points",
            ylabel="estimated without labels",
        )
        axes.legend(fontsize=8)  # fmt: skip
    figure.savefig(path, dpi=90)


@click.command(help=__doc__)
@click.argument("work", type=click.Path(path_type=Path, exists=True))
def main(work: Path) -> None:
    cameras = [open_camera(folder) for folder in sorted(work.glob("*/*")) if any(folder.glob("*.npz"))]
    rows, real = {}, {}
    for camera in cameras:
        others = [each for each in cameras if each.kind != camera.kind]
        rows[camera.name] = judged(camera, others)
        real[camera.name] = judged(without_broken(camera), others)
    result = {
        **provenance(),
        "networks": {camera.name: camera.networks for camera in cameras},
        "candidates_right_from_1_point": candidates(cameras),
        "rules": rules(cameras),
        "fitted_on_other_kinds": {name: _without_lists(row) for name, row in rows.items()},
        "without_spoilt_networks": {name: _without_lists(row) for name, row in real.items()},
        "constants": constants(cameras),
    }
    write_result(RESULTS / "unlabelled.json", result)
    draw(cameras, rows, PICTURE)
    click.echo(json.dumps({key: result[key] for key in list(result)[4:]}, indent=1))


def _without_lists(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not isinstance(value, list)}


if __name__ == "__main__":
    main()
