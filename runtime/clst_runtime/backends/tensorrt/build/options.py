"""What can be asked of a build."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.errors import ConfigError, did_you_mean

MIN_AGREEMENT = {"fp32": 0.999, "fp16": 0.995, "int8": 0.98}
"""Share of pixels that engine and ONNX file must agree on. FP16 is rounded after other operators on the device than in
ONNX Runtime: on a network with small margins, 0.2 % of the pixels fell to the other of two near-equal classes by that
alone (benchmarks/results/precision_camvid_dusk.json, fp16). INT8 rounds to one of 256 values at every convolution, and
two engines may round a value that lies half-way between two of them to different sides."""

DLA_GONE, DLA_BACK = (10, 8), (11, 4, 1)
MAX_LEVEL = 5
TENSORRT_ALONE = ("workspace_mib", "optimisation_level", "timing_cache", "dla_core")
NOT_FOR_RTX = "TensorRT for RTX times no kernels when it builds, and runs on no DLA"
"""Why it has none of those options: at any level it makes bit-exactly the same engine."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How an engine is built."""

    library: Library = Library.TENSORRT
    """What builds it, and runs it later."""
    workspace_mib: int | None = None
    """Largest scratch memory of a layer in MiB; None = all the GPU's memory."""
    optimisation_level: int = 3
    """0 builds fastest, 5 searches longest for the fastest engine."""
    timing_cache: Path | None = None
    """File of measured layer times that makes the next build quicker; made if it is missing."""
    dla_core: int | None = None
    """Deep-learning accelerator to run on (Jetson Orin), layers it cannot run on the GPU; None = all on the GPU."""
    min_agreement: float | None = None
    """Share of pixels, 0 … 1, that engine and ONNX file must agree on; None = by precision, see `MIN_AGREEMENT`."""

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ConfigError(f"workspace_mib {self.workspace_mib}; give at least 1, or leave it out for all memory")
        if not 0 <= self.optimisation_level <= MAX_LEVEL:
            raise ConfigError(f"optimisation_level {self.optimisation_level}; give 0 … {MAX_LEVEL}")
        if self.dla_core is not None and self.dla_core < 0:
            raise ConfigError(f"dla_core {self.dla_core}; give 0 or 1, or leave it out for the GPU")
        if self.min_agreement is not None and not 0.0 <= self.min_agreement <= 1.0:
            raise ConfigError(f"min_agreement {self.min_agreement}; give a share of pixels, 0 … 1")
        for name in TENSORRT_ALONE if self.library is Library.RTX else ():
            if getattr(self, name) != getattr(type(self), name):
                raise ConfigError(f"{name} {getattr(self, name)}: {NOT_FOR_RTX}; leave it out")

    def agreement_needed(self, precision: str) -> float:
        """The bound for a model of that precision.

        Raises:
            ConfigError: none was given and there is none for this precision.
        """
        if self.min_agreement is not None:
            return self.min_agreement
        if precision not in MIN_AGREEMENT:
            raise ConfigError(
                f"no bound is known for precision {precision!r} ({', '.join(MIN_AGREEMENT)}); give min_agreement"
            )
        return MIN_AGREEMENT[precision]

    def check_device(self, *, version: tuple[int, ...], precision: str) -> None:
        """Refuse what this TensorRT or this model cannot do, before minutes are spent.

        Raises:
            ConfigError: DLA with a TensorRT that lacks it, or with a model that it cannot compute; no bound.
        """
        self.agreement_needed(precision)
        if self.dla_core is None:
            return
        if DLA_GONE <= version < DLA_BACK:
            raise ConfigError(
                f"DLA core {self.dla_core} asked, but TensorRT {'.'.join(map(str, version))} has no DLA: it is in "
                "10.3 … 10.7 and again from 11.4.1 on (AGX Orin, JetPack 7.2.2); leave it out to run on the GPU"
            )
        if precision == "fp32":
            raise ConfigError(
                f"DLA core {self.dla_core} asked for an fp32 model, but DLA computes fp16 and int8; "
                "export it with --onnx fp16 or int8"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values; the timing cache is a matter of one machine and left out."""
        values = dataclasses.asdict(self) | {"library": self.library.value}
        del values["timing_cache"]
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any], *, where: str) -> BuildOptions:
        """Read the form of `to_json`.

        Raises:
            ConfigError: an unknown key or a value out of range; `where` names the file.
        """
        known = {field.name for field in dataclasses.fields(BuildOptions)} - {"timing_cache"}
        for name in values:
            if name not in known:
                raise ConfigError(f"{where}: build option {name!r} is unknown; {did_you_mean(name, known)}")
        library, libraries = values.get("library", Library.TENSORRT.value), [each.value for each in Library]
        if library not in libraries:
            raise ConfigError(f"{where}: library {library!r} is unknown; {did_you_mean(str(library), libraries)}")
        try:
            return BuildOptions(**{**values, "library": Library(library)})
        except TypeError as error:
            raise ConfigError(f"{where}: a build option has a wrong type ({error})") from error
