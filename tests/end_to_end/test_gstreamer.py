"""The pipes of docs/runtime.md with GStreamer's own commands, run from its text; test images are the camera."""

import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from clst_runtime.imaging.image_files import read_label
from tests import ROOT
from tests.support.documents import INDENTED
from tests.support.shell import heed_interrupts
from tests.support.waiting import until

INSPECT = shutil.which("gst-inspect-1.0")
NEEDED = ("fdsink", "rawvideoparse", "shmsink", "videoconvert", "videorate", "videoscale", "videotestsrc")
pytestmark = pytest.mark.skipif(
    INSPECT is None or any(subprocess.run([INSPECT, "--exists", each], check=False).returncode for each in NEEDED),
    reason="no GStreamer here: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-bad",
)
SECTION = re.search(r"^## GStreamer\n(.*?)^## ", (ROOT / "docs/runtime.md").read_text(), re.MULTILINE | re.DOTALL)[1]
CAMERA_TO_SHM, READER, SHM_TO_FIFO = INDENTED.findall(SECTION)
BARS = "videotestsrc pattern=smpte horizontal-speed=40"
"""White, yellow, cyan, green, magenta, red, blue; each frame is 40 pixels further."""
BARS_CLASSES = [0, 0, 1, 1, 0, 0, 2]
"""The strongest of red, green and blue in the middle of each bar; of equal ones the first."""
RUN = f"{sys.executable} -c 'from clst_runtime.cli.run import main; main()'"


def placed(text, folder, model, *, camera=BARS, options=""):
    """The commands of a block with a test's files in the place of the reader's own; no frame is lost."""
    for shown, own in (
        ("/tmp/", f"{folder}/"),
        ("v4l2src device=/dev/video0", camera),
        ("clst-run MODEL", f"{RUN} {model} --out {folder}/out --masks --no-video {options}"),
        ("&fps=30", "&fps=30&live=no"),
    ):
        text = text.replace(shown, own)
    return text


def chain(model, frames, source, reader, *, options=""):
    """A pipe of three programs by hand: GStreamer's caps of six frames, the source's options, what takes the masks."""
    caps = f"video/x-raw,framerate=30/1,{frames}"
    sender = f"gst-launch-1.0 -q videotestsrc num-buffers=6 pattern=smpte horizontal-speed=40 ! {caps} ! fdsink"
    run = f"{RUN} {model} --source '{source}' --stream masks:- {options}"
    return f"{sender} | {run} | {reader}; echo ${{PIPESTATUS[@]}} >&2"


def kept(folder):
    """The masks that a run wrote into files, in the order of the frames."""
    return np.stack([read_label(path) for path in sorted((folder / "out" / "masks").glob("*.png"))])


def masks_of(data, rows, columns):
    """Bare masks as N,H,W; every byte belongs to one."""
    assert len(data) % (rows * columns) == 0
    return np.frombuffer(data, np.uint8).reshape(-1, rows, columns)


def ended(script, folder):
    """What a script wrote to standard output and error."""
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, timeout=60, check=False, preexec_fn=heed_interrupts
    )
    return done.stdout, done.stderr.decode()


@pytest.fixture
def started(tmp_path):
    """Starts a script in a process group of its own, as a terminal does, and ends the whole group."""
    running = []

    def start(script):
        running.append(
            subprocess.Popen(["bash", "-c", script], cwd=tmp_path, start_new_session=True, preexec_fn=heed_interrupts)
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_masks_of_a_camera_reach_a_reader_of_shared_memory_in_order(tmp_path, rgb_model, started):
    camera = started(placed(CAMERA_TO_SHM, tmp_path, rgb_model, camera=f"{BARS} is-live=true"))
    assert until((tmp_path / "masks").is_socket, 30)
    reader = READER.replace("is-live=true", "is-live=true num-buffers=10")
    _, errors = ended(placed(reader, tmp_path, rgb_model), tmp_path)
    os.killpg(camera.pid, signal.SIGINT)  # Ctrl-C reaches every program of a pipe
    camera.wait(30)
    got, written = masks_of((tmp_path / "masks.gray").read_bytes(), 480, 640), kept(tmp_path)
    assert len(got) == 10, errors
    assert any(np.array_equal(written[first : first + 10], got) for first in range(len(written) - 9))
    assert any(not np.array_equal(got[0], each) for each in got), "the images move; videorate may repeat some"
    assert not (tmp_path / "masks").exists()


def test_frames_of_shared_memory_come_back_as_masks_through_a_named_pipe(tmp_path, rgb_model, started):
    caps = re.search(r"video/x-raw,format=NV12\S+", SHM_TO_FIFO)[0]
    sender = started(f"gst-launch-1.0 -q {BARS} is-live=true ! {caps} ! shmsink socket-path={tmp_path}/frames")
    assert until((tmp_path / "frames").is_socket, 30)
    started(placed(SHM_TO_FIFO, tmp_path, rgb_model, options="--frames 12"))
    assert until((tmp_path / "masks.fifo").is_fifo, 30)
    got = masks_of((tmp_path / "masks.fifo").read_bytes(), 480, 640)
    os.killpg(sender.pid, signal.SIGINT)
    assert len(got) == 12
    assert np.array_equal(got, kept(tmp_path))


def test_a_width_of_no_multiple_of_4_comes_whole_in_yuy2_with_its_stride_named(tmp_path, rgb_model):
    reader = (
        "gst-launch-1.0 -q fdsrc ! rawvideoparse format=gray8 width=322 height=240 framerate=30/1 "
        "plane-strides='<322>' ! fdsink"
    )
    keep = f"--out {tmp_path}/out --masks --no-video"
    source = "raw:322x240?layout=yuyv&live=no"
    data, codes = ended(chain(rgb_model, "format=YUY2,width=322,height=240", source, reader, options=keep), tmp_path)
    got = masks_of(data, 240, 322)
    assert codes.endswith("0 0 0\n")
    assert len(got) == 6
    assert np.array_equal(got, kept(tmp_path))
    assert [got[0][10, 23 + 46 * bar] for bar in range(7)] == BARS_CLASSES


def test_padded_rows_are_told_of_at_the_end_of_the_pipe(tmp_path, rgb_model):
    """A row has 966 bytes and 2 of padding, so that 6 frames of 240 rows have 2880 bytes too many."""
    source = "raw:322x240?layout=bgr&live=no"
    _, errors = ended(chain(rgb_model, "format=BGR,width=322,height=240", source, "cat"), tmp_path)
    assert "the pipe ended within a frame; is the size right?" in errors


@pytest.mark.parametrize(
    ("live", "line"),
    [
        ("no", "error: the reader of standard output has gone"),
        ("yes", "error: not everything was recorded: stream of masks: the reader of standard output has gone"),
    ],
)
def test_a_reader_that_ends_at_once_is_told_of_in_one_line(tmp_path, rgb_model, live, line):
    script = chain(rgb_model, "format=BGR,width=64,height=48", f"raw:64x48?layout=bgr&live={live}", "true")
    _, errors = ended(script.replace("num-buffers=6", "num-buffers=60 is-live=true"), tmp_path)
    assert errors.count("error: ") == 1
    assert f"{line}\n" in errors
    assert re.search(r"^\d+ 3 0$", errors, re.MULTILINE), errors
    assert "Traceback" not in errors
