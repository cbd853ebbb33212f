"""Images of a ROS 2 topic, for the process that reads cameras. Legend: H rows, W columns."""

from __future__ import annotations

import time
from typing import Any

from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Image, Layout
from clst_runtime.imaging.ros_images import decoded, image_of
from clst_runtime.sources.address import LiveAddress
from clst_runtime.system.optional import require
from clst_runtime.system.ros2 import RosNode, mismatches

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
BESIDE = "_camera"
"""After the name of the node that publishes, the name of this one."""
DISCOVERY_SECONDS = 0.05
"""Between two looks for a publisher, whose type decides how to subscribe."""
LOOK_SECONDS = 1.0
"""So often a silent topic is looked at: has it a publisher?"""
SILENT_SECONDS = 1.5
"""A publisher that is there may be silent for so long: it is said before a reader is taken to hang."""
RENEWED_SECONDS = 5.0
"""After so long the reader is ended and another one started: a middleware may have lost the publisher for good."""
FUTURE_NS = 20_000_000
"""A stamp may be so far ahead: clocks of two machines are never quite the same."""
SIMULATED_FUTURE_NS = 1_000_000_000
"""… and in simulated time, where /clock comes in steps, and later than the image on a busy machine."""
OLD_NS = 10_000_000_000
"""Older stamps are of another clock, or a recording's."""
NAMED = 6
"""Topics that a message names."""


class Silent(Exception):
    """No image comes just now, and why; the subscription stays."""


class RosCapture:
    """The newest image of a topic, with the few methods of `cv2.VideoCapture` that are used here."""

    def __init__(self, address: LiveAddress) -> None:
        """Args: address: its place is the topic, `sensor_msgs/msg/Image` or `CompressedImage`.

        Raises:
            MissingDependency, ConfigError: as `RosNode`.
        """
        self.layout = Layout.BGR
        self.captured_ns = 0
        """`time.monotonic_ns` at the time that the image's stamp tells."""
        self.reason = ""
        """Why `retrieve` gave no image."""
        self._header: dict[str, Any] = {}
        self._missed = 0
        self._warnings: list[str] = []
        self._ros = RosNode(address.ros_args, beside=BESIDE)
        self._node = self._ros.node
        self._topic = self._node.resolve_topic_name(str(address.place))
        self._subscription: Any = None
        self._type = ""
        self._message: Any = None
        self._numbers: tuple[int, int] | None = None
        self._began = self._heard = time.monotonic()
        self._leaving = False

    def isOpened(self) -> bool:  # noqa: N802  OpenCV's name
        """A topic always is, with or without a publisher."""
        return True

    def get(self, _: int) -> float:
        """Nothing is known of the rate."""
        return 0.0

    def grab(self) -> bool:
        """Wait for the next image.

        Raises:
            Silent: there is none. EOFError: `leave` was called. DataError: none for so long that it is opened anew.
        """
        self._message, looked = None, time.monotonic()
        while self._message is None:
            if self._leaving:
                self._ros.leave()
                raise EOFError
            if self._subscription is None:
                self._subscribe()
            self._ros.executor.spin_once(DISCOVERY_SECONDS if self._subscription is None else 0.2)
            if self._message is None and time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                self._look()
        self._heard = time.monotonic()
        return True

    def retrieve(self, _: Image | None = None) -> tuple[bool, Image | None]:
        """Its pixels; False where they cannot be used, and `reason` is why."""
        message, self._message = self._message, None
        try:
            if self._type == COMPRESSED:
                self.layout = Layout.BGR
                return True, decoded(message.format, message.data)
            size_hw = message.height, message.width
            image, self.layout = image_of(message.encoding, size_hw, message.step, message.data)
        except DataError as error:
            self.reason = error.message
            return False, None
        return True, image

    def told(self) -> dict[str, Any]:
        """What is told of an image beside its pixels: stamp, drops and warnings."""
        told = {**self._header, "missed": self._missed, "warnings": self._warnings}
        self._missed, self._warnings = 0, []
        return told

    def leave(self) -> None:
        """End `grab`, from another thread."""
        self._leaving = True

    def release(self) -> None:
        self._ros.leave()

    def _subscribe(self) -> None:
        wanted = self._wanted_type()
        if not wanted:
            return
        qos, options = require("rclpy.qos"), require("rclpy.qos_overriding_options").QoSOverridingOptions
        newest = qos.QoSProfile(depth=1, reliability=qos.ReliabilityPolicy.BEST_EFFORT)
        kind = getattr(require("sensor_msgs.msg"), wanted.rpartition("/")[2])
        self._type, self._numbers = wanted, None
        took: Any = self._took
        if not hasattr(require("rclpy.subscription").Subscription, "CallbackType"):  # Humble tells nothing of a message
            took = lambda message: self._took(message, None)  # noqa: E731
        self._subscription = self._node.create_subscription(
            kind, self._topic, took, newest, qos_overriding_options=options.with_default_policies()
        )

    def _wanted_type(self) -> str:
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(self._topic)}
        return next((each for each in (IMAGE, COMPRESSED) if each in types), "")

    def _took(self, message: Any, info: Any) -> None:
        now_ns = time.monotonic_ns()
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        self._message, self.captured_ns = message, now_ns - self._age_ns(stamp_ns)
        self._header = {"stamp_ns": stamp_ns, "frame_id": message.header.frame_id}
        self._count_missed(info)

    def _age_ns(self, stamp_ns: int) -> int:
        """How old the image is on arrival, in ROS time; 0 where its stamp cannot be of this clock."""
        now_ns = self._ros.now_ns()
        age_ns = now_ns - stamp_ns
        if now_ns == 0:  # simulated time that has not begun
            if time.monotonic() - self._began > SILENT_SECONDS:
                self._warn("use_sim_time is set and no /clock comes: the age counts from the arrival")
        elif stamp_ns == 0:
            self._warn("its images have no stamp: their age counts from the arrival")
        elif age_ns < -(SIMULATED_FUTURE_NS if self._ros.is_simulated() else FUTURE_NS):
            self._warn("its stamps are ahead of this machine's clock: the age counts from the arrival; "
                       "synchronise the clocks, or set use_sim_time on both sides")  # fmt: skip
        elif age_ns > OLD_NS:
            self._warn("its stamps are more than 10 s old; a recording is played with "
                       "--clock, and here --ros-args -p use_sim_time:=true")  # fmt: skip
        return 0 if stamp_ns == 0 else max(0, age_ns)

    def _warn(self, text: str) -> None:
        self._warnings.append(f"{self._topic}: {text}")

    def _count_missed(self, info: Any) -> None:
        """By the publisher's own numbers."""
        number = info.get("publication_sequence_number") if isinstance(info, dict) else None
        if not isinstance(number, int):
            return
        before, self._numbers = self._numbers, (number, self._node.count_publishers(self._topic))
        if before is not None and before[1] == self._numbers[1] == 1 and number > before[0]:
            self._missed += number - before[0] - 1

    def _look(self) -> None:
        """Say why no image comes.

        Raises:
            Silent: no publisher, one that does not fit, or one that gives nothing. DataError: nothing for too long.
        """
        found = self._node.get_publishers_info_by_topic(self._topic)
        if not found:
            raise Silent(f"nobody publishes {self._topic}; {self._image_topics()}")
        wanted = self._wanted_type()
        if not wanted:
            kinds = ", ".join(sorted({info.topic_type for info in found}))
            raise Silent(f"{self._topic} is of {kinds}; {IMAGE} and CompressedImage are read; {self._image_topics()}")
        if self._subscription is not None and wanted != self._type:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            return
        for reason in mismatches(self._node, self._topic):
            raise Silent(reason)
        silent, reason = time.monotonic() - self._heard, f"the publisher of {self._topic} sends nothing"
        if silent > RENEWED_SECONDS:
            self._ros.leave()
            raise DataError(reason)
        if silent > SILENT_SECONDS:
            raise Silent(reason)

    def _image_topics(self) -> str:
        own = f"{self._node.get_fully_qualified_name().removesuffix(BESIDE)}/"
        topics = [name for name, types in self._node.get_topic_names_and_types()
                  if name != self._topic and {IMAGE, COMPRESSED} & set(types) and not name.startswith(own)]  # fmt: skip
        if not topics:
            return "no topic of images is seen here (another ROS_DOMAIN_ID?)"
        return f"images are at {', '.join(topics[:NAMED])}{', …' if len(topics) > NAMED else ''}"
