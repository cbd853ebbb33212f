"""Cameras and streams; the newest frame is the only one kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from clst_runtime.errors import DataError
from clst_runtime.frames import Layout
from clst_runtime.sources.base import OVERTAKEN, Source, SourceEnded, TimedFrame


class LiveSource(Source):
    """A camera or stream, read by a thread of its own; the newest frame is the only one kept."""

    live = True

    def __init__(self, uri: str, capture: Callable[..., Any], arguments: tuple[Any, ...], stall_seconds: float) -> None:
        super().__init__()
        self.uri = uri
        self._capture = capture(*arguments)
        if not self._capture.isOpened():
            raise DataError(f"{uri}: the camera cannot be opened; is it plugged in and free? clst-doctor lists cameras")
        announced = float(self._capture.get(5))
        self.fps = announced if announced > 0 else None
        self._stall_seconds = stall_seconds
        self._newest: tuple[int, Any, int] | None = None
        self._arrived, self._ended = threading.Condition(), False
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)

    def _read(self) -> None:
        index = 0
        while not self._ended:
            good, picture = self._capture.read()
            with self._arrived:
                if not good:
                    self._ended = True
                    self._arrived.notify()
                    return
                self.drops[OVERTAKEN] += self._newest is not None
                self._newest = (index, picture, time.monotonic_ns())
                index += 1
                self._arrived.notify()

    def take(self, timeout_seconds: float) -> TimedFrame | None:
        """The newest frame."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._newest is not None or self._ended, timeout_seconds)
            newest, self._newest = self._newest, None
        if newest is None and self._ended:
            self.warnings.append(f"{self.uri}: the stream has ended")
            raise SourceEnded
        if newest is None:
            return None
        index, picture, captured_ns = newest
        return TimedFrame(index=index, picture=picture, layout=Layout.BGR, captured_ns=captured_ns, name=f"{index:06d}")

    def __enter__(self) -> LiveSource:
        self._thread.start()
        return self

    def close(self) -> None:
        """Release the camera, unless a read of it hangs."""
        self._ended = True
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():  # releasing under a read that hangs would crash OpenCV
            self._capture.release()
