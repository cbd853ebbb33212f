"""INT8 beside FP16 of the same network: which of the two engines is worth running on this GPU?

INT8 is not faster everywhere: small layers gain nothing, and each change of precision costs a pass over the memory. So
both engines are timed where they run, and INT8, the less accurate one, has to earn its place.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clst_runtime.atomic import write_text
from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda import CudaFailed, GpuOutOfMemory
from clst_runtime.backends.gpu_options import GpuOptions
from clst_runtime.backends.trt import TrtBackend
from clst_runtime.engines.build import device_for_building
from clst_runtime.engines.sidecar import read_engine, sidecar_path
from clst_runtime.errors import BudgetNotHeld, ClstError, ConfigError, DataError, MissingDependency, ModelFileError
from clst_runtime.json_values import read_json_object
from clst_runtime.manifest import Manifest

CHOICE_VERSION = 2
WORTHWHILE = 0.03
"""Share of FP16's time that INT8 must save to be preferred. It costs accuracy, so a tie goes to FP16; and a measurement
counts as steady up to a coefficient of variation of 2.5 % (`timing.UNSTEADY`), so less may be noise."""
WARM_UP_ROUNDS = 25
"""Untimed rounds of both engines: 50 runs, until the GPU's clock has risen."""
WARM_UP_SECONDS = 0.2
"""At least so long, for engines that are done with their rounds sooner."""
TIMED_RUNS = 64
"""Timed runs of each engine; its time is their median."""

COMMON_FAULTS = (MissingDependency, ConfigError, DataError)
"""Errors of the machine, the settings or the disk: the other engine would meet them too, so they decide nothing."""
VERDICTS = (ModelFileError, BudgetNotHeld)
"""Errors that say something of the engine itself. All others, as of memory that is used up, are of the moment: the
other engine is used, nothing is kept, and the next start tries again."""


class TimingFailed(ClstError):
    """One of the engines raised an error while they were timed."""

    def __init__(self, engine: Path, cause: ClstError) -> None:
        super().__init__(f"{engine.name} could not be timed: {cause.message}")
        self.engine, self.cause = engine, cause


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the two engines."""

    engine: str
    """Its file name."""
    onnx_sha256: str
    """Of the ONNX file it is made of."""
    engine_sha256: str | None = None
    """Of the engine; None if there is none."""
    compute_ms: float | None = None
    """Median time on the GPU without copies; None if it was not timed."""
    failure: str | None = None
    """Why it cannot be used, in one line; None if it can."""
    passing: bool = False
    """Whether that is of the moment, so that nothing of it is kept."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Both engines on one GPU, and what follows from it; `to_json` holds all of it."""

    int8: Contender
    """The quantised one."""
    fp16: Contender
    """Its rival."""
    gpu: str
    """As its driver names it."""
    compute_capability: str
    """Major and minor."""
    multiprocessors: int
    """How many of them it has."""
    tensorrt: str
    """Version."""
    options: Mapping[str, Any]
    """How both were built."""
    runs: int = TIMED_RUNS
    """Timed runs of each."""
    worthwhile: float = WORTHWHILE
    """Share of FP16's time that INT8 had to save."""

    def __post_init__(self) -> None:
        if self.int8.failure is not None and self.fp16.failure is not None:
            raise ValueError("both engines failed, so there is nothing to choose")
        times = (self.int8.compute_ms, self.fp16.compute_ms)
        if self.is_compared and not all(value is not None and 0.0 < value < math.inf for value in times):
            raise ValueError(f"times of {times} ms, expected two that are greater than 0")

    @property
    def is_lasting(self) -> bool:
        """Whether it holds for the next start too: no engine was missed for a reason of the moment."""
        return not (self.int8.passing or self.fp16.passing)

    @property
    def is_compared(self) -> bool:
        """Whether both engines work, so that their times decide."""
        return self.int8.failure is None and self.fp16.failure is None

    @property
    def ratio(self) -> float | None:
        """INT8's time / FP16's; None if one of them cannot be used."""
        return (self.int8.compute_ms or 0.0) / (self.fp16.compute_ms or math.inf) if self.is_compared else None

    @property
    def preferred(self) -> Contender:
        """INT8 if it saves more than `worthwhile` or FP16 cannot be used, else FP16."""
        if self.ratio is None:
            return self.int8 if self.int8.failure is None else self.fp16
        return self.int8 if self.ratio < 1.0 - self.worthwhile else self.fp16

    @property
    def why(self) -> str:
        """One line that ends with a clause about the preferred engine."""
        if self.ratio is None:
            lost, left = ("FP16", "INT8") if self.preferred is self.int8 else ("INT8", "FP16")
            reason = self.fp16.failure or self.int8.failure
            return (
                f"{lost} cannot be used {'on this GPU' if self.is_lasting else 'now'} ({reason}): {left} is what works"
            )
        told = f"INT8 takes {self.int8.compute_ms:.2f} ms, FP16 {self.fp16.compute_ms:.2f} ms on this GPU"
        saved = f"{100 * (1 - self.ratio):.1f} %"
        if self.preferred is self.int8:
            return f"{told}: INT8 saves {saved}"
        if self.ratio < 1.0:
            return f"{told}: INT8 saves only {saved}, FP16 loses no accuracy"
        return f"{told}: FP16 is {'faster' if self.ratio > 1.0 else 'as fast'} and loses nothing"

    def to_json(self) -> dict[str, Any]:
        """Plain values, with what was concluded."""
        return {
            "format_version": CHOICE_VERSION,
            **dataclasses.asdict(self),
            "options": dict(self.options),
            "ratio": self.ratio,
            "preferred": self.preferred.engine,
            "why": self.why,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Choice:
        """Read the form of `to_json`.

        Raises:
            ValueError: another form or version, or the conclusion does not follow from the times.
        """
        names = [field.name for field in dataclasses.fields(Choice)]
        try:
            given = {name: value[name] for name in names}
            choice = Choice(**given | {name: Contender(**value[name]) for name in ("int8", "fp16")})
            whole = choice.to_json()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__} {error}") from error
        differing = sorted(name for name in whole.keys() | value.keys() if whole.get(name) != value.get(name))
        if differing:
            raise ValueError(f"{', '.join(differing)} does not fit the rest")
        if not choice.is_lasting:
            raise ValueError("it was made for one start")
        return choice


def read_choice(path: Path) -> Choice:
    """A choice that was written by `write_choice`.

    Raises:
        ModelFileError: it cannot be read, or is damaged.
    """
    try:
        return Choice.from_json(read_json_object(path))
    except (DataError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged ({error}); remove it, and the engines are timed again") from error


def write_choice(choice: Choice, path: Path) -> None:
    """Keep it, whole or not at all."""
    write_text(path, json.dumps(choice.to_json(), indent=1) + "\n")


def decide(
    folder: Path,
    int8: Contender,
    fp16: Contender,
    frames: Sequence[Frame],
    *,
    options: Mapping[str, Any],
    gpu: GpuOptions | None = None,
) -> Choice:
    """Time two engines alternately, unless one of them has failed, and write what lasts into their manifests.

    Args:
        folder: where both engines are.
        int8: not timed yet.
        fp16: not timed yet.
        frames: pictures H,W,3 of the input size to time on.
        options: how both were built, in the form of `BuildOptions.to_json`.
        gpu: the CUDA library and the I/O that they are timed by.

    Raises:
        MissingDependency: no TensorRT or GPU. TimingFailed: an engine broke the GPU, this process can use none.
    """
    if int8.failure is None and fp16.failure is None:
        int8, fp16 = _timed(folder, int8, fp16, frames, gpu or GpuOptions())
    works = int8 if int8.failure is None else fp16
    facts = read_engine(folder / works.engine)[1].engine
    choice = Choice(
        int8=int8,
        fp16=fp16,
        gpu=facts["gpu"],
        compute_capability=facts["compute_capability"],
        multiprocessors=facts["multiprocessors"],
        tensorrt=facts["tensorrt"],
        options=options,
    )
    if choice.is_lasting:
        try:
            note_rivals(choice, folder)
        except DataError as error:
            click.echo(f"the engines' manifests do not tell of each other: {error.message}", err=True)
    return choice


def _timed(
    folder: Path, int8: Contender, fp16: Contender, frames: Sequence[Frame], gpu: GpuOptions
) -> tuple[Contender, Contender]:
    """Both with their times, or one of them with why it cannot be used."""

    def lost(each: Contender, error: ClstError) -> Contender:
        failure = f"it could not be timed: {error.message}"
        return dataclasses.replace(each, failure=failure, passing=not isinstance(error, VERDICTS))

    try:
        int8_ms, fp16_ms = _times([folder / int8.engine, folder / fp16.engine], frames, gpu)
    except TimingFailed as error:
        if isinstance(error.cause, CudaFailed):
            raise
        failed = error.engine.name
        return (lost(int8, error.cause), fp16) if failed == int8.engine else (int8, lost(fp16, error.cause))
    except COMMON_FAULTS:
        raise
    except ClstError as error:  # of neither of them: INT8 has not earned its place
        return lost(int8, error), fp16
    return dataclasses.replace(int8, compute_ms=int8_ms), dataclasses.replace(fp16, compute_ms=fp16_ms)


def _times(engines: Sequence[Path], frames: Sequence[Frame], gpu: GpuOptions) -> list[float]:
    """In turns; where the GPU's memory does not hold all at once, one after the other."""
    try:
        return time_alternately(engines, frames, gpu)
    except TimingFailed as error:
        if not isinstance(error.cause, GpuOutOfMemory):
            raise
    click.echo("the GPU's memory does not hold both engines at once: timing one after the other", err=True)
    return [time_alternately([engine], frames, gpu)[0] for engine in engines]


def time_alternately(engines: Sequence[Path], frames: Sequence[Frame], gpu: GpuOptions | None = None) -> list[float]:
    """Median time of each engine in ms: on the GPU's own clock, without copies.

    The engines take turns, so that a clock that rises or falls meanwhile hits all of them, and who begins changes from
    round to round. A turn is two runs, of which the second is timed: the first brings the engine's weights back into
    the GPU's cache, where they are when it drives alone.

    Args:
        engines: engine files.
        frames: pictures H,W,3 of the input size.
        gpu: the CUDA library and the I/O to time by.

    Raises:
        MissingDependency: no TensorRT or GPU. TimingFailed: what one of the engines raised. ClstError: the GPU's clock
            stands still.
    """
    samples: list[list[float]] = [[] for _ in engines]
    gpu = (gpu or GpuOptions()).without_graph()
    with device_for_building(gpu.cuda) as device, ExitStack() as opened:
        backends = []
        for path in engines:
            with _work_of(path):
                backends.append(opened.enter_context(TrtBackend(path, device=device, timed=True, gpu=gpu)))
        _warm_up(engines, backends, frames)
        for turn in range(TIMED_RUNS):
            frame = frames[turn % len(frames)]
            places = range(len(backends)) if turn % 2 == 0 else reversed(range(len(backends)))
            for place in places:
                with _work_of(engines[place]):
                    for _ in range(2):
                        backends[place].predict(frame)
                    samples[place].append(backends[place].device_times_ms()["compute"])
    medians = [statistics.median(each) for each in samples]
    if min(medians) <= 0.0:
        names = " and ".join(each.name for each in engines)
        raise ClstError(f"the GPU's clock gave {medians} ms for {names}; time a larger model")
    return medians


def _warm_up(engines: Sequence[Path], backends: Sequence[TrtBackend], frames: Sequence[Frame]) -> None:
    started, rounds = time.perf_counter(), 0
    while rounds < WARM_UP_ROUNDS or time.perf_counter() - started < WARM_UP_SECONDS:
        for path, backend in zip(engines, backends, strict=True):
            with _work_of(path):
                backend.predict(frames[rounds % len(frames)])
        rounds += 1


@contextmanager
def _work_of(engine: Path) -> Iterator[None]:
    """Each run is waited for, so what is raised here is this engine's doing."""
    try:
        yield
    except COMMON_FAULTS:
        raise
    except ClstError as error:
        raise TimingFailed(engine, error) from error


def note_rivals(choice: Choice, folder: Path) -> None:
    """Write into the manifest of each engine that works how the other one did: `engine["rival"]`."""
    for own, other in ((choice.int8, choice.fp16), (choice.fp16, choice.int8)):
        if own.failure is None:
            path = folder / own.engine
            manifest = read_engine(path)[1]
            told = {**dataclasses.asdict(other), "own_compute_ms": own.compute_ms, "runs": choice.runs}
            told |= {"ratio_int8_to_fp16": choice.ratio, "preferred": choice.preferred.engine, "why": choice.why}
            noted = dataclasses.replace(manifest, engine={**manifest.engine, "rival": told})
            write_text(sidecar_path(path), noted.to_json() + "\n")


def contender(engine: Path, manifest: Manifest) -> Contender:
    """A built engine that is to be timed."""
    facts = manifest.engine
    return Contender(engine=engine.name, onnx_sha256=facts["onnx_sha256"], engine_sha256=facts["engine_sha256"])


def failed(engine: Path, onnx_sha256: str, error: ClstError) -> Contender:
    """An engine that could not be built or does not say what its ONNX file says."""
    passing = not isinstance(error, VERDICTS)
    return Contender(engine=engine.name, onnx_sha256=onnx_sha256, failure=error.message, passing=passing)
