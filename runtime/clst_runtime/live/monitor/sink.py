"""The monitor as a sink of the live loop; `RunStatistics.domain` takes its `snapshot` to the page and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.errors import ConfigError, ModelFileError
from clst_runtime.imaging.geometry import Fit, Fitter
from clst_runtime.live.monitor.collector import EVERY_SECONDS, MOST_MIB, Collector, open_collector
from clst_runtime.live.monitor.drift import DriftDetector, State
from clst_runtime.live.monitor.features import feature_names
from clst_runtime.live.monitor.reference import Reference
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.sources.base import Source, TimedFrame

PERIOD_SECONDS = 1.0
"""Between two looks: neighbouring frames are too much alike. The reference is measured with the same period."""
NO_REFERENCE = "no reference in the model, so another camera is not noticed; export it with --calib IMAGES"
Report = Callable[[str], None]
Clock = Callable[[TimedFrame], float]


def open_monitor(
    manifest: Manifest,
    source: Source,
    *,
    collect: Path | None = None,
    every_seconds: float = EVERY_SECONDS,
    most_mib: int = MOST_MIB,
    report: Report = lambda message: None,
) -> MonitorSink | None:
    """The sink that watches the camera; None, with a line to `report`, where the model has no reference.

    Args:
        collect: folder, or MCAP file, for frames of another camera; None = none are kept.
        every_seconds: least time between two of them.
        most_mib: MiB that it may hold, with what is in it already.
        report: called with a line when what is known of the camera changes, in the sink's thread.

    Raises:
        ModelFileError: the reference is damaged, or frames are to be collected and there is none.
        ConfigError, DataError: the folder or its bounds cannot be used.
    """
    if not manifest.domain:
        if collect is not None:
            raise ModelFileError(f"--collect {collect}: {NO_REFERENCE}")
        report(NO_REFERENCE)
        return None
    names = feature_names(manifest.classes.names, has_confidence=manifest.has_confidence)
    detector = DriftDetector(Reference.from_json(manifest.domain, names), len(manifest.classes))
    collector = None if collect is None else open_collector(collect, every_seconds=every_seconds, most_mib=most_mib)
    return MonitorSink(detector, manifest.input_hw, scene_clock(source), collector, report, fit=manifest.fit)


def scene_clock(source: Source, *, period_seconds: float = PERIOD_SECONDS) -> Clock:
    """Seconds in the scene at each frame: by capture of a live camera, by position in a video.

    Single images have no time; each counts as one period after the one before.
    """
    if source.live:
        return lambda timed: timed.captured_ns / 1e9
    fps = source.fps
    if fps:
        return lambda timed: timed.index / fps
    return lambda timed: timed.index * period_seconds


class MonitorSink(Sink):
    """Looks at one frame a period, reports changes and keeps frames of another camera."""

    name = "domain monitor"
    wants_camera_size = False

    def __init__(
        self,
        detector: DriftDetector,
        input_hw: tuple[int, int],
        clock: Clock,
        collector: Collector | None = None,
        report: Report = lambda message: None,
        *,
        period_seconds: float = PERIOD_SECONDS,
        fit: Fit = Fit.STRETCH,
    ) -> None:
        """Args: input_hw, fit: of the model. clock: seconds in the scene at a frame.

        Raises:
            ConfigError: a period of no length.
        """
        if period_seconds <= 0:
            raise ConfigError(f"a look every {period_seconds} s; give more than 0")
        self.detector, self.collector, self.report = detector, collector, report
        self.looks = self.alarms = 0
        self._clock, self._period, self._fitter = clock, period_seconds, Fitter(input_hw, fit)
        self._due_seconds: float | None = None
        self._reported, self._watching = State.UNKNOWN, True

    def write(self, result: Result) -> None:
        """Look at the frame, if it is time."""
        seconds = self._clock(result.timed)
        if self._due_seconds is not None and self._due_seconds - self._period < seconds < self._due_seconds:
            return
        self._due_seconds = self._next_due(seconds)
        self.looks += 1
        frame = self._fitter.fit(result.timed.image, result.timed.layout)
        status = self.detector.look(self._fitter.content.of(frame), result.prediction)
        if status.state is not self._reported:
            self.alarms += status.state is not State.SAME
            if self._reported is not State.UNKNOWN or status.state is not State.SAME:
                self.report(status.text)
            self._reported = status.state
        if status.state is State.OTHER and self.detector.took_last:
            self._collect(result, seconds)

    def _next_due(self, seconds: float) -> float:
        """Kept in step with the period, so that looks do not drift; anew after a gap or a clock that went back."""
        due = self._due_seconds
        if due is None or not due <= seconds < due + self._period:
            return seconds + self._period
        return due + self._period

    def _collect(self, result: Result, seconds: float) -> None:
        collector = self.collector
        if collector is None or not collector.is_due(seconds):
            return
        collector.save(result.timed, seconds)
        if collector.stopped:
            self.report(f"no more frames are collected: {collector.stopped}")

    def snapshot(self) -> dict[str, Any]:
        """What is known of the camera, in plain values; any thread may ask.

        `watching` is False from `close` on, at the end or after a failure: the values are not current then.
        """
        collector = self.collector
        collected = None if collector is None else {
            "folder": str(collector.folder),
            "frames": collector.written,
            "mib": round(collector.held_bytes / 2**20, 1),
            "stopped": collector.stopped,
        }  # fmt: skip
        values = {
            **self.detector.status.to_json(),
            "watching": self._watching,
            "looks": self.looks,
            "alarms": self.alarms,
        }
        return values | {"reference_frames": self.detector.reference.frames, "collected": collected}

    def close(self) -> None:
        """What is known stays readable. A run that was too short reports what it saw.

        Raises:
            DataError: the collected images could not be finished.
        """
        status = self.detector.status
        if self._watching and status.state is State.UNKNOWN and status.leaning is not None:
            self.report(status.text)
        self._watching = False
        if self.collector is not None:
            self.collector.close()
