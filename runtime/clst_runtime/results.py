"""A frame that has been segmented. Legend: H,W of the camera's picture; H',W' of the model's input."""

from __future__ import annotations

from dataclasses import dataclass

from clst_runtime.backends.base import Classes, Prediction
from clst_runtime.sources.base import TimedFrame


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every sink gets. Its arrays are shared and must not be changed; they may be held as long as wanted."""

    timed: TimedFrame
    """The camera's picture."""
    prediction: Prediction
    """H',W' class ids, and confidence where the model gives it."""
    mask: Classes
    """H,W class ids; H',W' when no sink asked for the camera's size."""
    inference_ns: int
    """Backend alone, from frame to class ids."""
    age_ns: int
    """From capture to the finished mask."""
