"""No user, password, token or key of any form of address is shown; host and port are."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from clst_runtime.errors import DataError
from clst_runtime.evaluation.latency.host_to_host import Effort
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.sources import Timeouts
from clst_runtime.system.credentials import all_without_credentials, keeping_secret, without_credentials
from tests.conftest import write_labelled
from tests.support.command_line import call
from tests.support.shell import shell

SECRET = "hunter2x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("camera:0?size=1280x720&fps=30", "camera:0?size=1280x720&fps=30"),
        ("gst:v4l2src ! video/x-raw,width=640 ! appsink", "gst:v4l2src ! video/x-raw,width=640 ! appsink"),
        ("mail@example.com", "mail@example.com"),
        ("front.onnx@ort-cuda", "front.onnx@ort-cuda"),
        ("runs/a/model.onnx: no such file", "runs/a/model.onnx: no such file"),
        ("cannot write /tmp/a@b/c:/d", "cannot write /tmp/a@b/c:/d"),
        ("2026-11-28T12:00:00.mp4", "2026-11-28T12:00:00.mp4"),
        ("no camera (camera:0, csi:0, rtsp://…, gst:…)", "no camera (camera:0, csi:0, rtsp://…, gst:…)"),
        ("rtsp://10.0.0.7:554/a", "rtsp://10.0.0.7:554/a"),
        ("rtsp://10.0.0.1/a@b", "rtsp://10.0.0.1/…"),
        ("rtsp://u:p@h/a", "rtsp://…@h/a"),
        ("RTSPS://u@h", "RTSPS://…@h"),
        ("rtsp://user:p@ss@10.0.0.1/s", "rtsp://…@10.0.0.1/s"),
        ("rtsp://u:p@ss/w0rd@h:8554/a", "rtsp://…@h:8554/a"),
        ("rtsp://admin:12/34@cam/main", "rtsp://…@cam/main"),
        ("rtsp://u:pa?ss#x@cam:1/main", "rtsp://…@cam:1/main"),
        ("rtsp://u:my 'pass'@cam:1/main is lost", "rtsp://…@cam:1/main is lost"),
        ("rtsp://u:%70%40ss@[fe80::1]:554/a", "rtsp://…@[fe80::1]:554/a"),
        ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
        ("rtsp:/u:p@h/a: no such folder", "rtsp:/…@h/a: no such folder"),  # a path was made of it
        ("admin:p@10.0.0.1/live", "…@10.0.0.1/live"),
        ("two: rtsp://u:p@a and rtsp://v:q@b", "two: rtsp://…@a and rtsp://…@b"),
        ("rtsp://10.0.0.1:554 is lost: ask a@b", "rtsp://10.0.0.1:554 is lost: ask a@b"),
        ("rtmp://live.example.com/live/x7Gf9-0aQ", "rtmp://live.example.com/live/…"),
        ("rtsp://h:554/Streaming/Channels/101", "rtsp://h:554/Streaming/Channels/101"),
        ("rtsp://h/cam/realmonitor?channel=1&subtype=0", "rtsp://h/cam/realmonitor?channel=1&subtype=0"),
        ("rtsp://h/user=admin_password=p_channel=1.sdp", "rtsp://h/…"),
        ("http://h/a?password=p&x=1", "http://h/a?password=…&x=1"),
        ("http://h/a?fps=30&sig=1&of=a1b2c3#t=d4e5f6", "http://h/a?fps=30&sig=…&of=…&t=…"),
        ("https://h:8443/video?x7Gf90aQ", "https://h:8443/video?…"),
        ("srt://cam.lan:9000?passphrase=a@b&mode=caller", "srt://cam.lan:9000?passphrase=…&mode=caller"),
        ("srt://h:9000?streamid=#!::u=me,s=p&latency=20", "srt://h:9000?streamid=…&…&latency=20"),
        ("Opening 'https://h/hls/q9w8e7.ts?token=t' for", "Opening 'https://h/hls/…?token=…' for"),
        ('gst:rtspsrc location=rtsp://u:p@h/a user-id=u user-pw="a \\" b" ! x',
         "gst:rtspsrc location=rtsp://…@h/a user-id=… user-pw=… ! x"),
        ("gst:rtspsrc user-pw = p ! x", "gst:rtspsrc user-pw = … ! x"),
        ("rtmp://h/app playpath=k token=t live=1", "rtmp://h/app playpath=… token=… live=1"),
        ("camera:0?password=p'", "camera:0?password=…'"),
        ("Authorization: Basic dTpw", "Authorization: …"),
        ('extra-headers="h,authorization=(string)Bearer dTpw"', 'extra-headers="h,authorization=…'),
        ("expected section.key=value, e.g. a.b=5", "expected section.key=value, e.g. a.b=5"),
    ],
)  # fmt: skip
def test_secrets_are_left_out_and_hosts_and_ports_stay(text, shown):
    assert without_credentials(text) == shown


ADDRESSES = (
    f"rtsp://me:{SECRET}@127.0.0.1:1/live",
    f"rtsp://me:{SECRET}/{SECRET}@127.0.0.1:1/live",
    f"rtsp://me:1{SECRET}@{SECRET}@127.0.0.1:1/live",
    f"rtsp://me:my {SECRET}@127.0.0.1:1/live",
    "rtsp://me:%68unter2x@127.0.0.1:1/live",
    f"RTSP://me:{SECRET}@127.0.0.1:1/live",
    f"http://127.0.0.1:1/live/{SECRET}?channel=1",
    f"http://127.0.0.1:1/live?token={SECRET}&channel=1",
    f"srt://127.0.0.1:1?passphrase={SECRET}",
    f"rtmp://127.0.0.1:1/live/{SECRET}",
    f'gst:rtspsrc location="rtsp://127.0.0.1:1/live" user-pw={SECRET} ! appsink',
    f"tcp://127.0.0.1:1?key={SECRET}",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_a_library_says_of_an_arguments_secret_is_hidden_too(address):
    with keeping_secret(["--source", address]):
        assert SECRET not in without_credentials(f'no property "user-pw" of value "{SECRET}", nor play:{SECRET}x')
        assert "127.0.0.1:1" in without_credentials(address)
        assert SECRET not in without_credentials(address)
    assert without_credentials(f"play {SECRET}") == f"play {SECRET}"


def test_short_words_are_not_looked_for_inside_of_others():
    with keeping_secret(["rtsp://u:front@h"]):
        assert without_credentials("front.onnx, frontal, in front") == "….onnx, frontal, in …"


def test_all_texts_in_plain_values_and_no_keys():
    told = {"a": ["rtsp://u:p@h", 1, None], "u:p": {"b": ("password=p", True)}}
    assert all_without_credentials(told) == {"a": ["rtsp://…@h", 1, None], "u:p": {"b": ["password=…", True]}}


def test_errors_and_warnings_hide_what_they_are_made_of():
    statistics = RunStatistics()
    statistics.warn(f"rtsp://u:{SECRET}@h was lost")
    assert list(statistics.warnings) == ["rtsp://…@h was lost"]
    assert DataError(f"rtsp://u:{SECRET}@h: gone").message == "rtsp://…@h: gone"


# ---- Whole commands

SAYS_ALL = """
import os, sys
from clst_runtime.sources import live
live.OPENER = "loud_camera:open_camera"
live.LiveSource.__init__.__defaults__ = (None, live.OPENER)
from clst_runtime.cli.run import main
main()
"""
LOUD_CAMERA = """
import sys, time
import numpy as np

class Loud:
    def __init__(self, address):
        self.left, self.words = 6, f"[rtsp @ 0x5] cannot play {address.place} for %s\\n"
    def isOpened(self):
        return True
    def get(self, _):
        return 20.0
    def grab(self):
        self.left -= 1
        time.sleep(0.02)
        if self.left < 0:
            sys.stderr.write(self.words)
            sys.stderr.flush()
            raise SystemExit
        return True
    def retrieve(self, into):
        return True, np.full((8, 16, 3), 90, np.uint8)

def open_camera(address):
    return Loud(address)
"""


def test_a_run_whose_camera_is_lost_leaves_the_secret_in_no_file_and_no_stream(rgb_model, tmp_path):
    (tmp_path / "loud_camera.py").write_text(LOUD_CAMERA.replace("%s", SECRET))
    out, address = tmp_path / "out", f"rtsp://me:{SECRET}@127.0.0.1:1/live/{SECRET}?token={SECRET}"
    call = [sys.executable, "-c", SAYS_ALL, rgb_model, "--source", address, "--out", out, "--masks", "--frames", "8"]
    call += ["--statistics-every", "0.1", "--json"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, call)), capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((out / "statistics.json").read_text())
    assert told["source"] == "rtsp://…@127.0.0.1:1/live/…?token=…"
    lost = next(words for words in told["warnings"] if "was lost" in words)
    assert lost.startswith("rtsp://…@127.0.0.1:1/live/…?token=… was lost: ")
    assert "cannot play rtsp://…@127.0.0.1:1/live/…?token=… for …" in lost
    assert lost in done.stderr
    assert_nowhere(done, out)


def assert_nowhere(done, folder):
    assert SECRET not in done.stdout + done.stderr
    for path in Path(folder).rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setitem(Timeouts.__init__.__kwdefaults__, "start_seconds", 0.1)


CALLS = [
    ("clst-run", "{model}", "--source", ADDRESSES[0], "--out", "{out}"),
    ("clst-run", "{model}", "--source", ADDRESSES[9]),
    ("clst-run", ADDRESSES[3], "--source", "camera:97"),
    ("clst-run", "{model}", "--source", "camera:97", "--deadline-ms", ADDRESSES[0]),
    ("clst-run", "{model}", "--source", "camera:97", ADDRESSES[8]),
    ("clst-run", "{model}", "--source", f"camera:0?key={SECRET}"),
    ("clst-run", "{model}", "--source", "camera:97", "--web", ADDRESSES[0]),
    ("clst-bench", "{model}", "--data", ADDRESSES[11], "--out", "{out}/bench.json"),
    ("clst-eval", "{model}", "--data", ADDRESSES[0]),
    ("clst-export", ADDRESSES[0], "--onnx"),
    ("clst-train", "--source", "{data}", "--target", ADDRESSES[1], "--split", "val", "--out", "{out}"),
    ("clst-data", "check", ADDRESSES[4]),
]


def run(command, *arguments):
    (found,) = entry_points(group="console_scripts", name=command)
    return call(found.load(), *arguments)


@pytest.mark.parametrize("line", CALLS, ids=range(len(CALLS)))
@pytest.mark.usefixtures("hurried")
def test_no_command_repeats_the_secret_of_an_address_that_it_cannot_use(line, rgb_model, tmp_path):
    places = {"model": rgb_model, "out": tmp_path / "out", "data": write_labelled(tmp_path / "data")}
    done = run(line[0], *(argument.format(**places) for argument in line[1:]))
    assert done.exit_code in (2, 3, 4), done.output
    assert "127.0.0.1:1" in done.output or "127.0.0.1" not in " ".join(line)
    assert_nowhere(done, tmp_path)


@pytest.mark.usefixtures("hurried")
def test_the_report_of_an_acceptance_names_its_camera_without_the_password(rgb_model, tmp_path, monkeypatch):
    monkeypatch.setattr("clst_runtime.evaluation.acceptance.run.examine", list)
    monkeypatch.setattr("clst_runtime.evaluation.acceptance.run.LATENCY", Effort(runs=1, seconds=0.1, warm_up_runs=0))
    report = tmp_path / "report.md"
    arguments = ("--verify", rgb_model, "--source", ADDRESSES[0], "--seconds", "0.1", "--report", report, "--json")
    done = run("clst-doctor", *arguments)
    assert "rtsp://…@127.0.0.1:1/live" in report.read_text()
    assert_nowhere(done, tmp_path)


def test_a_token_that_was_given_is_not_told(rgb_model, tmp_path):
    write_labelled(tmp_path / "data")
    call = ("clst-run", rgb_model, "--source", tmp_path / "data/images/val", "--web", "127.0.0.1:0")
    done = shell(*call, "--web-token", SECRET * 2)
    assert done.returncode == 0
    assert SECRET not in done.stdout + done.stderr
    assert "/?token=…\n" in done.stderr


@pytest.mark.parametrize("text", ["a" * 200_000, "pass" * 50_000, "key." * 50_000])
def test_a_long_text_without_a_space_costs_no_minutes(text):
    begun = time.process_time()
    without_credentials(text)
    assert time.process_time() - begun < 10.0, "it took more than a minute when each letter could begin a name"
