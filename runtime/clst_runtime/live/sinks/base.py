"""What takes results, and the thread that keeps a slow taker from holding up the camera."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from clst_runtime.errors import DataError, message_of
from clst_runtime.live.results import Result
from clst_runtime.live.statistics import RunStatistics

QUEUED = 4
"""Results that may wait for a sink."""
POLL_SECONDS = 0.1


class Sink(ABC):
    """Takes results, in order; `close` makes what was written so far whole."""

    name: str
    """Named so in statistics and warnings."""
    wants_camera_size = True
    """Whether it needs masks at the camera's size."""
    in_main_thread = False
    """Whether it must be called by the main thread, as windows must."""
    queued = QUEUED
    """Results that may wait for it."""
    idle_seconds: float | None = None
    """After so long without a result `idle` is called, again and again; None = never."""

    @abstractmethod
    def write(self, result: Result) -> None:
        """Take one result. Raises: ClstError, OSError: it cannot go on; it is closed then."""

    def idle(self) -> None:
        """No result came. Raises: as `write`."""
        return

    def close(self) -> None:
        """Finish what is held open, if anything is; a second call does nothing."""
        return


class SinkWorker:
    """A sink with a thread and a short queue of its own; the thread closes it, too.

    Without loss (`lossless`), who offers waits, and the sink's failure ends the run. Live, a full queue drops the
    result for this sink alone, counted as `sink <name>`, and a sink that fails is closed while the run goes on.
    """

    def __init__(self, sink: Sink, statistics: RunStatistics, *, lossless: bool) -> None:
        self.sink, self.lossless = sink, lossless
        self.failure: Exception | None = None
        self.hangs = False
        """Whether the end did not wait for it any longer."""
        self.taken = 0
        """Results that it is done with."""
        self._statistics = statistics
        self._queue: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(sink.queued)
        self._thread: threading.Thread | None = None
        if not sink.in_main_thread:
            self._thread = threading.Thread(target=self._work, name=f"sink {sink.name}", daemon=True)
            self._thread.start()

    def offer(self, result: Result, *, wanted: Callable[[], bool] = lambda: False) -> None:
        """Hand over a result.

        Args:
            wanted: whether the run is to end; asked again and again while there is no room, which is made then.

        Raises:
            The sink's exception, when it has failed and nothing may be lost.
        """
        if self.failure is not None:
            if self.lossless:
                raise self.failure
            return
        if self._thread is None:
            self._write(result)
        elif self._has_room(wanted):
            self._queue.put(result)
        else:
            self._statistics.dropped(f"sink {self.sink.name}")

    def _has_room(self, wanted: Callable[[], bool]) -> bool:
        if not self.lossless:
            return self._room.acquire(blocking=False)
        while not self._room.acquire(timeout=POLL_SECONDS):
            if self.failure is not None or wanted():
                break
        return True

    def _work(self) -> None:
        while self.failure is None:
            try:
                result = self._queue.get(timeout=self.sink.idle_seconds)
            except queue.Empty:
                self._do(self.sink.idle)
                continue
            if result is None:
                break
            self._room.release()
            self._write(result)
        self._close()

    def _write(self, result: Result) -> None:
        self._do(lambda: self.sink.write(result))
        self.taken += 1

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  whatever it is, the thread must not end unseen
            self.failure = error
            if not self.lossless:
                self._statistics.warn(f"{self.sink.name} has stopped: {message_of(error)}")

    def _close(self) -> None:
        try:
            self.sink.close()
        except Exception as error:  # noqa: BLE001  the other sinks must be closed all the same
            self.failure = self.failure or error

    def finish(self) -> None:
        """Begin the end: the sink takes what still waits and is closed. `is_open` is False when that is done."""
        if self._thread is None:
            self._close()
        else:
            self._queue.put(None)

    def is_open(self, wait_seconds: float) -> bool:
        """Whether it is still being closed, after waiting so long at most."""
        if self._thread is None:
            return False
        self._thread.join(wait_seconds)
        return self._thread.is_alive()

    def leave(self) -> None:
        """Do not wait for it any longer."""
        self.hangs = True
        self.failure = self.failure or DataError("hangs, as when nobody reads it; what it holds is left as it is")
