"""A source and a backend whose times and faults a test orders, in the test's own process."""

from __future__ import annotations

import time

import numpy as np

from clst_runtime.backends.base import Prediction
from clst_runtime.sources import Source, SourceEnded, TimedFrame
from tests.conftest import rgb_manifest


class FakeSource(Source):
    """Frames, None for nothing in time, exceptions, or functions that make one of them; then the end."""

    def __init__(self, items, *, live=True, size_hw=(8, 16)):
        super().__init__()
        self.items, self.live, self.size_hw = iter(items), live, size_hw
        self.closed = False

    def take(self, timeout_seconds):
        item = next(self.items, SourceEnded())
        if callable(item):
            item = item()
        if isinstance(item, Exception):
            raise item
        return self.frame(item) if isinstance(item, int) else item

    def frame(self, index):
        image = np.full((*self.size_hw, 3), index % 250, np.uint8)
        return TimedFrame(index=index, image=image, captured_ns=time.monotonic_ns(), name=f"{index:06d}")

    def close(self):
        self.closed = True


class FakeBackend:
    """Says class 1 everywhere after `seconds`; counts its calls."""

    description = "fake"

    def __init__(self, *, seconds=0.0, size_hw=(8, 16), **manifest):
        self.seconds, self.calls = seconds, 0
        self.manifest = rgb_manifest(input_hw=size_hw, **manifest)

    def predict(self, frame):
        assert frame.shape == (*self.manifest.input_hw, 3)
        self.calls += 1
        time.sleep(self.seconds)
        return Prediction(classes=np.ones(self.manifest.input_hw, np.uint8))

    def close(self):
        """Nothing is open."""
