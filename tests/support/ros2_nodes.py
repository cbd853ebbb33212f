"""Nodes of ROS 2 for tests, run as programs of their own: a camera whose images tell their number, and a listener.

    python ros2_nodes.py camera '{"topic": "/image", …}'
    python ros2_nodes.py listen '{"topics": {"/clst/mask": "Image"}, …}'

A camera's image is 16 stripes of pure red, green or blue: the number in base 3. Its stamp ends in the same number.
"""

import array
import json
import sys
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

STRIPES = 16
STEP_NS = 100_000
"""The number is the rest of a stamp by this."""
BEST_EFFORT = ReliabilityPolicy.BEST_EFFORT


def striped(number, rows, stripe):
    """rows,16·stripe,3 RGB."""
    digits = [number // 3**place % 3 for place in range(STRIPES)]
    return np.tile(np.repeat(np.eye(3, dtype=np.uint8)[digits] * 255, stripe, axis=0), (rows, 1, 1))


def number_of(mask):
    """Of a mask rows,16·stripe of class ids."""
    stripe = mask.shape[1] // STRIPES
    return sum(int(mask[mask.shape[0] // 2, stripe * place + stripe // 2]) * 3**place for place in range(STRIPES))


def filled(message, image, encoding, number, stamp_ns):
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns // STEP_NS * STEP_NS + number, 10**9)
    message.header.frame_id = "front"
    if encoding == "jpeg":
        import cv2

        data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        message.format = "rgb8; png compressed bgr8"
    else:
        data = (image[..., ::-1] if encoding == "bgr8" else image).tobytes()
        message.height, message.width, message.encoding = image.shape[0], image.shape[1], encoding
        message.step = image.shape[1] * 3
    message.data = array.array("B", data)
    return message


def camera(topic, rate=30.0, count=1 << 30, encoding="rgb8", rows=8, stripe=1, reliable=False, sim_offset_s=None,
           first=1, wait_for=0, linger=0.3):  # fmt: skip
    """Publish `count` images; with `sim_offset_s` stamps are of a clock so far off, which is published, too."""
    import sensor_msgs.msg
    import std_msgs.msg

    node = rclpy.create_node("camera")
    kinds = {"jpeg": sensor_msgs.msg.CompressedImage, "text": std_msgs.msg.String}
    qos = QoSProfile(depth=1) if reliable else QoSProfile(depth=1, reliability=BEST_EFFORT)
    publisher = node.create_publisher(kinds.get(encoding, sensor_msgs.msg.Image), topic, qos)
    clock = None
    if sim_offset_s is not None:
        from rosgraph_msgs.msg import Clock

        clock = node.create_publisher(Clock, "/clock", 10)
    while publisher.get_subscription_count() < wait_for:
        time.sleep(0.01)
    due = time.monotonic()
    for number in range(first, first + count):
        now_ns = time.time_ns() + int(1e9 * (sim_offset_s or 0.0))
        if clock is not None:
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(now_ns, 10**9)
            clock.publish(message)
        if encoding == "text":
            publisher.publish(std_msgs.msg.String(data="no image"))
        else:
            publisher.publish(filled(publisher.msg_type(), striped(number, rows, stripe), encoding, number, now_ns))
        due += 1.0 / rate
        time.sleep(max(0.0, due - time.monotonic()))
    time.sleep(linger)


def listen(topics, seconds=60.0, slow=0.0, until=0, latched=(), best_effort=False):
    """Print a line for each message; end after `until` masks or `seconds`."""
    import diagnostic_msgs.msg
    import sensor_msgs.msg
    import std_msgs.msg
    from rclpy.qos import DurabilityPolicy

    node, masks = rclpy.create_node("listener"), 0
    kinds = {"Image": sensor_msgs.msg.Image, "String": std_msgs.msg.String,
             "Diagnostics": diagnostic_msgs.msg.DiagnosticArray}  # fmt: skip

    def took(topic, message):
        nonlocal masks
        facts = {"topic": topic}
        if hasattr(message, "encoding"):
            pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, -1)
            stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            facts |= {"encoding": message.encoding, "shape": pixels.shape, "frame_id": message.header.frame_id,
                      "stamp_ns": stamp_ns, "number": stamp_ns % STEP_NS, "values": sorted(set(pixels[0, 0].tolist())),
                      "age_ms": (time.time_ns() - stamp_ns) / 1e6}  # fmt: skip
            if message.encoding == "mono8":
                facts["seen"] = number_of(pixels[..., 0])
                masks += 1
        elif hasattr(message, "status"):
            one = message.status[0]
            facts |= {"name": one.name, "level": one.level[0], "message": one.message, "hardware": one.hardware_id,
                      "values": {each.key: each.value for each in one.values}}  # fmt: skip
        else:
            facts["data"] = message.data
        print(json.dumps(facts), flush=True)
        time.sleep(slow)

    held = []
    for topic, kind in topics.items():
        qos = QoSProfile(depth=10)
        if best_effort:
            qos.reliability = BEST_EFFORT
        if topic in latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        held.append(node.create_subscription(kinds[kind], topic, lambda m, t=topic: took(t, m), qos))
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (until and masks >= until):
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()


if __name__ == "__main__":
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    {"camera": camera, "listen": listen}[sys.argv[1]](**json.loads(sys.argv[2]))
    rclpy.shutdown()
