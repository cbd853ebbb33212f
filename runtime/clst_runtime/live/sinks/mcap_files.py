"""MCAP files of ROS messages that grow: masks of a run for Foxglove, rosbag2 and `clst-train`. H rows, W columns."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.classes.labels import ClassList
from clst_runtime.imaging.geometry import Image
from clst_runtime.imaging.recording_files import type_store
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.growing_file import GrowingFile
from clst_runtime.live.sinks.growing_sink import GrowingSink
from clst_runtime.sources.base import CAMERA_FRAME, TimedFrame
from clst_runtime.system.optional import require

DEFAULT_NODE = "clst"
MASKS, CLASSES = f"/{DEFAULT_NODE}/mask", f"/{DEFAULT_NODE}/classes"
"""Topics, as the node `/clst` of `--ros2` has them: an image a frame, and the classes once."""
CHUNK_BYTES = 1 << 20
"""Before compression: so much of a recording an end without warning takes."""
IMAGE, PICTURE, TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"


def taken_ns(timed: TimedFrame) -> int:
    """When a frame was taken, since 1970: its stamp, or else its time of capture by this machine's clock."""
    return timed.stamp_ns if timed.stamp_ns is not None else time.time_ns() - time.monotonic_ns() + timed.captured_ns


class McapFile:
    """Messages of ROS 2 in an MCAP file, which is readable up to its last whole chunk whatever happens."""

    frames = 0
    """Images that are in the file."""
    given = 0
    """Images that were added."""

    def __init__(self, path: Path, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        """Raises: OSError: it exists, or cannot be made. MissingDependency."""
        writing, self._store = require("mcap.writer"), type_store()
        self._file = _Pieces(path)
        self._writer = writing.Writer(self._file, chunk_size=chunk_bytes)
        self._channels: dict[str, int] = {}
        self._writer.start("ros2")

    def add_text(self, topic: str, text: str, stamp_ns: int) -> None:
        """A `std_msgs/msg/String`."""
        self._add(topic, TEXT, stamp_ns, data=text)

    def add_mask(self, topic: str, mask: Image, stamp_ns: int, frame_id: str) -> None:
        """Class ids H,W as a `sensor_msgs/msg/Image` in mono8. Raises: OSError: the file cannot grow."""
        rows, columns = mask.shape
        self._add_image(topic, IMAGE, stamp_ns, frame_id, height=rows, width=columns, encoding="mono8",
                        is_bigendian=0, step=columns, data=np.ascontiguousarray(mask).reshape(-1))  # fmt: skip

    def add_picture(self, topic: str, encoded: bytes, file_format: str, stamp_ns: int, frame_id: str) -> None:
        """A coded image as a `sensor_msgs/msg/CompressedImage`. Raises: OSError: the file cannot grow."""
        data = np.frombuffer(encoded, np.uint8)
        self._add_image(topic, PICTURE, stamp_ns, frame_id, format=file_format, data=data)

    def _add_image(self, topic: str, kind: str, stamp_ns: int, frame_id: str, **fields: Any) -> None:
        types, before = self._store.types, self._file.tell()
        seconds, nanoseconds = divmod(stamp_ns, 10**9)
        stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id or CAMERA_FRAME)
        self._add(topic, kind, stamp_ns, header=header, **fields)
        self.given += 1
        if self._file.tell() > before:  # the chunk that was written ends with this message
            self.frames = self.given

    def _add(self, topic: str, kind: str, stamp_ns: int, **fields: Any) -> None:
        if topic not in self._channels:
            definition = self._store.generate_msgdef(kind, ros_version=2)[0].encode()
            schema = self._writer.register_schema(kind, "ros2msg", definition)
            self._channels[topic] = self._writer.register_channel(topic, "cdr", schema)
        content = bytes(self._store.serialize_cdr(self._store.types[kind](**fields), kind))
        self._writer.add_message(self._channels[topic], stamp_ns, content, stamp_ns)

    def finish(self) -> None:
        """Write what is still held, and the index. Raises: OSError."""
        try:
            self._writer.finish()
            self.frames = self.given
        finally:
            self._file.close()


class _Pieces:
    """What the writer takes for a stream: each of its pieces goes to the file whole or not at all.

    After one that did not nothing more is written: the writer would go on as if it had.
    """

    def __init__(self, path: Path) -> None:
        self._file, self._bytes = GrowingFile(path), 0
        self._failure: OSError | None = None

    def write(self, piece: bytes) -> int:
        if self._failure is not None:
            raise self._failure
        try:
            self._file.append(piece)
        except OSError as error:
            self._failure = error
            raise
        self._bytes += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._bytes

    def close(self) -> None:
        self._file.close()


class McapMaskSink(GrowingSink[McapFile]):
    """Masks as images of ROS at the camera's size, with the stamps and the frame of coordinates of its images.

    The topic of the classes holds once what `classes.json` does: names and colours by class id.
    """

    name = "MCAP"

    def __init__(self, path: Path, classes: ClassList, node: str = DEFAULT_NODE) -> None:
        """Args: node: whose topics they would be."""
        super().__init__(path)
        self.classes, self._node, self._first_ns = classes, node, 0

    def _begin(self, path: Path, result: Result) -> McapFile:
        self._first_ns = taken_ns(result.timed)
        begun = McapFile(path)
        begun.add_text(f"/{self._node}/classes", json.dumps(self.classes.to_json()), self._first_ns)
        return begun

    def _add(self, file: McapFile, result: Result) -> None:
        stamp_ns = taken_ns(result.timed)
        if result.timed.stamp_ns is None:  # reckoned anew each time: the first mask's must not be before the classes'
            stamp_ns = max(stamp_ns, self._first_ns)
        file.add_mask(f"/{self._node}/mask", result.mask, stamp_ns, result.timed.frame_id)
