"""The process that publishes results as a ROS 2 node. H rows, W columns; h,w of the model.

It is started by `ros2.open_ros2`. A line of JSON on its standard input is a result, whose arrays lie in the shared
file, or diagnostics; it answers each, when it is published, by a line that names what is subscribed to. Whatever a
middleware does meanwhile, waiting for a slow subscriber for one, it does to this process alone.
"""

from __future__ import annotations

import array
import importlib.util
import json
import mmap
import os
import sys
import threading
import time
from typing import Any, cast

import numpy as np

from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import message_of
from clst_runtime.imaging.geometry import Image, Layout, resize_classes, to_rgb
from clst_runtime.imaging.overlay import blend
from clst_runtime.sources.base import CAMERA_FRAME
from clst_runtime.system.optional import require
from clst_runtime.system.ros2 import RosNode, mismatches

TOPICS = ("mask", "confidence", "overlay")


class Publisher:
    """The node's topics."""

    def __init__(self, order: dict[str, Any]) -> None:
        """Raises: MissingDependency, ConfigError: as `RosNode`."""
        self.classes = ClassList.from_json(order["classes"], name="classes")
        self.alpha, self.source = order["alpha"], order["source"]
        self._ros = RosNode(tuple(order["ros_args"]))
        self._memory = mmap.mmap(order["shared"], 0)
        self._node, self._warned = self._ros.node, set[str]()
        qos = require("rclpy.qos")
        self._newest = qos.QoSProfile(depth=1)
        self._latched = qos.QoSProfile(depth=1, durability=qos.DurabilityPolicy.TRANSIENT_LOCAL)
        self._image = require("sensor_msgs.msg").Image
        self._images = {name: self._publisher(self._image, f"~/{name}", self._newest) for name in TOPICS}
        self._diagnostics = self._publisher(
            require("diagnostic_msgs.msg").DiagnosticArray, "/diagnostics", qos.QoSProfile(depth=1)
        )
        self._publish_classes()
        threading.Thread(target=self._ros.executor.spin, daemon=True).start()  # parameters, clock, events

    def _publisher(self, kind: Any, topic: str, qos: Any) -> Any:
        options = require("rclpy.qos_overriding_options").QoSOverridingOptions
        return self._node.create_publisher(kind, topic, qos, qos_overriding_options=options.with_default_policies())

    def _publish_classes(self) -> None:
        """Names and colours as JSON; ids and names once more as `LabelInfo`, where that is installed."""
        text = require("std_msgs.msg").String
        self._publisher(text, "~/classes", self._latched).publish(text(data=json.dumps(self.classes.to_json())))
        if importlib.util.find_spec("vision_msgs") is None:
            return
        messages = require("vision_msgs.msg")
        if hasattr(messages, "LabelInfo"):
            labels = messages.LabelInfo()
            for number, name in enumerate(self.classes.names):
                labels.class_map.append(messages.VisionClass(class_id=number, class_name=name))
            labels.header.stamp = self._stamp(self._ros.now_ns())
            self._publisher(messages.LabelInfo, "~/label_info", self._latched).publish(labels)

    def _stamp(self, stamp_ns: int) -> Any:
        time_message = require("builtin_interfaces.msg").Time
        return time_message(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)

    def show(self, order: dict[str, Any]) -> None:
        """Publish what a result brings; overlay and confidence at the camera's size, as the mask."""
        arrays = {name: self._array(place, shape) for name, (place, shape) in order["arrays"].items()}
        stamp_ns = order["stamp_ns"]
        if stamp_ns is None:
            stamp_ns = self._ros.now_ns() - (time.monotonic_ns() - order["captured_ns"])
        header = {"stamp": self._stamp(max(0, stamp_ns)), "frame_id": order["frame_id"] or CAMERA_FRAME}
        if "mask" in arrays:
            self._send("mask", arrays["mask"], "mono8", header)
        if "confidence" in arrays:
            self._send("confidence", resize_classes(arrays["confidence"], tuple(order["size_hw"])), "mono8", header)
        if "image" in arrays:
            frame = to_rgb(arrays["image"], Layout(order["layout"]))
            self._send("overlay", blend(frame, arrays["mask"], self.classes, self.alpha), "rgb8", header)

    def _array(self, place: int, shape: list[int]) -> Image:
        count = int(np.prod(shape))
        return np.frombuffer(self._memory, np.uint8, count, place).reshape(shape)

    def _send(self, name: str, image: Image, encoding: str, header: dict[str, Any]) -> None:
        message = self._image(height=image.shape[0], width=image.shape[1], encoding=encoding)
        message.header.stamp, message.header.frame_id = header["stamp"], header["frame_id"]
        message.step = int(np.prod(image.shape[1:]))
        data = array.array("B")
        data.frombytes(cast(Any, np.ascontiguousarray(image)))
        message.data = data  # any other type is checked byte by byte
        self._images[name].publish(message)

    def diagnose(self, order: dict[str, Any]) -> None:
        """Publish `/diagnostics`."""
        messages = require("diagnostic_msgs.msg")
        status = messages.DiagnosticStatus(
            level=bytes([order["level"]]), name=f"{self._node.get_fully_qualified_name().strip('/')}: segmentation",
            message=order["message"], hardware_id=self.source,
        )  # fmt: skip
        status.values = [messages.KeyValue(key=key, value=value) for key, value in order["values"].items()]
        whole = messages.DiagnosticArray(status=[status])
        whole.header.stamp = self._stamp(self._ros.now_ns())
        self._diagnostics.publish(whole)

    def wanted(self) -> list[str]:
        """Images that somebody subscribes to."""
        return [name for name, publisher in self._images.items() if publisher.get_subscription_count()]

    def warnings(self) -> list[str]:
        """Subscriptions that get nothing, each once: their QoS does not fit."""
        lines = [line for each in self._images.values() for line in mismatches(self._node, each.topic_name)]
        found = [line for line in lines if line not in self._warned]
        self._warned.update(found)
        return found

    def leave(self) -> None:
        """Tell the other nodes that this one goes."""
        self._ros.leave()


def main() -> None:
    """Publish until standard input ends; errors go as messages, the exit code has no meaning."""
    order = json.loads(sys.argv[2])

    def send(**facts: Any) -> None:
        os.write(order["messages"], json.dumps(facts).encode() + b"\n")

    try:
        publisher = Publisher(order)
        send(wanted=publisher.wanted(), warnings=[])
        for line in sys.stdin.buffer:
            given, warnings = json.loads(line), []
            if "result" in given:
                publisher.show(given["result"])
            else:
                publisher.diagnose(given["diagnostics"])
                warnings = publisher.warnings()
            send(wanted=publisher.wanted(), warnings=warnings)
        publisher.leave()
    except Exception as error:  # noqa: BLE001  whatever it is, the parent gets the reason
        send(failed=message_of(error))
    finally:
        os._exit(0)  # a middleware that hangs must not hold up the end
