"""How well an exported graph agrees with the float32 network: overall, per class, with labels where there are any.

Legend: H rows, W columns of the model's input, C classes; labels keep their own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.backends.base import Backend, Classes, Frame
from clst_runtime.classes.labels import ClassList
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.subsets import Subset, evenly_spread
from clst_runtime.errors import DataError
from clst_runtime.evaluation.confusion import ConfusionMatrix, mean_of_known
from clst_runtime.evaluation.reliability import Reliability
from clst_runtime.imaging.geometry import Content, Fit, content_of, fit_frame, resize_classes
from clst_runtime.system.numbers import finite_or_none


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One graph against the float32 network; all values 0 … 1, NaN where a class does not occur."""

    classes: ClassList
    """The model's classes."""
    frames: int
    """How many were compared."""
    labelled: bool
    """Whether IoU is against labels; otherwise the float32 network's class maps stand for the truth."""
    agreement: float
    """Share of the output pixels with the same class in both; padding is not counted."""
    reference_iou: npt.NDArray[np.float64]
    """C values of the float32 network; 1 without labels."""
    candidate_iou: npt.NDArray[np.float64]
    """C values of the graph."""
    reliability: Reliability | None = None
    """Of the graph's confidence by the labels; None where it has neither."""

    @property
    def reference_miou(self) -> float:
        """Mean over the classes that occur."""
        return mean_of_known(self.reference_iou)

    @property
    def candidate_miou(self) -> float:
        """Mean over the classes that occur."""
        return mean_of_known(self.candidate_iou)

    @property
    def drop(self) -> float:
        """What was lost: mIoU with labels (negative = gained), without them the share of pixels that disagree."""
        return self.reference_miou - self.candidate_miou if self.labelled else 1.0 - self.agreement

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest; NaN as null."""
        values: dict[str, Any] = {
            "frames": self.frames,
            "labelled": self.labelled,
            "agreement": self.agreement,
            "reference_miou": finite_or_none(self.reference_miou),
            "miou": finite_or_none(self.candidate_miou),
        }
        pairs = zip(self.classes.names, self.reference_iou, self.candidate_iou, strict=True)
        if self.reliability is not None:
            values["ece"] = finite_or_none(self.reliability.ece())
        values["iou"] = {name: {"reference": finite_or_none(a), "model": finite_or_none(b)} for name, a, b in pairs}
        return values


class Evaluator:
    """Frames with the float32 network's class maps, computed once, and labels where there are any."""

    def __init__(
        self,
        reference: Backend,
        frames: Sequence[Frame],
        labels: Sequence[npt.NDArray[np.uint8]] | None = None,
        contents: Sequence[Content] = (),
    ) -> None:
        """Predict every frame with the reference.

        Args:
            reference: the float32 network.
            frames: H,W,3 of its input size.
            labels: for each frame its label map, of the size of the camera's image; None = there are none.
            contents: for each frame where the camera's image lies in it; empty = there is no padding.

        Raises:
            DataError: there are no frames.
        """
        if not frames:
            raise DataError("no frames to compare on; give --frames a folder of images, or --data labelled ones")
        self.classes = reference.manifest.classes
        self.frames, self.labels = frames, None if labels is None else tuple(labels)
        whole = Content(0, 0, *reference.manifest.input_hw)
        self.contents = tuple(contents) or (whole,) * len(self.frames)
        self.maps: tuple[Classes, ...] = tuple(
            content.of(reference.predict(frame).classes)
            for frame, content in zip(self.frames, self.contents, strict=True)
        )

    def subset(self, count: int) -> Evaluator:
        """At most `count` of the frames, evenly spread; nothing is computed again."""
        if count >= len(self.frames):
            return self
        kept = evenly_spread(len(self.frames), count)
        part = object.__new__(Evaluator)
        part.classes, part.frames = self.classes, Subset(self.frames, kept)
        part.labels = None if self.labels is None else tuple(self.labels[i] for i in kept)
        part.contents = tuple(self.contents[i] for i in kept)
        part.maps = tuple(self.maps[i] for i in kept)
        return part

    def evaluate(self, candidate: Backend) -> Comparison:
        """Run the candidate on every frame."""
        matrices, reliability = [ConfusionMatrix(len(self.classes)) for _ in range(2)], Reliability()
        equal = total = 0
        for index, (frame, own) in enumerate(zip(self.frames, self.maps, strict=True)):
            found, content = candidate.predict(frame), self.contents[index]
            predicted = content.of(found.classes)
            equal += int(np.count_nonzero(predicted == own))
            total += own.size
            truth = own if self.labels is None else self.labels[index]
            size_hw = (truth.shape[0], truth.shape[1])
            for matrix, classes in zip(matrices, (own, predicted), strict=True):
                matrix.update(truth, resize_classes(classes, size_hw))
            if self.labels is not None and found.confidence is not None:
                sure = resize_classes(content.of(found.confidence), size_hw)
                reliability.update(truth, resize_classes(predicted, size_hw), sure)
        return Comparison(
            classes=self.classes,
            frames=len(self.frames),
            labelled=self.labels is not None,
            agreement=equal / total,
            reference_iou=matrices[0].iou(),
            candidate_iou=matrices[1].iou(),
            reliability=reliability.or_none(),
        )


def labelled_frames(
    dataset: LabelledDataset, input_hw: tuple[int, int], count: int, fit: Fit = Fit.STRETCH
) -> tuple[list[Frame], list[Any]]:
    """At most `count` images of a labelled data set, evenly spread: frames at the input size, labels at their own.

    Raises:
        DataError: one is unreadable, or none has a labelled pixel.
    """
    chosen = dataset.spread(count)
    samples = [chosen[place] for place in range(len(chosen))]
    return [fit_frame(sample.image, input_hw, fit) for sample in samples], [sample.labels for sample in samples]


def contents_of(labels: Sequence[npt.NDArray[np.uint8]], input_hw: tuple[int, int], fit: Fit) -> list[Content]:
    """Where in its frame the image of each label map lies."""
    return [content_of((each.shape[0], each.shape[1]), input_hw, fit) for each in labels]
