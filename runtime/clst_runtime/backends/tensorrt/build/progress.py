"""How far a build is: TensorRT's own phases as bars or lines, and the way to stop it."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from clst_runtime.errors import MissingDependency
from clst_runtime.system.optional import require
from clst_runtime.system.progress import PROGRESS, is_shown

if TYPE_CHECKING:
    import tensorrt as trt

SECONDS_BETWEEN_LINES = 5.0


class BuildProgress:
    """Shows phases of a build; this one shows nothing. TensorRT calls from several threads, so all are thread-safe."""

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside `parent` if there is one."""

    def step(self, phase: str, done: int) -> None:
        """So many of its steps are done."""

    def finish(self, phase: str) -> None:
        """It ended, complete or not."""

    def close(self) -> None:
        """The build is over."""


class BarProgress(BuildProgress):
    """A bar of tqdm for each phase that is open, indented by its depth."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._tqdm: Any = require("tqdm").tqdm
        self._stream = stream or sys.stderr
        self._bars: dict[str, Any] = {}
        self._depths: dict[str, int] = {}
        self._lock = threading.Lock()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._depths[phase] = self._depths.get(parent, -1) + 1 if parent else 0
            self._bars[phase] = self._tqdm(
                total=steps, desc="  " * self._depths[phase] + phase, leave=False, file=self._stream
            )

    def step(self, phase: str, done: int) -> None:
        with self._lock:
            bar = self._bars.get(phase)
            if bar is not None:
                bar.update(done - bar.n)

    def finish(self, phase: str) -> None:
        with self._lock:
            bar = self._bars.pop(phase, None)
            if bar is not None:
                bar.close()

    def close(self) -> None:
        """Remove what is left, as after an interrupt."""
        for phase in list(self._bars):
            self.finish(phase)


class LineProgress(BuildProgress):
    """A line for each outermost phase and then one every few seconds: for log files, and where tqdm is missing."""

    def __init__(self, *, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._seconds = seconds
        self._steps: dict[str, int] = {}
        self._reported_at = 0.0
        self._lock = threading.Lock()

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Say that an outermost phase begins."""
        with self._lock:
            self._steps[phase] = steps
            if parent is None:
                self._report(f"building: {phase}")

    def step(self, phase: str, done: int) -> None:
        """Say how far it is, now and then."""
        with self._lock:
            if time.monotonic() - self._reported_at >= self._seconds:
                self._report(f"building: {phase} {done}/{self._steps.get(phase, done)}")

    def finish(self, phase: str) -> None:
        with self._lock:
            self._steps.pop(phase, None)

    def _report(self, line: str) -> None:
        self._reported_at = time.monotonic()
        PROGRESS.info(line)


def show_progress() -> BuildProgress:
    """Bars on a terminal where tqdm is installed, else lines; nothing with `-q`."""
    if not is_shown():
        return BuildProgress()
    if sys.stderr.isatty():
        with suppress(MissingDependency):
            return BarProgress()
    return LineProgress()


def make_monitor(trt: ModuleType, progress: BuildProgress, cancelled: threading.Event) -> trt.IProgressMonitor:
    """TensorRT's progress monitor; once `cancelled` is set the build stops at its next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Called from C++ by any thread, where an exception would end the process: a broken terminal is ignored."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with suppress(OSError, ValueError):
                progress.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with suppress(OSError, ValueError):
                progress.step(phase_name, step + 1)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with suppress(OSError, ValueError):
                progress.finish(phase_name)

    return Monitor()
