"""Recordings: whole whatever happens, at the time that really passed."""

import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from importlib.util import find_spec
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.errors import DataError, MissingDependency
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.growing_file import GrowingFile
from clst_runtime.live.sinks.growing_sink import FREE_FLOOR_BYTES
from clst_runtime.live.sinks.video import VideoSink, rate_of
from clst_runtime.live.sinks.video_files import video_suffix
from clst_runtime.sources import TimedFrame
from tests.conftest import RGB_CLASSES
from tests.support.videos import frames_of, times_of

WITH_PYAV = pytest.mark.skipif(find_spec("av") is None, reason="PyAV (extra video) is not installed")
FORMATS = pytest.mark.parametrize("suffix", [pytest.param(".mp4", marks=WITH_PYAV), ".mkv"])


def result(index, seconds=0.0, size_hw=(48, 64), grey=100):
    timed = TimedFrame(
        index=index,
        image=np.full((*size_hw, 3), grey, np.uint8),
        captured_ns=5_000_000_000 + round(seconds * 1e9),
        name=f"{index:06d}",
    )
    mask = np.full(size_hw, 255, np.uint8)
    return Result(timed=timed, prediction=Prediction(classes=mask), classes=mask, mask=mask, inference_ns=1, age_ns=1)


def recorded(path, results, fps=None):
    sink = VideoSink(path, RGB_CLASSES, fps, 0.5)
    for each in results:
        sink.write(each)
    sink.close()
    return path


@FORMATS
def test_a_live_frame_is_shown_from_its_time_of_capture_on(tmp_path, suffix):
    seconds = [0.0, 0.1, 0.5, 2.0, 2.033, 12.033, 12.05]
    path = recorded(tmp_path / f"v{suffix}", [result(3 * index, each) for index, each in enumerate(seconds)])
    assert times_of(path) == pytest.approx(seconds, abs=0.002)


@FORMATS
@pytest.mark.parametrize("fps", [7.5, 10.0, 30000 / 1001])
def test_the_frames_of_a_file_keep_its_rate_however_long_they_took(tmp_path, suffix, fps):
    path = recorded(tmp_path / f"v{suffix}", [result(index, index**2) for index in range(40)], fps)
    assert times_of(path) == pytest.approx([index / fps for index in range(40)], abs=0.001)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(fps, rel=0.01)


@FORMATS
def test_a_clock_that_stands_still_or_goes_back_loses_no_frame(tmp_path, suffix):
    path = recorded(tmp_path / f"v{suffix}", [result(index, each) for index, each in enumerate([1, 1, 0, 3, 2, 4])])
    assert times_of(path) == pytest.approx([0, 0.001, 0.002, 2, 2.001, 3], abs=0.001)


@FORMATS
def test_two_gaps_of_ten_hours_are_shown_as_they_were(tmp_path, suffix):
    path = recorded(tmp_path / f"v{suffix}", [result(index, each) for index, each in enumerate([0, 36000, 72000])])
    assert times_of(path) == pytest.approx([0, 36000, 72000], abs=0.01)


@FORMATS
@pytest.mark.parametrize("size_hw", [(67, 101), (1, 1), (2, 3), (480, 640)])
def test_any_size_is_recorded_and_an_odd_edge_of_h264_is_repeated(tmp_path, suffix, size_hw):
    path = recorded(tmp_path / f"v{suffix}", [result(index, index, size_hw, 200) for index in range(3)])
    frames = frames_of(path)
    rows, columns = size_hw
    wanted = size_hw if suffix == ".mkv" else (rows + rows % 2, columns + columns % 2)
    assert [frame.shape[:2] for frame in frames] == [wanted] * 3
    assert all(abs(frame.astype(int) - 200).max() <= 4 for frame in frames)


@FORMATS
def test_a_camera_that_changes_its_size_is_brought_to_the_first(tmp_path, suffix):
    sizes = [(48, 64), (48, 64), (96, 128), (33, 77), (48, 64)]
    path = recorded(tmp_path / f"v{suffix}", [result(index, index, each) for index, each in enumerate(sizes)])
    assert [frame.shape[:2] for frame in frames_of(path)] == [(48, 64)] * 5


@FORMATS
def test_colours_are_those_of_the_overlay(tmp_path, suffix):
    orange = result(0)
    orange.timed.image[:] = (200, 120, 40)
    (frame,) = frames_of(recorded(tmp_path / f"v{suffix}", [orange]))
    assert abs(frame[20, 20].astype(int) - (40, 120, 200)).max() <= 6


@FORMATS
def test_without_a_frame_there_is_no_file(tmp_path, suffix):
    recorded(tmp_path / "new" / f"v{suffix}", [])
    assert list(tmp_path.iterdir()) == []


@FORMATS
@pytest.mark.parametrize(
    "name", ["a:b/overlay", "http://x/overlay", "%03d/overlay", "drive%03d", "Straße-東京", "-x y"]
)
def test_a_name_is_only_a_name(tmp_path, monkeypatch, suffix, name):
    monkeypatch.chdir(tmp_path)
    sink = VideoSink(tmp_path.relative_to(tmp_path) / f"{name}{suffix}", RGB_CLASSES, None, 0.5)
    sink.write(result(0))
    sink.close()
    (path,) = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert path == tmp_path / f"{name}{suffix}"
    assert len(path.read_bytes()) > 500


@FORMATS
def test_what_a_killed_run_left_is_kept_and_can_be_seen(tmp_path, suffix):
    left, second = tmp_path / f"v-unfinished{suffix}", tmp_path / f"v-unfinished-2{suffix}"
    left.write_text("of the first killed run")
    sink = VideoSink(tmp_path / f"v{suffix}", RGB_CLASSES, None, 0.5)
    sink.write(result(0))
    assert sorted(tmp_path.iterdir()) == sorted([left, second])
    sink.close()
    sink.close()
    assert sorted(tmp_path.iterdir()) == sorted([left, tmp_path / f"v{suffix}"])
    assert left.read_text() == "of the first killed run"
    assert len(frames_of(tmp_path / f"v{suffix}")) == 1


@FORMATS
def test_a_run_that_was_killed_before_its_first_frame_was_written_takes_no_name_for_good(tmp_path, suffix):
    (tmp_path / f"v-unfinished{suffix}").touch()
    sink = VideoSink(tmp_path / f"v{suffix}", RGB_CLASSES, None, 0.5)
    sink.write(result(0))
    assert [path.name for path in tmp_path.iterdir()] == [f"v-unfinished{suffix}"]
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"v{suffix}"]


ENDLESS = """
import sys
from pathlib import Path
from tests.conftest import RGB_CLASSES
from tests.unit.runtime.live.test_video import VideoSink, result
sink = VideoSink(Path(sys.argv[1]), RGB_CLASSES, None, 0.5)
for index in range(100000):
    sink.write(result(index, index / 50, grey=index % 200))
    print(index + 1, flush=True)
"""


@FORMATS
@pytest.mark.parametrize("killed_at", [60, 333])
def test_killed_at_any_moment_all_but_the_last_two_seconds_are_playable(tmp_path, suffix, killed_at):
    child = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path / f"v{suffix}")], stdout=subprocess.PIPE, text=True
    )
    written = 0
    while written < killed_at:
        written = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    written = int((child.stdout.read().split() or [written])[-1])
    child.wait()
    child.stdout.close()
    (path,) = tmp_path.iterdir()
    assert path.name == f"v-unfinished{suffix}"
    times = times_of(path)
    assert written - 100 <= len(times) <= written + 1  # 50 frames a second
    assert times == pytest.approx([index / 50 for index in range(len(times))], abs=0.002)


@WITH_PYAV
def test_a_frame_that_comes_late_brings_those_before_it_into_the_file(tmp_path, monkeypatch):
    """A slow machine: the video's time hardly passes, the machine's does."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("clst_runtime.live.sinks.video_files.time.monotonic", lambda: clock.seconds)
    sink = VideoSink(tmp_path / "v.mp4", RGB_CLASSES, 30.0, 0.5)
    for index in range(3):
        clock.seconds = 0.6 * index
        sink.write(result(index))
    assert len(frames_of(tmp_path / "v-unfinished.mp4")) == 2
    sink.close()


@FORMATS
def test_a_disk_that_is_nearly_full_ends_a_recording_that_is_whole(tmp_path, monkeypatch, suffix):
    sink = VideoSink(tmp_path / f"v{suffix}", RGB_CLASSES, 10.0, 0.5)
    for index in range(3):
        sink.write(result(index))
    full = SimpleNamespace(free=FREE_FLOOR_BYTES - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(DataError, match="less than 64 MiB free.*after 3 frames"):
        sink.write(result(3))
    sink.close()
    assert len(frames_of(tmp_path / f"v{suffix}")) == 3
    assert [path.name for path in tmp_path.iterdir()] == [f"v{suffix}"]


@FORMATS
def test_a_disk_that_takes_nothing_from_the_first_frame_on_leaves_no_file(tmp_path, monkeypatch, suffix):
    sink = VideoSink(tmp_path / f"v{suffix}", RGB_CLASSES, None, 0.5)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GrowingFile, "append", fail)
    with pytest.raises(DataError, match="No space left on device; nothing was recorded"):
        sink.write(result(0))
        sink.close()
    sink.close()
    assert list(tmp_path.iterdir()) == []


@WITH_PYAV
def test_a_video_whose_end_cannot_be_written_is_told_and_keeps_the_name_of_an_unfinished_one(tmp_path, monkeypatch):
    sink = VideoSink(tmp_path / "v.mp4", RGB_CLASSES, None, 0.5)
    for index in range(25):
        sink.write(result(index, index / 10))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GrowingFile, "append", fail)
    with pytest.raises(DataError, match=r"v\.mp4: No space left on device; its first 20 frames are kept in .*v-unf"):
        sink.close()
    sink.close()
    (path,) = tmp_path.iterdir()
    assert path.name == "v-unfinished.mp4"
    assert len(frames_of(path)) == 20


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    sink = VideoSink(tmp_path / "file" / "v.mkv", RGB_CLASSES, None, 0.5)
    with pytest.raises(DataError, match=r"cannot write .*v\.mkv: .*; nothing was recorded"):
        sink.write(result(0))
    sink.close()


def test_without_pyav_recordings_are_motion_jpeg_and_mp4_names_what_is_missing(tmp_path, monkeypatch):
    assert video_suffix() == (".mkv" if find_spec("av") is None else ".mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    assert video_suffix() == ".mkv"
    recorded(tmp_path / "v.mkv", [result(0)])
    with pytest.raises(MissingDependency, match=r"pip install -e '\.\[video\]'"):
        recorded(tmp_path / "v.mp4", [result(0)])


@pytest.mark.parametrize(
    ("fps", "rate"),
    [(30.0, Fraction(30)), (29.97002997, Fraction(30000, 1001)), (23.976, Fraction(2997, 125)),
     (float("inf"), Fraction(10000)), (1e-9, Fraction(1, 100)), (90000.0, Fraction(10000))],
)  # fmt: skip
def test_rates_are_fractions_and_impossible_ones_are_brought_in_range(fps, rate):
    assert rate_of(fps) == rate


def test_pieces_reach_the_disk_while_the_writer_does_not_wait(tmp_path, monkeypatch):
    reached, free = threading.Semaphore(0), threading.Event()
    real, size = os.fsync, []

    def slow(handle):
        size.append(os.fstat(handle).st_size)
        reached.release()
        assert free.wait(20)
        real(handle)

    monkeypatch.setattr("clst_runtime.live.sinks.growing_file.os.fsync", slow)
    monkeypatch.setattr("clst_runtime.live.sinks.growing_file.flush_folder", lambda _: None)
    monkeypatch.setattr("clst_runtime.live.sinks.growing_file.SYNC_SECONDS", 0.0)
    file = GrowingFile(tmp_path / "f")
    file.append(b"one")
    assert reached.acquire(timeout=20)
    file.append(b"two")  # while the disk hangs
    free.set()
    assert reached.acquire(timeout=20)
    assert size[:2] == [3, 6]
    file.close()


def test_a_flush_that_failed_is_told_with_the_next_piece(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("clst_runtime.live.sinks.growing_file.os.fsync", fail)
    file = GrowingFile(tmp_path / "f")
    file.append(b"one")
    file._thread.join(20)
    with pytest.raises(OSError, match="Input/output error"):
        file.append(b"two")
    with pytest.raises(OSError, match="Input/output error"):
        file.close()


LIMITED = """
import resource, sys
from pathlib import Path
from clst_runtime.live.sinks.growing_file import GrowingFile
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
file = GrowingFile(Path(sys.argv[1]))
file.append(b"1234567")
try:
    file.append(b"abcdefg")
except OSError as error:
    print(error.strerror)
file.append(b"89")
file.close()
"""


def test_a_piece_is_appended_whole_or_not_at_all(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path / "f")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    assert (tmp_path / "f").read_text() == "123456789"
