"""Where the classes of two cameras lie in a network's feature space, before and after adaptation.

A point is the mean of one class's feature pixels in one image, features and mean brought to unit length: F(x) itself,
because the projection head is not in a result. The prototypes here are the source's class centres in that space.
Legend: P points, D feature channels, C classes, H,W rows and columns of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from clst_runtime.classes.labels import IGNORE_ID, ClassList
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Fit
from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.optional import require
from clst_train.data.fitting import fitted
from clst_train.data.target import TargetImages
from clst_train.method.prototypes import MINIMUM_PIXELS, at_stride, class_means, labels_at_stride
from clst_train.models.deployable import normalise
from clst_train.models.segmenter import Segmenter

Frame = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ProbeImage:
    """An image to take class means of."""

    frame: Frame
    """H,W,3 RGB."""
    labels: Frame | None = None
    """H,W class ids; None where nobody labelled it."""
    ignored: npt.NDArray[np.bool_] | None = None
    """H,W: without labels, pixels that make no point (ignore mask, padding); None = all do."""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The class means of one camera's images in one network."""

    points: Points
    """P,D."""
    classes: npt.NDArray[np.int64]
    """P class ids."""

    def centres(self, class_count: int) -> Points:
        """C,D mean of each class's points; NaN for a class without any."""
        found = [self.points[self.classes == index] for index in range(class_count)]
        width = self.points.shape[1]
        rows = [points.mean(axis=0) if len(points) else np.full(width, np.nan, np.float32) for points in found]
        return np.stack(rows).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Both cameras in one network."""

    title: str
    """Over its half of the figure."""
    source: Cloud
    """The old camera, by its labels."""
    target: Cloud
    """The new camera, by labels or by the network's own predictions."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far the cameras' centres of the same class are apart, measured by how far classes are apart."""

    of_class: npt.NDArray[np.float64]
    """C distances between the two centres of a class; NaN where a camera lacks it."""
    between_classes: float
    """Mean distance of two classes' centres within a camera, over the classes that both have."""

    @property
    def ratio(self) -> float:
        """Mean distance between the cameras over the distance between classes; 0 = they lie on each other."""
        known = self.of_class[np.isfinite(self.of_class)]
        return float(known.mean() / self.between_classes) if len(known) and self.between_classes > 0 else float("nan")


def measure_gap(stage: Stage, class_count: int) -> Gap:
    """The gap of one stage; with fewer than two classes in both cameras `between_classes` and the ratio are NaN."""
    source, target = stage.source.centres(class_count), stage.target.centres(class_count)  # C,D each
    of_class = np.linalg.norm(source - target, axis=1).astype(np.float64)
    both = np.flatnonzero(np.isfinite(of_class))
    first, second = np.triu_indices(len(both), k=1)
    apart = [
        np.linalg.norm(centres[both[first]] - centres[both[second]], axis=1) for centres in (source, target)
    ]  # 2, pairs
    return Gap(of_class=of_class, between_classes=float(np.mean(apart)) if len(first) else float("nan"))


def common_plane(stages: Iterable[Stage]) -> tuple[Points, Points, float]:
    """The plane in which all points of all stages vary most: origin D, axes 2,D of unit length, share of variance.

    Raises:
        DataError: there are fewer than three points.
    """
    points = np.concatenate([cloud.points for stage in stages for cloud in (stage.source, stage.target)])
    if len(points) < 3:
        raise DataError(f"{len(points)} class means were found, a figure needs 3; give more or larger images")
    origin = points.mean(axis=0)
    _, spread, axes = np.linalg.svd(points - origin, full_matrices=False)
    plane = (
        axes[:2] * np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    )  # sign is arbitrary: fix it
    total = float((spread**2).sum())
    return origin, plane, float((spread[:2] ** 2).sum() / total) if total > 0 else 1.0


def labelled_images(
    dataset: LabelledDataset, size_hw: tuple[int, int], count: int, fit: Fit = Fit.STRETCH
) -> Iterator[ProbeImage]:
    """At most `count` labelled images, evenly spread, brought to H,W = `size_hw` by `fit`."""
    for index in evenly_spread(len(dataset), count):
        sample = fitted(dataset[index], size_hw, fit)
        yield ProbeImage(sample.image, labels=sample.labels)


def unlabelled_images(target: TargetImages, count: int) -> Iterator[ProbeImage]:
    """At most `count` target images, evenly spread, without labels."""
    return (ProbeImage(target[index], ignored=target.ignored(index)) for index in evenly_spread(len(target), count))


@torch.inference_mode()
def cloud_of(segmenter: Segmenter, images: Iterable[ProbeImage], *, minimum_pixels: int = MINIMUM_PIXELS) -> Cloud:
    """Class means of a network's features in each image, by its labels or else by the network's own predictions.

    Args:
        segmenter: in eval mode; it sees one image at a time.
        images: images and labels.
        minimum_pixels: a class with fewer feature pixels in an image makes no point.
    """
    points: list[Points] = []
    classes: list[npt.NDArray[np.int64]] = []
    device = next(segmenter.parameters()).device
    for image in images:
        frame = torch.from_numpy(np.ascontiguousarray(image.frame))[None].to(device)
        outputs = segmenter.training_outputs(normalise(frame, segmenter.normalisation))
        features = outputs.features
        size_hw = (features.shape[2], features.shape[3])
        if image.labels is None:
            logits = F.interpolate(outputs.logits, size=size_hw, mode="bilinear", align_corners=False)
            classes_seen = logits.argmax(dim=1)  # 1,h,w
            if image.ignored is not None:
                hidden = at_stride(torch.from_numpy(image.ignored)[None].to(device), size_hw)
                classes_seen = classes_seen.masked_fill(hidden, IGNORE_ID)
        else:
            classes_seen = labels_at_stride(torch.from_numpy(image.labels)[None].to(device).long(), size_hw)
        found = class_means(F.normalize(features.float(), dim=1), classes_seen, segmenter.class_count, minimum_pixels)
        present = found.present[0].cpu().numpy()  # C
        points.append(found.means[0].cpu().numpy()[present])
        classes.append(np.flatnonzero(present))
    empty = np.zeros((0, segmenter.feature_channels), np.float32)
    return Cloud(points=np.concatenate([empty, *points]), classes=np.concatenate([np.zeros(0, np.int64), *classes]))


def draw_feature_space(path: Path, stages: tuple[Stage, Stage], classes: ClassList, *, warning: str = "") -> None:
    """Draw both stages side by side in one plane, as PNG: classes by colour, cameras by marker, prototypes as stars.

    A `warning` stands in the title.

    Raises:
        DataError: there is too little to draw, or the file cannot be written.
    """
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    origin, plane, share = common_plane(stages)
    figure = Figure(figsize=(14, 6.6), layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, stage in zip(panels, stages, strict=True):
        _draw_stage(panel, stage, classes, origin, plane)
        gap = measure_gap(stage, len(classes))
        panel.set_title(f"{stage.title}: cameras {gap.ratio:.2f} of a class distance apart", fontsize=13, pad=10)
    title = "\n".join(filter(None, ["Feature space of the two cameras", warning]))
    figure.suptitle(title, fontsize=15, fontweight="bold", color="darkred" if warning else "black")
    figure.supxlabel(
        f"one plane for both halves (principal components, {100 * share:.0f} % of the variance)", fontsize=9
    )
    present = np.unique(np.concatenate([cloud.classes for s in stages for cloud in (s.source, s.target)]))
    figure.legend(handles=_legend(classes, present), loc="outside right center", frameon=False, fontsize=10)
    FigureCanvasAgg(figure)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _colour(classes: ClassList, index: int) -> tuple[float, float, float]:
    red, green, blue = classes.colours[index]
    return (red / 255, green / 255, blue / 255)


def _draw_stage(panel: Any, stage: Stage, classes: ClassList, origin: Points, plane: Points) -> None:
    from matplotlib.patheffects import withStroke

    styles = ((stage.source, "o", 20, 0.35, "none"), (stage.target, "^", 26, 0.75, "#222222"))
    for cloud, marker, size, alpha, edge in styles:
        places = (cloud.points - origin) @ plane.T  # P,2
        colours = [_colour(classes, index) for index in cloud.classes]
        panel.scatter(*places.T, c=colours, marker=marker, s=size, alpha=alpha, edgecolors=edge, linewidths=0.4)
    old, new = ((cloud.centres(len(classes)) - origin) @ plane.T for cloud in (stage.source, stage.target))  # C,2
    for index, name in enumerate(classes.names):
        if not np.isfinite(old[index]).all():
            continue
        if np.isfinite(new[index]).all():
            panel.plot(*np.stack([old[index], new[index]]).T, color="#222222", linewidth=1.6, zorder=4)
            panel.scatter(*new[index], color=_colour(classes, index), marker="^", s=130, edgecolors="black", zorder=5)
        panel.scatter(*old[index], color=_colour(classes, index), marker="*", s=330, edgecolors="black", zorder=6)
        panel.annotate(
            name, old[index], xytext=(9, 7), textcoords="offset points", fontsize=9, fontweight="bold", zorder=7,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
    panel.set_xticks([])
    panel.set_yticks([])
    panel.margins(0.1)
    for spine in panel.spines.values():
        spine.set_color("#bbbbbb")


def _legend(classes: ClassList, present: npt.NDArray[np.int64]) -> list[Any]:
    from matplotlib.lines import Line2D

    def entry(label: str, marker: str, size: float, colour: Any = "#999999", edge: str = "black") -> Any:
        return Line2D(
            [], [], linestyle="", marker=marker, markersize=size, color=colour, markeredgecolor=edge, label=label
        )

    return [
        entry("prototype: old camera's centre", "*", 14),
        entry("new camera's centre", "^", 10),
        entry("a class in an image, old camera", "o", 5, edge="none"),
        entry("a class in an image, new camera", "^", 6),
        *(entry(classes.names[index], "s", 9, _colour(classes, index), "none") for index in present),
    ]
