"""A bundle becomes an engine on the device: built and verified there once, kept, and of two the better one chosen.

What `engines/bundle_index.py` describes, and made here for each GPU and TensorRT version:

    model-….engine     of model.onnx, with its manifest beside it
    rival-….engine     of rival.onnx
    model-….cache      layer times of both, which make the next build quicker
    choice-….json      the times of both engines and which of them is used
    trying-….txt       which of the two is being built or timed, meanwhile

Building needs neither torch nor onnx nor ONNX Runtime: the device compares with the class maps that came along.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from clst_runtime.atomic import write_text
from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda import CudaFailed
from clst_runtime.backends.cuda_open import open_cuda
from clst_runtime.backends.gpu_options import GpuOptions
from clst_runtime.backends.trt import TrtBackend
from clst_runtime.engines.build import EngineNotKept, build_engine
from clst_runtime.engines.bundle_index import MODEL, Bundle, BundledModel, load_expected, load_frames, read_bundle
from clst_runtime.engines.library import Library
from clst_runtime.engines.options import BuildOptions
from clst_runtime.engines.progress import BuildProgress, show_progress
from clst_runtime.engines.rivals import (
    COMMON_FAULTS,
    TIMED_RUNS,
    WORTHWHILE,
    Choice,
    Contender,
    TimingFailed,
    contender,
    decide,
    failed,
    read_choice,
    write_choice,
)
from clst_runtime.engines.sidecar import gpu_facts, read_engine
from clst_runtime.engines.verification import Expected
from clst_runtime.errors import ClstError, DataError, MissingDependency, ModelFileError
from clst_runtime.manifest import Manifest

BREAKS = 2
"""So many starts in a row that break at one of two engines, and the next one goes without it: a service that is started
again and again would else break at the same place for ever. The start after that tries again."""


def device_name(facts: Mapping[str, Any], built_by: str) -> str:
    """`orin-8.7-16sm-trt10.3.0`: GPU (as of `gpu_facts`) and what builds for it as a part of file names.

    One for each, so that a folder serves several devices. The multiprocessors tell apart the modules that have the
    same name and compute capability, as those of Jetson Orin.
    """
    kind = re.sub(r"[^a-z0-9]+", "-", str(facts["gpu"]).lower()).strip("-") or "gpu"
    return f"{kind}-{facts['compute_capability']}-{facts['multiprocessors']}sm-{built_by}"


def build_bundle(
    folder: Path,
    *,
    options: BuildOptions | None = None,
    progress: BuildProgress | None = None,
    gpu: GpuOptions | None = None,
) -> Path:
    """Build and verify the engine of a bundle for this machine's GPU and TensorRT, or find it built.

    Of a bundle with a rival both engines are built, each is compared with its own class maps, and both are timed;
    which one is used, and why, is said on stderr and kept. An engine that cannot be used here leaves it to the other,
    for good only if that says something of the engine itself. Processes that build in one folder wait for each other.

    Args:
        folder: made by clst-export.
        options: other ones than the bundle's; an engine that was built with others is built again.
        progress: shows the build; None = bars or lines on stderr.
        gpu: the CUDA library and the I/O that engines are proven and timed by.

    Returns:
        The path in `folder` of the engine to use.

    Raises:
        MissingDependency: no TensorRT or no GPU here. ModelFileError: the bundle is damaged.
        What `build_engine` raises; of a bundle with a rival only if neither of the two engines can be built.
    """
    bundle = read_bundle(folder)
    with _alone_in(folder):
        return _built(folder, bundle, options or bundle.options, progress, gpu or GpuOptions())


def _built(
    folder: Path, bundle: Bundle, options: BuildOptions, progress: BuildProgress | None, gpu: GpuOptions
) -> Path:
    work = _Work(folder, bundle, options, progress, gpu)
    if bundle.rival is not None:
        return work.better_of(bundle.model, bundle.rival)
    if work.kept(bundle.model) is None:
        work.build(bundle.model, work.frames, load_expected(folder, bundle.model))
    return work.engine(bundle.model)


class _Work:
    """What is done to one bundle on one device."""

    def __init__(
        self, folder: Path, bundle: Bundle, options: BuildOptions, progress: BuildProgress | None, gpu: GpuOptions
    ) -> None:
        self.folder, self.bundle, self.progress, self.gpu = folder, bundle, progress, gpu.without_graph()
        self.device = _device_here(folder, self.gpu.cuda, options.library)
        cache = folder / f"model-{self.device}.cache"  # for both engines: an INT8 graph has FP16 layers too
        own = options.timing_cache is not None or options.library is Library.RTX
        self.options = options if own else dataclasses.replace(options, timing_cache=cache)
        self.note = folder / f"trying-{self.device}.txt"
        self.broke_at: list[str] = []
        self.errors: list[ClstError] = []
        self.has_built = False

    @cached_property
    def frames(self) -> list[Frame]:
        """The bundle's frames, read only where something is built or timed."""
        return load_frames(self.folder, self.bundle)

    def engine(self, model: BundledModel) -> Path:
        """Where its engine for this device is, or will be."""
        return self.folder / f"{Path(model.file).stem}-{self.device}.engine"

    def kept(self, model: BundledModel) -> Manifest | None:
        """The manifest of its engine from an earlier build, if that may be used; says why not."""
        engine = self.engine(model)
        if not engine.exists():
            return None
        try:
            manifest = read_engine(engine)[1]
        except ModelFileError as error:
            click.echo(f"{error.message}; building it again", err=True)
            return None
        facts = manifest.engine
        if facts["onnx_sha256"] != model.sha256 or facts.get("options") != self.options.to_json():
            click.echo(f"{engine.name} was built from another model or with other options; building it again", err=True)
            return None
        return manifest

    def build(self, model: BundledModel, frames: Sequence[Frame], expected: Expected) -> Manifest:
        """Build its engine and compare it with the class maps."""
        engine = self.engine(model)
        click.echo(f"building {engine.name}, once for this GPU and TensorRT; this takes minutes", err=True)
        self.has_built = True
        with self._trying(engine):
            return build_engine(
                self.folder / model.file,
                engine,
                options=self.options,
                frames=frames,
                expected=expected,
                progress=self.progress or show_progress(),
                gpu=self.gpu,
            )

    def better_of(self, model: BundledModel, rival: BundledModel) -> Path:
        """The engine to use of the two, as it was found before or is found now."""
        path = self.folder / f"choice-{self.device}.json"
        choice, left_out = self._choice_before(path, model, rival), self._left_out()
        int8 = self._contender(model, choice.int8 if choice else None, left_out)
        fp16 = self._contender(rival, choice.fp16 if choice else None, left_out)
        if int8.failure is not None and fp16.failure is not None:
            raise self.errors[0] if self.errors else ClstError(f"{int8.failure}; {fp16.failure}")
        if choice is None or self.has_built or not _are_those_of(choice, int8, fp16):
            choice = self._decided(path, int8, fp16)
        again = f"remove {path.name}" if choice.is_lasting else "start again"
        click.echo(
            f"{choice.why}, it is used" + ("" if choice.is_compared else f" ({again} to try the other one again)"),
            err=True,
        )
        return self.folder / choice.preferred.engine

    def _decided(self, path: Path, int8: Contender, fp16: Contender) -> Choice:
        """The choice of now; what lasts is kept."""
        if int8.failure is None and fp16.failure is None:
            click.echo("timing the INT8 and the FP16 engine in turns", err=True)
        with self._trying(self.folder / int8.engine):
            choice = decide(self.folder, int8, fp16, self.frames, options=self.options.to_json(), gpu=self.gpu)
        if choice.is_lasting:
            try:
                write_choice(choice, path)
            except DataError as error:
                click.echo(f"the choice cannot be kept, the next start makes it again: {error.message}", err=True)
        return choice

    @contextmanager
    def _trying(self, engine: Path) -> Iterator[None]:
        """Note which of two engines is being tried; the note stays where the GPU breaks or the process dies."""
        if self.bundle.rival is None:
            yield
            return
        self._write_note(engine)
        try:
            yield
        except (CudaFailed, TimingFailed) as error:
            culprit = error.engine if isinstance(error, TimingFailed) else engine
            told = self._write_note(culprit)
            again = "goes without it, once" if len(told) >= BREAKS else "tries again"
            click.echo(f"{culprit.name} broke the GPU: the next start {again}", err=True)
            raise
        except BaseException:
            self._remove_note()
            raise
        self._remove_note()

    def _remove_note(self) -> None:
        with suppress(OSError):  # it is not there, in a place that cannot be written
            self.note.unlink()

    def _write_note(self, engine: Path) -> list[str]:
        lines = [name for name in self.broke_at if name == engine.name] + [engine.name]
        with suppress(DataError):  # a place that cannot be written is no reason not to try
            write_text(self.note, "".join(f"{name}\n" for name in lines))
        return lines

    def _left_out(self) -> str:
        """The engine that the last starts broke at, each of them; empty if there is none. The note of it is taken."""
        try:
            self.broke_at = self.note.read_text(encoding="utf-8", errors="replace").split()
        except OSError:
            return ""
        self._remove_note()
        if len(self.broke_at) < BREAKS:
            return ""
        left_out, self.broke_at = self.broke_at[-1], []
        return left_out

    def _contender(self, model: BundledModel, before: Contender | None, left_out: str) -> Contender:
        """The model's engine, or why there is none; what failed before is not tried at every start."""
        if before is not None and before.failure is not None:
            return before
        manifest = self.kept(model)
        if left_out == self.engine(model).name and (manifest is None or before is None):
            why = f"the last {BREAKS} starts broke off while it was tried"
            return Contender(engine=left_out, onnx_sha256=model.sha256, failure=why, passing=True)
        if manifest is None:
            frames, expected = self.frames, load_expected(self.folder, model)  # damaged files are no verdict
            try:
                manifest = self.build(model, frames, expected)
            except (*COMMON_FAULTS, CudaFailed):
                raise
            except ClstError as error:
                self.errors.append(error)
                return failed(self.engine(model), model.sha256, error)
        return contender(self.engine(model), manifest)

    def _choice_before(self, path: Path, model: BundledModel, rival: BundledModel) -> Choice | None:
        """What was found at an earlier start, if it is about the same things; says why not."""
        if not path.exists():
            return None
        try:
            choice = read_choice(path)
        except ModelFileError as error:
            click.echo(f"{error.message}; choosing again", err=True)
            return None
        found = [(each.engine, each.onnx_sha256) for each in (choice.int8, choice.fp16)]
        wanted = [(self.engine(each).name, each.sha256) for each in (model, rival)]
        rules = (choice.options, choice.runs, choice.worthwhile) == (self.options.to_json(), TIMED_RUNS, WORTHWHILE)
        if found != wanted or not rules:
            click.echo(f"{path.name} is of other models, options or rules; choosing again", err=True)
            return None
        return choice


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process at the latest; without one where there are no locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                click.echo(f"another process builds or times the engines of {folder}; waiting for it", err=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _are_those_of(choice: Choice, int8: Contender, fp16: Contender) -> bool:
    return (choice.int8.engine_sha256, choice.fp16.engine_sha256) == (int8.engine_sha256, fp16.engine_sha256)


def _device_here(folder: Path, library: str, built_by: Library) -> str:
    """GPU and TensorRT's version as a part of file names; the GPU is only looked at."""
    try:
        version = f"{'rtx' if built_by is Library.RTX else 'trt'}{built_by.load().__version__}"
        with open_cuda(library) as device:
            return device_name(gpu_facts(device), version)
    except MissingDependency as error:
        raise MissingDependency(
            f"{folder} becomes an engine where {built_by.words} and an NVIDIA GPU are: {error.message}; "
            f"without them its ONNX file can be run: {folder / MODEL}"
        ) from error


def open_bundle(folder: Path, gpu: GpuOptions | None = None, *, timed: bool = False) -> TrtBackend:
    """A bundle's engine, ready to predict; the first time on a machine it is built and verified, which takes minutes.

    The arguments are those of `TrtBackend`.

    Raises:
        What `build_bundle` and `TrtBackend` raise; an engine that the disk does not take is run from memory.
    """
    try:
        engine = build_bundle(folder, gpu=gpu)
    except EngineNotKept as error:
        return error.open(folder, gpu, timed=timed)
    return TrtBackend(engine, timed=timed, gpu=gpu)
