"""The live loop: sources → backend → sinks. One thread computes, for all cameras. Legend: H rows, W columns."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from types import FrameType

import numpy as np

from clst_runtime.backends.base import Backend, Classes, Prediction
from clst_runtime.errors import message_of
from clst_runtime.imaging.array_pool import Pool
from clst_runtime.imaging.geometry import Content, Fitter, resize_classes
from clst_runtime.imaging.ignore_mask import IgnoreMask
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
NEVER = 1 << 63
"""A time that does not come."""


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


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A source, and what belongs to it alone; the cameras of a run share the backend and the loop."""

    source: Source
    sinks: Sequence[Sink]
    statistics: RunStatistics
    observers: Observers = field(default_factory=Observers)
    ignored: IgnoreMask | None = None


class Segmenter:
    """Camera images to results, in memory that is used again."""

    def __init__(self, backend: Backend, *, at_camera_size: bool, ignored: IgnoreMask | None = None) -> None:
        self.backend, self.at_camera_size, self._ignored = backend, at_camera_size, ignored
        self._fitter, self._masks = Fitter(backend.manifest.input_hw, backend.manifest.fit), Pool(MASKS_HELD)

    def warm_up(self, timed: TimedFrame) -> None:
        """Compute a few frames, so that the first one that counts is as fast as the others."""
        for _ in range(WARM_UP_RUNS):
            self.segment(timed)

    def check(self, timed: TimedFrame) -> None:
        """Raises: DataError: the ignore mask is none of this camera's images."""
        if self._ignored is not None:
            self._ignored.check(timed.size_hw)

    def segment(self, timed: TimedFrame) -> Result:
        frame = self._fitter.fit(timed.image, timed.layout)
        before = time.monotonic_ns()
        predicted = self.backend.predict(frame)
        after = time.monotonic_ns()
        prediction = without_padding(predicted, self._fitter.content)
        classes = self._without_ignored(prediction.classes, None)
        mask = classes
        if self.at_camera_size and classes.shape != timed.size_hw:
            mask = resize_classes(prediction.classes, timed.size_hw, self._masks.take(timed.size_hw))
            mask = self._without_ignored(mask, mask)
        age_ns = time.monotonic_ns() - timed.captured_ns
        return Result(timed=timed, prediction=prediction, classes=classes, mask=mask,
                      inference_ns=after - before, age_ns=age_ns)  # fmt: skip

    def _without_ignored(self, classes: Classes, out: Classes | None) -> Classes:
        if self._ignored is None:
            return classes
        hidden = self._ignored.at((classes.shape[0], classes.shape[1]))
        return np.bitwise_or(classes, hidden, out=out)  # any id or 255 is 255


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
    camera = Camera(source=source, sinks=sinks, statistics=statistics, observers=observers or Observers())
    run_cameras([camera], backend, limit=limit, stop=stop)
    return statistics


def run_cameras(
    cameras: Sequence[Camera], backend: Backend, *, limit: int | None = None, stop: Stop | None = None
) -> None:
    """As `run_pipeline`, of several cameras; no one of them is ever waited for while another one has a frame.

    The camera that has waited longest comes first, and gives its newest frame. One that ends, fails for good, has given
    `limit` frames, or whose sink fails without loss, ends alone: its sinks are closed, and what failed is among the
    failures of its statistics.

    Raises:
        KeyboardInterrupt: a second signal. Of a single camera what `run_pipeline` raises.
    """
    stop = stop or Stop()
    runs = [_CameraRun(camera, backend) for camera in cameras]
    with stopped_by_signals(stop):
        try:
            stop.breakable = True
            _loop(runs, limit=limit, stop=stop)
        finally:
            stop.breakable = False
            for run in runs:
                run.statistics.end = run.statistics.end or stop.reason or "error"
            _close([worker for run in runs for worker in run.workers], stop, tick=lambda: _tick(runs))
            for run in runs:
                run.note_failures()
    if stop.at_once:
        raise KeyboardInterrupt
    if len(runs) == 1 and runs[0].failure is not None:
        raise runs[0].failure
    for run in runs:
        if run.failure is not None and (text := message_of(run.failure)) not in run.statistics.failures:
            run.statistics.failures.append(text)


class _CameraRun:
    """A camera while the loop runs."""

    def __init__(self, camera: Camera, backend: Backend) -> None:
        self.source, self.statistics, self.observers = camera.source, camera.statistics, camera.observers
        self.workers = [SinkWorker(sink, self.statistics, lossless=not self.source.live) for sink in camera.sinks]
        at_camera_size = any(sink.wants_camera_size for sink in camera.sinks)
        self._segmenter = Segmenter(backend, at_camera_size=at_camera_size, ignored=camera.ignored)
        self.begun = False
        """Whether the model was warm when a frame came."""
        self.turn = 0
        """When it was asked last, counted in frames of all cameras."""
        self.over = ""
        """Why it gives nothing more."""
        self.failure: Exception | None = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What is raised within ends this camera, and no other one."""
        try:
            yield
        except SourceEnded:
            self.over = "the source has ended"
        except Exception as error:  # noqa: BLE001  raised or reported at the end; the other cameras go on
            self.over, self.failure = "error", error

    def waiting_ns(self) -> int:
        """Since when a frame waits, or until when it does not; `NEVER` where that is not known."""
        since = None
        with self._alone():
            since = self.source.waiting_ns()
        return NEVER if since is None else since

    def take(self, timeout_seconds: float) -> TimedFrame | None:
        timed = None
        with self._alone():
            timed = self.source.take(timeout_seconds)
        return timed

    def take_over(self) -> None:
        """What the source counted and warned of."""
        status = self.source.status()
        for message in status.warnings:
            self.statistics.warn(message)
        self.statistics.passed(status.drops, lost=status.lost, losses=status.losses, why=status.why)

    def serve(self, timed: TimedFrame, *, is_warm: bool, stop: Stop) -> None:
        """Segment a frame; the first one is for the warm-up and, of a camera, has a newer one behind it by then."""
        with self._alone():
            self._segmenter.check(timed)
        if self.over:
            return
        if not self.begun:
            if not is_warm:
                self._segmenter.warm_up(timed)
            self.take_over()  # what passed while the model was warmed is no drop
            self.statistics.begin()
            with self._alone():
                self.observers.ready(self.statistics)
        fresh, self.begun = self.begun, True
        if not self.over and (fresh or not self.source.live):
            result = self._segmenter.segment(timed)
            self.statistics.took(result, fresh=fresh)
            with self._alone():
                self._hand_out(result, stop)

    def _hand_out(self, result: Result, stop: Stop) -> None:
        def wanted() -> bool:
            self.tick()
            return bool(stop.reason)

        for worker in self.workers:
            try:
                worker.offer(result, wanted=wanted)
            except KeyboardInterrupt:  # a key in the window
                if stop.at_once:
                    raise
                stop.ask(INTERRUPTS[signal.SIGINT])

    def tick(self) -> None:
        self.observers.tick(self.statistics)

    def leave(self) -> None:
        """End, whether or not others go on; what its sinks have written becomes whole now."""
        self.statistics.end = self.over
        if self.failure is not None:
            self.statistics.failures.append(message_of(self.failure))
        for worker in self.workers:
            worker.finish()

    def note_failures(self) -> None:
        """Take over what sinks failed of; of files that is the camera's failure."""
        for worker in self.workers:
            if worker.failure is not None and (worker.hangs or not worker.lossless):
                self.statistics.failures.append(f"{worker.sink.name}: {message_of(worker.failure)}")
            elif worker.failure is not None:
                self.failure = self.failure or worker.failure


def _loop(runs: Sequence[_CameraRun], *, limit: int | None, stop: Stop) -> None:
    running, arrived, turns = list(runs), threading.Event(), count(1)
    for run in runs:
        run.source.arrived = arrived
    while not stop.reason:
        chosen, timed = _longest_waiting(running, arrived), None
        if chosen is not None:
            chosen.turn = next(turns)
            timed = chosen.take(TICK_SECONDS if len(running) == 1 else 0.0)
        for run in running:  # also one that has failed for good
            run.take_over()
        if chosen is not None and timed is not None:
            chosen.serve(timed, is_warm=any(run.begun for run in runs), stop=stop)
            if limit is not None and chosen.statistics.frames >= limit:
                chosen.over = chosen.over or "the wanted number of frames"
        _end_those_that_are_over(runs, running, stop)
        _tick(runs)


def _end_those_that_are_over(runs: Sequence[_CameraRun], running: list[_CameraRun], stop: Stop) -> None:
    for run in [run for run in running if run.over]:
        running.remove(run)
        if len(runs) > 1:
            run.leave()
        elif run.failure is not None:
            raise run.failure
        if not running:
            stop.ask(run.over)


def _longest_waiting(running: Sequence[_CameraRun], arrived: threading.Event) -> _CameraRun | None:
    """The camera whose frame waits longest, of those that always have one the one that was asked longest ago.

    Where none has a frame it is waited for, `TICK_SECONDS` at most, and the answer is None. One that is left alone
    waits by itself.
    """
    if len(running) == 1:
        return running[0]
    arrived.clear()  # before looking: what comes from now on ends the waiting
    since_ns, _, number = min((run.waiting_ns(), run.turn, number) for number, run in enumerate(running))
    seconds = (since_ns - time.monotonic_ns()) / 1e9
    if seconds <= 0:
        return running[number]
    arrived.wait(min(seconds, TICK_SECONDS))
    return None


def _tick(runs: Sequence[_CameraRun]) -> None:
    for run in runs:
        run.tick()


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
