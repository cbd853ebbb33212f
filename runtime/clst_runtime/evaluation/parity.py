"""A deployed model against the reference: class maps and mIoU on the same frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clst_runtime.backends.base import Backend
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.errors import ModelFileError
from clst_runtime.evaluation.confusion import ConfusionMatrix
from clst_runtime.evaluation.evaluate import EvaluationResult, check_classes
from clst_runtime.imaging.geometry import content_of, fit_frame, resize_classes
from clst_runtime.system.numbers import finite_or_none


@dataclass(frozen=True, kw_only=True)
class ParityResult:
    """Two models on the same frames; values 0 … 1."""

    reference: EvaluationResult
    candidate: EvaluationResult
    agreement: float
    """Share of the model's output pixels on which both say the same; padding is not counted."""

    @property
    def miou_drop(self) -> float:
        """Reference mIoU minus candidate mIoU; negative when the candidate is better."""
        return self.reference.miou - self.candidate.miou

    def failures(self, *, max_miou_drop: float, min_agreement: float) -> list[str]:
        """Which bounds do not hold; empty when parity holds. Both bounds are 0 … 1."""
        failures = []
        if not abs(self.miou_drop) <= max_miou_drop:
            failures.append(
                f"mIoU differs by {100 * abs(self.miou_drop):.3f} points, at most {100 * max_miou_drop:.3f} allowed"
            )
        if self.agreement < min_agreement:
            failures.append(f"{100 * self.agreement:.3f} % of pixels agree, at least {100 * min_agreement:.3f} % asked")
        return failures

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference.to_json(),
            "candidate": self.candidate.to_json(),
            "agreement": self.agreement,
            "miou_drop": finite_or_none(self.miou_drop),
        }


def compare(
    reference: Backend,
    candidate: Backend,
    dataset: LabelledDataset,
    progress: Callable[[int, int], None] | None = None,
) -> ParityResult:
    """Run both models on every image of a labelled data set.

    Raises:
        ModelFileError: classes, input sizes or fits differ, so that a comparison would mean nothing.
    """
    check_classes(candidate.manifest.classes, reference.manifest.classes)
    check_classes(candidate.manifest.classes, dataset.classes)
    input_hw, fit = candidate.manifest.input_hw, candidate.manifest.fit
    if input_hw != reference.manifest.input_hw:
        raise ModelFileError(f"input sizes differ: {input_hw} and {reference.manifest.input_hw}; compare equal sizes")
    if fit is not reference.manifest.fit:
        raise ModelFileError(
            f"fits differ: {fit.value} and {reference.manifest.fit.value}; compare models that see the same frame"
        )
    matrices = [ConfusionMatrix(len(dataset.classes)) for _ in range(2)]
    equal = total = 0
    for index in range(len(dataset)):
        sample = dataset[index]
        size_hw = (sample.labels.shape[0], sample.labels.shape[1])
        frame, content = fit_frame(sample.image, input_hw, fit), content_of(size_hw, input_hw, fit)
        maps = [content.of(backend.predict(frame).classes) for backend in (reference, candidate)]
        equal += int(np.count_nonzero(maps[0] == maps[1]))
        total += maps[0].size
        for matrix, classes in zip(matrices, maps, strict=True):
            matrix.update(sample.labels, resize_classes(classes, size_hw))
        if progress is not None:
            progress(index + 1, len(dataset))
    results = [EvaluationResult.of(matrix, dataset.classes, len(dataset)) for matrix in matrices]
    return ParityResult(reference=results[0], candidate=results[1], agreement=equal / total)
