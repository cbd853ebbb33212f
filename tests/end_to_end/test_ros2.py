"""Images of ROS 2 topics in, masks with their stamps out: real nodes of other processes."""

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.ros2 import environment, heard, needs_ros2, node
from tests.support.shell import heed_interrupts
from tests.support.waiting import until

pytestmark = needs_ros2
SECONDS = 90.0
"""A busy machine takes its time; every wait ends as soon as what it waits for is there."""


@pytest.fixture
def started():
    """Starts programs, and ends those that still run."""
    with ExitStack() as ended:

        def start(process):
            ended.callback(process.wait)
            ended.callback(process.kill)
            return process

        yield start


def run(*arguments):
    """`clst-run` with ROS in its environment."""
    call = [str(Path(sys.executable).with_name("clst-run")), *map(str, arguments)]
    return subprocess.Popen(
        call, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )


def of(folder, topic):
    return [each for each in heard(folder) if each["topic"] == topic]


def test_two_cameras_and_two_nodes_and_every_mask_has_the_stamp_of_its_own_image(tmp_path, rgb_model, started):
    front = {"topic": "/front/image", "rows": 16, "stripe": 2}
    dies = started(node("camera", tmp_path, **front))
    started(node("camera", tmp_path, topic="/rear/image", encoding="jpeg"))
    topics = {"/clst/mask": "Image", "/clst/overlay": "Image", "/clst/classes": "String", "/diagnostics": "Diagnostics",
              "/rear/eyes/mask": "Image"}  # fmt: skip
    started(node("listen", tmp_path, topics=topics, latched=["/clst/classes"], seconds=SECONDS))
    one = started(run(rgb_model, "--source", "ros2:/front/image", "--ros2", "/clst"))
    named = ["-r", "__node:=eyes", "-r", "__ns:=/rear", "-r", "image:=/rear/image"]
    other = started(run(rgb_model, "--source", "ros2:image", "--ros2", "x", "--ros-args", *named))
    assert until(lambda: len(of(tmp_path, "/clst/mask")) > 5 and of(tmp_path, "/rear/eyes/mask"), SECONDS)
    dies.kill()
    dies.wait()
    started(node("camera", tmp_path, first=10_000, **front))
    assert until(lambda: of(tmp_path, "/clst/mask")[-1]["number"] >= 10_000, SECONDS), "the camera has come back"
    assert until(lambda: [each for each in of(tmp_path, "/diagnostics") if each["message"] == "ready"], SECONDS)
    one.send_signal(signal.SIGINT)
    out, errors = one.communicate(timeout=SECONDS)
    other.terminate()
    assert one.returncode == other.wait() == 0, errors
    assert "(interrupted)" in out

    masks = of(tmp_path, "/clst/mask")
    assert all(each["seen"] == each["number"] for each in masks), "no mask of another image's stamp"
    assert [each["number"] for each in masks] == sorted({each["number"] for each in masks})
    rear = of(tmp_path, "/rear/eyes/mask")
    assert all(each["seen"] == each["number"] and each["shape"] == [8, 16, 1] for each in rear)
    assert {(each["encoding"], each["frame_id"], tuple(each["shape"])) for each in masks} == {
        ("mono8", "front", (16, 32, 1))
    }
    overlay = of(tmp_path, "/clst/overlay")[0]
    assert (overlay["encoding"], overlay["shape"], overlay["values"]) == ("rgb8", [16, 32, 3], [0, 255])
    classes = json.loads(of(tmp_path, "/clst/classes")[0]["data"])
    assert classes == {"name": "rgb", "names": ["red", "green", "blue"],
                       "colors": [[255, 0, 0], [0, 255, 0], [0, 0, 255]]}  # fmt: skip
    told = [each for each in of(tmp_path, "/diagnostics") if each["message"] == "ready"][-1]
    assert told["name"] in ("clst: segmentation", "rear/eyes: segmentation")
    assert told["level"] == 0
    assert int(told["values"]["frames"]) > 0


SOURCES = """
import json, sys, time
from clst_runtime.sources import Timeouts, open_source
from clst_runtime.system.ros2 import node_arguments
patience = Timeouts(start_seconds=1000.0)
asked = json.loads(sys.argv[1])
opened = [
    open_source(f"ros2:{topic}", timeouts=patience, ros_args=node_arguments(f"n{place}", tuple(given)))
    for place, (topic, given, _) in enumerate(asked)
]
for source, (_, _, reason) in zip(opened, asked):
    timed, end = None, time.monotonic() + 90
    while not (reason and reason in source.why) and (reason or timed is None) and time.monotonic() < end:
        timed = source.take(0.1)
    age_ms = timed and (time.monotonic_ns() - timed.captured_ns) / 1e6
    print(json.dumps({"age_ms": age_ms, "why": source.why, "warnings": source.status().warnings}), flush=True)
for source in opened:
    source.close()
"""
"""Opens topics, and says of each how old its image is, or why there is none once it is for the reason that is asked."""
RELIABLE = ["-p", "qos_overrides./image.subscription.reliability:=reliable"]


def test_what_cannot_be_used_is_said_in_one_line_and_simulated_time_is_ros_time(tmp_path, started):
    started(node("camera", tmp_path, topic="/image"))
    started(node("camera", tmp_path, topic="/text", encoding="text"))
    started(node("camera", tmp_path, topic="/bayer", encoding="bayer_rggb8"))
    started(node("camera", tmp_path, topic="/still", count=1, wait_for=1, linger=SECONDS))
    started(node("camera", tmp_path, topic="/played", sim_offset_s=-1000.0))
    asked = [
        ("/absent", [], "nobody publishes /absent; images are at /"),
        ("/text", [], "/text is of std_msgs/msg/String; sensor_msgs/msg/Image and CompressedImage are read; images"),
        ("/bayer", [], "encoding 'bayer_rggb8' is a raw Bayer mosaic; name a topic of colours"),
        ("/image", RELIABLE, "QoS of /image does not fit camera: Best effort publisher and reliable subscription"),
        ("/still", [], "the publisher of /still sends nothing"),
        ("/played", [], ""),
        ("/played", ["-p", "use_sim_time:=true"], ""),
    ]
    call = [sys.executable, "-c", SOURCES, json.dumps(asked)]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    *unusable, played, simulated = map(json.loads, done.stdout.splitlines())
    for (topic, _, reason), said in zip(asked, unusable, strict=False):
        assert said["why"].startswith(f"ros2:{topic} ")
        assert reason in said["why"]
    assert 1e6 <= played["age_ms"] < 1.1e6
    assert [text for text in played["warnings"] if "use_sim_time" in text]  # perhaps after one that none has come yet
    assert 0 <= simulated["age_ms"] < 60_000
    assert not [text for text in simulated["warnings"] if "use_sim_time" in text]
