"""What is known of a bundle's engines on one device: plain numbers in one file, and what follows from them.

INT8 is not faster everywhere: small layers gain nothing, and each change of precision costs a pass over the memory. So
INT8, the less accurate of two engines, has to earn its place by its time.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.backends.tensorrt.sidecar import PROOF_FACTS
from clst_runtime.errors import BudgetNotHeld, ClstError, DataError, ModelFileError
from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.files.json_values import read_json_object

PROOF_VERSION = 1
WORTHWHILE = 0.03
"""Share of FP16's time that INT8 must save to be used. It costs accuracy, so a tie goes to FP16; and a measurement
counts as steady up to a coefficient of variation of 2.5 % (`timing.UNSTEADY`), so less may be noise."""
VERDICTS = (ModelFileError, BudgetNotHeld)
"""Errors whose cause is the engine itself. All others, such as too little memory, are of the moment."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one engine."""

    engine: str
    """Its file name."""
    precision: str
    onnx_sha256: str
    engine_sha256: str | None = None
    agreement: float | None = None
    """Share of pixels, 0 … 1, that are as the ONNX file's; None if it did not come so far."""
    compute_ms: float | None = None
    """Median time on the GPU without copies; that of two engines is measured in turns."""
    failure: str | None = None
    """Why it cannot be used, in one line; None if it can."""
    passing: bool = False
    """Whether that is of the moment, so that nothing of it is kept."""

    def __post_init__(self) -> None:
        if Path(self.engine).name != self.engine:
            raise ValueError(f"engine {self.engine!r} is no plain file name")
        for value in (self.agreement, self.compute_ms):
            is_measured = isinstance(value, (int, float)) and 0.0 <= value < math.inf
            if not is_measured and (value is not None or self.failure is None):
                raise ValueError(f"{value!r} is no measurement of {self.engine}")

    @staticmethod
    def proved(engine: Path, manifest: Manifest) -> Outcome:
        """That of an engine whose manifest records a comparison that holds.

        Raises:
            ModelFileError: it does not say so.
        """
        facts = manifest.engine
        try:
            if facts["agreement"]["holds"] is not True:
                raise ValueError("it differs from its ONNX file")
            return Outcome(
                engine=engine.name,
                precision=manifest.precision,
                onnx_sha256=facts["onnx_sha256"],
                engine_sha256=facts["engine_sha256"],
                agreement=facts["agreement"]["agreement"],
                compute_ms=facts["agreement"]["device_ms"]["compute"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{engine}: its manifest does not say that it holds ({error})") from error

    def failed(self, error: ClstError) -> Outcome:
        """It cannot be used because of that."""
        agreement = getattr(error, "agreement", self.agreement)
        passing = not isinstance(error, VERDICTS)
        return dataclasses.replace(self, agreement=agreement, failure=error.message, passing=passing)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found of the engines on one device, and which is used; `to_json` holds all of it."""

    machine: Mapping[str, Any]
    """GPU, TensorRT, CUDA and driver, as `sidecar.proof_facts`, and `library`, which builds and runs."""
    options: Mapping[str, Any]
    """How the engines were built, as `BuildOptions.to_json`."""
    engines: tuple[Outcome, ...] = ()
    """One, or INT8 and FP16; where none of them can be used, behind them the one from before an update that can.
    None at all while they are made."""
    seconds: float = 0.0
    trying: tuple[str, ...] = ()
    """While it is made: the engines that earlier starts broke off at, and at the end the one that is being tried."""

    @property
    def is_lasting(self) -> bool:
        """Whether it holds for the next start too: no engine was missed for a reason of the moment."""
        return not any(each.passing for each in self.engines)

    @property
    def used(self) -> Outcome | None:
        """Of INT8 and FP16 the former if it saves more than `WORTHWHILE`; else the one that can be used, if any can."""
        working = [each for each in self.engines if each.failure is None]
        if len(working) == 2:
            int8, fp16 = working
            return int8 if (int8.compute_ms or 0.0) < (1.0 - WORTHWHILE) * (fp16.compute_ms or 0.0) else fp16
        return working[0] if working else None

    @property
    def why(self) -> str:
        """Why that one, or none; one line."""
        used = self.used
        failed = " and ".join(
            f"{each.precision.upper()} cannot be used {'now' if each.passing else 'on this GPU'} ({each.failure})"
            for each in self.engines
            if each.failure is not None
        )
        if failed or used is None:
            return failed
        if len(self.engines) == 1:
            return agree(used.agreement)
        int8_ms, fp16_ms = (each.compute_ms or 0.0 for each in self.engines)
        text = f"INT8 takes {int8_ms:.2f} ms, FP16 {fp16_ms:.2f} ms on this GPU"
        if used is self.engines[0]:
            return f"{text}: INT8 saves {100 * (1 - int8_ms / fp16_ms):.1f} %"
        return f"{text}: INT8 does not save {100 * WORTHWHILE:g} %"

    def to_json(self) -> dict[str, Any]:
        """Plain values, with what was concluded."""
        value = dataclasses.asdict(self) | {"format_version": PROOF_VERSION, "int8_must_save": WORTHWHILE}
        value |= {"used": None if self.used is None else self.used.engine, "why": self.why}
        return {name: list(each) if isinstance(each, tuple) else each for name, each in value.items()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Proof:
        """Read the form of `to_json`.

        Raises:
            ValueError: another form, version or rule, or what it concludes does not follow from its numbers.
        """
        try:
            given = {field.name: value[field.name] for field in dataclasses.fields(Proof)}
            engines = tuple(Outcome(**each) for each in given["engines"])
            proof = Proof(**given | {"engines": engines, "trying": tuple(given["trying"])})
            _ = [proof.machine[name] for name in PROOF_FACTS], Library(proof.machine["library"])
            whole = proof.to_json()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__} {error}") from error
        differing = sorted(name for name in whole.keys() | value.keys() if whole.get(name) != value.get(name))
        if not proof.is_lasting or not (proof.engines or proof.trying):
            raise ValueError("it names no engine, or a failure of the moment")
        if differing:
            raise ValueError(f"{', '.join(differing)} does not fit the rest")
        return proof


def agree(agreement: float | None) -> str:
    """A share of pixels, 0 … 1, as text."""
    return f"{100 * (agreement or 0.0):.3f} % of the pixels agree"


def read_proof(path: Path) -> Proof:
    """A proof that was written by `write_proof`.

    Raises:
        ModelFileError: it cannot be read, or is damaged.
    """
    try:
        return Proof.from_json(read_json_object(path))
    except (DataError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged ({error})") from error


def write_proof(proof: Proof, path: Path) -> None:
    write_text(path, json.dumps(proof.to_json(), indent=1) + "\n")
