"""The live loop: source → backend → sinks. Legend: H rows, W columns."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from clst_runtime.backends.base import Backend, Classes, Prediction
from clst_runtime.errors import message_of
from clst_runtime.imaging.array_pool import Pool
from clst_runtime.imaging.geometry import Content, Fitter, resize_classes
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink, SinkWorker
from clst_runtime.live.statistics import INTERRUPTS, Deadline, RunStatistics
from clst_runtime.sources.base import Source, SourceEnded, TimedFrame
from clst_runtime.system.signals import handled, not_ignored

WARM_UP_RUNS = 3
TICK_SECONDS = 0.1
"""How often the loop shows signs of life while no frame comes."""
CLOSING_SECONDS = 5.0
"""How long the end waits for all sinks together: with the report it is shorter than the 10 s of `docker stop`."""
HURRY_SECONDS = 1.0
"""How long after a second signal: what can be whole by then is."""
MASKS_HELD = 8
"""Masks at camera size that sinks may hold without new memory."""


@dataclass(frozen=True, kw_only=True)
class Observers:
    """Callbacks on the progress of the run; each is called in the loop and must return at once."""

    ready: Callable[[RunStatistics], None] = lambda _: None
    """The model is warm and the first frame is there."""
    tick: Callable[[RunStatistics], None] = lambda _: None
    """After each frame, and at least every `TICK_SECONDS`."""


@dataclass(kw_only=True)
class Stop:
    """A wish to end, from a signal, a sink or another thread."""

    reason: str = ""
    """Empty while there is none."""
    times: int = 0
    """How often a signal asked for it."""
    breakable: bool = False
    """Whether a second signal interrupts what goes on; while files are finished it only shortens that."""

    def ask(self, reason: str) -> None:
        """End after the frame at hand; the first reason is kept."""
        self.reason = self.reason or reason

    @property
    def at_once(self) -> bool:
        """Whether a second signal has come."""
        return self.times > 1


class Segmenter:
    """Camera images to results, in memory that is used again."""

    def __init__(self, backend: Backend, *, at_camera_size: bool) -> None:
        self.backend, self.at_camera_size = backend, at_camera_size
        self._fitter, self._masks = Fitter(backend.manifest.input_hw, backend.manifest.fit), Pool(MASKS_HELD)

    def warm_up(self, timed: TimedFrame) -> None:
        """Compute a few frames, so that the first one that counts is as fast as the others."""
        for _ in range(WARM_UP_RUNS):
            self.segment(timed)

    def segment(self, timed: TimedFrame) -> Result:
        frame = self._fitter.fit(timed.image, timed.layout)
        before = time.monotonic_ns()
        predicted = self.backend.predict(frame)
        after = time.monotonic_ns()
        prediction = without_padding(predicted, self._fitter.content)
        mask = self._mask(prediction, timed)
        age_ns = time.monotonic_ns() - timed.captured_ns
        return Result(timed=timed, prediction=prediction, mask=mask, inference_ns=after - before, age_ns=age_ns)

    def _mask(self, prediction: Prediction, timed: TimedFrame) -> Classes:
        if not self.at_camera_size or prediction.classes.shape == timed.size_hw:
            return prediction.classes
        return resize_classes(prediction.classes, timed.size_hw, self._masks.take(timed.size_hw))


def without_padding(prediction: Prediction, content: Content) -> Prediction:
    """The prediction for the camera's image alone: views of that part of the maps."""
    if content.size_hw == prediction.classes.shape:
        return prediction
    confidence = prediction.confidence
    return Prediction(
        classes=content.of(prediction.classes), confidence=None if confidence is None else content.of(confidence)
    )


def run_pipeline(
    source: Source,
    backend: Backend,
    sinks: Sequence[Sink],
    *,
    limit: int | None = None,
    deadline: Deadline | None = None,
    observers: Observers | None = None,
    statistics: RunStatistics | None = None,
    stop: Stop | None = None,
) -> RunStatistics:
    """Segment frames until the source ends, `limit` is reached or somebody asks for the end; sinks are always closed.

    Files are segmented without loss: a slow sink slows the run, a failing one ends it. A live source never waits:
    what a slow sink cannot take is counted as its drops, and a failing one is left out from then on. Sinks are closed
    side by side; one that hangs is left after `CLOSING_SECONDS` and named in the statistics' failures.

    Raises:
        DataError: the source cannot go on. Of files also what a sink raised. KeyboardInterrupt: a second signal.
    """
    statistics = statistics or RunStatistics(deadline, live=source.live)
    observers, stop = observers or Observers(), stop or Stop()
    workers = [SinkWorker(sink, statistics, lossless=not source.live) for sink in sinks]
    segmenter = Segmenter(backend, at_camera_size=any(sink.wants_camera_size for sink in sinks))
    with stopped_by_signals(stop):
        try:
            stop.breakable = True
            _loop(source, segmenter, workers, statistics, limit=limit, observers=observers, stop=stop)
        finally:
            stop.breakable = False
            statistics.end = statistics.end or stop.reason or "error"
            _close(workers, stop, tick=lambda: observers.tick(statistics))
            _note_failures(workers, statistics)
    if stop.at_once:
        raise KeyboardInterrupt
    for worker in workers:
        if worker.failure is not None and worker.lossless and not worker.hangs:
            raise worker.failure
    return statistics


def _loop(
    source: Source,
    segmenter: Segmenter,
    workers: Sequence[SinkWorker],
    statistics: RunStatistics,
    *,
    limit: int | None,
    observers: Observers,
    stop: Stop,
) -> None:
    def wanted() -> bool:
        observers.tick(statistics)
        return bool(stop.reason)

    warm = False
    while not stop.reason:
        timed = None
        try:
            timed = source.take(TICK_SECONDS)
        except SourceEnded:
            stop.ask("the source has ended")
        finally:  # also when it fails for good
            _take_over(source, statistics)
        begins = timed is not None and not warm
        if timed is not None and begins:
            segmenter.warm_up(timed)
            _take_over(source, statistics)  # what passed while the model was warmed is no drop
            statistics.begin()
            observers.ready(statistics)
            warm = True
        if timed is not None and not (begins and source.live):  # a camera has newer frames by now
            result = segmenter.segment(timed)
            statistics.took(result, fresh=not begins)
            _hand_out(result, workers, stop, wanted)
        observers.tick(statistics)
        if limit is not None and statistics.frames >= limit:
            stop.ask("the wanted number of frames")


def _hand_out(result: Result, workers: Sequence[SinkWorker], stop: Stop, wanted: Callable[[], bool]) -> None:
    for worker in workers:
        try:
            worker.offer(result, wanted=wanted)
        except KeyboardInterrupt:  # a key in the window
            if stop.at_once:
                raise
            stop.ask(INTERRUPTS[signal.SIGINT])


def _take_over(source: Source, statistics: RunStatistics) -> None:
    status = source.status()
    for message in status.warnings:
        statistics.warn(message)
    statistics.passed(status.drops, lost=status.lost, losses=status.losses, why=status.why)


def _close(workers: Sequence[SinkWorker], stop: Stop, *, tick: Callable[[], None]) -> None:
    """Close all sinks side by side. What hangs is left; of files, a slow sink that still takes results is no such."""
    for worker in workers:
        worker.finish()
    left, taken, since, limit = list(workers), -1, time.monotonic(), CLOSING_SECONDS
    while left := [worker for worker in left if worker.is_open(0.0)]:
        taken_before, taken = taken, sum(worker.taken for worker in left if worker.lossless)
        if stop.at_once and limit > HURRY_SECONDS:
            since, limit = time.monotonic(), HURRY_SECONDS
        elif taken != taken_before and not stop.at_once:
            since = time.monotonic()
        elif time.monotonic() - since > limit:
            break
        tick()
        left[0].is_open(TICK_SECONDS)
    for worker in left:
        worker.leave()


def _note_failures(workers: Sequence[SinkWorker], statistics: RunStatistics) -> None:
    for worker in workers:
        if worker.failure is not None and (worker.hangs or not worker.lossless):
            statistics.failures.append(f"{worker.sink.name}: {message_of(worker.failure)}")


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the loop after the frame at hand; a second one ends the program at once.

    So every sink has every frame or none has it. In another thread than the main one nothing is changed, nor for a
    hang-up that is ignored already, as `nohup` does.
    """

    def asked(number: int, _: FrameType | None) -> None:
        stop.times += 1
        stop.ask(INTERRUPTS[signal.Signals(number)])
        if stop.times == 2 and stop.breakable:  # only once, so that whoever catches it can finish
            raise KeyboardInterrupt

    with handled([signal.SIGINT, signal.SIGTERM, *not_ignored([signal.SIGHUP])], asked):
        yield
