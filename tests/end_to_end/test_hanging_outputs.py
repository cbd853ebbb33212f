"""`clst-run` whose outputs nobody reads, as child processes with real pipes: it goes on, and it ends."""

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from clst_runtime.imaging.image_files import write_png
from clst_runtime.live.sinks.video_files import video_suffix
from tests.support.shell import heed_interrupts
from tests.support.videos import frames_of

PAGE = 4096
PROGRAM = """
import os
from clst_runtime.cli import run as cli_run, run_report
from clst_runtime.live import pipeline
# So that tests need not wait for 5 and 3
pipeline.CLOSING_SECONDS = float(os.environ.get("CLOSING", "2"))
run_report.REPORT_SECONDS = float(os.environ.get("REPORT", "0.6"))
cli_run.main()
"""


def full_pipe(size=PAGE):
    """A pipe that nobody reads and that is full: both ends."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, size)
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x")
        except BlockingIOError:
            os.set_blocking(writing, True)
            return reading, writing


@pytest.fixture
def started():
    """Starts clst-run; what still runs afterwards is killed."""
    processes = []

    def start(*arguments, **options):
        call = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("environment", {})
        processes.append(subprocess.Popen(call, env=environment, preexec_fn=heed_interrupts, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < end
        time.sleep(0.02)


def grown(path, lines):
    return lambda: path.exists() and path.read_bytes().count(b"\n") >= lines


def linked_pictures(folder, count):
    write_png(folder / "0.png", np.zeros((64, 64, 3), np.uint8))
    for index in range(1, count):
        os.link(folder / "0.png", folder / f"{index}.png")
    return folder


def logged_frames(path):
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def test_a_run_of_files_whose_reader_has_stopped_reading_ends_at_ctrl_c_with_whole_files(started, rgb_model, tmp_path):
    out = tmp_path / "out"
    reading, writing = full_pipe()
    process = started(rgb_model, "--source", linked_pictures(tmp_path / "in", 50), "--out", out, "--stream", "masks:-",
                      stdout=writing, stderr=subprocess.PIPE)  # fmt: skip
    until(grown(out / "frames.jsonl", 5), process)  # the sixth finds a full queue
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1].decode()
    for end in (reading, writing):
        os.close(end)
    assert process.returncode == 3, errors
    said = "error: not everything was recorded: stream of masks: hangs"
    assert errors.splitlines()[-1].startswith(said)
    assert "Traceback" not in errors
    facts = json.loads((out / "statistics.json").read_text())
    assert facts["end"] == "Ctrl-C"
    assert logged_frames(out / "frames.jsonl") == list(range(facts["frames"]))
    assert len(frames_of(out / f"overlay{video_suffix()}")) == facts["frames"]


def test_a_second_signal_ends_it_soon_with_whole_files_and_a_report(started, rgb_model, tmp_path):
    out = tmp_path / "out"
    reading, writing = full_pipe()
    process = started(rgb_model, "--source", linked_pictures(tmp_path / "in", 50), "--out", out, "--stream", "masks:-",
                      stdout=writing, stderr=subprocess.PIPE, environment={"CLOSING": "60"})  # fmt: skip
    until(grown(out / "frames.jsonl", 5), process)
    process.send_signal(signal.SIGTERM)
    until((out / f"overlay{video_suffix()}").exists, process)  # sinks are being closed
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=30)[1].decode()
    for end in (reading, writing):
        os.close(end)
    assert process.returncode == 130, errors
    facts = json.loads((out / "statistics.json").read_text())
    assert facts["failures"] == ["stream of masks: hangs, as when nobody reads it; what it holds is left as it is"]
    assert logged_frames(out / "frames.jsonl") == list(range(facts["frames"]))
    assert len(frames_of(out / f"overlay{video_suffix()}")) == facts["frames"]


def standard_error(kind):
    """What a child gets as its standard error, and what to close afterwards."""
    if kind == "full disk":
        number = os.open("/dev/full", os.O_WRONLY)
        return number, [number]
    if kind == "terminal":
        keyboard, screen = pty.openpty()
        return screen, [keyboard, screen]
    if kind == "socket":
        ours, theirs = (end.detach() for end in socket.socketpair())
        return theirs, [ours, theirs]
    reading, writing = full_pipe()
    if kind == "gone":
        os.close(reading)
        return writing, [writing]
    return writing, [reading, writing]


def test_standard_error_that_takes_nothing_neither_blocks_nor_ends_a_live_run(started, rgb_model, tmp_path):
    kinds = ("pipe", "full disk", "terminal")
    ends, runs = [], {}
    for kind in kinds:  # side by side: starting takes longest
        number, more = standard_error(kind)
        out = tmp_path / kind
        process = started(rgb_model, "--source", "raw:16x8", "--no-video", "--out", out, "--statistics-every", "0.01",
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=number)  # fmt: skip
        ends += more
        runs[kind] = (process, out)
    for kind, (process, out) in runs.items():
        frame = bytes(16 * 8 * 3)

        def fed(process=process, out=out, frame=frame):
            process.stdin.write(frame)
            process.stdin.flush()
            return grown(out / "frames.jsonl", 20)()

        until(fed, process)
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=30)[0]
        assert (kind, process.returncode) == (kind, 0)
        assert b" frames in " in told
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("kind", ["pipe", "gone", "socket"])
def test_a_library_that_writes_to_standard_error_does_not_block_either(kind):
    program = (
        "import ctypes, sys\n"
        "from clst_runtime.system.standard_streams import never_wait_for_standard_error, open_standard_streams\n"
        "open_standard_streams(); never_wait_for_standard_error()\n"
        "libc = ctypes.CDLL(None)\n"
        "while libc.write(2, b'x' * 100, 100) == 100: pass\n"
        "print('words', 'ä' * 9000, file=sys.stderr, flush=True)\n"
        "print('went on')\n"
    )
    number, ends = standard_error(kind)
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=number, timeout=60)
    if kind == "pipe":
        assert os.get_blocking(number), "how the pipe is open is not changed for others"
    for end in ends:
        os.close(end)
    assert done.stdout == b"went on\n"


def test_a_thread_that_still_writes_to_standard_error_does_not_abort_the_end():
    program = (
        "import sys, threading, time\n"
        "from clst_runtime.system.standard_streams import open_standard_streams\n"
        "open_standard_streams()\n"
        "threading.Thread(target=print, args=('words',), kwargs={'file': sys.stderr}, daemon=True).start()\n"
        "time.sleep(0.1)\n"
    )
    reading, writing = full_pipe()
    done = subprocess.run([sys.executable, "-c", program], stderr=writing, timeout=10)
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0


def test_standard_error_takes_long_words_whole():
    program = (
        "import sys\n"
        "from clst_runtime.system.standard_streams import open_standard_streams\n"
        "open_standard_streams()\n"
        "print('ä' * 100_000, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, timeout=60)
    assert done.stderr.decode() == "ä" * 100_000 + "\n"


def test_a_line_goes_to_standard_error_in_one_piece_so_that_threads_do_not_mix_theirs():
    program = (
        "import sys\n"
        "from clst_runtime.system.standard_streams import open_standard_streams\n"
        "open_standard_streams()\n"
        "print('some', 'words', file=sys.stderr)\n"
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        subprocess.run([sys.executable, "-c", program], stderr=theirs, timeout=60, check=True)
        assert ours.recv(100) == b"some words\n"


def test_a_report_that_nobody_reads_is_written_elsewhere(started, rgb_model, tmp_path):
    reading, writing = full_pipe()
    process = started(rgb_model, "--source", linked_pictures(tmp_path / "in", 3), "--json",
                      stdout=writing, stderr=subprocess.PIPE)  # fmt: skip
    errors = process.communicate(timeout=30)[1].decode()
    os.close(reading)
    os.close(writing)
    assert process.returncode == 3
    *_, last = errors.splitlines()
    assert last == "error: not everything was recorded: report on standard output: it takes more than 0.6 s"
    assert json.loads(errors[errors.index("{") : errors.rindex("}") + 1])["frames"] == 3


def test_a_second_signal_while_nobody_reads_the_report_ends_the_wait(started, rgb_model, tmp_path):
    reading, writing = full_pipe()
    process = started(rgb_model, "--source", linked_pictures(tmp_path / "in", 3), "--out", tmp_path / "out",
                      stdout=writing, stderr=subprocess.PIPE, environment={"REPORT": "60"})  # fmt: skip
    until((tmp_path / "out" / "legend.png").exists, process)  # the last file: the report comes next
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    errors = process.communicate(timeout=30)[1].decode()
    os.close(reading)
    os.close(writing)
    assert process.returncode == 130, errors
    assert "3 frames in" in errors
