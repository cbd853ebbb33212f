"""`clst-run` on a live source, as a service runs it: frames through a pipe, signals, other programs, a full disk."""

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress

import numpy as np
import pytest

from clst_runtime.imaging.image_files import write_png
from clst_runtime.live.sinks.video_files import video_suffix
from tests.support.shell import shell
from tests.support.videos import frames_of

SIZE = "16x8"
FRAME_BYTES = 16 * 8 * 3


def red(index):
    """A red frame, RGB."""
    return bytes([200, index % 100, 0]) * (16 * 8)


class Run:
    """clst-run with frames written to its standard input; `--source raw:16x8` unless another one is given."""

    def __init__(self, model, *arguments, environment=None, source=f"raw:{SIZE}?fps=50", **options):
        command = [sys.executable, "-m", "clst_runtime.cli.run", str(model), "--source", source, *map(str, arguments)]
        command[1:3] = ["-c", "from clst_runtime.cli.run import main; main()"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {})}, **options,
        )  # fmt: skip
        self.given = 0

    def give(self, count, pause=0.01):
        for _ in range(count):
            self.process.stdin.write(red(self.given))
            self.process.stdin.flush()
            self.given += 1
            time.sleep(pause)

    def give_until(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            self.give(1)
        assert condition(), self.end()

    def end(self, number=None):
        """Exit code, standard output and error; by a signal, or by the end of the pipe."""
        if number is not None:
            self.process.send_signal(number)
        else:
            self.process.stdin.close()
            self.process.stdin = None
        told, errors = self.process.communicate(timeout=30)
        return self.process.returncode, told, errors.decode()


@pytest.fixture
def running():
    runs = []

    def started(*arguments, **options):
        runs.append(Run(*arguments, **options))
        return runs[-1]

    yield started
    for run in runs:
        run.process.kill()


def lines_of(path):
    return path.read_text().splitlines() if path.exists() else []


ENDS = [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"), (signal.SIGHUP, "SIGHUP")]


@pytest.mark.parametrize(("number", "words"), ENDS)
def test_a_signal_is_a_clean_end_with_a_report(running, rgb_model, tmp_path, number, words):
    out = tmp_path / "out"
    run = running(rgb_model, "--out", out, "--deadline-ms", "1000", "--json", "--statistics-every", "0.2")
    # the first statistics may come later than twenty frames
    run.give_until(lambda: len(lines_of(out / "frames.jsonl")) > 20 and lines_of(out / "statistics.jsonl"))
    code, told, errors = run.end(number)
    assert code == 0, errors
    facts = json.loads(told)
    assert (facts["end"], facts["interrupted"], facts["state"]) == (words, True, "ended")
    assert facts == json.loads((out / "statistics.json").read_text())
    assert len(lines_of(out / "frames.jsonl")) == facts["frames"] - facts["drops"].get("sink frame log", 0)
    assert len(frames_of(out / f"overlay{video_suffix()}")) == facts["frames"] - facts["drops"].get("sink video", 0)
    during = [json.loads(line) for line in lines_of(out / "statistics.jsonl")]
    assert during
    assert during[-1]["frames"] <= facts["frames"]
    assert "has no CUDA" in errors.split("ready: ")[1].splitlines()[0], (
        "the choice of the backend is told with its reason"
    )


@pytest.mark.parametrize("live", ["yes", "no"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_whose_writer_has_stopped_within_a_frame(running, rgb_model, tmp_path, live, number):
    log = tmp_path / "out" / "frames.jsonl"
    run = running(rgb_model, "--out", log.parent, "--no-video", source=f"raw:{SIZE}?live={live}")
    run.give_until(lambda: lines_of(log))
    run.process.stdin.write(red(0)[:100])
    time.sleep(0.2)
    begun = time.monotonic()
    code, told, errors = run.end(number)
    assert code == 0, errors
    assert time.monotonic() - begun < 10
    assert b"frames in" in told


def test_the_service_manager_is_told_and_goes_on_being_told_without_frames(running, rgb_model, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        run = running(rgb_model, "--deadline-ms", "50", "--stale-after", "4",
                      environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})  # fmt: skip
        heard = []

        def hear_until(words):
            while not heard or words not in heard[-1]:
                heard.append(manager.recv(200).decode())

        hear_until("STATUS=starting")
        run.give(3, pause=0.3)
        hear_until("READY=1")
        run.give(3, pause=0.05)
        hear_until("STATUS=ready")
        hear_until("STATUS=stale")  # 200 ms without a frame
        manager.setblocking(True)
        hear_until("WATCHDOG=1")
        code, told, _ = run.end()
        hear_until("STOPPING=1")
    assert code == 0
    assert b"stale " in told


def test_masks_go_to_another_program_and_words_to_standard_error(running, rgb_model):
    run = running(rgb_model, "--stream", "masks:-", source=f"raw:{SIZE}?live=no")
    run.give(5)
    code, told, errors = run.end()
    assert code == 0, errors
    assert told == bytes(5 * 16 * 8), "class 0 is red"
    assert "5 frames in" in errors


def test_a_recording_that_fails_does_not_end_the_drive_but_its_end_says_so(running, rgb_model, tmp_path):
    out, place = tmp_path / "out", tmp_path / "s"
    run = running(rgb_model, "--out", out, "--no-video", "--stream", f"masks:unix:{place}")
    with socket.socket(socket.AF_UNIX) as reader:
        run.give_until(lambda: reader.connect_ex(str(place)) in (0, errno.EISCONN))
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (3000, 3000))
        run.give_until(lambda: (out / "frames.jsonl").exists() and (out / "frames.jsonl").stat().st_size > 2500)
        run.give(50)
        reader.settimeout(0.2)
        seen = b""
        try:
            while True:
                seen += reader.recv(1 << 16)
        except TimeoutError:
            pass
    code, told, errors = run.end()
    assert code == 3
    assert "not everything was recorded: frame log: cannot write" in errors
    assert b" frames in " in told, "the report comes all the same"
    lines = lines_of(out / "frames.jsonl")
    assert 0 < len(lines) < 60
    assert [json.loads(line) for line in lines]
    assert seen.count(b'"frame"') > len(lines), "masks went on after the disk was full"


def test_connections_of_others_never_take_the_files_that_results_need(running, rgb_model, tmp_path):
    """Of 40 files that it may open the program has about 20 when it is ready, and 60 readers knock."""
    out, place = tmp_path / "out", f"{tmp_path}/s"
    run = running(
        rgb_model, "--out", out, "--masks", "--stream", f"masks:unix:{place}",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)),
    )  # fmt: skip
    readers = [socket.socket(socket.AF_UNIX) for _ in range(60)]
    for reader in readers:
        reader.setblocking(False)

    def knock():
        for reader in readers:
            with suppress(OSError):  # connected already, or the queue is full
                reader.connect(place)

    run.give_until(lambda: knock() or len(lines_of(out / "frames.jsonl")) > 20)
    code, _, errors = run.end(signal.SIGTERM)
    for reader in readers:
        reader.close()
    assert code == 0, errors
    assert "a reader was refused: 6 are there" in errors
    names = [json.loads(line)["name"] for line in lines_of(out / "frames.jsonl")]
    assert sorted(names)[-1] in {path.stem for path in (out / "masks").glob("*.png")}


def test_a_report_whose_disk_is_full_is_on_standard_error_and_the_drive_has_gone_on(running, rgb_model, tmp_path):
    out, place = tmp_path / "out", tmp_path / "s"
    run = running(rgb_model, "--out", out, "--no-video", "--masks", "--stream", f"masks:unix:{place}",
                  "--statistics-every", "0.02")  # fmt: skip
    run.give_until(lambda: len(lines_of(out / "frames.jsonl")) > 5 and lines_of(out / "statistics.jsonl"))
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (1, 1))
    before = len(lines_of(out / "frames.jsonl"))
    run.give(30)
    code, told, errors = run.end(signal.SIGTERM)
    assert code == 3
    assert b" frames in " in told
    last = errors.splitlines()[-1]
    assert last.startswith("error: not everything was recorded: ")
    for name in ("frame log", "masks", "statistics log", "report"):
        assert f"{name}: cannot write {out}" in last
    facts = json.loads(errors[errors.index("{") : errors.rindex("}") + 1])
    assert facts["frames"] > before + 5, "it has gone on"
    assert len(facts["failures"]) == 4
    assert not (out / "statistics.json").exists()
    for name in ("frames.jsonl", "statistics.jsonl"):
        assert [json.loads(line) for line in lines_of(out / name)]
    assert [path.name for path in (out / "masks").iterdir() if path.name.startswith(".")] == []


def test_a_backend_that_fails_in_mid_drive_leaves_the_report(rgb_model, tmp_path):
    program = ("from clst_runtime.cli import run as cli_run\n"
               "from clst_runtime.backends.onnxruntime.session import OrtBackend\n"
               "predict, calls = OrtBackend.predict, []\n"
               "def failing(self, frame):\n"
               "    calls.append(frame)\n"
               "    if len(calls) > 5: raise RuntimeError('the device is gone')\n"
               "    return predict(self, frame)\n"
               "OrtBackend.predict = failing\n"
               "cli_run.main()\n")  # fmt: skip
    call = [
        sys.executable,
        "-c",
        program,
        rgb_model,
        "--source",
        f"raw:{SIZE}",
        "--out",
        tmp_path / "out",
        "--no-video",
    ]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with pytest.raises(BrokenPipeError):
            while True:
                process.stdin.write(red(0))
                process.stdin.flush()
                time.sleep(0.01)
        process.stdin = None
        told, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.decode().splitlines()[-1] == "RuntimeError: the device is gone"
    assert b"2 frames in" in told, "three of five predictions warm up"
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["end"] == "error"


def test_an_absent_camera_is_one_line_and_code_3_after_the_patience_given(rgb_model):
    begun = time.monotonic()
    done = shell("clst-run", rgb_model, "--source", "camera:97", "--patience", "0.5")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: camera:97: no frame for 0.5 s: it cannot be opened")
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--window",), 5, "error: --window needs a desktop"),
        (("--web", "{port}"), 3, "error: the web page cannot listen"),
        (("--stream", "overlay:unix:{folder}/s"), 3, "error: cannot listen at unix:"),
    ],
)
def test_an_output_that_cannot_be_opened_leaves_nothing_of_those_before(rgb_model, tmp_path, arguments, code, words):
    write_png(tmp_path / "in/0.png", np.zeros((8, 16, 3), np.uint8))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [each.format(port=taken.getsockname()[1], folder=tmp_path) for each in arguments]
        done = shell("clst-run", rgb_model, "--source", tmp_path / "in", "--out", tmp_path / "out", "--stream",
                     f"masks:unix:{tmp_path}/s", *given,
                     environment={"DISPLAY": "", "WAYLAND_DISPLAY": "", "QT_QPA_PLATFORM": ""})  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1].startswith(words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "rgb.onnx"]


def test_a_limit_on_files_that_leaves_no_memory_for_frames_is_said(rgb_model):
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # noqa: E731
    done = shell("clst-run", rgb_model, "--source", "camera:97", preexec_fn=limited)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: no room for frames in memory (1536 MiB, sparse): ")


def test_why_a_camera_gives_nothing_yet_is_said_at_once_and_in_the_report(running, rgb_model):
    run = running(rgb_model, "--json", "--patience", "86400", source="rtsp://127.0.0.1:1/live")
    words = "rtsp://127.0.0.1:1/live gives no frame yet: it cannot be opened"
    for line in run.process.stderr:
        if words.encode() in line:
            break
    assert line.startswith(b"state: starting (")
    code, told, errors = run.end(signal.SIGTERM)
    assert code == 0
    assert "state: " not in errors, "once"
    facts = json.loads(told)
    assert (facts["frames"], facts["losses"]) == (0, 0)
    assert words in facts["warnings"][-1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--stream", "masks:-", "--stream", "overlay:-"), 2, "only one --stream"),
        (("--stream", "masks"), 3, "give masks:PLACE"),
        (("--backend", "ort-gpu"), 3, "'ort-gpu' is not known"),
        (("--backend", "tensorrt"), 3, "engines and bundles"),
        (("--io", "fast"), 3, "'fast' is not known"),
        (("--io", "mapped"), 3, "means nothing"),
        (("--cuda-graph",), 3, "means nothing"),
        (("--cuda", "cuda-python"), 3, "cuda cuda-python means nothing"),
        (("--cuda", "cupy"), 3, "'cupy' is not known"),
        (("--cuda", "pycuda", "--cuda-graph"), 3, "PyCUDA has no CUDA graphs"),
        (("--collect", "{folder}"), 4, "no reference in the model"),
        (("--web", "x:y:z"), 3, "x:y:z"),
        (("--deadline-ms", "0"), 2, "deadline-ms"),
        (("--source", "camera:0?size=big"), 3, "WIDTHxHEIGHT"),
    ],
)
def test_options_that_cannot_be(rgb_model, tmp_path, arguments, code, words):
    arguments = [each.format(folder=tmp_path / "new") for each in arguments]
    source = [] if "--source" in arguments else ["--source", "camera:97"]
    done = shell("clst-run", rgb_model, *source, "--patience", "0.1", *arguments)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr


def test_the_page_is_there_while_the_run_goes_on(running, rgb_model, tmp_path):
    run = running(rgb_model, "--web", "0", "--out", tmp_path / "out")
    said = iter(run.process.stderr.readline, b"")
    address = next(line for line in said if line.startswith(b"page: ")).decode().removeprefix("page: ").strip()
    run.give(20)
    told = {}

    def has_frames():
        with urllib.request.urlopen(f"{address}status.json", timeout=10) as answer:
            told.update(json.load(answer)["run"])
        return told["frames"] > 0

    run.give_until(has_frames)
    assert told["state"] == "ready"
    code, _, _ = run.end(signal.SIGTERM)
    assert code == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}status.json", timeout=5)


def test_raw_frames_in_yuv_are_seen_in_colour(running, rgb_model):
    """A green frame in NV12: Y 150, U 44, V 21 are about RGB 0, 255, 0 in the range that cameras give."""
    run = running(rgb_model, "--stream", "masks:-", source=f"raw:{SIZE}?live=no&layout=nv12")
    frame = np.concatenate([np.full(128, 150, np.uint8), np.tile(np.array([44, 21], np.uint8), 32)])
    run.process.stdin.write(frame.tobytes())
    code, told, errors = run.end()
    assert code == 0, errors
    assert told == bytes([1]) * 128
