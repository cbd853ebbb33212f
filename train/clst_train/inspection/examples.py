"""What the old network and the adapted one see on images of the new camera, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator

from clst_runtime.backends.base import Classes
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.change import iou_of, sums_of
from clst_runtime.evaluation.confusion import confusion_of, means_of_known
from clst_runtime.evaluation.evaluate import predict_at
from clst_runtime.imaging.geometry import Image, resize_classes, resize_frame
from clst_runtime.imaging.image_files import write_png
from clst_runtime.imaging.overlay import beside_legend, blend, contact_sheet, write_text
from clst_train.engine.run import Run, needed
from clst_train.models.checkpoint_backend import TorchBackend, open_checkpoint

COUNT = 4
"""Images, evenly spread."""
WIDEST, NARROWEST = 640, 160
"""Columns of one image: as many as a file of …"""
LARGEST_BYTES = 2_000_000
"""… has room for."""


def draw_examples(run: Run) -> None:
    """Write `examples/before_after.png`: a row for each image, with both networks' classes over it.

    Where labels are given the images are theirs, with the labels beside them and the mIoU of each image.
    """
    with (
        open_checkpoint(run.folder.source, device=run.device) as old,
        open_checkpoint(run.folder.adapted, device=run.device) as new,
    ):
        seen = [(image, labels, _maps(image, (old, new))) for image, labels in _images(run)]
    path = run.folder.examples / "before_after.png"
    titles = ["new camera", *["labels"] * (run.validation is not None), "old network", "adapted network"]
    width = WIDEST
    while width >= NARROWEST:
        rows = [_row(run, width, image, labels, maps) for image, labels, maps in seen]
        write_png(path, beside_legend(contact_sheet(rows, titles), run.classes))
        excess = path.stat().st_size / LARGEST_BYTES
        if excess <= 1:
            return
        width = int(0.95 * width / math.sqrt(excess))


def _images(run: Run) -> Iterator[tuple[Image, Classes | None]]:
    """Labelled images of the new camera with their labels, or target images without their padding."""
    if run.validation is not None:
        for index in evenly_spread(len(run.validation), COUNT):
            sample = run.validation[index]
            yield sample.image, sample.labels
        return
    target = needed(run.target)
    for index in evenly_spread(len(target), COUNT):
        yield target.content(index).of(target[index]), None


def _maps(image: Image, networks: tuple[TorchBackend, TorchBackend]) -> list[Classes]:
    return [predict_at(network, image) for network in networks]


def _row(run: Run, width: int, image: Image, labels: Classes | None, maps: list[Classes]) -> list[Image]:
    size_hw = (max(1, round(width * image.shape[0] / image.shape[1])), width)
    frame = resize_frame(image, size_hw)
    shown = [blend(frame, resize_classes(classes, size_hw), run.classes, 0.6) for classes in maps]
    if labels is None:
        return [frame, *shown]
    for panel, classes in zip(shown, maps, strict=True):
        write_text(panel, f"mIoU {100 * _miou(labels, classes, len(run.classes)):.1f}", (8, size_hw[0] - 10))
    return [frame, blend(frame, resize_classes(labels, size_hw), run.classes, 0.6), *shown]


def _miou(labels: Classes, classes: Classes, class_count: int) -> float:
    """Of one image, over the classes that its labels have; NaN where they have none."""
    return float(means_of_known(iou_of(sums_of(confusion_of(labels, classes, class_count)))))
