"""What ROS 2 costs: how old a mask is of images of a topic, beside masks of the same images from files.

    python -m benchmarks.performance.ros2_cost [--rounds N] [--size 512x1024]

Needs ROS 2 in the environment (docs/ros2.md). A node of its own publishes two images of 1280x720 in turn, three a
second; another one subscribes to the masks, which are published. In interleaved rounds one image comes from a file and
one from the topic. The age of a mask is counted from the reading of the file, and from the stamp, which is the time of
publishing. The result goes to benchmarks/results/ros2_cost.json.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.performance.rounds import interleaved, ratio
from benchmarks.performance.runtime_cost import CAMERA_HW, WARM_UP, exported
from benchmarks.record import RESULTS, provenance, write_result

TOPIC = "/ros2_cost/image"
PUBLISHER = """
import array, sys, time
import numpy as np, rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("publisher")
publisher = node.create_publisher(Image, sys.argv[1], qos_profile_sensor_data)
images = np.load(sys.argv[2])
messages = [Image(height=i.shape[0], width=i.shape[1], step=3 * i.shape[1], encoding="rgb8") for i in images]
for message, image in zip(messages, images):
    message.data = array.array("B", image.tobytes())
while True:
    for message in messages:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        time.sleep(1 / 3)
"""
SUBSCRIBER = """
import sys
import rclpy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("subscriber")
node.create_subscription(Image, sys.argv[1], lambda _: print(end=".", flush=True), 1)
rclpy.spin(node)
"""


def ages(model: Path, folder: Path, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Milliseconds from reading or publishing to the mask, by way; how many masks the subscriber got."""
    from clst_runtime.backends.onnxruntime.session import OrtBackend
    from clst_runtime.imaging.image_files import write_png
    from clst_runtime.live.pipeline import Segmenter
    from clst_runtime.live.sinks.base import SinkWorker
    from clst_runtime.live.sinks.ros2 import open_ros2
    from clst_runtime.live.statistics import RunStatistics
    from clst_runtime.sources import open_source
    from clst_runtime.system.ros2 import node_arguments

    images = np.random.default_rng(0).integers(0, 256, (2, *CAMERA_HW, 3), dtype=np.uint8)
    (folder / "in").mkdir()
    for number in range(WARM_UP + rounds):
        write_png(folder / f"in/{number:03}.png", images[number % 2])
    np.save(folder / "images.npy", images)
    arguments, statistics_of_run = node_arguments("/ros2_cost/clst"), RunStatistics()
    heard = folder / "heard"
    with (
        heard.open("w") as dots,
        subprocess.Popen([sys.executable, "-c", PUBLISHER, TOPIC, str(folder / "images.npy")]) as publisher,
        subprocess.Popen([sys.executable, "-c", SUBSCRIBER, "/ros2_cost/clst/mask"], stdout=dots) as subscriber,
        OrtBackend(model) as backend,
        open_source(str(folder / "in")) as file,
        open_source(f"ros2:{TOPIC}", ros_args=arguments) as topic,
    ):
        segmenter = Segmenter(backend, at_camera_size=True)
        sink = open_ros2(arguments, backend.manifest.classes, 0.5, statistics=statistics_of_run, source=TOPIC)
        worker = SinkWorker(sink, statistics_of_run, lossless=False)

        def from_file() -> float:
            timed = file.take(1.0)
            assert timed is not None  # noqa: S101
            return segmenter.segment(timed).age_ns / 1e6

        def from_topic() -> float:
            topic.take(0.0)  # it has waited
            while (timed := topic.take(1.0)) is None:
                pass
            result = segmenter.segment(timed)
            worker.offer(result)
            return result.age_ns / 1e6

        taken = interleaved({"file": from_file, "ROS 2": from_topic}, WARM_UP + rounds)
        worker.finish()
        worker.is_open(5.0)
        publisher.kill()
        subscriber.kill()
    return {name: values[WARM_UP:] for name, values in taken.items()}, len(heard.read_text())


@click.command()
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1))
@click.option("--size", default="512x1024", show_default=True, help="HxW of the network.")
def main(rounds: int, size: str) -> None:
    """Measure and write the result file."""
    rows, columns = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        taken, masks = ages(exported(Path(name), (rows, columns)), Path(name), rounds)
    found: dict[str, Any] = {
        way: {"median_ms": statistics.median(values), "samples_ms": values} for way, values in taken.items()
    }
    facts = {"name": "ros2_cost", "size": size, "rounds": rounds, **provenance(), "masks_received": masks,
             "transports": os.environ.get("FASTDDS_BUILTIN_TRANSPORTS", "default")}  # fmt: skip
    write_result(RESULTS / "ros2_cost.json", facts | {"ages": found, "ratio": ratio(taken, "ROS 2", "file")})
    print({way: round(row["median_ms"], 2) for way, row in found.items()}, ratio(taken, "ROS 2", "file"), masks)


if __name__ == "__main__":
    main()
