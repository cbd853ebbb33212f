"""What every source of frames gives. Legend: H rows, W columns."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from clst_runtime.imaging.geometry import Image, Layout, to_rgb

FRAMES_HELD = 8
"""Frames of a file or a pipe that may be held at a time without new memory."""
OVERTAKEN = "overtaken"
"""Cause of a drop: a newer frame came before anybody took this one."""

HELD = "held"
"""Cause of a drop: sinks held so many frames that there was no room for another."""
CAMERA_FRAME = "camera"
"""ROS's frame of coordinates of a camera that names none."""
CORRUPT = "corrupt"
"""Cause of a drop: the camera gave something that is no frame."""
MISSED = "missed"
"""Cause of a drop: a topic's publisher sent it, and it never came."""


class SourceEnded(Exception):
    """There will be no more frames."""


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A frame and when it was taken."""

    index: int
    """Position, counted from 0; with drops, positions are missing."""
    image: Image
    """As the source hands it over, in `layout`; read-only where it lies in memory that is used again."""
    layout: Layout = Layout.RGB
    captured_ns: int
    """`time.monotonic_ns` when the camera handed the frame over, or when it was read from a file."""
    name: str
    """Name for files made of it."""
    stamp_ns: int | None = None
    """When the camera took it, by the clock of a recording or a topic; None = that is not known."""
    frame_id: str = ""
    """The camera's frame of coordinates in ROS."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """H, W."""
        return self.layout.size_hw(self.image)

    @cached_property
    def rgb(self) -> Image:
        """H,W,3 RGB uint8."""
        return to_rgb(self.image, self.layout)


@dataclass(frozen=True, kw_only=True)
class SourceStatus:
    """A copy of a source's counters, as `Source` describes them, at one moment."""

    drops: Counter[str]
    warnings: tuple[str, ...]
    """What went wrong since the last time."""
    lost: bool
    losses: int
    why: str


class Source(ABC):
    """Frames, in order; closed by `with`."""

    live = False
    """Whether frames pass by and are dropped when nobody takes them."""
    fps: float | None = None
    """Frames a second as the source announces them."""
    lost = False
    """Whether a live source gives nothing just now and is being opened again."""
    losses = 0
    """How many times it was lost since it was opened."""
    why = ""
    """Why it gives nothing just now, where that is known."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        """Frames that passed unseen, by cause."""
        self.warnings: list[str] = []
        """What went wrong without ending the program."""
        self._lock = threading.RLock()
        """Held by whoever changes or reads the counters while another thread reads frames."""
        self.arrived = threading.Event()
        """Set when a live source has a frame or ends; who waits for several sources gives them the same one."""

    def status(self) -> SourceStatus:
        """A copy of the counters that fit each other; every warning is handed over once."""
        with self._lock:
            warnings, self.warnings[:] = tuple(self.warnings), ()
            return SourceStatus(
                drops=Counter(self.drops), warnings=warnings, lost=self.lost, losses=self.losses, why=self.why
            )

    def waiting_ns(self) -> int | None:
        """Since when `take` would give a frame at once, or from when on: `time.monotonic_ns`; None = that is not known.

        A file always has one, 0.

        Raises:
            As `take`.
        """
        return 0

    @abstractmethod
    def take(self, timeout_seconds: float) -> TimedFrame | None:
        """The next frame, of a live source the newest; None when none came in time.

        Raises:
            SourceEnded: there will be no more. DataError: it can never give what it should.
        """

    def __iter__(self) -> Iterator[TimedFrame]:
        while True:
            try:
                timed = self.take(1.0)
            except SourceEnded:
                return
            if timed is not None:
                yield timed

    def close(self) -> None:
        """Let go of what is open, if anything is; a second call does nothing."""
        return

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
