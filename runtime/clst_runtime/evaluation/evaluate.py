"""mIoU of a model on labelled images, and whether its confidence is calibrated, at the labels' own size.

The same path for PyTorch, ONNX and engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.backends.base import Backend, Classes, Frame, Prediction
from clst_runtime.classes.labels import ClassList
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.errors import ModelFileError
from clst_runtime.evaluation.confusion import ABSENT_FROM_13, ABSENT_FROM_16, ROAD13, ConfusionMatrix, mean_of_known
from clst_runtime.evaluation.reliability import Reliability
from clst_runtime.imaging.geometry import classes_to_camera, fit_frame
from clst_runtime.system.numbers import finite_or_none


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Accuracy of one model on one data set; all values 0 … 1, NaN where a class does not occur."""

    classes: ClassList
    iou: npt.NDArray[np.float64]
    """C values."""
    miou: float
    """Mean over the classes that occur."""
    pixel_accuracy: float
    """Share of labelled pixels predicted right."""
    frames: int
    reliability: Reliability | None = None
    """Of its confidence; None where it gives none."""

    @staticmethod
    def of(
        confusion: ConfusionMatrix, classes: ClassList, frames: int, reliability: Reliability | None = None
    ) -> EvaluationResult:
        return EvaluationResult(
            classes=classes,
            iou=confusion.iou(),
            miou=confusion.miou(),
            pixel_accuracy=confusion.pixel_accuracy(),
            frames=frames,
            reliability=reliability,
        )

    def mean_without(self, names: tuple[str, ...]) -> float:
        """mIoU over the classes that are not named."""
        kept = [value for name, value in zip(self.classes.names, self.iou, strict=True) if name not in names]
        return mean_of_known(kept)

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN as null."""
        values: dict[str, Any] = {
            "frames": self.frames,
            "miou": finite_or_none(self.miou),
            "pixel_accuracy": finite_or_none(self.pixel_accuracy),
            "iou": {name: finite_or_none(value) for name, value in zip(self.classes.names, self.iou, strict=True)},
        }
        if self.reliability is not None:
            values["reliability"] = self.reliability.to_json()
        if set(ROAD13) <= set(self.classes.names) <= {*ROAD13, *ABSENT_FROM_13}:
            values["miou16"] = finite_or_none(self.mean_without(ABSENT_FROM_16))
            values["miou13"] = finite_or_none(self.mean_without(ABSENT_FROM_13))
        return values


def prediction_at(backend: Backend, image: Frame) -> Prediction:
    """What a model makes of an image of any size, at that size."""
    manifest, size_hw = backend.manifest, (image.shape[0], image.shape[1])
    found = backend.predict(fit_frame(image, manifest.input_hw, manifest.fit))
    classes = classes_to_camera(found.classes, size_hw, manifest.fit)
    if found.confidence is None:
        return Prediction(classes=classes)
    return Prediction(classes=classes, confidence=classes_to_camera(found.confidence, size_hw, manifest.fit))


def predict_at(backend: Backend, image: Frame) -> Classes:
    """Class map of an image of any size, at that size."""
    return prediction_at(backend, image).classes


def evaluate(
    backend: Backend, dataset: LabelledDataset, progress: Callable[[int, int], None] | None = None
) -> EvaluationResult:
    """Segment every image and compare with its labels; `progress(done, total)` is called after each.

    Raises:
        ModelFileError: the model's classes are not those of the data set's labels.
    """
    check_classes(backend.manifest.classes, dataset.classes)
    confusion = ConfusionMatrix(len(dataset.classes))
    reliability = Reliability()
    for index in range(len(dataset)):
        sample = dataset[index]
        found = prediction_at(backend, sample.image)
        confusion.update(sample.labels, found.classes)
        reliability.update(sample.labels, found.classes, found.confidence)
        if progress is not None:
            progress(index + 1, len(dataset))
    return EvaluationResult.of(confusion, dataset.classes, len(dataset), reliability.or_none())


def check_classes(model: ClassList, other: ClassList) -> None:
    """Refuse by ModelFileError two lists that do not name the same classes in the same order."""
    if model.names != other.names:
        raise ModelFileError(
            f"the model's classes ({', '.join(model.names)}) are not the other side's ({', '.join(other.names)}); "
            "give --mapping, or the model that was trained for them"
        )
