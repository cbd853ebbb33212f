"""The commands of docker/compose.yaml without its containers: a video through RTSP, its masks on the guarded page."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest
import yaml

from tests import ROOT
from tests.support.shell import heed_interrupts
from tests.support.waiting import until

SERVICES = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
CAMERA = ["/usr/bin/python3", str(ROOT / "docker/camera/rtsp_camera.py")]
NEEDED = ("decodebin", "intervideosrc", "x264enc", "rtph264pay", "avdec_mjpeg")
SERVER = "import gi; gi.require_version('GstRtspServer', '1.0')"
TOKEN = "a-token-of-16-letters"


def lacks():
    """Whether a package of the camera's Dockerfile is not here."""
    checks = [["/usr/bin/python3", "-c", SERVER], *(["gst-inspect-1.0", "--exists", each] for each in NEEDED)]
    try:
        return any(subprocess.run(each, capture_output=True, check=False).returncode for each in checks)
    except FileNotFoundError:
        return True


pytestmark = pytest.mark.skipif(lacks(), reason="packages of docker/camera/Dockerfile are not installed")


def film_blue(path):
    """Half a second of blue, which is class 2; of an odd size, as H.264 has none."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (95, 63))
    for _ in range(5):
        writer.write(np.full((63, 95, 3), (255, 0, 0), np.uint8))
    writer.release()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def started(tmp_path):
    """Starts a program, and ends it."""
    running = []

    def start(call, **environment):
        running.append(
            subprocess.Popen(
                call, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, preexec_fn=heed_interrupts,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def asked(page, token):
    """Status code and what `/status.json` holds; nothing while nobody listens."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{page}/status.json", headers=headers), timeout=5
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {}
    except OSError:
        return 0, {}


def ended(process):
    """Exit code and what it said, after the signal of `docker compose stop`."""
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=30)[0]
    return process.returncode, told


def test_the_page_shows_masks_of_the_camera_to_who_has_the_token(tmp_path, rgb_model, started):
    film_blue(tmp_path / "drive.avi")
    film, page = free_port(), free_port()
    own = {"/data/video": "drive.avi", "/data/model.onnx": str(rgb_model), "0.0.0.0:8080": f"0.0.0.0:{page}",
           "rtsp://camera:8554/camera": f"rtsp://127.0.0.1:{film}/camera"}  # fmt: skip
    camera = started([*CAMERA, *(own.get(each, each) for each in SERVICES["camera"]["command"]), str(film)])
    assert "drive.avi" in camera.stdout.readline()
    words = SERVICES["clst"]["command"]
    assert set(own) - {"/data/video"} < set(words)
    run = [sys.executable, "-c", "from clst_runtime.cli.main import main; main()"]
    clst = started([*run, *(own.get(each, each) for each in words)], CLST_WEB_TOKEN=TOKEN)
    page = f"http://127.0.0.1:{page}"

    def drives():
        status = asked(page, TOKEN)[1]
        return (
            status
            and status["run"]["frames"] > 60
            and status["run"]["state"] == "ready"
            and status["shares"] == [0, 0, 1]
        )

    assert until(drives, 60), ended(clst)[1]
    assert asked(page, "another-of-16-letters") == (401, {})
    code, told = ended(clst)
    assert code == 0
    assert TOKEN not in told
    assert ended(camera)[0] == 0


@pytest.mark.parametrize("kind", ["missing", "text"])
def test_a_video_that_is_none_ends_the_camera_in_one_line(tmp_path, started, kind):
    if kind == "text":
        (tmp_path / "drive.avi").write_text("no video\n" * 100)
    camera = started([*CAMERA, "drive.avi", str(free_port())])
    told = camera.communicate(timeout=30)[0]
    assert camera.returncode == 3
    assert [line for line in told.splitlines() if line.startswith("error: drive.avi cannot be played as a video: ")]
    assert "Traceback" not in told


def test_a_port_that_is_taken_is_told_of(tmp_path, started):
    with socket.create_server(("0.0.0.0", 0)) as other:
        camera = started([*CAMERA, "drive.avi", str(other.getsockname()[1])])
        told = camera.communicate(timeout=30)[0]
    assert camera.returncode == 3
    assert told.startswith("error: cannot listen on port ")
