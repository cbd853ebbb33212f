"""The proof of a bundle's engines on one device: built, compared, timed; and again after an update.

What `backends/tensorrt/bundle/format.py` describes, and made here for each GPU, TensorRT, CUDA and driver:

    model-….engine     of model.onnx, with its manifest beside it
    rival-….engine     of rival.onnx
    model-….cache      layer times of both, which make the next build quicker
    proof-….json       what was found of both engines, and which of them is used

After an update of any of these all of it is made anew; the engines from before stay until the new ones are proved.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda.device import CudaFailed
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.engine import EngineDiffers, EngineNotKept, build_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import show_progress
from clst_runtime.backends.tensorrt.build.verification import Expected, compare_engine
from clst_runtime.backends.tensorrt.bundle.comparison import RunFailed, compare_times
from clst_runtime.backends.tensorrt.bundle.format import Bundle, BundledModel, load_expected, load_frames
from clst_runtime.backends.tensorrt.bundle.proof import Outcome, Proof, agree, read_proof, write_proof
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.backends.tensorrt.runner import TrtBackend
from clst_runtime.backends.tensorrt.sidecar import PROOF_FACTS, changes, read_engine
from clst_runtime.errors import BudgetNotHeld, ClstError, ConfigError, DataError, MissingDependency, ModelFileError

_log = logging.getLogger(__name__)

BREAKS = 2
"""After so many starts that break at an engine the next one goes without it: a service that is started again and again
would else break at the same place for ever. A start that comes to an end has forgotten it."""


def device_name(facts: Mapping[str, Any]) -> str:
    """`orin-8.7-16sm-trt10.3.0-cuda12.6-jetson-linux-36.4.3`: facts (as of `proof_facts`) as a part of file names.

    One for each, so that a folder serves several devices. The multiprocessors distinguish the modules that have the
    same name and compute capability, as those of Jetson Orin.
    """
    library = "rtx" if facts["library"] == Library.RTX else "trt"
    return f"{gpu_name(facts)}-{library}{facts['tensorrt']}-cuda{facts['cuda']}-{_plain(facts['driver'], '.')}"


def gpu_name(facts: Mapping[str, Any]) -> str:
    """What of it an update does not change: `orin-8.7-16sm`."""
    return f"{_plain(facts['gpu']) or 'gpu'}-{facts['compute_capability']}-{facts['multiprocessors']}sm"


def device_of(engine: str) -> str:
    """The device's name in that of an engine: `model-NAME.engine`."""
    return engine.partition("-")[2].removesuffix(".engine")


def _plain(text: object, also: str = "") -> str:
    return re.sub(rf"[^a-z0-9{also}]+", "-", str(text).lower()).strip("-")


class Proving:
    """What is done to one bundle on one device."""

    def __init__(self, folder: Path, bundle: Bundle, machine: Mapping[str, Any], gpu: GpuOptions) -> None:
        self.folder, self.bundle, self.machine, self.gpu = folder, bundle, machine, gpu
        self.device = device_name(machine)
        self.path = folder / f"proof-{self.device}.json"
        cache = folder / f"model-{self.device}.cache"  # for both engines: an INT8 graph has FP16 layers too
        own = bundle.options.library is Library.TENSORRT  # the other one times no kernels
        self.options = dataclasses.replace(bundle.options, timing_cache=cache) if own else bundle.options
        self.blank = Proof(machine=machine, options=self.options.to_json())
        self.frames: Sequence[Frame] = ()
        self.broke_at: tuple[str, ...] = ()
        self.trying = ""
        self.errors: list[ClstError] = []

    def engine(self, model: BundledModel) -> Path:
        """Where its engine for this device is, or will be."""
        return self.folder / f"{Path(model.file).stem}-{self.device}.engine"

    def found(self) -> Proof | None:
        """The proof of an earlier start, if it is about the same files and its engine exists; logs why not."""
        if not self.path.exists():
            return None
        try:
            proof = read_proof(self.path)
            if not proof.engines:
                self.broke_at = proof.trying
                return None
            found = [(each.engine, each.onnx_sha256) for each in proof.engines[: len(self.bundle.models)]]
            wanted = [(self.engine(each).name, each.sha256) for each in self.bundle.models]
            if (found, proof.machine, proof.options) != (wanted, self.machine, self.blank.options):
                raise ModelFileError(f"{self.path.name} is of other models or options")
            used = proof.used
            if used and read_engine(self.folder / used.engine)[1].engine["engine_sha256"] != used.engine_sha256:
                raise ModelFileError(f"{used.engine} is another one than was proved")
        except ModelFileError as error:
            _log.warning(f"{error.message}; proving again")
            return None
        return proof

    def made(self) -> Proof:
        """Build, compare and time what there is to be; the result is kept if it holds for the next start too.

        Raises:
            MissingDependency, ConfigError: of the machine and the settings. EngineNotKept: the disk does not take one.
            CudaFailed: the GPU is broken. ModelFileError: frames or class maps are damaged.
        """
        self.frames = load_frames(self.folder, self.bundle)
        try:
            return self._made()
        except (CudaFailed, RunFailed) as error:
            culprit = error.engine.name if isinstance(error, RunFailed) else self.trying
            self._try(culprit)
            again = "tries again" if self.broke_at.count(culprit) + 1 < BREAKS else "goes without it"
            _log.warning(f"{culprit} broke the GPU: the next start {again}")
            raise error if isinstance(error, CudaFailed) else CudaFailed(error.message) from error
        except BaseException:
            self._keep(None)
            raise

    def _made(self) -> Proof:
        started, earlier = time.monotonic(), self._earlier()
        engines = [self._outcome(self.engine(model), model, self._built) for model in self.bundle.models]
        if len(engines) == 2 and all(each.failure is None for each in engines):
            self._try(engines[0].engine)
            engines = compare_times(self.folder, (engines[0], engines[1]), self.frames, self.gpu)
        is_new = any(each.failure is None for each in engines)
        for engine, model, _ in () if is_new else earlier:
            engines.append(self._outcome(engine, model, self._compared_again))
            if engines[-1].failure is None:
                break
        seconds = round(time.monotonic() - started, 1)
        proof = dataclasses.replace(self.blank, engines=tuple(engines), seconds=seconds)
        self._keep(proof)
        if earlier:
            used, changed = proof.used, changes(earlier[0][2], self.machine)
            holds = f"{used.engine} holds, {agree(used.agreement)}" if used else "no engine holds"
            _log.info(f"{changed}: new proof in {seconds:.0f} s: {holds}")
        if is_new and proof.is_lasting:
            self._remove_all_but(self.device, *(device_of(engine.name) for engine, _, _ in earlier[:1]))
        return proof

    def _outcome(
        self, engine: Path, model: BundledModel, prove: Callable[[Path, BundledModel, Expected], Outcome]
    ) -> Outcome:
        """What comes of an engine; faults of the machine, the settings and the disk's room are none."""
        expected = load_expected(self.folder, model)  # damaged files are no verdict
        try:
            if self.broke_at.count(engine.name) >= BREAKS:
                raise ClstError(f"{BREAKS} starts broke off while {engine.name} was tried")
            self._try(engine.name)
            return prove(engine, model, expected)
        except (MissingDependency, ConfigError, EngineNotKept, CudaFailed):
            raise
        except ClstError as error:
            self.errors.append(error)
            precision = read_onnx_manifest(self.folder / model.file).precision
            none = Outcome(engine=engine.name, precision=precision, onnx_sha256=model.sha256, failure=error.message)
            return none.failed(error)

    def _built(self, engine: Path, model: BundledModel, expected: Expected) -> Outcome:
        """Build and compare it, unless that was done before."""
        if engine.exists():
            try:
                manifest = read_engine(engine)[1]
                wanted = {name: self.machine[name] for name in PROOF_FACTS}
                wanted |= {"onnx_sha256": model.sha256, "options": self.blank.options}
                if any(manifest.engine.get(name) != value for name, value in wanted.items()):
                    raise ModelFileError(f"{engine.name} was built from another model, with other options or elsewhere")
                return Outcome.proved(engine, manifest)
            except ModelFileError as error:
                _log.warning(f"{error.message}; building it again")
        label, takes = self.options.library.label, self.options.library.takes
        _log.info(f"building {engine.name} for this GPU, {label}, CUDA and driver; it takes {takes}")
        manifest = build_engine(
            self.folder / model.file,
            engine,
            options=self.options,
            frames=self.frames,
            expected=expected,
            progress=show_progress(),
            gpu=self.gpu,
        )
        return Outcome.proved(engine, manifest)

    def _compared_again(self, engine: Path, _: BundledModel, expected: Expected) -> Outcome:
        """Load one from before an update and compare it."""
        with TrtBackend(engine, timed=True, gpu=self.gpu) as backend:
            manifest = backend.manifest
            needed = self.options.agreement_needed(manifest.precision)
            found = compare_engine(backend, self.frames, expected, needed=needed)
        if not found.holds:
            text = f"{agree(found.agreement)}, {100 * needed:.3f} % needed"
            raise EngineDiffers(f"{engine.name} from before: {text}", found.agreement)
        facts = {**manifest.engine, "agreement": found.to_json()}
        return Outcome.proved(engine, dataclasses.replace(manifest, engine=facts))

    def _earlier(self) -> list[tuple[Path, BundledModel, Mapping[str, Any]]]:
        """Engines of this GPU from before an update, their models and facts: who was used first, then the newest."""
        models, found, used = {model.sha256: model for model in self.bundle.models}, [], set()
        for beside in sorted(self.folder.glob("*.engine.json"), key=lambda path: -path.stat().st_mtime):
            engine = beside.with_suffix("")
            with suppress(ModelFileError, ConfigError, KeyError, TypeError):
                facts = read_engine(engine)[1].engine
                options = BuildOptions.from_json(facts["options"], where=engine.name).to_json()
                is_ours = (gpu_name(facts), options) == (gpu_name(self.machine), self.blank.options)
                if is_ours and facts["agreement"]["holds"] and changes(facts, self.machine):
                    found.append((engine, models[facts["onnx_sha256"]], facts))
        for path in self.folder.glob("proof-*.json"):
            with suppress(ModelFileError):
                used.add(getattr(read_proof(path).used, "engine", None))
        return sorted(found, key=lambda each: each[0].name not in used)

    def _try(self, engine: str) -> None:
        """Note which engine is being built or run; the note stays where the GPU breaks or the process dies."""
        self.trying = engine
        with suppress(DataError):  # a place that cannot be written is no reason not to try
            write_proof(dataclasses.replace(self.blank, trying=(*self.broke_at, engine)), self.path)

    def _keep(self, proof: Proof | None) -> None:
        """Write it in the place of the note; nothing stays where it does not hold for the next start too."""
        try:
            if proof is not None and proof.is_lasting:
                write_proof(proof, self.path)
                return
        except DataError as error:
            _log.warning(f"the proof cannot be kept, the next start makes it again: {error.message}")
        with suppress(OSError):  # it is not there, in a place that cannot be written
            self.path.unlink()

    def _remove_all_but(self, *devices: str) -> None:
        """Remove what was made for this GPU, but for those names of it: it is older than the last update."""
        device, ends = rf"{re.escape(gpu_name(self.machine))}-.+?", r"(\.rejected)?\.(engine|engine\.json|json|cache)"
        removed = []
        for path in sorted(self.folder.iterdir()):
            parts = re.fullmatch(f"(?:model|rival|proof)-({device}){ends}", path.name)
            if parts and parts[1] not in devices:
                with suppress(OSError):
                    path.unlink()
                    removed.append(path.name)
        if removed:
            _log.info(f"removed, as older than the engine before this one: {', '.join(removed)}")

    def error_of(self, proof: Proof) -> ClstError:
        """Why no engine can be used; of what was found at an earlier start too."""
        if not proof.is_lasting:
            return self.errors[0]
        failed = proof.engines[0]
        kind = ModelFileError if failed.agreement is None else BudgetNotHeld
        return kind(f"{failed.failure}; remove {self.path} to try again, or allow its ONNX file: clst-run --fallback")
