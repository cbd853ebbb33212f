"""Cameras and streams: the newest frame only, read by a process that may hang or die without harm.

The program never waits for the camera: a watchdog ends a reader that gives nothing, and another one is started, at
growing intervals. A frame is never repeated and never invented; while the source is lost there is none.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from clst_runtime.errors import DataError, message_of
from clst_runtime.imaging.array_pool import BorrowableArray
from clst_runtime.imaging.geometry import Image, Layout
from clst_runtime.sources.address import LiveAddress
from clst_runtime.sources.base import CORRUPT, HELD, MISSED, OVERTAKEN, Source, SourceEnded, TimedFrame
from clst_runtime.sources.reader import OPENER, Order, check_shape
from clst_runtime.system.child_process import Child, shared_file
from clst_runtime.system.credentials import without_credentials

SLOTS = 12
"""Frames that sinks, the loop and the reader may hold together."""
SLOT_BYTES = 128 << 20
"""Room for 8K in BGR; memory is used only as far as frames fill it."""
WARNINGS_KEPT = 50
READER = "clst_runtime.sources.reader"


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a live source may give nothing before what happens."""

    start_seconds: float = 10.0
    """Absent at the start, and at least one reader has failed: the program gives up."""
    lost_seconds: float | None = None
    """Lost while running: the program gives up; None = never."""
    open_seconds: float = 15.0
    """Opening hangs: the reader is replaced."""
    stall_seconds: float = 3.0
    """An open source gives no frame: the reader is replaced."""
    first_pause_seconds: float = 0.25
    """Between two readers; doubled each time,"""
    longest_pause_seconds: float = 5.0
    """up to this."""


@dataclass(frozen=True, kw_only=True)
class _Arrival:
    slot: int
    index: int
    captured_ns: int
    image: Image
    """A view of the slot."""
    layout: Layout
    stamp_ns: int | None
    frame_id: str


class LiveSource(Source):
    """A camera or stream. A thread of this process looks after the process that reads it."""

    live = True

    def __init__(self, uri: str, address: LiveAddress, timeouts: Timeouts | None = None, opener: str = OPENER) -> None:
        """Start reading.

        Args:
            uri: how messages name it; credentials are left out of them.
            opener: `module:function` that opens the address in the reading process.
        """
        super().__init__()
        self.uri, self.address, self.timeouts = uri, address, timeouts or Timeouts()
        self._opener = opener
        self._shared = shared_file(SLOTS * SLOT_BYTES)
        self._memory = mmap.mmap(self._shared.fileno(), 0)
        self._borrowed: dict[int, BorrowableArray] = {}
        self._newest: _Arrival | None = None
        self._waiting_ns = 0
        """When the first frame came that nobody has taken yet."""
        self._changed = threading.Condition(self._lock)
        self._closing, self._ended, self._failure = False, False, ""
        self._next_index = 0
        self._seen_ns = time.monotonic_ns()
        self._had_frames = False
        self._thread = threading.Thread(target=self._supervise, name="camera", daemon=True)
        self._thread.start()

    # What the loop calls

    def waiting_ns(self) -> int | None:
        """When the first frame came since the last was taken, by its arrival: stamps of a topic may be of any time."""
        with self._changed:
            if self._newest is None:
                self._check_timeouts()
            return None if self._newest is None else self._waiting_ns

    def take(self, timeout_seconds: float) -> TimedFrame | None:
        """The newest frame that was not taken yet.

        Raises:
            SourceEnded: the stream is over. DataError: absent or lost for longer than `timeouts` allows.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended, timeout_seconds)
            arrival, self._newest = self._newest, None
            if arrival is None:
                self._check_timeouts()
                return None
            borrowed = self._borrowed[arrival.slot] = BorrowableArray(arrival.image)
            image = borrowed.borrow()
        return TimedFrame(
            index=arrival.index, image=image, layout=arrival.layout, captured_ns=arrival.captured_ns,
            name=f"{arrival.index:06d}", stamp_ns=arrival.stamp_ns, frame_id=arrival.frame_id,
        )  # fmt: skip

    def _check_timeouts(self) -> None:
        if self._ended and self._failure:
            raise DataError(f"{self.uri}: {self._failure}")
        if self._ended:
            raise SourceEnded
        silent = (time.monotonic_ns() - self._seen_ns) / 1e9
        limit = self.timeouts.lost_seconds if self._had_frames else self.timeouts.start_seconds
        if limit is not None and silent > limit and self._failure:  # at least one reader has given a reason
            raise DataError(f"{self.uri}: no frame for {limit:g} s: {self._failure}; clst-doctor lists cameras")

    def close(self) -> None:
        """End the reader, however it hangs."""
        if self._closing:
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=5.0)
        self._shared.close()
        self._newest = None
        self._borrowed.clear()
        with suppress(BufferError):  # somebody still holds a frame, and with it the memory
            self._memory.close()
        if self.address.kind == "raw":
            os.close(int(self.address.place))

    # What the thread does

    def _supervise(self) -> None:
        pause = self.timeouts.first_pause_seconds
        while not self._closing and not self._ended:
            frames_before = self._next_index
            reason = self._read_until_lost()
            if reason and not self._closing:
                self._note_loss(reason)
            if self._closing or self._ended:
                break
            pause = self.timeouts.first_pause_seconds if self._next_index > frames_before else pause
            with self._changed:
                self._changed.wait_for(lambda: self._closing, pause)
            pause = min(2 * pause, self.timeouts.longest_pause_seconds)

    def _read_until_lost(self) -> str:
        """One reader's life; why it was lost, whatever it was, for a thread that dies would be silence."""
        reader, text = None, ""
        try:
            reader = self._reader()
            try:
                reason = self._follow(reader)
            finally:
                text = reader.end()
        except Exception as error:  # noqa: BLE001  also no more processes, files or memory just now
            reason = f"reading it failed: {message_of(error)}"
        if reason and reader is not None and self.address.kind == "raw":
            self._end()
            reason += "; another reader would begin in the middle of a frame"
        return f"{reason} ({text})" if reason and text else reason

    def _reader(self) -> Child:
        with self._changed:
            free = tuple(slot for slot in range(SLOTS) if slot not in self._held())
        order = partial(
            Order, address=self.address, opener=self._opener, shared=self._shared.fileno(), slot_bytes=SLOT_BYTES,
            free=free,
        )  # fmt: skip
        descriptors = [self._shared.fileno()]
        if self.address.kind == "raw":
            descriptors.append(int(self.address.place))
        return Child(READER, lambda messages: order(messages=messages).to_json(), descriptors)

    def _held(self) -> set[int]:
        self._borrowed = {slot: borrowed for slot, borrowed in self._borrowed.items() if not borrowed.is_free}
        waiting = set() if self._newest is None else {self._newest.slot}
        return set(self._borrowed) | waiting

    def _follow(self, reader: Child) -> str:
        """Handle the reader's messages until it ends or falls silent; returns why it was lost."""
        first, opened = self._next_index, False
        deadline = time.monotonic() + self.timeouts.open_seconds
        while not self._closing:
            self._give_back(reader)
            messages = reader.messages(0.05)
            if messages is None:
                return self._failure or "its reader has died"
            for message in messages:
                if "failed" in message:
                    return str(message["failed"])
                if "ended" in message:
                    return self._end(str(message["ended"]))
                opened = opened or "opened" in message
                self._take_in(message, first)
            if any({"frame", "opened", "silent"} & message.keys() for message in messages):
                deadline = time.monotonic() + self.timeouts.stall_seconds
            if time.monotonic() > deadline:
                silence = self.timeouts.stall_seconds if opened else self.timeouts.open_seconds
                return f"no frame for {silence:g} s" if opened else f"opening took more than {silence:g} s"
        return ""

    def _end(self, warning: str = "") -> str:
        with self._changed:
            self.warnings += [warning] if warning else []
            self._ended = True
            self._changed.notify_all()
        self.arrived.set()
        return ""

    def _take_in(self, message: dict[str, Any], first: int) -> None:
        with self._changed:
            if "opened" in message:
                self.fps = message["fps"] if message["fps"] > 0 else None
            for cause in (CORRUPT, HELD, MISSED):
                self.drops[cause] += message.get(cause, 0)
            self.warnings += message.get("warnings", [])
            if "silent" in message:
                self._note_loss(str(message["silent"]))
            if "frame" not in message:
                return
            arrival = self._arrival(message, first)
            if self._newest is not None:
                self.drops[OVERTAKEN] += 1
                self._borrowed[self._newest.slot] = BorrowableArray(self._newest.image)  # free again
            else:
                self._waiting_ns = time.monotonic_ns()
            self._newest = arrival
            self._next_index, self._seen_ns = arrival.index + 1, time.monotonic_ns()
            self._had_frames, self.lost, self._failure, self.why = True, False, "", ""
            self._changed.notify_all()
        self.arrived.set()

    def _arrival(self, message: dict[str, Any], first: int) -> _Arrival:
        """A frame that a reader announces; checked here, because the loop that takes it must not fail."""
        slot, index, shape = int(message["frame"]), first + int(message["index"]), tuple(message["shape"])
        held = slot in self._borrowed or (self._newest is not None and slot == self._newest.slot)
        if slot not in range(SLOTS) or held or index < self._next_index:
            raise DataError(f"frame {index} in slot {slot}")
        view = np.frombuffer(self._memory, np.uint8, min(math.prod(shape), SLOT_BYTES), slot * SLOT_BYTES)
        image, layout = view.reshape(shape), Layout(message["layout"])
        check_shape(image, layout)
        return _Arrival(
            slot=slot, index=index, captured_ns=int(message["ns"]), image=image, layout=layout,
            stamp_ns=message.get("stamp_ns"), frame_id=str(message.get("frame_id", "")),
        )  # fmt: skip

    def _give_back(self, reader: Child) -> None:
        with self._changed:
            free = [slot for slot, borrowed in self._borrowed.items() if borrowed.is_free]
            for slot in free:
                del self._borrowed[slot]
        if free:
            reader.feed(bytes(free))

    def _note_loss(self, reason: str) -> None:
        reason = without_credentials(reason)
        with self._changed:
            self._failure = reason
            if self.lost:
                return
            self.lost = self._had_frames
            self.losses += self.lost
            self.why = f"{self.uri} {'was lost' if self.lost else 'gives no frame yet'}: {reason}"
            self.warnings.append(self.why)
            del self.warnings[:-WARNINGS_KEPT]
