"""The process that reads a camera, so that a read that never comes back hangs nobody else.

It is started by `live.LiveSource` and gets one JSON object as its argument. Frames go into slots of a shared file, a
line of JSON about each into a pipe; the numbers of slots that are free again come back on its standard input, a byte
each. It ends when that input is closed, which happens when its parent ends, however it ends.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from clst_runtime.errors import DataError, message_of
from clst_runtime.imaging.decoder_messages import reset_decoder_logging
from clst_runtime.imaging.geometry import Image, Layout
from clst_runtime.imaging.video_frames import Frames
from clst_runtime.sources.address import LiveAddress
from clst_runtime.sources.raw import RawCapture
from clst_runtime.sources.ros2 import RosCapture, Silent
from clst_runtime.system.optional import require

BAD_READS = 10
"""Reads that may fail in a row before the camera counts as lost."""
BAD_READ_PAUSE_SECONDS = 0.02
LEAVING_SECONDS = 0.4
"""How long the other nodes of ROS may take to hear that this one goes."""
OPENER = "clst_runtime.sources.reader:open_capture"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the parent asks for; as JSON it is the process's argument."""

    address: LiveAddress
    opener: str
    """`module:function` that opens an address and gives what behaves like `cv2.VideoCapture`."""
    shared: int
    """File descriptor of the shared file."""
    messages: int
    """File descriptor of the pipe to the parent."""
    slot_bytes: int
    free: tuple[int, ...]
    """Slots that may be written."""

    def to_json(self) -> str:
        return json.dumps({name: vars(value) if name == "address" else value for name, value in vars(self).items()})

    @staticmethod
    def from_json(text: str) -> Order:
        values = json.loads(text)
        place = values.pop("address")
        place["layout"] = Layout(place["layout"])
        place["size_hw"] = tuple(place["size_hw"]) if place["size_hw"] else None
        place["ros_args"] = tuple(place["ros_args"])
        return Order(**values | {"address": LiveAddress(**place), "free": tuple(values["free"])})


class Slots:
    """The shared file, and which parts of it may be written."""

    def __init__(self, descriptor: int, slot_bytes: int, free: tuple[int, ...]) -> None:
        self.slot_bytes = slot_bytes
        self._memory = mmap.mmap(descriptor, 0)
        self._free = list(free)  # one thread takes from it, another one appends

    def view(self, slot: int, shape: tuple[int, ...]) -> Image:
        """A slot's memory as an image of `shape`.

        Raises:
            DataError: it does not fit.
        """
        count = int(np.prod(shape))
        if count > self.slot_bytes:
            raise DataError(
                f"a frame of {shape} has more than {self.slot_bytes >> 20} MiB; ask the camera for a smaller one"
            )
        return np.frombuffer(self._memory, np.uint8, count, slot * self.slot_bytes).reshape(shape)

    def take(self) -> int | None:
        """A slot that is free; None when all are held."""
        return self._free.pop() if self._free else None

    def give_back(self, slot: int) -> None:
        self._free.append(slot)

    def refill_from(self, stream: Any, end: Callable[[], None]) -> None:
        """Take slots back as the parent names them; call `end` when it is gone."""
        while slot := stream.read(1):
            self.give_back(slot[0])
        end()


def open_capture(address: LiveAddress) -> Any:
    """Open a camera or stream with OpenCV.

    Raises:
        DataError: it cannot be opened.
    """
    if address.kind == "raw":
        return RawCapture(address)
    if address.kind == "ros2":
        return RosCapture(address)
    reset_decoder_logging()
    cv2 = require("cv2")
    if address.kind == "gstreamer":
        capture = cv2.VideoCapture(str(address.place), cv2.CAP_GSTREAMER)
    else:
        capture = cv2.VideoCapture(address.place)
    if address.kind == "camera":
        _configure(cv2, capture, address)
    return capture


def _configure(cv2: Any, capture: Any, address: LiveAddress) -> None:
    """The order matters to V4L2: format, then size, then rate."""
    if address.pixel_format:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*address.pixel_format))
        if address.layout is not Layout.BGR:
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    if address.size_hw is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, address.size_hw[1])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, address.size_hw[0])
    if address.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, address.fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)


class Reader:
    """Reads frames into slots and sends the parent a message of each."""

    def __init__(self, order: Order, capture: Any, slots: Slots) -> None:
        self.order, self.capture, self.slots, self._frames = order, capture, slots, Frames(capture)
        self._shape: tuple[int, ...] | None = None
        self._index = self._bad = 0
        self._tells_time = str(getattr(capture, "getBackendName", str)()) == "V4L2"

    def send(self, **facts: Any) -> None:
        """One line to the parent."""
        os.write(self.order.messages, json.dumps(facts).encode() + b"\n")

    def run(self) -> None:
        """Read until the camera gives nothing more.

        Raises:
            EOFError: it has ended. DataError: it gives no frames, or such that cannot be used.
        """
        while True:
            try:
                grabbed = self._frames.grab()
            except Silent as silence:
                self.send(silent=str(silence))
                continue
            if not grabbed:
                self._count_bad()
                continue
            captured_ns = self._capture_time()
            slot = self.slots.take()
            if slot is None:
                self.send(held=1)
            elif self._retrieve(slot, captured_ns):
                self._bad = 0
            else:
                self.slots.give_back(slot)
                self._count_bad()
            self._index += 1

    def _count_bad(self) -> None:
        self._bad += 1
        if self._bad >= BAD_READS:
            reason = self._frames.reason or getattr(self.capture, "reason", "")
            raise DataError(reason or "it gives no frames any more")
        self.send(corrupt=1)
        time.sleep(BAD_READ_PAUSE_SECONDS)

    def _capture_time(self) -> int:
        """When the frame was taken: by a topic's stamp, by V4L2 where it is on the same clock, else now."""
        now = time.monotonic_ns()
        if isinstance(self.capture, RosCapture):
            return self.capture.captured_ns
        if self._tells_time:
            text = int(self.capture.get(0) * 1e6)  # CAP_PROP_POS_MSEC
            if 0 <= now - text < 1_000_000_000:
                return text
        return now

    def _retrieve(self, slot: int, captured_ns: int) -> bool:
        into = None if self._shape is None else self.slots.view(slot, self._shape)
        image = self._frames.retrieve(into)
        if image is None:
            return False
        layout, told = self.order.address.layout, {}
        if isinstance(self.capture, RosCapture):
            layout, told = self.capture.layout, self.capture.told()
        if image.shape != self._shape:
            self._shape = check_shape(image, layout)
            into = self.slots.view(slot, self._shape)
        if into is not None and not np.shares_memory(into, image):
            np.copyto(into, image)
        shape = list(image.shape)
        self.send(frame=slot, index=self._index, ns=captured_ns, shape=shape, layout=layout.value, **told)
        return True


def check_shape(image: Image, layout: Layout) -> tuple[int, ...]:
    """The shape, if it is one of `layout`.

    Raises:
        DataError: another type or number of channels.
    """
    expected = layout.shape(layout.size_hw(image))
    if image.dtype != np.uint8 or image.shape != expected:
        raise DataError(
            f"its frames are {image.dtype} {image.shape}, not {layout.value} of 8 bits; give another format"
        )
    return image.shape


def main() -> None:
    """Open and read; results and errors go as messages, the exit code has no meaning."""
    order = Order.from_json(sys.argv[2])
    module, _, name = order.opener.partition(":")
    capture: Any = None

    def end() -> None:
        if isinstance(capture, RosCapture):
            capture.leave()  # main thread does, and ends the process
            time.sleep(LEAVING_SECONDS)
        os._exit(0)

    def send_failure(message: str) -> None:
        os.write(order.messages, json.dumps({"failed": message}).encode() + b"\n")

    try:
        slots = Slots(order.shared, order.slot_bytes, order.free)
        freed = os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
        # Before anything can hang: a reader without a parent would keep the camera from the next one
        threading.Thread(target=slots.refill_from, args=(freed, end), daemon=True).start()
        capture = getattr(importlib.import_module(module), name)(order.address)
        if not capture.isOpened():
            return send_failure("it cannot be opened; is it plugged in and free?")
        reader = Reader(order, capture, slots)
        reader.send(opened=True, fps=float(capture.get(5)))  # CAP_PROP_FPS
        reader.run()
    except EOFError as ended:
        os.write(order.messages, json.dumps({"ended": str(ended)}).encode() + b"\n")
    except Exception as error:  # noqa: BLE001  whatever it is, the parent gets the reason
        send_failure(message_of(error))
    finally:
        os._exit(0)  # a capture that hangs must not hold up the end
