"""Whether the camera still looks like the model's own, over minutes and not single frames.

Legend: D numbers of a feature vector, K frames of the window.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from clst_runtime.backends.base import Frame, Prediction
from clst_runtime.live.monitor.features import Vector, brightness_range, frame_features
from clst_runtime.live.monitor.reference import SIZES, Comparison, Reference

WINDOW = SIZES[-1]
"""Frames that are compared together."""
LEAST_WINDOW = 16
"""Frames after which a first comparison is made."""
OTHER_ABOVE = 1.5
"""Shift above which the camera looks like another one."""
SAME_BELOW = 1.2
"""Shift below which it is the model's own again; between the two nothing changes."""
HELD = 90
"""Comparisons in a row before another camera is believed, or the own one again: a tunnel is no other camera.

What lasts t looks can move the window's mean for t + `WINDOW` − 1 of them, so up to a minute is not mistaken.
"""
FAULTY_FRAMES = 5
"""Looks in a row before a fault is believed."""
UNIFORM = 4.0
"""Range of L*, 0 … 100, that a lens which sees anything is above."""


class State(str, Enum):
    """What is known of the camera."""

    UNKNOWN = "unknown"
    """Too few frames so far."""
    SAME = "same"
    """As the model knows it."""
    OTHER = "other"
    """As another camera, or other surroundings."""
    FROZEN = "frozen"
    """Bit-exactly the same image again and again."""
    UNIFORM = "uniform"
    """Nothing to be seen: black, blinded or covered."""


@dataclass(frozen=True, kw_only=True)
class DriftStatus:
    """As of now."""

    state: State
    window: int
    """K, frames that it rests on."""
    comparison: Comparison | None = None
    """How far they are from the reference; None while there are too few."""
    held: int = 0
    """Comparisons in a row, up to now, that the newest frames speak for the same; `HELD` make it believed."""

    @property
    def leaning(self) -> State | None:
        """What the newest frames look like where that is not believed yet; None where they agree with `state`."""
        if self.comparison is None or self.state in (State.FROZEN, State.UNIFORM):
            return None
        shift = self.comparison.shift
        if self.state is State.OTHER:
            return State.SAME if shift < SAME_BELOW else None
        return State.OTHER if shift > OTHER_ABOVE else None

    @property
    def text(self) -> str:
        if self.state is State.FROZEN:
            return "the camera is frozen: the same image again and again"
        if self.state is State.UNIFORM:
            return "the camera sees nothing: black, blinded or covered"
        if self.comparison is None:
            return f"the camera is not judged yet: {self.window} frames looked at, {LEAST_WINDOW} needed"
        return self._of_the_camera(self.comparison)

    def _of_the_camera(self, found: Comparison) -> str:
        seen = self.leaning or self.state
        what = "this looks like another camera" if seen is State.OTHER else "this looks like the model's camera"
        if self.leaning is not None:
            again = " again" if seen is State.SAME else ""
            what += f"{again}, but it is not sure yet ({self.held} of {HELD} looks)"
        between = seen is State.OTHER and found.shift <= OTHER_ABOVE
        limit = f"the model's own below {SAME_BELOW}" if between else f"another camera above {OTHER_ABOVE}"
        return (
            f"{what}: shift {found.shift:.1f} ({limit}), most in {found.part} "
            f"({found.parts[found.part]:.1f}); {found.strongest} by {found.strongest_spreads:+.1f} spreads"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers are None while there are too few frames."""
        found = self.comparison
        return {
            "state": self.state.value,
            "leaning": self.leaning and self.leaning.value,
            "held": self.held,
            "needed": HELD,
            "words": self.text,
            "window": self.window,
            "shift": found and round(found.shift, 3),
            "threshold": OTHER_ABOVE,
            "parts": {} if found is None else {part: round(shift, 3) for part, shift in found.parts.items()},
            "strongest": found and found.strongest,
        }


class DriftDetector:
    """Looks at one frame after another, as many seconds apart as the caller lets pass."""

    def __init__(self, reference: Reference, class_count: int) -> None:
        self.reference, self.class_count = reference, class_count
        self.status = DriftStatus(state=State.UNKNOWN, window=0)
        self.took_last = False
        """Whether the last frame showed something new, and was compared."""
        self._window: deque[Vector] = deque(maxlen=WINDOW)
        self._believed = State.UNKNOWN
        self._towards, self._held = State.UNKNOWN, 0
        self._checksum, self._repeats, self._uniform = -1, 0, 0

    def look(self, frame: Frame, prediction: Prediction) -> DriftStatus:
        """Take in a frame H,W,3 of the model's input size, and the model's prediction for it.

        A frame of a fault is not compared, so that it does not make the camera look like another one afterwards.
        """
        checksum = zlib.crc32(np.ascontiguousarray(frame).data)
        repeated, self._checksum = checksum == self._checksum, checksum
        values = frame_features(frame, prediction, self.class_count)
        uniform = brightness_range(values) < UNIFORM
        self._repeats = self._repeats + 1 if repeated else 0
        self._uniform = self._uniform + 1 if uniform else 0
        self.took_last = not repeated and not uniform
        if self.took_last:
            return self.compare_next(values)
        self.status = dataclasses.replace(self.status, state=self._fault() or self._believed)
        return self.status

    def compare_next(self, values: Vector) -> DriftStatus:
        """Take in the feature vector D of a frame without a fault."""
        self._window.append(values)
        count, comparison = len(self._window), None
        if count >= LEAST_WINDOW:
            comparison = self.reference.compare(np.array(self._window))
            self._believe(comparison.shift)
        self.status = DriftStatus(state=self._believed, window=count, comparison=comparison, held=self._held)
        return self.status

    def _fault(self) -> State | None:
        if self._uniform >= FAULTY_FRAMES:
            return State.UNIFORM
        return State.FROZEN if self._repeats >= FAULTY_FRAMES else None

    def _believe(self, shift: float) -> None:
        """Hysteresis: a change is believed when `HELD` comparisons in a row agree; the own camera at first at once."""
        towards = State.OTHER if shift > OTHER_ABOVE else State.SAME if shift < SAME_BELOW else self._believed
        self._held = self._held + 1 if towards is self._towards else 1
        self._towards = towards
        if towards is not State.OTHER and self._believed is State.UNKNOWN:
            self._believed = State.SAME
        if self._held >= HELD:
            self._believed = towards
