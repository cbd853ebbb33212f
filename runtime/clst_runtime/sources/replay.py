"""Images played as if a camera gave them: a live source, without an end, for machines without a camera."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Image
from clst_runtime.sources.base import OVERTAKEN, Source, SourceStatus, TimedFrame

REPLAY_FPS = 30.0


class ReplaySource(Source):
    """RGB images in a circle, one each 1/fps seconds; who comes late gets the newest and the others are drops.

    A frame's capture time is the moment it was due, so ages hold everything that came after it, waiting included.
    """

    live = True

    def __init__(
        self,
        images: Sequence[Image],
        *,
        fps: float = REPLAY_FPS,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take images H,W,3 RGB.

        Args:
            images: held in memory, so that no disk is in the age.
            clock: nanoseconds that never go back.

        Raises:
            DataError: there are no images.
        """
        super().__init__()
        if not images:
            raise DataError("no images to replay; give a folder that holds some")
        self.fps = fps
        self._images, self._clock, self._sleep = images, clock, sleep
        self._period_ns = round(1e9 / fps)
        self._started_ns: int | None = None
        self._last = -1

    def take(self, timeout_seconds: float) -> TimedFrame | None:
        """The newest frame that is due, waited for at most `timeout_seconds`."""
        now = self._clock()
        if self._started_ns is None:
            self._started_ns = now
        due = (now - self._started_ns) // self._period_ns
        if due == self._last:
            wait_ns = self._started_ns + (due + 1) * self._period_ns - now
            self._sleep(min(wait_ns / 1e9, timeout_seconds))
            if wait_ns / 1e9 > timeout_seconds:
                return None
            due += 1
        self._pass_by(due - 1)
        self._last = due
        captured_ns = self._started_ns + due * self._period_ns
        image = self._images[due % len(self._images)]
        return TimedFrame(index=due, image=image, captured_ns=captured_ns, name=f"{due:06d}")

    def status(self) -> SourceStatus:
        """As of now: what was due before the newest and nobody took has passed."""
        if self._started_ns is not None:
            self._pass_by((self._clock() - self._started_ns) // self._period_ns - 1)
        return super().status()

    def _pass_by(self, last: int) -> None:
        """Every image up to the position `last` that nobody took is a drop."""
        self.drops[OVERTAKEN] += max(0, last - self._last)
        self._last = max(self._last, last)
