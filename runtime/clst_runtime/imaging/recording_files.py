"""Topics and messages of recordings: MCAP by its own library, rosbag2 and bags of ROS 1 by rosbags.

Messages come in the order of their log times, as players give them. A recording that was broken off has no index: its
whole messages come in the order of the file.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from clst_runtime.errors import ClstError, DataError, message_of
from clst_runtime.system.optional import require

MAGIC = b"\x89MCAP0\r\n"
"""Begins an MCAP file, and ends one that is whole."""
LAST_SECONDS = 1
"""How long before the end of a bag the last message of a topic is looked for first."""
_STAMPED = "builtin_interfaces/Time timestamp\nstring frame_id\n"
_FOXGLOVE = {
    "CompressedImage": f"{_STAMPED}uint8[] data\nstring format\n",
    "CompressedVideo": f"{_STAMPED}uint8[] data\nstring format\n",
    "RawImage": f"{_STAMPED}uint32 width\nuint32 height\nstring encoding\nuint32 step\nuint8[] data\n",
}
"""Messages that no ROS brings."""
Parser = Callable[[bytes], Any]


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Messages of one kind under one name."""

    name: str
    message_type: str
    """As `sensor_msgs/msg/Image`."""
    encoding: str
    """`cdr` of ROS 2, `ros1` or `protobuf`."""
    count: int
    """Messages."""


class RecordingFile(ABC):
    """An open recording."""

    topics: Sequence[Topic]
    cut = False
    """Whether it was broken off."""

    @abstractmethod
    def messages(self, topic: Topic, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Log time in ns and content of each message of a topic from the one at position `start` on."""

    @abstractmethod
    def span_ns(self, topic: Topic) -> tuple[int, int]:
        """Log times of the first and the last message of a topic that has some."""

    def parser(self, topic: Topic) -> Parser:
        """What makes a message's fields of its content.

        Raises:
            DataError: it is in an encoding that is not read.
        """
        store = type_store(ros_1=topic.encoding == "ros1")
        if topic.encoding == "ros1":
            return lambda data: store.deserialize_ros1(data, topic.message_type)
        if topic.encoding == "cdr":
            return lambda data: store.deserialize_cdr(data, topic.message_type)
        raise DataError(f"topic {topic.name} has messages in {topic.encoding!r}; read are cdr (ROS 2) and protobuf")

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


def open_recording(path: Path) -> RecordingFile:
    """An MCAP file, the folder of a rosbag2, a `.db3` file of one, or a bag of ROS 1.

    Raises:
        DataError: it cannot be read.
    """
    opener = Mcap if path.is_file() and _head(path) == MAGIC else Rosbag
    if path.is_file() and opener is Rosbag and path.suffix.lower() == ".mcap":
        raise DataError(f"{path}: no MCAP file by what it holds; was it copied whole?")
    try:
        return opener(path)
    except ClstError:
        raise
    except Exception as error:  # a damaged file raises what it will
        within = sorted(path.glob("*.mcap")) if path.is_dir() else []
        hint = f"; what is whole of a file broken off is read by its own name, e.g. {within[0]}" if within else ""
        raise DataError(f"{path}: not a recording that can be read ({message_of(error)}){hint}") from error


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC))


@cache
def type_store(*, ros_1: bool = False) -> Any:
    """The types of ROS's messages and Foxglove's, which have been the same in every ROS 2."""
    types = require("rosbags.typesys")
    store = types.get_typestore(types.Stores.ROS1_NOETIC if ros_1 else types.Stores.ROS2_HUMBLE)
    for name, definition in _FOXGLOVE.items() if not ros_1 else ():
        store.register(types.get_types_from_msg(definition, f"foxglove_msgs/msg/{name}"))
    return store


class _WholeReads:
    """A file of which a piece is read whole or not at all."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, length: int) -> bytes:
        piece = self._stream.read(length)
        if len(piece) < length:
            raise EOFError
        return piece


class Mcap(RecordingFile):
    """An MCAP file."""

    def __init__(self, path: Path) -> None:
        self._reading, self._path = require("mcap.reader"), path
        self._stream = path.open("rb")
        self._schemas: dict[str, Any] = {}
        self._times: dict[str, list[int]] = {}
        """Log times of each topic's messages, in their order."""
        try:
            self.cut = not self._has_end()
            self._indexed = not self.cut and self._read_index()
            if not self._indexed:
                self._read_through()
        except BaseException:
            self._stream.close()
            raise

    def _has_end(self) -> bool:
        size = self._stream.seek(0, os.SEEK_END)
        self._stream.seek(max(0, size - len(MAGIC)))
        return size > len(MAGIC) and self._stream.read() == MAGIC

    def _read_index(self) -> bool:
        """Topics by the summary at the end, and times by the indexes of chunks; False where there are none."""
        self._stream.seek(0)
        summary = self._reading.make_reader(self._stream).get_summary()
        if summary is None or summary.statistics is None or not summary.chunk_indexes:
            return False
        if not all(chunk.message_index_length for chunk in summary.chunk_indexes):
            return False
        if not summary.channels.keys() >= summary.statistics.channel_message_counts.keys():
            return False
        topics: dict[str, Topic] = {}
        for channel in summary.channels.values():
            count = summary.statistics.channel_message_counts.get(channel.id, 0)
            self._add(topics, channel, summary.schemas.get(channel.schema_id), count)
        self.topics = [*topics.values()]
        self._summary = summary
        return True

    def _add(self, topics: dict[str, Topic], channel: Any, schema: Any, count: int) -> None:
        """A channel is one publisher of a topic; the first one says what the topic is."""
        known = topics.get(channel.topic)
        if known is None:
            self._schemas[channel.topic] = schema
        topics[channel.topic] = Topic(
            name=channel.topic,
            message_type=known.message_type if known else schema.name if schema else "no type",
            encoding=known.encoding if known else channel.message_encoding,
            count=count + (known.count if known else 0),
        )

    def _read_through(self) -> None:
        """Topics and times by every message, up to where the file is cut."""
        topics: dict[str, Topic] = {}
        for schema, channel, message in self._in_file_order():
            self._add(topics, channel, schema, 1)
            self._times.setdefault(channel.topic, []).append(message.log_time)
        self.topics = [*topics.values()]

    def _in_file_order(self, topics: Sequence[str] | None = None) -> Iterator[tuple[Any, Any, Any]]:
        with self._path.open("rb") as stream:
            reader = self._reading.NonSeekingReader(_WholeReads(stream))
            try:
                yield from reader.iter_messages(topics, log_time_order=False)
            except EOFError:
                self.cut = True

    def _times_of(self, topic: Topic) -> list[int]:
        if topic.name not in self._times:
            records = require("mcap.stream_reader").StreamReader
            channels = [each.id for each in self._summary.channels.values() if each.topic == topic.name]
            times: list[int] = []
            for chunk in self._summary.chunk_indexes:
                for offset in filter(None, map(chunk.message_index_offsets.get, channels)):
                    self._stream.seek(offset)
                    index = next(iter(records(self._stream, skip_magic=True).records))
                    times += [time for time, _ in index.records]
            self._times[topic.name] = sorted(times)
        return self._times[topic.name]

    def messages(self, topic: Topic, start: int = 0) -> Iterator[tuple[int, bytes]]:
        if not self._indexed:
            for _, _, message in islice(self._in_file_order([topic.name]), start, None):
                yield message.log_time, message.data
            return
        begin, passed = None, start
        if start and start < len(times := self._times_of(topic)):
            begin, passed = times[start], start - bisect_left(times, times[start])
        self._stream.seek(0)
        reader = self._reading.make_reader(self._stream)
        for _, _, message in islice(reader.iter_messages([topic.name], starting_at=begin), passed, None):
            yield message.log_time, message.data

    def span_ns(self, topic: Topic) -> tuple[int, int]:
        times = self._times_of(topic)
        return times[0], times[-1]

    def parser(self, topic: Topic) -> Parser:
        if topic.encoding != "protobuf":
            return super().parser(topic)
        found = require("mcap_protobuf.decoder").DecoderFactory().decoder_for("protobuf", self._schemas[topic.name])
        if found is None:
            raise DataError(f"{self._path}: topic {topic.name} has no definition of its messages")
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        self._stream.close()


class Rosbag(RecordingFile):
    """The folder of a rosbag2 with either storage, one of its files, or a bag of ROS 1."""

    def __init__(self, path: Path) -> None:
        ros_1 = path.is_file() and _head(path) == b"#ROSBAG "
        self._reader = require("rosbags.rosbag1" if ros_1 else "rosbags.rosbag2").Reader(path)
        self._reader.open()
        self._is_open = True
        self.topics = [
            Topic(name=name, message_type=info.msgtype or "several types", encoding="ros1" if ros_1 else "cdr",
                  count=info.msgcount)
            for name, info in self._reader.topics.items()
        ]  # fmt: skip

    def _from(self, topic: Topic, start_ns: int | None) -> Iterator[tuple[int, bytes]]:
        connections = [each for each in self._reader.connections if each.topic == topic.name]
        for _, time_ns, data in self._reader.messages(connections, start=start_ns):
            yield time_ns, data

    def messages(self, topic: Topic, start: int = 0) -> Iterator[tuple[int, bytes]]:
        return islice(self._from(topic, None), start, None)

    def span_ns(self, topic: Topic) -> tuple[int, int]:
        first, seconds, times = next(self._from(topic, None))[0], LAST_SECONDS, list[int]()
        while not times:
            begin = max(first, self._reader.end_time - seconds * 10**9)
            times, seconds = [time for time, _ in self._from(topic, begin)], seconds * 8
        return first, times[-1]

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._reader.close()
