"""A labelled sample as the network sees it. Legend: H rows, W columns of the size that images are brought to."""

from __future__ import annotations

from dataclasses import dataclass

from clst_runtime.data.dataset import Sample
from clst_runtime.imaging.geometry import Content, Fit, content_of, fit_frame, fit_labels


@dataclass(frozen=True, kw_only=True)
class FittedSample(Sample):
    """Image H,W,3 and labels H,W, which are 255 in the padding."""

    content: Content
    """Where the camera's image lies in it."""


def fitted(sample: Sample, size_hw: tuple[int, int], fit: Fit) -> FittedSample:
    """A sample at H,W = `size_hw`."""
    rows, columns = sample.labels.shape
    return FittedSample(
        name=sample.name,
        image=fit_frame(sample.image, size_hw, fit),
        labels=fit_labels(sample.labels, size_hw, fit),
        content=content_of((rows, columns), size_hw, fit),
    )
