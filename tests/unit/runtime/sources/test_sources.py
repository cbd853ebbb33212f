import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.geometry import Layout
from clst_runtime.imaging.image_files import write_png
from clst_runtime.sources import SourceEnded, open_source
from clst_runtime.sources import live as live_module
from clst_runtime.sources.address import LiveAddress, live_address
from clst_runtime.sources.base import CORRUPT, HELD, OVERTAKEN
from clst_runtime.sources.live import SLOTS, LiveSource, Timeouts
from clst_runtime.sources.raw import RawSource
from tests.fakes.camera import OPENER, openings, write_plans
from tests.support.waiting import until

QUICK = Timeouts(
    start_seconds=20, open_seconds=10, stall_seconds=0.4, first_pause_seconds=0.01, longest_pause_seconds=0.05
)


def live(folder, timeouts=QUICK):
    return LiveSource("camera:0", LiveAddress(kind="camera", place=str(folder)), timeouts, OPENER)


def next_frame(source, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        timed = source.take(0.05)
        if timed is not None:
            return timed
    raise AssertionError(f"no frame in {seconds} s; {source.warnings}")


def test_a_live_source_gives_the_newest_frame_and_counts_the_others(tmp_path):
    with live(write_plans(tmp_path / "c", {})) as source:
        first = next_frame(source)
        time.sleep(0.3)
        second = next_frame(source)
        assert second.index > first.index + 5
        assert source.drops[OVERTAKEN] == second.index - first.index - 1
        assert second.rgb[0, 0].tolist() == [7, 0, second.index]
        assert first.rgb[3, 5].tolist() == [7, 0, first.index], "a frame that is held is not written over"
        assert time.monotonic_ns() - second.captured_ns < 200_000_000
        assert source.fps == 30.0


def test_a_live_source_tells_since_when_a_frame_waits_and_wakes_who_waits_for_several(tmp_path):
    with live(write_plans(tmp_path / "c", {"pause": 0.05})) as source:
        assert source.waiting_ns() is None
        source.arrived = arrived = threading.Event()
        assert arrived.wait(20)
        first_ns = source.waiting_ns()
        until(lambda: source.drops[OVERTAKEN] >= 2)
        assert source.waiting_ns() == first_ns, "the newest is taken, but the first has waited since then"
        taken_ns = next_frame(source).captured_ns
        until(lambda: source.waiting_ns() is not None)
        assert source.waiting_ns() > taken_ns > first_ns


def test_who_asks_since_when_a_frame_waits_hears_of_the_end(tmp_path):
    with live(write_plans(tmp_path / "c", {"events": {"0": "end"}})) as source:
        source.arrived = arrived = threading.Event()
        assert arrived.wait(20)
        with pytest.raises(SourceEnded):
            source.waiting_ns()
    patience = Timeouts(start_seconds=0.1, first_pause_seconds=0.01)
    with live(write_plans(tmp_path / "d", {"absent": True}), patience) as source:
        until(lambda: source.why)
        time.sleep(0.2)
        with pytest.raises(DataError, match=r"no frame for 0.1 s: it cannot be opened"):
            source.waiting_ns()


def test_no_frame_comes_twice(tmp_path):
    with live(write_plans(tmp_path / "c", {"pause": 0.05})) as source:
        seen = [next_frame(source).index]
        while len(seen) < 5:
            timed = source.take(0.02)
            seen += [timed.index] if timed is not None else []
    assert seen == sorted(set(seen))


def test_sinks_that_hold_every_frame_make_drops_and_no_frame_changes_under_them(tmp_path):
    with live(write_plans(tmp_path / "c", {})) as source:
        held = [next_frame(source) for _ in range(SLOTS)]
        assert source.take(0.3) is None
        assert source.drops[HELD] > 5
        assert [timed.image[0, 0, 0] for timed in held] == [timed.index for timed in held]
        held.clear()
        assert next_frame(source).index > SLOTS


def test_frames_that_are_let_go_make_room_for_others_for_ever(tmp_path):
    with live(write_plans(tmp_path / "c", {"pause": 0.002}), Timeouts(stall_seconds=60)) as source:
        for _ in range(5 * SLOTS):
            held = next_frame(source, seconds=10)
            time.sleep(0.003)
            del held
        assert len([next_frame(source, seconds=10) for _ in range(SLOTS)]) == SLOTS, "as many may be held as at first"


@pytest.mark.parametrize(
    ("event", "reason"), [("hang", "no frame for 0.4 s"), ("die", "reader has died"), ("lost", "no frames any more")]
)
def test_a_lost_camera_is_opened_again_and_its_frames_go_on_being_counted(tmp_path, event, reason):
    events = {str(number): event for number in range(5, 20)}
    folder = write_plans(tmp_path / "c", {"events": events}, {})
    with live(folder) as source:
        last = next_frame(source)
        while openings(folder) < 2 or not source.lost:
            timed = source.take(0.02)
            last = timed or last
            if openings(folder) >= 2 and source.losses:
                break
        after = next_frame(source)
        assert after.index > last.index
        assert (source.losses, source.lost) == (1, False)
        assert reason in source.warnings[0]


def test_a_camera_that_is_lost_eight_times_is_opened_eight_times_and_leaves_no_descriptor(tmp_path, monkeypatch):
    monkeypatch.setattr(live_module, "WARNINGS_KEPT", 5)
    folder, files = write_plans(tmp_path / "c", {"pause": 0.001, "events": {"3": "die"}}), open_files()
    with live(folder) as source:
        last, end = -1, time.monotonic() + 120
        while source.losses < 8 and time.monotonic() < end:
            timed = source.take(0.02)
            assert timed is None or timed.index > last, "no index comes again"
            last = last if timed is None else timed.index
        assert source.losses >= 8
        assert len(source.warnings) == 5, "warnings are bounded"
        assert set(source.warnings) == {"camera:0 was lost: its reader has died"}
    assert open_files() == files


def open_files():
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def most_descriptors(count):
    """A limit of open files for a while; None = as high as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if count is None else count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_camera_comes_back_however_many_descriptors_are_in_use(tmp_path):
    folder = write_plans(tmp_path / "c", {"events": {"3": "die"}}, {})
    with most_descriptors(None), ExitStack() as opened:
        try:
            while (taken := os.open(os.devnull, os.O_RDONLY)) < 1100:
                opened.callback(os.close, taken)
        except OSError:
            pytest.skip("this machine allows no 1100 open files")
        with live(folder) as source:
            last = taken_until_lost(source)
            assert next_frame(source).index > last


def test_a_camera_is_read_by_a_program_without_standard_files(tmp_path):
    folder = write_plans(tmp_path / "c", {})
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.unit.runtime.sources.test_sources import Path, live, next_frame\n"
        "with live(Path(sys.argv[1])) as source:\n"
        "    Path(sys.argv[1], 'index').write_text(str(next_frame(source).index))\n"
    )
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program, str(folder)]
    assert subprocess.run(shell, check=False).returncode == 0
    assert int((folder / "index").read_text()) >= 0


def test_no_descriptor_left_is_a_loss_like_any_other(tmp_path):
    folder = write_plans(tmp_path / "c", {"events": {"30": "die"}}, {})
    with live(folder) as source:
        next_frame(source)
        with most_descriptors(3):
            assert until(lambda: source.lost)
            time.sleep(0.1)
        assert until(lambda: openings(folder) == 2)
        while next_frame(source).index < 30:
            pass
        assert source.losses == 1


FRAME = '{"frame": 0, "index": 5, "ns": 1, "shape": [4, 6, 3], "layout": "bgr"}'


TOLD = (
    '{"frame": 1, "ind',
    "7",
    '{"opened": true}',
    '{"corrupt": "many"}',
    FRAME.replace('"frame": 0', '"frame": 12'),
    FRAME.replace('"frame": 0', '"frame": -1'),
    FRAME.replace("[4, 6, 3]", "[4, 6]"),
    FRAME.replace("[4, 6, 3]", "[40000, 40000, 3]"),
    FRAME.replace("[4, 6, 3]", "[-4, -6, 3]"),
    FRAME.replace('"bgr"', '"cmyk"'),
    FRAME.replace('"index": 5', '"index": -5'),
    FRAME.replace('"ns": 1', '"ns": null'),
)


def test_whatever_a_reader_tells_is_a_loss_at_worst(tmp_path):
    """Each opening but the last tells one of them after five frames."""
    folder = write_plans(tmp_path / "c", *({"events": {"5": f"tell {told}"}} for told in TOLD), {})
    with live(folder) as source:
        last = -1
        for count, told in enumerate(TOLD, start=1):
            last = taken_until_lost(source, losses=count)
            assert len(source.warnings) == source.losses == count, told
            assert "camera:0 was lost: reading it failed: " in source.warnings[-1], told
            assert "\n" not in source.warnings[-1], told
        assert next_frame(source).index > last
        assert source.losses == len(TOLD)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread"), ValueError("embedded null")])
def test_whatever_goes_wrong_in_the_camera_thread_is_a_loss_at_worst(tmp_path, monkeypatch, error):
    def failing(*_, **__):
        raise error

    with live(write_plans(tmp_path / "c", {})) as source:
        index = next_frame(source).index
        with monkeypatch.context() as patch:
            patch.setattr("clst_runtime.system.child_process.json.loads", failing)
            patch.setattr("clst_runtime.system.child_process.subprocess.Popen", failing)
            assert until(lambda: source.lost)
        assert next_frame(source).index > index
        assert type(error).__name__ in source.warnings[0]


def test_what_fails_in_the_reading_process_is_told(tmp_path):
    folder = write_plans(tmp_path / "c", {"events": {"3": "raise"}}, {})
    with live(folder) as source:
        assert until(lambda: source.losses)
        assert source.warnings == ["camera:0 was lost: ValueError: a plane of a negative size"]


def test_a_library_that_babbles_holds_up_nothing_and_its_last_words_are_told_without_what_is_new_each_time(tmp_path):
    events = {"3": "babble", "20": "mutter [http @ 0x5581ee00] ends at 178938", "21": "die"}
    with live(write_plans(tmp_path / "c", {"events": events}, {})) as source:
        assert until(lambda: source.losses)
        assert source.warnings == ["camera:0 was lost: its reader has died ([http] ends at #)"]


def taken_until_lost(source, seconds=20, losses=1):
    """The last index before the source counts a loss, or that many."""
    last, end = next_frame(source).index, time.monotonic() + seconds
    while source.losses < losses and time.monotonic() < end:
        timed = source.take(0.02)
        assert timed is None or timed.index > last
        last = last if timed is None else timed.index
    assert source.losses >= losses, "no loss in time"
    return last


def test_raw_frames_whose_reader_dies_end_for_another_one_would_begin_within_a_frame():
    taking, giving = os.pipe()
    address = LiveAddress(kind="raw", place=taking, layout=Layout.RGB, size_hw=(3, 4))
    with live_readers() as pids, LiveSource("raw:4x3", address, Timeouts(stall_seconds=math.inf)) as source:
        os.write(giving, bytes(36 + 20))
        assert next_frame(source).index == 0
        for pid in pids():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"raw:4x3: its reader has died; .* begin in the middle of a frame"):
            next_frame(source)
        assert source.lost
    os.close(giving)


@contextmanager
def live_readers():
    """The processes of this one that have been started since."""

    def children():
        listed = [f"/proc/self/task/{task}/children" for task in os.listdir("/proc/self/task")]
        return {int(pid) for path in listed for pid in Path(path).read_text().split()}

    before = children()
    yield lambda: children() - before


def test_a_camera_that_is_absent_at_the_start_is_waited_for(tmp_path):
    folder = write_plans(tmp_path / "c", {"absent": True}, {"absent": True}, {})
    with live(folder) as source:
        assert next_frame(source).index == 0
        assert openings(folder) == 3
        assert source.losses == 0, "it was never there to be lost"


def test_patience_at_the_start_and_in_between(tmp_path):
    absent = r"camera:0: no frame for 0.6 s: it cannot be opened.*plugged in"
    quick = Timeouts(start_seconds=0.6)
    with live(write_plans(tmp_path / "a", {"absent": True}), quick) as source, pytest.raises(DataError, match=absent):
        next_frame(source)
    timeouts = Timeouts(start_seconds=20, lost_seconds=0.5, first_pause_seconds=0.01)
    with live(write_plans(tmp_path / "b", {"events": {"2": "die"}}, {"absent": True}), timeouts) as source:
        next_frame(source)
        with pytest.raises(DataError, match="no frame for 0.5 s"):
            for _ in range(200):
                source.take(0.05)


def test_pauses_between_readers_grow_to_their_bound_and_no_further(tmp_path):
    folder = write_plans(tmp_path / "c", {"absent": True})
    timeouts = Timeouts(start_seconds=60, first_pause_seconds=0.4, longest_pause_seconds=0.8)
    with live(folder, timeouts) as source:
        for _ in range(30):
            source.take(0.1)
        assert 2 <= openings(folder) <= 5, "3 s hold at most the openings at 0, 0.4, 1.2, 2.0 and 2.8 s"


def test_a_stream_that_says_it_has_ended_ends(tmp_path):
    with live(write_plans(tmp_path / "c", {"events": {"3": "end"}, "pause": 0.05})) as source:
        assert [timed.index for timed in source][-1] == 2
        with pytest.raises(SourceEnded):
            source.take(0.01)


def test_another_size_in_mid_stream_is_taken_as_it_comes(tmp_path):
    with live(write_plans(tmp_path / "c", {"pause": 0.05, "events": {"4": "size 6 8", "8": "size 2 2"}})) as source:
        seen = {timed.index: timed for timed in (next_frame(source) for _ in range(10))}
    sizes = {timed.size_hw for timed in seen.values()}
    assert sizes == {(4, 6), (6, 8), (2, 2)}
    assert all((timed.image == (index, 0, 7)).all() for index, timed in seen.items())


def test_corrupt_and_empty_frames_are_counted_and_left_out(tmp_path):
    with live(write_plans(tmp_path / "c", {"pause": 0.05, "events": {"1": "corrupt", "2": "empty"}})) as source:
        seen = [next_frame(source).index for _ in range(4)]
        assert source.drops[CORRUPT] == 2
        assert source.losses == 0
    assert not {1, 2} & set(seen)


def test_a_reader_that_cannot_be_started_is_a_loss_like_any_other(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    folder = write_plans(tmp_path / "c", {"events": {"3": "die"}})
    with live(folder) as source:
        next_frame(source)
        with monkeypatch.context() as patch:
            patch.setattr("clst_runtime.system.child_process.subprocess.Popen", refused)
            end = time.monotonic() + 10
            while not source.lost and time.monotonic() < end:
                source.take(0.02)
            time.sleep(0.2)
        assert next_frame(source).index > 0, "it goes on when processes can be started again"


def test_a_reader_that_hangs_does_not_hold_up_the_end(tmp_path):
    source = live(write_plans(tmp_path / "c", {"events": {"2": "hang"}}), Timeouts(stall_seconds=60))
    next_frame(source)
    begun = time.monotonic()
    source.close()
    assert time.monotonic() - begun < 3
    assert not [name for name in processes() if str(tmp_path) in name]


@pytest.mark.parametrize("plan", [{"events": {"50": "hang"}}, {"opening": 1000}], ids=["reading", "opening"])
def test_a_reader_ends_with_the_program_however_that_ends(tmp_path, plan):
    folder = write_plans(tmp_path / "c", plan)
    program = (
        "import os, signal, sys; sys.path.insert(0, '.')\n"
        "from tests.fakes.camera import openings\n"
        "from tests.support.waiting import until\n"
        "from tests.unit.runtime.sources.test_sources import live\n"
        "from pathlib import Path\n"
        "folder = Path(sys.argv[1])\n"
        "source = live(folder); until(lambda: openings(folder))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, folder], check=False).returncode == -9
    end = time.monotonic() + 5
    while [name for name in processes() if str(folder) in name] and time.monotonic() < end:
        time.sleep(0.05)
    assert not [name for name in processes() if str(folder) in name]


def processes():
    """Command lines of all processes but this one."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as stream:
                    yield stream.read().decode(errors="replace")
            except OSError:
                continue


def test_frames_that_are_no_pictures_of_the_layout_are_refused_with_their_shape(tmp_path):
    address = LiveAddress(kind="camera", place=str(write_plans(tmp_path / "c", {})), layout=Layout.NV12)
    source = LiveSource("camera:0", address, Timeouts(start_seconds=1.0), OPENER)
    with source, pytest.raises(DataError, match=r"its frames are uint8 \(4, 6, 3\), not nv12"):
        next_frame(source)


def test_a_camera_that_is_not_there_is_told_of_by_opencv_itself():
    absent, quick = "camera:97: no frame for 1.5 s: it cannot be opened", Timeouts(start_seconds=1.5)
    with open_source("camera:97", timeouts=quick) as source, pytest.raises(DataError, match=absent):
        next_frame(source)


def test_addresses_of_live_sources():
    assert live_address("camera:2") == LiveAddress(kind="camera", place=2)
    assert live_address("0") == LiveAddress(kind="camera", place=0)
    assert live_address("/dev/video1?size=1280x720&fps=30&format=yuyv") == LiveAddress(
        kind="camera", place=1, size_hw=(720, 1280), fps=30.0, pixel_format="YUYV", layout=Layout.YUYV
    )
    assert live_address("rtsp://a/b?x=1") == LiveAddress(kind="stream", place="rtsp://a/b?x=1")
    assert live_address("RTSP://A/B") == LiveAddress(kind="stream", place="rtsp://A/B")
    assert live_address("rtmp://a/live") == LiveAddress(kind="stream", place="rtmp://a/live")
    assert live_address("rtps://a/b") is None
    assert live_address("gst+nv12:videotestsrc ! appsink") == LiveAddress(
        kind="gstreamer", place="videotestsrc ! appsink", layout=Layout.NV12
    )
    csi = live_address("csi:1?size=1920x1080&fps=30")
    assert csi.layout is Layout.NV12
    assert "sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=30/1 !" in csi.place
    assert "drop=true max-buffers=1" in csi.place
    assert live_address("nonsense") is None
    assert live_address("camera:x") is None


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("camera:0?sise=1x1", "option 'sise' is not known; did you mean 'size'"),
        ("camera:0?size=1280", "give WIDTHxHEIGHT"),
        ("camera:0?size=0x720", "give WIDTHxHEIGHT"),
        ("camera:0?fps=nan", "frames a second"),
        ("camera:0?fps=-3", "frames a second"),
        ("camera:0?format=RGB3", "'RGB3' is not known"),
        ("csi:0?format=NV12", "'format' is not known"),
        ("camera:0?fast", "is not known|is no option"),
        ("raw:640", "give WIDTHxHEIGHT"),
        ("raw:64x48?layout=gray", "'gray' is not known"),
        ("raw:64x48?live=maybe", "'maybe' is not known"),
    ],
)
def test_options_that_cannot_be_are_refused(uri, words):
    with pytest.raises(ConfigError, match=words):
        open_source(uri)


RAW = """
import sys
from clst_runtime.sources import open_source
with open_source(sys.argv[1]) as source:
    for timed in source:
        print(timed.index, timed.size_hw, timed.rgb[0, 0].tolist(), timed.rgb[-1, -1].tolist())
    print(source.warnings, sum(source.drops.values()))
"""


def raw_run(uri, data):
    done = subprocess.run([sys.executable, "-c", RAW, uri], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_raw_frames_of_a_pipe_are_all_taken_when_nothing_may_be_lost():
    frames = b"".join(bytes([index, 0, 0]) * 12 for index in range(200))
    lines = raw_run("raw:4x3?live=no", frames)
    assert lines[7] == "7 (3, 4) [7, 0, 0] [7, 0, 0]"
    assert len(lines) == 201
    assert lines[-1] == "[] 0"


def test_a_raw_pipe_that_ends_within_a_frame_is_warned_of():
    for live in ("yes", "no"):
        words = ["raw frames: the pipe ended within a frame; is the size right?"]
        *frames, end = raw_run(f"raw:4x3?live={live}&layout=bgr", bytes(36 + 5))
        assert (len(frames), end) == (1, f"{words} 0")
        assert raw_run(f"raw:4x3?live={live}", b"") == ["[] 0"]


def test_live_raw_frames_stay_in_step_however_many_are_dropped():
    *lines, end = raw_run("raw:4x3?layout=bgr&fps=30", b"".join(bytes([index, 0, 9]) * 12 for index in range(200)))
    for line in lines:
        index = line.split()[0]
        assert line == f"{index} (3, 4) [9, 0, {index}] [9, 0, {index}]"
    assert end == f"[] {200 - len(lines)}"
    assert lines


@pytest.fixture
def raw_pipe():
    """Every raw frame of 3×4 of a pipe, and the pipe's other end."""
    taking, giving = os.pipe()
    address = LiveAddress(kind="raw", place=taking, layout=Layout.RGB, size_hw=(3, 4))
    with os.fdopen(giving, "wb", buffering=0) as writer, RawSource(address) as source:
        yield source, writer


def test_a_stalled_writer_is_waited_for_no_longer_than_asked_and_its_frame_stays_whole(raw_pipe):
    source, writer = raw_pipe
    assert source.take(0.0) is source.take(0.05) is None
    before = time.monotonic_ns()
    writer.write(bytes(range(20)))
    assert source.take(0.02) is None
    between = time.monotonic_ns()
    writer.write(bytes(range(20, 40)))
    timed = source.take(5.0)
    assert timed.image.ravel().tolist() == list(range(36))
    assert (timed.index, before < timed.captured_ns < between) == (0, True), "its first byte's arrival is its time"
    assert source.take(0.0) is None
    writer.write(bytes(range(40, 72)))
    assert source.take(5.0).image.ravel().tolist() == list(range(36, 72))


def test_a_writer_that_trickles_does_not_hold_up_who_asks(raw_pipe):
    source, writer = raw_pipe
    stop = threading.Event()

    def trickle():
        for _ in range(35):
            writer.write(bytes(1))
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    assert source.take(0.1) is None, "and not after two seconds, when the frame would nearly be whole"
    assert thread.is_alive()
    stop.set()
    thread.join()


@pytest.mark.parametrize("live", ["yes", "no"])
def test_a_pipe_that_was_made_non_blocking_is_no_end(live):
    taking, giving = os.pipe()
    os.set_blocking(taking, False)
    command = [sys.executable, "-c", RAW, f"raw:4x3?live={live}"]
    with subprocess.Popen(command, stdin=taking, stdout=subprocess.PIPE) as process:
        os.close(taking)
        for part in (bytes(30), bytes(6)):
            time.sleep(0.2)
            os.write(giving, part)
        os.close(giving)
        assert process.stdout.read().decode().splitlines() == ["0 (3, 4) [0, 0, 0] [0, 0, 0]", "[] 0"]


def test_standard_input_that_gives_no_frames_is_told_in_words():
    opening = [sys.executable, "-c", RAW, "raw:4x3"]
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *opening], capture_output=True, check=False)
    assert "DataError: raw:4x3: standard input is closed; write frames into it" in closed.stderr.decode()
    master, terminal = os.openpty()
    typed = subprocess.run(opening, stdin=terminal, capture_output=True, check=False)
    for each in (master, terminal):
        os.close(each)
    assert "DataError: raw:4x3: standard input is a terminal; write frames into it" in typed.stderr.decode()


def test_a_folder_is_read_in_order_and_names_its_frames(tmp_path):
    for name in ("b", "a"):
        write_png(tmp_path / "in" / f"{name}.png", np.zeros((2, 3, 3), np.uint8))
    with open_source(str(tmp_path / "in")) as source:
        assert [(timed.index, timed.name, timed.size_hw) for timed in source] == [(0, "a", (2, 3)), (1, "b", (2, 3))]
        assert not source.live
