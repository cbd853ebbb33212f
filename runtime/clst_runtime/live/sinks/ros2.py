"""Results as topics of a ROS 2 node, which is a process of its own (`ros2_node`)."""

from __future__ import annotations

import json
import mmap
import time
from contextlib import suppress
from typing import Any

import numpy as np

from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.geometry import Image
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.statistics import LOST, READY, STALE, RunStatistics
from clst_runtime.system.child_process import Child, shared_file

NODE = "clst_runtime.live.sinks.ros2_node"
SHARED_BYTES = 256 << 20
"""Room for mask, confidence and image in 8K; memory is used only as far as they fill it."""
START_SECONDS = 20.0
HANG_SECONDS = 5.0
"""A node that is busy with one result for so long is given up."""
DIAGNOSTICS_SECONDS = 1.0
OK, WARN, ERROR = range(3)
"""Levels of `diagnostic_msgs/msg/DiagnosticStatus`."""


def open_ros2(
    arguments: tuple[str, ...], classes: ClassList, alpha: float, *, statistics: RunStatistics, source: str
) -> RosSink:
    """Start the node.

    Args:
        arguments: as of `node_arguments`.
        statistics: of the run, for `/diagnostics`.
        source: how the diagnostics name the hardware.

    Raises:
        ConfigError: ROS refuses the arguments. DataError: the node does not start.
    """
    shared = shared_file(SHARED_BYTES)
    order = {"ros_args": arguments, "classes": classes.to_json(), "alpha": alpha, "source": source}

    def text(messages: int) -> str:
        return json.dumps({**order, "shared": shared.fileno(), "messages": messages})

    with shared:
        child = Child(NODE, text, [shared.fileno()])
        memory = mmap.mmap(shared.fileno(), 0)
    sink = RosSink(child, memory, statistics)
    try:
        sink.wait_for_answer(START_SECONDS)
    except BaseException:
        sink.close()
        raise
    return sink


class RosSink(Sink):
    """Hands results to the node, one at a time: while it is busy, one more waits and the others are dropped.

    Only what somebody subscribes to is handed over.
    """

    name = "ros2"
    queued = 1
    idle_seconds = 0.1

    def __init__(self, child: Child, memory: mmap.mmap, statistics: RunStatistics) -> None:
        self._child, self._memory, self._statistics = child, memory, statistics
        self._wanted: tuple[str, ...] = ()
        self._due = 0.0
        self._open = True

    def write(self, result: Result) -> None:
        """Publish what is subscribed to.

        Raises:
            DataError: the node has died or hangs, or the image is too large.
        """
        timed = result.timed
        order: dict[str, Any] = {"stamp_ns": timed.stamp_ns, "captured_ns": timed.captured_ns,
                                 "frame_id": timed.frame_id, "size_hw": timed.size_hw, "arrays": {}}  # fmt: skip
        place = 0
        for name, array in self._arrays(result).items():
            order["arrays"][name] = [place, array.shape]
            place = self._put(array, place)
        order["layout"] = timed.layout.value
        self._send({"result": order})
        self.idle()

    def _arrays(self, result: Result) -> dict[str, Image]:
        found: dict[str, Image] = {}
        if {"mask", "overlay"} & set(self._wanted):
            found["mask"] = result.mask
        if "confidence" in self._wanted and result.prediction.confidence is not None:
            found["confidence"] = result.prediction.confidence
        if "overlay" in self._wanted:
            found["image"] = result.timed.image
        return found

    def _put(self, array: Image, place: int) -> int:
        if place + array.size > SHARED_BYTES:
            raise DataError(f"images of {array.shape} do not fit into {SHARED_BYTES >> 20} MiB")
        np.copyto(np.frombuffer(self._memory, np.uint8, array.size, place).reshape(array.shape), array)
        return place + array.size

    def idle(self) -> None:
        """Publish the diagnostics when it is time."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + DIAGNOSTICS_SECONDS
            self._send({"diagnostics": diagnostics(self._statistics.snapshot())})

    def _send(self, order: dict[str, Any]) -> None:
        self._child.feed(json.dumps(order).encode() + b"\n")
        self.wait_for_answer(HANG_SECONDS)

    def wait_for_answer(self, seconds: float) -> None:
        """Until the node is done.

        Raises:
            ConfigError: it cannot start as it was told to. DataError: it has died, or is not done in time.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            messages = self._child.messages(0.1)
            if messages is None:
                text = self._end()
                raise DataError(f"the ROS 2 node has ended{f' ({text})' if text else ''}")
            for message in messages:
                if "failed" in message:
                    raise ConfigError(message["failed"])
                for warning in message["warnings"]:
                    self._statistics.warn(warning)
                self._wanted = tuple(message["wanted"])
                return
        raise DataError(f"the ROS 2 node is busy for more than {seconds:g} s")

    def close(self) -> None:
        """End the node; the others see it go."""
        self._end()

    def _end(self) -> str:
        if not self._open:
            return ""
        self._open = False
        text = self._child.end()
        with suppress(BufferError):
            self._memory.close()
        return text


def diagnostics(values: dict[str, Any]) -> dict[str, Any]:
    """Level, message and values of a `DiagnosticStatus`, of a snapshot of the statistics."""
    state, domain, age_ms = values["state"], values["domain"], values["newest_age_ms"]
    shown = {
        "state": state,
        "age of the newest image ms": None if age_ms is None else round(age_ms, 1),
        "frames": values["frames"],
        "frames/s": round(values["fps"], 2),
        "dropped": values["dropped"],
        **{f"dropped: {cause}": count for cause, count in sorted(values["drops"].items())},
        "deadline ms": values["deadline_ms"],
        "deadline misses": values["deadline_misses"],
        "deadline misses in a row": values["deadline_streak"],
        "times stale": values["stale_spells"],
        "times lost": values["losses"],
        "camera": None if domain is None else domain["state"],
        "camera in words": None if domain is None else domain["words"],
    }
    for name in ("median", "p99", "max"):
        if values["capture_to_mask_ms"]:
            shown[f"capture to mask ms, {name}"] = round(values["capture_to_mask_ms"][name], 1)
    other = domain is not None and domain["state"] not in ("unknown", "same")
    level, message = OK, state
    if state in (STALE, LOST):
        level = ERROR
    elif state != READY or values["deadline_streak"] or other:
        level = WARN
    if state == READY and domain is not None and other:
        message = domain["words"]
    return {
        "level": level,
        "message": message,
        "values": {name: str(value) for name, value in shown.items() if value is not None},
    }
