"""What a recording costs to read: one core's time for a frame of 1280×720 in JPEG, of MCAP and of rosbag2.

    python -m benchmarks.performance.recordings VIDEO

The video's frames are written as JPEG by the public writers, then read as `clst-run` reads them. `message_ms` is a
message alone, `frame_ms` with the picture decoded, `jpeg_ms` the same bytes decoded by OpenCV alone; medians of rounds
that take turns, CPU time of the whole process on one thread. `share_at_30` is the part of one core at 30 frames/s.
The result goes to benchmarks/results/recordings.json.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.record import RESULTS, markdown, provenance, write_result
from clst_runtime.imaging.geometry import resize_frame
from clst_runtime.imaging.recording_files import type_store
from clst_runtime.imaging.ros_images import decoded
from clst_runtime.imaging.videos import open_video
from clst_runtime.system.optional import require

RESULT = RESULTS / "recordings.json"
SIZE_HW, FPS, FRAMES, QUALITY = (720, 1280), 30, 150, 90
ROUNDS = 5
KIND, TOPIC = "sensor_msgs/msg/CompressedImage", "/front/compressed"


def pictures(video: Path) -> list[bytes]:
    """The first frames of a video as JPEG."""
    cv2, opened, coded = require("cv2"), open_video(video), list[bytes]()
    while len(coded) < FRAMES and (frame := opened.read()) is not None:
        image = resize_frame(frame, SIZE_HW)
        coded.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    opened.close()
    return coded


def messages(coded: list[bytes]) -> list[tuple[int, bytes]]:
    """Log time and content of each picture's message."""
    store = type_store()
    time_type, header = store.types["builtin_interfaces/msg/Time"], store.types["std_msgs/msg/Header"]
    made = []
    for number, each in enumerate(coded):
        at_ns = 10**9 + number * 10**9 // FPS
        stamp = header(stamp=time_type(sec=at_ns // 10**9, nanosec=at_ns % 10**9), frame_id="front")
        message = store.types[KIND](header=stamp, format="jpeg", data=np.frombuffer(each, np.uint8))
        made.append((at_ns, bytes(store.serialize_cdr(message, KIND))))
    return made


def write_mcap(path: Path, contents: list[tuple[int, bytes]], compression: str) -> None:
    """An MCAP file as Foxglove's writer makes it."""
    writing = require("mcap.writer")
    with path.open("wb") as stream:
        writer = writing.Writer(stream, compression=writing.CompressionType[compression])
        writer.start("ros2")
        definition = type_store().generate_msgdef(KIND, ros_version=2)[0].encode()
        channel = writer.register_channel(TOPIC, "cdr", writer.register_schema(KIND, "ros2msg", definition))
        for at_ns, data in contents:
            writer.add_message(channel, at_ns, data, at_ns)
        writer.finish()


def write_bag(path: Path, contents: list[tuple[int, bytes]], storage: str) -> None:
    """A rosbag2."""
    bags = require("rosbags.rosbag2")
    with bags.Writer(path, version=9, storage_plugin=bags.StoragePlugin[storage]) as writer:
        connection = writer.add_connection(TOPIC, KIND, typestore=type_store())
        for at_ns, data in contents:
            writer.write(connection, at_ns, data)


def seconds_of(work: Callable[[], object]) -> float:
    """CPU time of the process."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def go_through(path: Path, *, decode: bool) -> None:
    """Read a recording to its end."""
    video, count = open_video(path), 0
    while video.read() is not None if decode else video.skip():
        count += 1
    video.close()
    if count != FRAMES:
        raise SystemExit(f"{path}: {count} frames of {FRAMES}")


def decode_all(coded: list[bytes]) -> None:
    """The pictures alone, each let go of as in a run."""
    for each in coded:
        decoded("jpeg", each)


def measure(paths: dict[str, Path], coded: list[bytes]) -> dict[str, Any]:
    """The medians of all rounds, of each recording."""
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, path in paths.items():
            for decode in (False, True):
                spent = seconds_of(lambda path=path, decode=decode: go_through(path, decode=decode))  # type: ignore[misc]
                times.setdefault(f"{name}{decode}", []).append(spent)
        times.setdefault("jpeg", []).append(seconds_of(lambda: decode_all(coded)))
    medians = {name: 1000 * statistics.median(values) / FRAMES for name, values in times.items()}
    rows = {
        name: {
            "message_ms": round(medians[f"{name}False"], 3),
            "frame_ms": round(medians[f"{name}True"], 3),
            "share_at_30": round(medians[f"{name}True"] * FPS / 1000, 3),
            "message_share_at_30": round(medians[f"{name}False"] * FPS / 1000, 4),
            "times_real_time": round(1000 / FPS / medians[f"{name}True"], 2),
        }
        for name in paths
    }
    return {"jpeg_ms": round(medians["jpeg"], 3), "recordings": rows}


@click.command()
@click.argument("video", type=click.Path(path_type=Path, exists=True))
def main(video: Path) -> None:
    """Measure on the frames of VIDEO."""
    require("cv2").setNumThreads(1)
    coded = pictures(video)
    if len(coded) < FRAMES:
        raise SystemExit(f"{video}: {len(coded)} frames, {FRAMES} needed")
    contents = messages(coded)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for compression in ("NONE", "LZ4", "ZSTD"):
            write_mcap(folder / f"{compression}.mcap", contents, compression)
        for storage in ("SQLITE3", "MCAP"):
            write_bag(folder / storage, contents, storage)
        paths = {
            "MCAP": folder / "NONE.mcap",
            "MCAP, lz4": folder / "LZ4.mcap",
            "MCAP, zstd": folder / "ZSTD.mcap",
            "rosbag2, sqlite3": folder / "SQLITE3",
            "rosbag2, MCAP": folder / "MCAP",
        }
        found = measure(paths, coded)
    facts = {
        "size_hw": SIZE_HW,
        "frames": FRAMES,
        "rounds": ROUNDS,
        "kib_a_frame": round(sum(map(len, coded)) / FRAMES / 1024),
    }
    write_result(RESULT, {**provenance(), **facts, **found})
    rows = [
        [name, f"{row['message_ms']:.2f}", f"{row['frame_ms']:.2f}", f"{100 * row['share_at_30']:.0f} %"]
        for name, row in found["recordings"].items()
    ]
    click.echo("\n".join(markdown(["recording", "message, ms", "frame, ms", "of one core at 30/s"], rows)))


if __name__ == "__main__":
    main()
