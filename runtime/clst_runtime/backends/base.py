"""What the rest of the runtime knows of a model: frames in, class ids out, a manifest. H,W: the model's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.errors import DataError

Frame = npt.NDArray[np.uint8]  # H,W,3 RGB
Classes = npt.NDArray[np.uint8]  # H,W class ids
Confidence = npt.NDArray[np.uint8]  # H,W 0 = none … 255 = certain


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One frame's result."""

    classes: Classes
    """H,W class ids; 255 never occurs."""
    confidence: Confidence | None = None
    """H,W probability of the winner × 255, when the model has that output."""


def check_frame(frame: Frame, input_hw: tuple[int, int]) -> None:
    """Refuse by DataError a frame that is not uint8 H,W,3 of exactly the model's input size."""
    expected = (*input_hw, 3)
    if frame.shape != expected or frame.dtype != np.uint8:
        raise DataError(f"frame is {frame.dtype} {frame.shape}, expected uint8 {expected}; resize it first")


class Backend(Protocol):
    """A model that is loaded and ready. Closed by `with`; not shared between threads."""

    manifest: Manifest
    description: str
    """What computes, as text, e.g. `ONNX Runtime 1.32 CPU (2 threads)`."""

    def predict(self, frame: Frame) -> Prediction:
        """Segment one RGB frame H,W,3 uint8 of exactly the manifest's input size.

        The result's arrays must not be changed; they may be held as long as wanted, also after `close`.

        Raises:
            DataError: another shape or type. CudaFailed: the process must be restarted. ClstError: what computes it
                failed, e.g. for lack of memory.
        """

    def close(self) -> None:
        """Release the device; a second call does nothing."""

    def __enter__(self) -> Backend: ...

    def __exit__(self, *error: object) -> None: ...
