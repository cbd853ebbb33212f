"""The times of an INT8 and an FP16 engine of one network, measured in turns on the GPU that runs them."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda.device import CudaFailed, GpuOutOfMemory
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.engine import device_for_building
from clst_runtime.backends.tensorrt.bundle.proof import Outcome
from clst_runtime.backends.tensorrt.runner import TrtBackend
from clst_runtime.errors import ClstError

_log = logging.getLogger(__name__)

WARM_UP_ROUNDS = 25
"""Untimed rounds of both engines: 50 runs, until the GPU's clock has risen."""
WARM_UP_SECONDS = 0.2
"""At least so long, for engines that are done with their rounds sooner."""
TIMED_RUNS = 64
"""Timed runs of each engine; its time is their median."""


class RunFailed(ClstError):
    """What one of the engines raised."""

    def __init__(self, engine: Path, cause: ClstError) -> None:
        super().__init__(f"{engine.name} could not be timed: {cause.message}")
        self.engine, self.cause = engine, cause


def compare_times(
    folder: Path, pair: tuple[Outcome, Outcome], frames: Sequence[Frame], gpu: GpuOptions
) -> list[Outcome]:
    """An INT8 and an FP16 engine of a folder with their times, or one of them with why it cannot be used.

    Args:
        pair: INT8, FP16.
        frames: images H,W,3 of the input size to time on.

    Raises:
        RunFailed: an engine broke the GPU, this process can use none. MissingDependency: no TensorRT or GPU.
    """
    _log.info("timing the INT8 and the FP16 engine in turns")
    try:
        times = _times([folder / each.engine for each in pair], frames, gpu)
    except RunFailed as error:
        if isinstance(error.cause, CudaFailed):
            raise
        return [each.failed(error.cause) if each.engine == error.engine.name else each for each in pair]
    return [dataclasses.replace(each, compute_ms=ms) for each, ms in zip(pair, times, strict=True)]


def _times(engines: Sequence[Path], frames: Sequence[Frame], gpu: GpuOptions) -> list[float]:
    """In turns; where the GPU's memory does not hold all at once, one after the other."""
    try:
        return time_alternately(engines, frames, gpu)
    except RunFailed as error:
        if not isinstance(error.cause, GpuOutOfMemory):
            raise
    _log.info("the GPU's memory does not hold both engines at once: timing one after the other")
    return [time_alternately([engine], frames, gpu)[0] for engine in engines]


def time_alternately(engines: Sequence[Path], frames: Sequence[Frame], gpu: GpuOptions) -> list[float]:
    """Median time of each engine in ms: on the GPU's own clock, without copies.

    The engines take turns, so that a clock that rises or falls meanwhile hits all of them, and who begins changes from
    round to round. A turn is two runs, of which the second is timed: the first brings the engine's weights back into
    the GPU's cache, where they are when it drives alone.

    Args:
        frames: images H,W,3 of the input size.

    Raises:
        MissingDependency: no TensorRT or GPU. RunFailed: what one of the engines raised; each run is waited for, so
            that it is that engine's doing.
    """
    samples: dict[Path, list[float]] = {path: [] for path in engines}
    gpu = gpu.without_graph()
    at = engines[0]
    with device_for_building(gpu.cuda) as device, ExitStack() as opened:
        backends = {}
        try:
            for at in engines:
                backends[at] = opened.enter_context(TrtBackend(at, device=device, timed=True, gpu=gpu))
            started, rounds = time.perf_counter(), 0
            while rounds < WARM_UP_ROUNDS or time.perf_counter() - started < WARM_UP_SECONDS:
                for at in engines:
                    backends[at].predict(frames[rounds % len(frames)])
                rounds += 1
            for turn in range(TIMED_RUNS):
                for at in engines if turn % 2 == 0 else reversed(engines):
                    for _ in range(2):
                        backends[at].predict(frames[turn % len(frames)])
                    samples[at].append(backends[at].device_times_ms()["compute"])
        except ClstError as error:
            raise RunFailed(at, error) from error
    return [statistics.median(samples[path]) for path in engines]
