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


class Clock:
    """Time that goes on only where somebody computes or waits; also what the loop waits with."""

    def __init__(self):
        self.ms = 0.0

    def monotonic(self):
        return self.ms / 1e3

    def monotonic_ns(self):
        return round(self.ms * 1e6)

    def Event(self):  # noqa: N802  threading's name
        return self

    def wait(self, seconds):
        self.ms += 1e3 * seconds

    def set(self):
        """Nobody waits meanwhile."""

    clear = set


class TimedSource(Source):
    """A camera with a frame at each of these milliseconds of a clock: the newest only, as `LiveSource` gives it.

    At its end it raises `failure`; None = it is silent for ever.
    """

    live = True

    def __init__(self, clock, arrivals_ms, *, failure=None, size_hw=(8, 16)):
        super().__init__()
        self.clock, self.arrivals, self.failure, self.size_hw = clock, list(arrivals_ms), failure, size_hw
        self.next = self.taken = 0

    def status(self):
        come = sum(arrival <= self.clock.ms for arrival in self.arrivals)
        self.drops["overtaken"] = come - self.taken - (come > self.next)
        return super().status()

    def waiting_ns(self):
        if self.next < len(self.arrivals):
            return round(self.arrivals[self.next] * 1e6)
        if self.failure is not None:
            raise self.failure
        self.lost = True
        return None

    def take(self, timeout_seconds):
        since_ns = self.waiting_ns()
        wait_ms = 1e3 * timeout_seconds if since_ns is None else since_ns / 1e6 - self.clock.ms
        self.clock.ms += min(max(wait_ms, 0.0), 1e3 * timeout_seconds)
        due = sum(arrival <= self.clock.ms for arrival in self.arrivals)
        if due <= self.next:
            return None
        self.next, self.taken = due, self.taken + 1
        image = np.full((*self.size_hw, 3), due, np.uint8)
        return TimedFrame(
            index=due - 1, image=image, captured_ns=round(self.arrivals[due - 1] * 1e6), name=f"{due - 1:06d}"
        )


class FakeBackend:
    """Says class 1 everywhere after `seconds`; counts its calls."""

    description = "fake"

    def __init__(self, *, seconds=0.0, size_hw=(8, 16), sleep=time.sleep, **manifest):
        self.seconds, self.calls, self.sleep = seconds, 0, sleep
        self.manifest = rgb_manifest(input_hw=size_hw, **manifest)

    def predict(self, frame):
        assert frame.shape == (*self.manifest.input_hw, 3)
        self.calls += 1
        self.sleep(self.seconds)
        return Prediction(classes=np.ones(self.manifest.input_hw, np.uint8))

    def close(self):
        """Nothing is open."""
