"""The acceptance of a model on the device that will run it: step by step; each failure is reported."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends import open_model
from clst_runtime.backends.base import Backend, Frame
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.selection import AUTO
from clst_runtime.backends.tensorrt.bundle.format import load_frames, read_bundle
from clst_runtime.backends.tensorrt.sidecar import read_engine
from clst_runtime.doctor import Finding, examine
from clst_runtime.errors import BudgetNotHeld, ClstError, MissingDependency
from clst_runtime.evaluation.acceptance.parity import compare_with_export, images_of
from clst_runtime.evaluation.latency.capture_to_mask import LiveResult, live_source, run_live
from clst_runtime.evaluation.latency.comparison import frames_to_measure
from clst_runtime.evaluation.latency.host_to_host import Effort, measure_side_by_side
from clst_runtime.live.latency import UNSTEADY
from clst_runtime.live.statistics import LOST, STALE
from clst_runtime.sources import open_source
from clst_runtime.sources.replay import REPLAY_FPS, ReplaySource
from clst_runtime.system.credentials import without_credentials
from clst_runtime.system.device_state import brief_state, device_state, unsteadiness
from clst_runtime.system.files.hashing import file_sha256

MEMORY_GROWTH_MIB = 24.0
"""So much may the process grow in a live run after it has settled; a frame that leaks is found within seconds."""
LATENCY = Effort(runs=1024, seconds=30.0)
"""What is measured of the latency."""


class Status(str, Enum):
    """How a step ended."""

    HOLDS = "holds"
    FAILED = "failed"
    SKIPPED = "skipped"
    """A step before it failed that it needs."""
    NOT_JUDGED = "not judged"
    """Nothing was given to judge by; what was found is reported."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be accepted, and by what."""

    model: Path
    data: Path | None = None
    """Labelled data set, or a folder of images."""
    source: str | None = None
    """Camera or stream of the live run; None = the images, replayed."""
    seconds: float = 60.0
    """Length of the live run."""
    threads: int | None = None
    """CPU threads; None = the engine's choice."""
    backend: str = AUTO
    """What computes, as `open_model` takes it."""
    gpu: GpuOptions = field(default_factory=GpuOptions)
    deadline_ms: float | None = None
    """Capture to mask."""
    max_p99_ms: float | None = None
    """Host to host."""
    latency: Effort = LATENCY


@dataclass(kw_only=True)
class Step:
    """One step and how it ended."""

    name: str
    status: Status = Status.HOLDS
    text: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    lacks: bool = False
    """Whether it failed because this machine lacks something."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values; reports have called the text `told` from the start."""
        return {"told" if name == "text" else name: value for name, value in vars(self).items()}


@dataclass(kw_only=True)
class Acceptance:
    """All steps, in order."""

    plan: Plan
    date: str
    findings: list[Finding] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def failed(self) -> list[Step]:
        return [step for step in self.steps if step.status is Status.FAILED]

    @property
    def verdict(self) -> str:
        open_ = [step.name for step in self.steps if step.status is Status.NOT_JUDGED]
        if self.failed:
            return f"not accepted: {', '.join(step.name for step in self.failed)}"
        return f"accepted, but not judged: {', '.join(open_)}" if open_ else "accepted"

    @property
    def exit_code(self) -> int:
        """0 = accepted, 5 = something is missing here, 6 = a step does not hold."""
        if not self.failed:
            return 0
        return MissingDependency.exit_code if self.failed[0].lacks else BudgetNotHeld.exit_code

    def raise_if_rejected(self) -> None:
        """Raise MissingDependency or BudgetNotHeld by the first step that failed, if one has."""
        if self.failed:
            kind = MissingDependency if self.failed[0].lacks else BudgetNotHeld
            raise kind(f"{self.plan.model}: {self.verdict}; {self.failed[0].text}")


@dataclass(kw_only=True)
class Bench:
    """What the steps hand on to one another."""

    plan: Plan
    opened: ExitStack
    backend: Backend | None = None
    frames: list[Frame] = field(default_factory=list)
    """H,W,3 of the model's input size: images of `data` or of the bundle, else random noise."""
    frames_are: str = "random noise"
    live: LiveResult | None = None


Work = Callable[[Bench, Step], None]
_log = logging.getLogger(__name__)


def accept(plan: Plan) -> Acceptance:
    """Do all steps; errors become failed steps, and what needs a failed one is skipped."""
    acceptance = Acceptance(plan=plan, date=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    _log.info("looking at the machine")
    acceptance.findings = examine()
    works: dict[str, tuple[Work, str]] = {
        "file": (check_file, ""),
        "opening": (open_backend, "file"),
        "pictures": (take_frames, "opening"),
        "parity": (check_parity, "pictures"),
        "latency": (check_latency, "pictures"),
        "live run": (check_live, "pictures"),
        "memory": (check_memory, "live run"),
    }
    with ExitStack() as opened:
        bench = Bench(plan=plan, opened=opened)
        for name, (work, needs) in works.items():
            before = next((step for step in acceptance.steps if step.name == needs), None)
            step = Step(name=name)
            if before is not None and before.status in (Status.FAILED, Status.SKIPPED):
                step.status, step.text = Status.SKIPPED, f"needs the step {needs!r}"
            else:
                _log.info(f"{name} …")
                do(work, bench, step)
            acceptance.steps.append(step)
            _log.info(f"{name}: {step.status.value}, {step.text}")
    return acceptance


def do(work: Work, bench: Bench, step: Step) -> None:
    """One step; an error of the user's or the machine's becomes its failure."""
    started = time.monotonic()
    try:
        work(bench, step)
    except MissingDependency as error:
        step.status, step.text, step.lacks = Status.FAILED, error.message, True
    except ClstError as error:
        step.status, step.text = Status.FAILED, error.message
    except (OSError, MemoryError) as error:
        step.status, step.text = Status.FAILED, f"{type(error).__name__}: {error}"
    step.seconds = time.monotonic() - started


def check_file(bench: Bench, step: Step) -> None:
    """Hashes and manifest, before anything of the file is executed."""
    path = bench.plan.model
    manifest: Manifest | None = None
    if path.is_dir():
        bundle = read_bundle(path)
        manifest = read_onnx_manifest(path / bundle.model.file)
        step.values["files"] = {model.file: model.sha256 for model in bundle.models}
        step.text = f"a bundle, the hashes of its {len(bundle.models)} models are right"
    elif path.suffix.lower() == ".engine":
        manifest = read_engine(path)[1]
        step.text = "an engine, its hash is that of its manifest"
    elif path.suffix.lower() == ".onnx":
        manifest = read_onnx_manifest(path)
        step.text = "an ONNX file, its graph's hash is that of its manifest"
    else:
        step.text = f"a {path.suffix or 'nameless'} file, its manifest is read by its reader"
    if path.is_file():
        step.values["sha256"] = file_sha256(path)
        step.text += f", SHA-256 {step.values['sha256'][:12]}…"
    if manifest is not None:
        step.text += f"; network {manifest.network}, {manifest.precision}"
        step.values["manifest"] = {
            "network": manifest.network, "precision": manifest.precision, "input_hw": list(manifest.input_hw),
            "classes": list(manifest.classes.names), "checkpoint_sha256": manifest.source_checkpoint_sha256,
            "provenance": dict(manifest.provenance), "tool_versions": dict(manifest.tool_versions),
            "engine": dict(manifest.engine),
        }  # fmt: skip


def open_backend(bench: Bench, step: Step) -> None:
    """Open the model; a bundle is built here, and its engine compared with its class maps, the first time."""
    plan = bench.plan
    opened = open_model(plan.model, threads=plan.threads, backend=plan.backend, gpu=plan.gpu)
    bench.backend = bench.opened.enter_context(opened)
    manifest = bench.backend.manifest
    step.values |= {"backend": bench.backend.description, "engine": dict(manifest.engine)}
    text = f"{bench.backend.description}, input {manifest.input_hw[0]}x{manifest.input_hw[1]}"
    step.text = "; ".join((text, *getattr(bench.backend, "warnings", ())))


def _backend(bench: Bench) -> Backend:
    assert bench.backend is not None  # noqa: S101  (steps that need it are skipped without it)
    return bench.backend


def take_frames(bench: Bench, step: Step) -> None:
    plan, manifest = bench.plan, _backend(bench).manifest
    size = manifest.input_hw
    if plan.data is not None:
        bench.frames = frames_to_measure(str(images_of(plan.data)), size, manifest.fit)
        bench.frames_are = str(plan.data)
    elif plan.model.is_dir():
        bench.frames = load_frames(plan.model, read_bundle(plan.model))
        bench.frames_are = "the bundle's frames"
    else:
        bench.frames = frames_to_measure(None, size)
    step.text = f"{len(bench.frames)} frames: {bench.frames_are}"
    step.values = {"frames": len(bench.frames), "are": bench.frames_are}


def check_parity(bench: Bench, step: Step) -> None:
    """Are the class maps here those of the export?"""
    judged = compare_with_export(_backend(bench), bench.plan.model, bench.plan.data)
    step.values = judged.values
    step.text = judged.text
    if judged.holds is None:
        step.status = Status.NOT_JUDGED
    elif not judged.holds:
        step.status = Status.FAILED


def check_latency(bench: Bench, step: Step) -> None:
    """Host-to-host latency, with the machine's state around it."""
    before = device_state()
    result = measure_side_by_side([_backend(bench)], bench.frames, bench.plan.latency)[0]
    after, summary = device_state(), result.summary_ms()
    warnings = unsteadiness(before, after)
    if summary["cov"] > UNSTEADY:
        warnings.append(f"unsteady, coefficient of variation {100 * summary['cov']:.1f} %")
    step.values = {"host_to_host_ms": summary, "samples_ns": list(result.samples_ns), "before": before, "after": after,
                   "doubts": warnings, "output_sha256": result.output_sha256, "frames": bench.frames_are}  # fmt: skip
    text = f"host-to-host median {summary['median']:.2f} ms, p99 {summary['p99']:.2f} ms on {bench.frames_are}"
    bound = bench.plan.max_p99_ms
    if bound is not None and not summary["p99"] <= bound:
        step.status, text = Status.FAILED, f"{text}; {bound:.2f} ms allowed"
    step.text = "; ".join([text, *warnings, brief_state(after)])


def check_live(bench: Bench, step: Step) -> None:
    """Drive with the camera, or with the images replayed as if one gave them."""
    plan = bench.plan
    shown = bench.frames_are if plan.source is None else without_credentials(plan.source)
    if plan.source is not None:
        source, fps = live_source(plan.source)
    else:
        source, fps = ReplaySource(live_images(bench), fps=REPLAY_FPS), REPLAY_FPS
    result = run_live(_backend(bench), source, plan.seconds, deadline_ms=plan.deadline_ms, replayed_fps=fps)
    bench.live, statistics, summary = result, result.statistics, result.summary_ms()
    step.values = {"statistics": statistics, "glass_to_mask_ms": summary, "samples_ns": list(result.ages_ns),
                   "replayed_fps": fps, "source": shown}  # fmt: skip
    frames = f"images replayed at {fps:g} frames/s" if fps is not None else shown
    step.text = (
        f"{statistics['frames']} frames in {statistics['seconds']:.1f} s of {frames}, {statistics['dropped']} dropped, "
        f"capture-to-mask median {summary['median']:.1f} ms, p99 {summary['p99']:.1f} ms"
    )
    failures = live_failures(plan, statistics)
    if failures:
        step.status, step.text = Status.FAILED, f"{'; '.join(failures)} ({step.text})"


def live_failures(plan: Plan, statistics: dict[str, Any]) -> list[str]:
    """Which conditions a live run does not hold."""
    early = statistics["interrupted"] or statistics["seconds"] < 0.9 * plan.seconds
    failures = [f"it ended early ({statistics['end']})"] if early else []
    failures += [f"it was {STALE} {statistics['stale_spells']} times"] if statistics["stale_spells"] else []
    failures += [f"the source was {LOST} {statistics['losses']} times"] if statistics["losses"] else []
    return failures + list(statistics["failures"])


def live_images(bench: Bench) -> Sequence[Frame]:
    """Images at the camera's own size where there are some, so that the resize is in the age."""
    if bench.plan.data is None:
        return bench.frames
    with open_source(str(images_of(bench.plan.data))) as source:
        return [timed.rgb for timed in itertools.islice(source, len(bench.frames))]


def check_memory(bench: Bench, step: Step) -> None:
    """Did the process grow during the live run?"""
    assert bench.live is not None  # noqa: S101  (skipped without it)
    growth = bench.live.memory.growth_mib()
    step.values = {"growth_mib": growth, "samples_mib": bench.live.memory.samples_mib, "allowed_mib": MEMORY_GROWTH_MIB}
    if growth is None:
        step.status, step.text = Status.NOT_JUDGED, "the live run was too short, or this system does not report memory"
        return
    step.text = f"{growth:+.1f} MiB after settling, {MEMORY_GROWTH_MIB:g} allowed"
    if growth > MEMORY_GROWTH_MIB:
        step.status = Status.FAILED
