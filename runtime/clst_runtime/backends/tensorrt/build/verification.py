"""An engine against its ONNX file: class maps compared on real frames. H,W: the model's input."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.backends.base import Classes, Frame
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.backends.tensorrt.runner import TrtBackend
from clst_runtime.errors import DataError

WARM_UP_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Class maps that an engine is compared with."""

    maps: Sequence[Classes]
    """H,W for each frame."""
    reference: str
    """What computed them, as text."""


@dataclass(frozen=True, kw_only=True)
class EngineAgreement:
    """An engine beside its ONNX file."""

    frames: int
    agreement: float
    """Share of equal pixels, 0 … 1."""
    differing_pixels: int
    worst_frame: float
    """Share of equal pixels in the frame where it is lowest."""
    needed: float
    reference: str
    device_ms: dict[str, float]
    """Medians of copy_in, compute and copy_out by the GPU's own clock."""

    @property
    def holds(self) -> bool:
        return self.agreement >= self.needed

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


def check_frames(frames: Sequence[Frame], size_hw: tuple[int, int]) -> None:
    """Refuse by DataError to verify an engine on no frame, or on one of another shape or type."""
    if not frames:
        raise DataError("no frame to verify the engine on; give at least one image of the camera")
    for index, frame in enumerate(frames):
        if frame.shape != (*size_hw, 3) or frame.dtype != np.uint8:
            raise DataError(
                f"verification frame {index} is {frame.dtype} {frame.shape}, expected uint8 {(*size_hw, 3)}; "
                "resize it first"
            )


def onnx_class_maps(path: Path, frames: Sequence[Frame]) -> Expected:
    """The class map of each frame by ONNX Runtime on the CPU.

    Raises:
        MissingDependency: ONNX Runtime is not installed. ModelFileError: the file cannot be used.
    """
    with OrtBackend(path) as backend:
        return Expected(maps=[backend.predict(frame).classes.copy() for frame in frames], reference=backend.description)


def compare_engine(
    backend: TrtBackend, frames: Sequence[Frame], expected: Expected, *, needed: float
) -> EngineAgreement:
    """Run the engine on every frame and count the pixels that differ.

    Args:
        backend: opened with `timed=True`.
        frames: images H,W,3.
        expected: a class map H,W for each.
        needed: the bound, 0 … 1.

    Raises:
        DataError: frames and class maps do not fit each other.
    """
    check_frames(frames, backend.manifest.input_hw)
    if len(expected.maps) != len(frames):
        raise DataError(
            f"{len(frames)} verification frames but {len(expected.maps)} expected class maps; give equally many"
        )
    for _ in range(WARM_UP_RUNS):
        backend.predict(frames[0])
    equal: list[int] = []
    times: list[dict[str, float]] = []
    for index, (frame, wanted) in enumerate(zip(frames, expected.maps, strict=True)):
        classes = backend.predict(frame).classes
        if wanted.shape != classes.shape:
            raise DataError(f"expected class map {index} is {wanted.shape}, the engine gives {classes.shape}")
        equal.append(int(np.count_nonzero(classes == wanted)))
        times.append(backend.device_times_ms())
    pixels = expected.maps[0].size
    return EngineAgreement(
        frames=len(frames),
        agreement=sum(equal) / (pixels * len(frames)),
        differing_pixels=pixels * len(frames) - sum(equal),
        worst_frame=min(equal) / pixels,
        needed=needed,
        reference=expected.reference,
        device_ms={name: statistics.median(each[name] for each in times) for name in times[0]},
    )
