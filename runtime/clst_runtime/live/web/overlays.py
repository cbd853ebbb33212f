"""The newest overlay as JPEG, made once for all who look and not at all while nobody does.

Legend: H rows, W columns of the camera's image; h,w of the one shown.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from clst_runtime.classes.labels import ClassList
from clst_runtime.imaging.geometry import Fitter, resize_classes
from clst_runtime.imaging.overlay import blend
from clst_runtime.live.results import Result
from clst_runtime.live.web.error_log import ErrorLog
from clst_runtime.system.optional import require

LONGEST_EDGE = 960
"""Pixels of the longer edge of what is shown; smaller images stay as they are."""
IMAGES_PER_SECOND = 15.0
JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An image ready to send."""

    serial: int
    """Counts the results that were offered, from 1."""
    frame: int
    """Position of its frame in the source."""
    captured_ns: int
    """`time.monotonic_ns` of its capture."""
    jpeg: bytes


def shown_size(size_hw: tuple[int, int], longest: int = LONGEST_EDGE) -> tuple[int, int]:
    """h,w of what is shown of an image H,W: the same shape, the longer edge at most `longest`."""
    scale = min(1.0, longest / max(size_hw))
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


class Painter:
    """Results to JPEG, in memory that is used again."""

    def __init__(self, classes: ClassList, alpha: float) -> None:
        self.classes, self.alpha = classes, alpha
        self._fitter: Fitter | None = None

    def paint(self, result: Result) -> bytes:
        """A JPEG h,w of the classes' colours over the image."""
        cv2 = require("cv2")
        size_hw = shown_size(result.timed.size_hw)
        if self._fitter is None or self._fitter.input_hw != size_hw:
            self._fitter = Fitter(size_hw)
        frame = self._fitter.fit(result.timed.image, result.timed.layout)
        overlay = blend(frame, resize_classes(result.mask, size_hw), self.classes, self.alpha)
        _, data = cv2.imencode(
            ".jpg", cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        )
        return np.asarray(data, np.uint8).tobytes()


class OverlayEncoder:
    """Hands the newest result to those who wait for it. One thread offers, one paints, an event loop asks."""

    def __init__(
        self, painter: Painter, *, report: Callable[[str], None], per_second: float = IMAGES_PER_SECOND
    ) -> None:
        """Args: report: takes a line when an image cannot be made."""
        self.painted = 0
        """JPEGs made so far."""
        self._painter, self._pause = painter, 1.0 / per_second
        self._errors = ErrorLog(report, "an image for the page failed")
        self._newest: Result | None = None
        self._serial = self._painted_serial = self._waiting = 0
        self._changed, self._closed = threading.Condition(), False
        self._latest: Encoded | None = None
        self._asking: list[asyncio.Future[Encoded]] = []
        self._thread = threading.Thread(target=self._work, name="web images", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; `loop` is where `newer` will be awaited."""
        self._loop = loop
        self._thread.start()

    def offer(self, result: Result) -> None:
        """Take over the newest result; returns at once."""
        with self._changed:
            self._newest, self._serial = result, self._serial + 1
            self._changed.notify()

    async def newer(self, than: int) -> Encoded:
        """The newest image as soon as there is one with a serial above `than`; for the event loop only."""
        with self._changed:
            latest = self._latest
            if latest is not None and latest.serial == self._serial and latest.serial > than:
                return latest
            self._waiting += 1
            self._changed.notify()
        asking: asyncio.Future[Encoded] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        try:
            return await asking
        finally:
            with self._changed:
                self._waiting -= 1
            with suppress(ValueError):
                self._asking.remove(asking)

    def _publish(self, image: Encoded) -> None:
        self._latest, asking, self._asking = image, self._asking, []
        for one in asking:
            if not one.done():
                one.set_result(image)

    def _work(self) -> None:
        next_at = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._is_wanted)
                self._changed.wait_for(lambda: self._closed, max(next_at - time.monotonic(), 0.0))
                if self._closed:
                    return
                result, serial = self._newest, self._serial
                if result is None or not self._is_wanted:  # who waited has gone meanwhile
                    continue
                self._newest, self._painted_serial = None, serial  # the frame's memory may be used again
            next_at = time.monotonic() + self._pause
            with self._errors.caught():
                self._hand_over(result, serial)

    @property
    def _is_wanted(self) -> bool:
        return self._waiting > 0 and self._serial > self._painted_serial

    def _hand_over(self, result: Result, serial: int) -> None:
        jpeg, timed = self._painter.paint(result), result.timed
        self.painted += 1
        image = Encoded(serial=serial, frame=timed.index, captured_ns=timed.captured_ns, jpeg=jpeg)
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._publish, image)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(1.0)
