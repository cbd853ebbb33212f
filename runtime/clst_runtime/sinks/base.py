"""What takes results, and the thread that keeps a slow taker from holding up the camera."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from contextlib import suppress

from clst_runtime.errors import DataError, words_of
from clst_runtime.results import Result
from clst_runtime.statistics import RunStatistics

QUEUED = 4
"""Results that may wait for a sink."""
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 10.0
"""How long the end of a live run waits for a sink."""


class Sink(ABC):
    """Takes results, in order; `close` makes what was written so far whole."""

    name: str
    """Named so in statistics and warnings."""
    wants_camera_size = True
    """Whether it needs masks at the camera's size."""
    in_main_thread = False
    """Whether it must be called by the main thread, as windows must."""

    @abstractmethod
    def write(self, result: Result) -> None:
        """Take one result. Raises: ClstError, OSError: it cannot go on; it is closed then."""

    @abstractmethod
    def close(self) -> None:
        """Finish; a second call does nothing."""


class Outlet:
    """A sink with a thread and a short queue of its own.

    Without loss (`lossless`), who offers waits, and the sink's failure ends the run. Live, a full queue drops the
    result for this sink alone, counted as `sink <name>`, and a sink that fails is closed while the run goes on.
    """

    def __init__(self, sink: Sink, statistics: RunStatistics, *, lossless: bool) -> None:
        self.sink, self.lossless = sink, lossless
        self.failure: Exception | None = None
        self._statistics = statistics
        self._queue: queue.Queue[Result | None] = queue.Queue(QUEUED)
        self._thread: threading.Thread | None = None
        if not sink.in_main_thread:
            self._thread = threading.Thread(target=self._work, name=f"sink {sink.name}", daemon=True)
            self._thread.start()

    def offer(self, result: Result) -> None:
        """Hand over a result.

        Raises:
            The sink's exception, when it has failed and nothing may be lost.
        """
        if self.failure is not None:
            if self.lossless:
                raise self.failure
            return
        if self._thread is None:
            self._write(result)
        elif self.lossless:
            self._wait(result)
        else:
            try:
                self._queue.put_nowait(result)
            except queue.Full:
                self._statistics.dropped(f"sink {self.sink.name}")

    def _wait(self, item: Result | None) -> None:
        while self.failure is None:
            with suppress(queue.Full):
                return self._queue.put(item, timeout=POLL_SECONDS)

    def _work(self) -> None:
        while self.failure is None:
            result = self._queue.get()
            if result is None:
                return
            self._write(result)

    def _write(self, result: Result) -> None:
        try:
            self.sink.write(result)
        except Exception as error:  # noqa: BLE001  whatever it is, the thread must not end unseen
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        if not self.lossless:
            self._statistics.warn(f"{self.sink.name} has stopped: {words_of(error)}")
            self.close_sink()

    def close_sink(self) -> None:
        """Close the sink; a failure of that is kept like one of writing."""
        try:
            self.sink.close()
        except Exception as error:  # noqa: BLE001  the other sinks must be closed all the same
            self.failure = self.failure or error

    def finish(self) -> None:
        """Let the sink take what still waits, then close it."""
        if self._thread is not None:
            self._wait(None)
            self._thread.join(None if self.lossless else PATIENCE_SECONDS)
            if self._thread.is_alive():
                self.failure = DataError(f"{self.sink.name} hangs; what it holds is left as it is")
                return
        self.close_sink()
