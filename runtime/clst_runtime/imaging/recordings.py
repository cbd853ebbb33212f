"""The images of a recording's topic as a video: MCAP, rosbag2, bags of ROS 1.

A frame is the message at its position. It keeps the stamp of its header, else the time at which it was recorded.
Legend: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from clst_runtime.errors import ClstError, ConfigError, DataError, did_you_mean, message_of
from clst_runtime.imaging.geometry import Image, Layout
from clst_runtime.imaging.media import split_options
from clst_runtime.imaging.recording_files import RecordingFile, Topic, open_recording
from clst_runtime.imaging.ros_images import decoded, image_of
from clst_runtime.imaging.video_frames import DAMAGED_IN_A_ROW, Video
from clst_runtime.system.optional import require

RAW, PICTURE, VIDEO = "raw", "picture", "video"
IMAGE_TYPES = {
    "sensor_msgs/msg/Image": RAW,
    "sensor_msgs/msg/CompressedImage": PICTURE,
    **{
        f"{package}{name}": kind
        for package in ("foxglove_msgs/msg/", "foxglove.")
        for name, kind in (("RawImage", RAW), ("CompressedImage", PICTURE), ("CompressedVideo", VIDEO))
    },
}
"""Types of messages that hold an image, and how."""
DECODERS = {"h264": "h264", "h265": "hevc"}
"""FFmpeg's name for each format of `CompressedVideo` that is read."""
MOST_LISTED = 12
"""Topics that a message lists."""
OPTIONS = ("topic", "rate")


@dataclass(frozen=True, kw_only=True)
class RecordingOptions:
    """What stands behind the `?` of a recording."""

    topic: str = ""
    """"" = the only one with images."""
    rate: float | None = None
    """Played so many times as fast as it was recorded; None = as fast as it is taken."""


def recording_options(place: Path) -> RecordingOptions:
    """Raises: ConfigError: one that is unknown or cannot be."""
    _, query = split_options(place)
    values = dict(parse_qsl(query, keep_blank_values=True))
    for name in values:
        if name not in OPTIONS:
            raise ConfigError(f"{place}: option {name!r} is not known; {did_you_mean(name, OPTIONS)}")
    text = values.get("rate")
    try:
        rate = None if text is None else float(text)
    except ValueError:
        rate = 0.0
    if rate is not None and not 0 < rate < 1000:
        raise ConfigError(f"{place}: rate {text!r}; give how many times as fast as it was recorded, as 1")
    return RecordingOptions(topic=values.get("topic", ""), rate=rate)


class Recording(Video):
    """The images of one topic, in the order of their log times."""

    def __init__(self, place: Path) -> None:
        """Open the recording; `place` may name a topic, as in `drive.mcap?topic=/front`.

        Raises:
            DataError: it cannot be read, or its topic of images is not known. ConfigError: options that cannot be.
        """
        super().__init__(place)
        options = recording_options(place)
        path, _ = split_options(place)
        self._file = open_recording(path)
        try:
            self.topic = chosen_topic(path, self._file, options.topic)
            self._kind = IMAGE_TYPES[self.topic.message_type]
            self._parse = self._file.parser(self.topic)
            self.fps = self._rate()
        except BaseException:
            self._file.close()
            raise
        self._frames = self._from(0)
        self._ahead: tuple[int, int, Any] | None = None
        self._now: Any = None
        self._log_ns = 0
        self._broken = ""
        self._early = self._backwards = 0
        self._first_backwards = -1

    def _rate(self) -> float | None:
        """Frames a second on average."""
        try:
            first, last = self._file.span_ns(self.topic)
        except Exception as error:  # noqa: BLE001  a damaged file raises what it will; what can be read will be
            self.why = message_of(error)
            return None
        return (self.topic.count - 1) * 1e9 / (last - first) if last > first else None

    def _from(self, start: int) -> Iterator[tuple[int, int, Any]]:
        """Position, log time and content of each message; of a video what was decoded of it."""
        return _Decoding(self).frames() if self._kind == VIDEO else self._messages(start)

    def _messages(self, start: int = 0) -> Iterator[tuple[int, int, bytes]]:
        try:
            for position, (log_ns, data) in enumerate(self._file.messages(self.topic, start), start):
                yield position, log_ns, data
        except ClstError:
            raise
        except Exception as error:  # noqa: BLE001  a damaged file raises what it will
            self.why = self._broken = message_of(error)

    def next_ns(self) -> int | None:
        """Log time of the next frame; None at the end."""
        if self._ahead is None:
            self._ahead = next(self._frames, None)
        return None if self._ahead is None else self._ahead[1]

    def skip(self) -> bool:
        if self.next_ns() is None or self._ahead is None:
            return False
        before, (self.position, self._log_ns, self._now), self._ahead = self.position, self._ahead, None
        self.damaged += self.position - before - 1
        return True

    def skip_to(self, position: int) -> None:
        if self._kind == VIDEO:
            super().skip_to(position)
        elif position > self.position + 1:
            self._frames, self._ahead, self.position = self._from(position), None, position - 1

    def retrieve(self, into: Image | None = None) -> Image | None:
        if self._kind == VIDEO:
            frame, message = self._now
            self._note(message)
            self.layout = Layout.BGR
            return frame.to_ndarray(format="bgr24")  # type: ignore[no-any-return]
        message = self._parsed(self._now)
        if message is None:
            return None
        self._note(message)
        try:
            if self._kind == RAW:
                size_hw = (message.height, message.width)
                image, self.layout = image_of(message.encoding, size_hw, message.step, message.data)
                return image
            self.layout, picture = Layout.BGR, decoded(message.format, message.data)
        except DataError as error:
            raise DataError(f"{self.path}: topic {self.topic.name}, frame {self.position}: {error.message}") from error
        if picture is None:
            self.why = f"no picture of format {message.format!r}"
            if self._read == 0 and self.damaged >= DAMAGED_IN_A_ROW:
                raise DataError(f"{self.path}: none of its first {self.damaged} frames can be read: {self.why}")
        return picture

    def _parsed(self, data: bytes) -> Any:
        """A message's fields; None where it is damaged."""
        try:
            return self._parse(data)
        except Exception as error:  # noqa: BLE001  a damaged message raises what it will
            self.why = message_of(error)
            return None

    def _note(self, message: Any) -> None:
        """When and by which camera the frame was taken."""
        before = self.stamp_ns
        self.stamp_ns, self.frame_id = stamp_of(message)
        self.stamp_ns = self.stamp_ns or self._log_ns
        if before is not None and self.stamp_ns < before:
            self._backwards += 1
            if self._backwards == 1:
                self._first_backwards = self.position

    def count(self) -> int:
        return self.topic.count

    def warnings(self, *, ended: bool = True) -> list[str]:
        lines = []
        if self._early:
            lines.append(f"the first {self._early} frames are left out: a video begins at a key frame")
        if self.damaged > self._early:
            why = f" ({self.why})" if self.why else ""
            lines.append(f"damaged frames were left out: {self.damaged - self._early}{why}")
        if self._backwards:
            lines.append(
                f"time goes back {self._backwards} times, first at frame {self._first_backwards}; "
                "frames are taken in the order of recording"
            )
        if self._broken:
            lines.append(
                f"damaged after frame {self.position} of {self.topic.count} ({self._broken}); the rest is lost"
            )
        if self._file.cut:
            lines.append(f"it is truncated; {self.topic.count} frames of {self.topic.name} are whole")
        return [f"{self.path}: {line}" for line in lines]

    def close(self) -> None:
        self._file.close()


def stamp_of(message: Any) -> tuple[int, str]:
    """Nanoseconds and frame of coordinates as the camera gave them; 0 and "" where it did not."""
    header = getattr(message, "header", message)
    stamp = header.stamp if hasattr(header, "stamp") else header.timestamp
    seconds = getattr(stamp, "sec", None)
    if seconds is None:
        return stamp.seconds * 10**9 + stamp.nanos, str(header.frame_id)
    return seconds * 10**9 + stamp.nanosec, str(header.frame_id)


def chosen_topic(path: Path, file: RecordingFile, wanted: str) -> Topic:
    """The topic that is asked for, or else the only one with images.

    Raises:
        DataError: there is no such topic, or it holds no images, or there are several; the message lists those with.
    """
    images = [topic for topic in file.topics if topic.message_type in IMAGE_TYPES and topic.count]
    listed = _listed(images)
    if not images:
        where = "it is truncated, and in what is whole of it is no topic" if file.cut else "no topic"
        raise DataError(f"{path}: {where} with images; its topics are {_listed(file.topics)}")
    found = next((topic for topic in file.topics if topic.name == wanted), None)
    if found in images and found is not None:
        return found
    if found is not None:
        what = f"holds {found.message_type}, no images" if found.count else "has no message"
        raise DataError(f"{path}: topic {wanted} {what}; with images are {listed}")
    if wanted:
        near = did_you_mean(wanted, [topic.name for topic in images])
        raise DataError(f"{path}: no topic {wanted!r} ({near}); with images are {listed}")
    if len(images) > 1:
        raise DataError(f"{path}: several topics have images: {listed}; choose one, as {path}?topic={images[0].name}")
    return images[0]


def _listed(topics: Sequence[Topic]) -> str:
    texts = [f"{topic.name} ({topic.message_type}, {topic.count} messages)" for topic in topics[:MOST_LISTED]]
    more = [f"{len(topics) - MOST_LISTED} more"] if len(topics) > MOST_LISTED else []
    return ", ".join([*texts, *more]) or "none"


class _Decoding:
    """H.264 or HEVC, a frame a message, by PyAV."""

    def __init__(self, recording: Recording) -> None:
        self._recording, self._av = recording, require("av")
        self._context: Any = None
        self._waiting: dict[int, tuple[int, Any]] = {}
        """Log time and message of each frame that is in the decoder."""
        self._begun = False

    def frames(self) -> Iterator[tuple[int, int, Any]]:
        recording = self._recording
        for position, log_ns, data in recording._messages():
            message = recording._parsed(data)
            if message is None:
                continue
            self._waiting[position] = (log_ns, message)
            packet = self._av.Packet(bytes(message.data))
            packet.pts = position
            yield from self._decode(packet, message.format)
        if self._context is not None:
            yield from self._decode(None, "")

    def _decode(self, packet: Any, video_format: str) -> Iterator[tuple[int, int, Any]]:
        if self._context is None:
            self._context = self._opened(video_format)
        try:
            decoded_frames = self._context.decode(packet)
        except self._av.error.FFmpegError as error:
            self._recording.why = message_of(error)
            return
        for frame in decoded_frames:
            if not self._begun:
                self._begun, self._recording._early = True, frame.pts
            log_ns, message = self._waiting[frame.pts]
            self._waiting = {pts: held for pts, held in self._waiting.items() if pts > frame.pts}
            yield frame.pts, log_ns, (frame, message)

    def _opened(self, video_format: str) -> Any:
        name = DECODERS.get(video_format.lower())
        if name is None:
            raise DataError(
                f"{self._recording.path}: video format {video_format!r} is not read; read are {', '.join(DECODERS)}"
            )
        context = self._av.CodecContext.create(name, "r")
        context.thread_count = 1  # more would hold frames back
        return context
