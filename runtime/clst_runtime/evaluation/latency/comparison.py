"""Models side by side: what is compared, by which of the three kinds of latency, and what must hold.

The kinds are never mixed: engine-only is the network alone, host-to-host a frame in NumPy to a mask in NumPy,
capture-to-mask is from capture to mask, through the loop of `clst-run`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.backends import open_model
from clst_runtime.backends.base import Backend, Frame
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.selection import AUTO, TENSORRT, choose_backend, has_choice
from clst_runtime.backends.tensorrt.bundle.device_engine import open_bundle
from clst_runtime.backends.tensorrt.runner import TrtBackend
from clst_runtime.errors import ConfigError, ModelFileError
from clst_runtime.evaluation.export_digest import DigestComparison, compare_with_digest, known_frames, stored_digest
from clst_runtime.evaluation.latency.capture_to_mask import LiveResult, live_source, run_live
from clst_runtime.evaluation.latency.engine_only import engine_step
from clst_runtime.evaluation.latency.host_to_host import Effort, LatencyResult, measure_rounds, measure_side_by_side
from clst_runtime.imaging.geometry import Fit, fit_frame
from clst_runtime.live.latency import UNSTEADY, summarise_ms
from clst_runtime.sources import open_source

FRAMES = 16
"""Images that are measured on, in turn."""
SEARCHED = 512
"""Images, at most, that are looked through for those of the export."""
ENGINE_RUNS = 256
"""Engine-only runs, at most: they come after the host-to-host ones, as many again would only cost time."""


NO_GRAPH = "without the CUDA graph, whose stages cannot be timed"


class Level(str, Enum):
    """What a latency holds."""

    ENGINE_ONLY = "engine_only"
    HOST_TO_HOST = "host_to_host"
    CAPTURE_TO_MASK = "glass_to_mask"  # the key of its results

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model file and what is to compute it."""

    name: str
    """As it was asked for."""
    path: Path
    backend: str = AUTO
    """As `open_model` takes it."""
    gpu: GpuOptions = field(default_factory=GpuOptions)
    """How an engine is run; the default for what is none."""

    @property
    def is_engine(self) -> bool:
        """Whether TensorRT computes it."""
        return has_choice(self.path) and choose_backend(self.path, self.backend).name == TENSORRT

    @staticmethod
    def parse(text: str) -> Candidate:
        """`MODEL` or `MODEL@BACKEND`; a file that has an @ in its name is taken as a file.

        Raises:
            ConfigError: the backend is not known, or cannot compute such a file.
        """
        path, at, backend = text.rpartition("@")
        if not at or Path(text).exists():
            return Candidate(name=text, path=Path(text))
        choose_backend(Path(path), backend)
        return Candidate(name=text, path=Path(path), backend=backend)

    def open(self, *, threads: int | None, timed: bool = False) -> Backend:
        """The model by `open_model`, ready to predict; `timed` asks for the GPU's clock, at a little cost."""
        if timed and self.path.exists() and self.is_engine:
            gpu = self.gpu.without_graph()  # the stages inside a graph cannot be timed
            return (open_bundle if self.path.is_dir() else TrtBackend)(self.path, timed=True, gpu=gpu)
        return open_model(self.path, threads=threads, backend=self.backend, gpu=self.gpu)


def candidates_for(models: Sequence[str], gpu: GpuOptions) -> list[Candidate]:
    """The models as they were named; `gpu` holds for those that are engines.

    Raises:
        ConfigError: a backend is not known or cannot compute such a file, or none is an engine and `gpu` would do
            nothing.
    """
    parsed = [Candidate.parse(model) for model in models]
    if gpu != GpuOptions() and not any(each.is_engine for each in parsed):
        raise ConfigError(
            "--io, --cuda and --cuda-graph are for engines and bundles, and no model is one; leave them out"
        )
    return [replace(each, gpu=gpu) if each.is_engine else each for each in parsed]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model by one kind of latency."""

    candidate: Candidate
    backend: str
    """What computed, as text."""
    input_hw: tuple[int, int]
    level: Level
    samples_ns: tuple[int, ...]
    """Each run; empty where it could not be measured."""
    note: str = ""
    """Why not, or what must be known of the samples."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is known: warm-up runs, output hash, tie to the export, statistics of the live run."""

    def summary_ms(self) -> dict[str, float]:
        """Percentiles in milliseconds and the coefficient of variation; empty without samples."""
        return summarise_ms(self.samples_ns)

    @property
    def unsteady(self) -> float | None:
        """The coefficient of variation where it is above `UNSTEADY`."""
        spread = self.summary_ms().get("cov", 0.0)
        return spread if spread > UNSTEADY else None


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What must hold; None = not asked."""

    max_p99_ms: float | None = None
    """Of every model."""
    max_median_ms: float | None = None
    """Of every model."""
    max_ratio: float | None = None
    """Median of every further model through that of the first."""

    def failures(self, scores: Sequence[Score]) -> list[str]:
        """Which budgets do not hold; empty when all do. The scores are of one kind."""
        failures = []
        for score, ratio in zip(scores, ratios_to_first(scores), strict=True):
            summary = score.summary_ms()
            bounds = {"p99": self.max_p99_ms, "median": self.max_median_ms}
            for name, bound in bounds.items():
                if bound is not None and not summary:
                    failures.append(f"{score.candidate.name}: nothing was measured to hold a budget against")
                elif bound is not None and not summary[name] <= bound:
                    failures.append(f"{score.candidate.name}: {name} is {summary[name]:.2f} ms, {bound:.2f} ms allowed")
            if self.max_ratio is not None and ratio is not None and not ratio <= self.max_ratio:
                failures.append(
                    f"{score.candidate.name}: takes {ratio:.3f} times as long as {scores[0].candidate.name}, "
                    f"{self.max_ratio:.3f} allowed"
                )
        return failures


def ratios_to_first(scores: Sequence[Score]) -> list[float | None]:
    """Each median through the first one's; None where one of both is missing."""
    medians = [score.summary_ms().get("median") for score in scores]
    first = medians[0] if medians else None
    return [None if first is None or not first or median is None else median / first for median in medians]


def host_to_host(
    candidates: Sequence[Candidate], data: str | None, effort: Effort, *, threads: int | None
) -> list[Score]:
    """Open all models, compare them with their exports where the frames are there, and let them take turns.

    Raises:
        ModelFileError: input sizes or fits differ. DataError: no images. What opening raises.
    """
    with ExitStack() as opened:
        backends = [opened.enter_context(each.open(threads=threads)) for each in candidates]
        size = check_sizes(candidates, backends)
        frames = frames_to_measure(data, size, backends[0].manifest.fit)
        ties = compare_with_exports(candidates, backends, data)
        results = measure_side_by_side(backends, frames, effort)
        return [
            Score(
                candidate=each,
                backend=backend.description,
                input_hw=size,
                level=Level.HOST_TO_HOST,
                samples_ns=result.samples_ns,
                note="; ".join(getattr(backend, "warnings", ())),
                details=_details(result, tie) | _network(backend),
            )
            for each, backend, result, tie in zip(candidates, backends, results, ties, strict=True)
        ]


def _network(backend: Backend) -> dict[str, str]:
    """Which network it is, whatever its file is called."""
    return {"checkpoint_sha256": backend.manifest.source_checkpoint_sha256}


def _details(result: LatencyResult, tie: DigestComparison | None) -> dict[str, Any]:
    return {
        "warm_up_runs": result.warm_up_runs,
        "output_sha256": result.output_sha256,
        "parity": tie.to_json()
        if tie
        else {"tied": False, "told": "not tied: its manifest holds no hashes of an export"},
    }


def engine_only(
    candidates: Sequence[Candidate], data: str | None, effort: Effort, *, threads: int | None
) -> list[Score]:
    """The networks alone, in interleaved rounds, or why one cannot be measured. Raises as `host_to_host`."""
    effort = replace(effort, runs=min(effort.runs, ENGINE_RUNS))
    with ExitStack() as opened:
        backends = [opened.enter_context(each.open(threads=threads, timed=True)) for each in candidates]
        size = check_sizes(candidates, backends)
        steps, fit = [engine_step(backend) for backend in backends], backends[0].manifest.fit
        able = [step for step in steps if not isinstance(step, str)]
        samples = iter(measure_rounds(able, frames_to_measure(data, size, fit), effort)[0] if able else [])
        return [
            Score(
                candidate=each,
                backend=backend.description,
                input_hw=size,
                level=Level.ENGINE_ONLY,
                samples_ns=() if isinstance(step, str) else tuple(next(samples)),
                note=step if isinstance(step, str) else NO_GRAPH if each.gpu.graph else "",
                details=_network(backend),
            )
            for each, backend, step in zip(candidates, backends, steps, strict=True)
        ]


def capture_to_mask(candidates: Sequence[Candidate], uri: str, seconds: float, *, threads: int | None) -> list[Score]:
    """Drive with one model after the other on the same source, each for `seconds`.

    Raises:
        ModelFileError: input sizes differ. DataError: the source gives nothing. What opening raises.
    """
    scores: list[Score] = []
    for each in candidates:
        with each.open(threads=threads) as backend:
            size = backend.manifest.input_hw
            if scores and size != scores[0].input_hw:
                raise _other_size(each, size, scores[0].input_hw)
            source, fps = live_source(uri)
            result = run_live(backend, source, seconds, replayed_fps=fps)
            scores.append(_live_score(each, backend, result))
    return scores


def _live_score(each: Candidate, backend: Backend, result: LiveResult) -> Score:
    fps, dropped = result.replayed_fps, result.statistics["dropped"]
    note = f"{result.statistics['frames']} frames, {dropped} dropped"
    if fps is not None:
        note += f"; images replayed at {fps:g} frames/s, from when one was due, without a camera"
    return Score(
        candidate=each,
        backend=backend.description,
        input_hw=backend.manifest.input_hw,
        level=Level.CAPTURE_TO_MASK,
        samples_ns=result.ages_ns,
        note=note,
        details={"statistics": result.statistics, "memory_growth_mib": result.memory.growth_mib()} | _network(backend),
    )


def check_sizes(candidates: Sequence[Candidate], backends: Sequence[Backend]) -> tuple[int, int]:
    """The one input size of all, which images become in the same way.

    Raises:
        ModelFileError: sizes or fits differ.
    """
    size, fit = backends[0].manifest.input_hw, backends[0].manifest.fit
    for each, backend in zip(candidates, backends, strict=True):
        own = backend.manifest
        if own.input_hw != size:
            raise _other_size(each, own.input_hw, size)
        if own.fit is not fit:
            raise ModelFileError(
                f"{each.name}: fit {own.fit.value}, the first model's is {fit.value}; compare models of one fit"
            )
    return size


def _other_size(each: Candidate, found: tuple[int, int], first: tuple[int, int]) -> ModelFileError:
    return ModelFileError(f"{each.name}: input {found}, the first model's is {first}; compare equal sizes")


def frames_to_measure(
    data: str | None, size_hw: tuple[int, int], fit: Fit = Fit.STRETCH, *, count: int = FRAMES
) -> list[Frame]:
    """Up to `count` frames H,W,3 of a folder or video at the model's size by its `fit`, else noise.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    if data is None:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for _ in range(4)]
    return list(_frames(data, size_hw, fit, count))


def _frames(data: str, size_hw: tuple[int, int], fit: Fit, count: int) -> Iterator[Frame]:
    with open_source(data) as source:
        for timed in itertools.islice(source, count):
            frame = fit_frame(timed.rgb, size_hw, fit)
            yield frame if frame.flags.owndata else np.array(frame)


def compare_with_exports(
    candidates: Sequence[Candidate], backends: Sequence[Backend], data: str | None
) -> list[DigestComparison | None]:
    """Each model beside what it said at export, on those images of `data` that were among its frames there.

    None for a model whose manifest holds no fingerprint.

    Raises:
        ModelFileError: a fingerprint is damaged.
    """
    known = [
        stored_digest(backend.manifest, where=each.name) for each, backend in zip(candidates, backends, strict=True)
    ]
    wanted = {digest for each in known if each is not None for digest in each.frames_sha256}
    manifest, images = backends[0].manifest, iter(list[Frame]())
    if data is not None and wanted:
        images = _frames(data, manifest.input_hw, manifest.fit, SEARCHED)
    found = known_frames(images, wanted)
    return [
        None if each is None else compare_with_digest(backend, each, found)
        for each, backend in zip(known, backends, strict=True)
    ]
