"""What the camera looks like that a model is exported for, so that clst-run notices another one.

Legend: H rows, W columns of the model's input; N frames, D numbers of a feature vector.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clst_export.graph.model_file import opened
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.base import Backend, Frame
from clst_runtime.data.subsets import Subset
from clst_runtime.imaging.geometry import Content, Fit
from clst_runtime.imaging.media import is_video
from clst_runtime.imaging.videos import open_video
from clst_runtime.live.monitor.features import Vector, feature_names, frame_features
from clst_runtime.live.monitor.reference import LEAST_FRAMES, Matrix, Reference
from clst_runtime.live.monitor.sink import PERIOD_SECONDS
from clst_runtime.live.pipeline import without_padding
from clst_train.data.target import TargetImages, find_target, open_target

MOST_FRAMES = 256
"""Frames that are measured, at most."""
SEGMENTS = 8
"""Runs of neighbouring frames that are taken of a larger set: spread over it, but windows as in driving."""


def reference_segments(
    places: Sequence[str], input_hw: tuple[int, int], fit: Fit = Fit.STRETCH
) -> tuple[list[Subset[Frame]], str]:
    """Frames that describe the camera: images of folders in their order, of videos one every `PERIOD_SECONDS`.

    Args:
        places: image folders, single images, videos of the camera.
        input_hw: rows and columns of the model's input.
        fit: how an image becomes a frame.

    Returns:
        The segments, and the reason where there are none; one of the two is empty.

    Raises:
        DataError: a place cannot be used.
    """
    if not places:
        return [], "clst-run will not notice another camera: no images of this one; give --calib IMAGES"
    steps = [_every(Path(place)) for place in places]
    counts = [len(find_target([place], every=every)) for place, every in zip(places, steps, strict=True)]
    total = sum(counts)
    if total < LEAST_FRAMES:
        return [], (
            f"clst-run will not notice another camera: {total} images of this one, {LEAST_FRAMES} needed; "
            "give more with --calib"
        )
    segments = []
    for place, every, count in zip(places, steps, counts, strict=True):
        share = max(1, MOST_FRAMES * count // max(total, MOST_FRAMES))
        segments += _segments(place, every, share, input_hw, fit)
    return segments, ""


def _segments(place: str, every: int, wanted: int, input_hw: tuple[int, int], fit: Fit) -> list[Subset[Frame]]:
    """Runs of neighbouring images of one place that hold `wanted` of them in all; no others are read."""
    lengths: list[int] = []

    def positions(total: int) -> list[int]:
        runs = spread_over(total, wanted)
        lengths[:] = [end - begin for begin, end in runs]
        return [position for begin, end in runs for position in range(begin, end)]

    images = open_target([place], input_hw=input_hw, fit=fit, every=every, choose=positions)
    ends = [min(end, len(images)) for end in itertools.accumulate(lengths)]  # a damaged video may give fewer
    return [Subset(images, range(begin, end)) for begin, end in itertools.pairwise([0, *ends])]


def spread_over(total: int, wanted: int) -> list[tuple[int, int]]:
    """(begin, end) of runs that hold `wanted` of the positions 0 … total−1 in all, evenly spread; one if it is all."""
    if wanted >= total:
        return [(0, total)]
    runs = min(SEGMENTS, wanted)
    length = wanted // runs
    return [((total - length) * run // max(1, runs - 1), (total - length) * run // max(1, runs - 1) + length)
            for run in range(runs)]  # fmt: skip


def measure_domain(model: Any, manifest: Manifest, segments: Sequence[Sequence[Frame]]) -> dict[str, Any]:
    """What `Manifest.domain` is to hold, by the very graph that ships.

    Args:
        model: ONNX ModelProto by the artifact contract.
        manifest: its manifest.
        segments: frames H,W,3 of the input size, each segment consecutive.

    Raises:
        DataError: too few frames.
    """
    with opened(model, manifest) as backend:
        return measured(backend, segments).to_json()


def measured(backend: Backend, segments: Sequence[Sequence[Frame]]) -> Reference:
    """The reference by a model that is loaded."""
    manifest = backend.manifest
    names = feature_names(manifest.classes.names, has_confidence=manifest.has_confidence)
    prints: list[Matrix] = [
        np.array([_features(backend, frame, content) for frame, content in _with_contents(segment)])
        for segment in segments
        if len(segment)
    ]
    return Reference.of(prints, names)


def _with_contents(segment: Sequence[Frame]) -> Iterator[tuple[Frame, Content]]:
    """With each frame where the camera's image lies in it; frames that are no target images are all image."""
    if isinstance(segment, Subset) and isinstance(segment.items, TargetImages):
        return zip(segment, map(segment.items.content, segment.positions), strict=True)
    return ((frame, Content(0, 0, frame.shape[0], frame.shape[1])) for frame in segment)


def _features(backend: Backend, frame: Frame, content: Content) -> Vector:
    """Of the camera's image without padding, as `MonitorSink` computes it."""
    prediction = without_padding(backend.predict(frame), content)
    return frame_features(content.of(frame), prediction, len(backend.manifest.classes))


def _every(place: Path) -> int:
    """The step in frames that corresponds to one period of a video; 1 for images."""
    if not is_video(place):
        return 1
    video = open_video(place)
    video.close()
    return max(1, round(PERIOD_SECONDS * (video.fps or 0.0)))
