"""Two cameras in miniature: noise of two brightnesses, which a little scene moves up and down."""

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.live.monitor.features import feature_names, frame_features
from clst_runtime.live.monitor.reference import Reference
from clst_runtime.live.results import Result
from clst_runtime.sources.base import TimedFrame
from tests.conftest import rgb_manifest

HW = (32, 48)
OWN, OTHER = 100, 160


def image(index, level=OWN, hw=HW):
    """A reddish image H,W,3: a level that goes up and down by 5, noise of 6 on it, no two alike."""
    random = np.random.default_rng([level, index])
    grey = level + 5 * np.sin(index) + random.normal(0.0, 6.0, (*hw, 1))
    return np.clip(grey * np.array([1.0, 0.95, 0.9]), 0, 255).astype(np.uint8)


def prediction(frame):
    """Class 1 where it is brighter than the own camera's level, else 0."""
    return Prediction(classes=(frame[..., 0] > OWN).astype(np.uint8))


def result(index, level=OWN, *, picture_=None, seconds=None):
    """One frame through the model; a second after the one before."""
    frame = image(index, level) if picture_ is None else picture_
    captured_ns = int(1e9 * (index if seconds is None else seconds))
    timed = TimedFrame(index=index, image=frame, captured_ns=captured_ns, name=f"{index:06d}")
    made = prediction(frame)
    return Result(timed=timed, prediction=made, classes=made.classes, mask=made.classes, inference_ns=1, age_ns=1)


@pytest.fixture(scope="session")
def reference():
    """64 frames of the own camera."""
    names = feature_names(("red", "green", "blue"), has_confidence=False)
    prints = [frame_features(image(index), prediction(image(index)), 3) for index in range(64)]
    return Reference.of([np.array(prints)], names)


@pytest.fixture
def manifest(reference):
    """Of a model of that camera."""
    return rgb_manifest(input_hw=HW, domain=reference.to_json())
