"""A frame that has been segmented. Legend: H,W of the camera's image; h,w of it in the model's input.

h,w is the model's whole H',W' by `Fit.STRETCH`, and less of a letterbox, whose padding no sink ever sees: whatever is
brought from h,w to another size of the camera's image lies right over it.
"""

from __future__ import annotations

from dataclasses import dataclass

from clst_runtime.backends.base import Classes, Prediction
from clst_runtime.sources.base import TimedFrame


@dataclass(frozen=True, kw_only=True)
class Result:
    """What every sink gets. Its arrays are shared and must not be changed; they may be held as long as wanted."""

    timed: TimedFrame
    prediction: Prediction
    """h,w class ids, and confidence where the model gives it; without padding. As the model gives it, also under the
    camera's ignore mask."""
    classes: Classes
    """h,w class ids of the prediction, 255 under the camera's ignore mask."""
    mask: Classes
    """H,W the same; h,w when no sink asked for the camera's size."""
    inference_ns: int
    """Backend alone, from frame to class ids."""
    age_ns: int
    """From capture to the finished mask."""
