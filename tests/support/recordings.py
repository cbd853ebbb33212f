"""Recordings as ROS 2 and Foxglove write them, by the public writers."""

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from clst_runtime.imaging.recording_files import type_store

SECOND = 10**9


def image(rgb, *, stamp_ns=0, encoding="rgb8", frame_id="front"):
    """A `sensor_msgs/msg/Image` in CDR; `rgb` is H,W,3, or H,W of mono8."""
    fields = {"height": rgb.shape[0], "width": rgb.shape[1], "encoding": encoding, "is_bigendian": 0}
    step = rgb.size // rgb.shape[0]
    return message("sensor_msgs/msg/Image", stamp_ns, frame_id, **fields, step=step, data=rgb.reshape(-1))


def picture(bgr, *, stamp_ns=0, suffix=".png", file_format="png"):
    """A `sensor_msgs/msg/CompressedImage` in CDR."""
    data = np.frombuffer(cv2.imencode(suffix, bgr)[1].tobytes(), np.uint8)
    return message("sensor_msgs/msg/CompressedImage", stamp_ns, "front", format=file_format, data=data)


def message(kind, stamp_ns, frame_id, **fields):
    types = type_store().types
    time = types["builtin_interfaces/msg/Time"](sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND)
    if kind.startswith("foxglove"):
        head = {"timestamp": time, "frame_id": frame_id}
    else:
        head = {"header": types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)}
    return bytes(type_store().serialize_cdr(types[kind](**head, **fields), kind))


def text(words):
    return bytes(
        type_store().serialize_cdr(type_store().types["std_msgs/msg/String"](data=words), "std_msgs/msg/String")
    )


def write_mcap(path: Path, topics, *, finish=True, compression="ZSTD", **options):
    """Topics `{name: (type, [(log time in ns, content)])}`; unless finished as a recorder that was killed leaves it."""
    from mcap.writer import CompressionType, Writer

    with path.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType[compression], **options)
        writer.start("ros2")
        for name, (kind, messages) in topics.items():
            definition = type_store().generate_msgdef(kind, ros_version=2)[0].encode()
            channel = writer.register_channel(name, "cdr", writer.register_schema(kind, "ros2msg", definition))
            for log_ns, data in messages:
                writer.add_message(channel, log_ns, data, log_ns)
        if finish:
            writer.finish()
    return path


def write_bag(path: Path, topics, storage="sqlite3", **options):
    """The same as a rosbag2, in the storage of that name."""
    from rosbags.rosbag2 import StoragePlugin, Writer

    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()], **options) as writer:
        for name, (kind, messages) in topics.items():
            connection = writer.add_connection(name, kind, typestore=type_store())
            for log_ns, data in messages:
                writer.write(connection, log_ns, data)
    return path


def plain(level, size_hw=(2, 4)):
    """A grey image of one level."""
    return np.full((*size_hw, 3), level, np.uint8)


def drive(levels, *, topic="/front", begin_ns=SECOND, step_ns=SECOND // 10):
    """One topic of grey images, ten a second."""
    times = [begin_ns + number * step_ns for number in range(len(levels))]
    messages = [(time, image(plain(level), stamp_ns=time + 5)) for time, level in zip(times, levels, strict=True)]
    return {topic: ("sensor_msgs/msg/Image", messages)}


def write_foxglove(path: Path, kind, messages, topic="/front"):
    """An MCAP of Foxglove's own messages in Protobuf: `kind` and `[(log time in ns, fields)]`, without a stamp at 0."""
    from google.protobuf import descriptor_pb2, timestamp_pb2
    from mcap_protobuf.writer import Writer

    with path.open("wb") as stream, Writer(stream) as writer:
        for log_ns, fields in messages:
            writer.write_message(topic, _foxglove(kind, fields, descriptor_pb2, timestamp_pb2), log_ns, log_ns)
    return path


def _foxglove(kind, fields, descriptors, timestamps):
    from google.protobuf import descriptor_pool, message_factory

    file = descriptors.FileDescriptorProto(name=f"foxglove/{kind}.proto", package="foxglove", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    described = file.message_type.add(name=kind)
    field = descriptors.FieldDescriptorProto
    types = {bytes: field.TYPE_BYTES, str: field.TYPE_STRING, int: field.TYPE_FIXED32}
    described.field.add(
        name="timestamp", number=1, type=field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=1
    )
    for number, (name, value) in enumerate(fields.items(), 2):
        if name != "stamp_ns":
            described.field.add(name=name, number=number, type=types[type(value)], label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptors.FileDescriptorProto.FromString(timestamps.DESCRIPTOR.serialized_pb))
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"foxglove.{kind}"))
    stamp_ns = fields.get("stamp_ns", 0)
    values = {name: value for name, value in fields.items() if name != "stamp_ns"}
    return made(timestamp={"seconds": stamp_ns // SECOND, "nanos": stamp_ns % SECOND}, **values)


def coded_video(levels, codec="libx264", size_hw=(32, 32)):
    """H.264 or HEVC, a packet a frame, one key frame at the beginning."""
    import av

    context = av.CodecContext.create(codec, "w")
    context.height, context.width = size_hw
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", 10, Fraction(1, 10)
    quiet = {"x265-params": "log-level=none:bframes=0"} if codec == "libx265" else {}
    context.options = {"preset": "ultrafast", "tune": "zerolatency", **quiet}
    packets = []
    for number, level in enumerate(levels):
        frame = av.VideoFrame.from_ndarray(plain(level, size_hw), format="rgb24")
        frame.pts = number
        packets += context.encode(frame)
    return [bytes(packet) for packet in [*packets, *context.encode(None)]]
