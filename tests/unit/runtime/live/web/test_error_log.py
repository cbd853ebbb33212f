"""What goes wrong at the page: strange requests, silent connections, faults of its own parts. None may stay silent."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from clst_runtime.errors import ConfigError, DataError
from clst_runtime.live.web.recording import Recorder
from tests import ROOT
from tests.support.waiting import until
from tests.support.web_run import next_picture, served
from tests.unit.runtime.live.web.test_page import looking

OPEN = "0.0.0.0:0"


def raw(page, request, *, seconds=5.0):
    """What is answered to bare bytes, until the connection is closed or nothing comes any more."""
    with socket.create_connection(("127.0.0.1", page.port), 5) as connection:
        return answer_to(request, connection, seconds=seconds)


def answer_to(request, connection, *, seconds=5.0):
    connection.settimeout(seconds)
    connection.sendall(request)
    answer = b""
    try:
        while part := connection.recv(1 << 16):
            answer += part
    except TimeoutError:
        answer += b" (still open)"
    except ConnectionResetError:  # closed, with a part of the request unread
        pass
    return answer


# ---- strange requests


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://[x]", "//["])
def test_an_origin_that_is_no_address_is_another_site(origin):
    with served() as page:
        assert page.ask("/", {"Origin": origin})[0::2] == (
            403,
            "asked by a page of another site; open this page itself\n",
        )


def test_a_request_without_a_host_is_refused_and_no_name_server_is_asked(monkeypatch):
    """The framework would ask for this machine's full name, which holds up all viewers where no server answers."""
    asked = []
    monkeypatch.setattr(socket, "getfqdn", lambda *_: asked.append(1) or "localhost")
    with served() as page:
        assert raw(page, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 403")
    with served(OPEN) as page:
        assert raw(page, b"GET / HTTP/1.0\r\nOrigin: http://a\r\n\r\n").startswith(b"HTTP/1.0 403")
    assert asked == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [("application/json; charset=nonsense", '{"on": true}'), ("application/json", "[" * 4000),
     ("application/json; charset=utf-16", '{"on": true}')],
)  # fmt: skip
def test_a_wish_that_cannot_be_read_is_refused(tmp_path, kind, body):
    with served(recordings=tmp_path) as page:
        code, _, text = page.ask("/recording", {"Content-Type": kind}, method="POST", body=body)
        assert (code, text) == (400, 'send {"on": true} or {"on": false}\n')
        assert page.status()["run"]["warnings"] == []


def test_figures_are_told_whatever_form_is_wished_for():
    with served() as page:
        code, headers, text = page.ask("/metrics", {"Accept": "application/openmetrics-text; version=abc"})
        assert (code, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
        assert "clst_frames_total 0.0" in text


def test_a_redirection_cannot_leave_by_a_backslash_either():
    with served(OPEN) as page:
        answer = raw(page, b"GET /\\evil.example/?token=%s HTTP/1.0\r\nHost: a\r\n\r\n" % page.token.encode())
        assert b"Location: /%5Cevil.example/\r\n" in answer


@pytest.mark.parametrize("request_line", ["GET /?token={token} HTTP/9.9", "GET /?token={token}\0 HTTP/1.1", "nonsense"])
def test_a_damaged_request_leaves_nothing_in_the_log_above_all_no_token(caplog, request_line):
    caplog.set_level(logging.DEBUG)
    with served(OPEN) as page:
        line = request_line.format(token=page.token).encode()
        assert raw(page, line + b"\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.0 400")
        assert page.statistics.to_json()["warnings"] == []
        assert page.token not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- connections


def test_a_connection_that_asks_for_nothing_is_closed_after_a_while(monkeypatch):
    monkeypatch.setattr("clst_runtime.live.web.server.SILENT_SECONDS", 0.3)
    with served() as page:
        begins = time.monotonic()
        assert raw(page, b"") == b""
        assert raw(page, b"GET / HTTP/1.1\r\nHost: local") == b"", "half a request is none"
        assert 0.5 < time.monotonic() - begins < 3.0
        monkeypatch.setattr("clst_runtime.live.web.server.SILENT_SECONDS", 1.0)  # a busy machine may be slow to hear

        async def look(viewer):
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                await viewer.receive_str(timeout=5)
            return not viewer.closed

        assert looking(page, look), "who has asked for something stays"


def test_who_is_refused_is_not_kept_connected():
    with served(OPEN) as page:
        answer = raw(page, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", seconds=3.0)
        assert answer.startswith(b"HTTP/1.1 401")
        assert not answer.endswith(b"(still open)")


# ---- faults of the page's own parts


def test_an_error_in_a_handler_is_told_once_as_a_warning_and_not_as_a_traceback(monkeypatch, capfd):
    with served() as page:
        monkeypatch.setattr(page.sink._run_status, "facts", {"broken": object()})
        for _ in range(3):
            assert page.ask("/facts.json")[0] == 500
        (warning,) = page.statistics.to_json()["warnings"]
        assert warning.startswith("the web page failed: TypeError: Object of type object is not JSON")
        assert page.ask("/")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_in_the_live_connection_is_told(monkeypatch):
    with served() as page:
        monkeypatch.setattr(page.sink._run_status, "status", fails(ArithmeticError("no number")))
        assert looking(page, lambda viewer: viewer.receive(timeout=5)).type.name in ("CLOSE", "CLOSED", "CLOSING")
        assert until(lambda: page.statistics.to_json()["warnings"])
        assert page.statistics.to_json()["warnings"] == ["the web page failed: ArithmeticError: no number"]


def test_a_picture_that_cannot_be_painted_is_told_and_the_next_one_is_shown(monkeypatch):
    with served() as page:
        painter = page.sink._images._painter
        paint = painter.paint

        def fails_at_first(result):
            monkeypatch.setattr(painter, "paint", paint)
            raise RuntimeError("no such colour")

        monkeypatch.setattr(painter, "paint", fails_at_first)

        async def look(viewer):
            await viewer.send_str("next")
            page.give()
            assert until(lambda: page.statistics.to_json()["warnings"])
            page.give()
            return await next_picture(viewer, ask=False)

        assert looking(page, look)[0] == 2
        assert page.statistics.to_json()["warnings"] == ["an image for the page failed: RuntimeError: no such colour"]


def test_facts_of_the_machine_that_cannot_be_read_are_told_as_such(monkeypatch):
    def strange():
        raise ValueError("nvidia-smi says 'N/A'")

    monkeypatch.setattr("clst_runtime.live.web.sink.machine_facts", strange)
    with served() as page:
        assert until(lambda: json.loads(page.ask("/facts.json")[2])["machine"])
        assert json.loads(page.ask("/facts.json")[2])["machine"] == {"error": "nvidia-smi says 'N/A'"}


def test_a_server_that_cannot_start_says_so_and_leaves_the_port(monkeypatch):
    async def fails(*_, **__):
        raise RuntimeError("no loop today")

    monkeypatch.setattr("aiohttp.web.AppRunner.setup", fails)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match="cannot start: RuntimeError: no loop today"), served(str(port)):
        pass
    monkeypatch.undo()
    with served(str(port)) as page:
        assert page.ask("/")[0] == 200


# ---- recording


class Video:
    """A video whose faults are ordered."""

    def __init__(self, *, on_write=None, on_close=None):
        self.on_write, self.on_close, self.closed = on_write, on_close, 0

    def write(self, result):
        if self.on_write is not None:
            self.on_write()

    def close(self):
        self.closed += 1
        if self.on_close is not None:
            self.on_close()


def fails(error):
    def fail(**_):
        raise error

    return fail


def test_a_codec_that_fails_ends_the_recording_and_not_the_page(tmp_path):
    """OpenCV's errors are none of ours and no OSError."""
    with served(recordings=tmp_path) as page:
        page.sink._recorder._make_video = lambda path: Video(on_write=fails(RuntimeError("(-215) size.width>0")))
        page.record(True)
        page.give()
        told = page.status()["recording"]
        assert (told["active"], told["failed"], told["message"]) == (False, True, "RuntimeError: (-215) size.width>0")
        page.give()


def test_a_recording_that_cannot_be_finished_does_not_keep_the_page_from_ending(tmp_path):
    with served(recordings=tmp_path) as page:
        page.sink._recorder._make_video = lambda path: Video(on_close=fails(RuntimeError("released twice")))
        page.record(True)
        page.give()
        page.sink.close()
        with pytest.raises(OSError):
            page.ask("/")


def test_a_recording_that_cannot_be_begun_is_a_refusal_with_the_reason(tmp_path):
    with served(recordings=tmp_path) as page:
        page.sink._recorder._make_video = lambda path: fails(PermissionError(13, "Permission denied", "/media/stick"))()
        assert page.record(True) == (409, "recording is impossible: /media/stick: Permission denied\n")
        assert not page.status()["recording"]["active"]


def test_a_failure_is_told_even_where_somebody_stops_at_the_same_moment(tmp_path):
    stopping = []

    def stopped_and_full():
        stopping.append(threading.Thread(target=recorder.stop))
        stopping[0].start()
        time.sleep(0.2)  # until it waits for this frame
        raise DataError("the disk is full")

    video = Video(on_write=stopped_and_full)
    recorder = Recorder(tmp_path, lambda path: video)
    recorder.start()
    recorder.write(None)
    stopping[0].join()
    told = recorder.to_json()
    assert (told["active"], told["failed"], told["message"], video.closed) == (False, True, "the disk is full", 1)


def test_a_failure_of_one_recording_does_not_end_the_next(tmp_path):
    videos = []

    def stopped_begun_anew_and_full():
        def again():
            recorder.stop()
            recorder.start()

        switching.append(threading.Thread(target=again))
        switching[0].start()
        time.sleep(0.2)
        raise DataError("the disk is full")

    switching = []
    recorder = Recorder(tmp_path, lambda path: videos.append(Video()) or videos[-1])
    recorder.start()
    videos[0].on_write = stopped_begun_anew_and_full
    recorder.write(None)
    switching[0].join()
    assert ([video.closed for video in videos], recorder.to_json()["active"]) == ([1, 0], True)


def test_many_who_switch_at_once_leave_whole_recordings_only(tmp_path):
    """Eight threads switch while frames come: each video is closed once, and never written after that."""
    videos, late = [], []

    def made(path):
        video = Video()
        video.on_write = lambda: late.append(path) if video.closed else None
        videos.append(video)
        return video

    recorder, stop = Recorder(tmp_path, made), threading.Event()

    def switch(number):
        while not stop.is_set():
            (recorder.start, recorder.stop)[number % 2]()

    switching = [threading.Thread(target=switch, args=(number,)) for number in range(8)]
    for thread in switching:
        thread.start()
    for _ in range(300):
        recorder.write(None)
        time.sleep(0.001)
    stop.set()
    for thread in switching:
        thread.join()
    recorder.stop()
    assert len(videos) > 3
    assert ({video.closed for video in videos}, late) == ({1}, [])


def test_a_disk_that_hangs_holds_up_no_viewer(tmp_path):
    """What the page tells of a recording must not wait for the frame that is being written."""
    writing, go_on = threading.Event(), threading.Event()

    def hangs():
        writing.set()
        go_on.wait(20)

    with served(recordings=tmp_path) as page:
        page.sink._recorder._make_video = lambda path: Video(on_write=hangs)
        page.record(True)
        giving = threading.Thread(target=page.give)
        giving.start()
        try:
            assert writing.wait(5)
            begins = time.monotonic()
            told = page.status()["recording"]
            assert time.monotonic() - begins < 2.0
            assert (told["active"], told["frames"]) == (True, 0)
        finally:
            go_on.set()
            giving.join()


def test_while_a_recording_is_finished_the_page_says_so(tmp_path):
    closing, go_on = threading.Event(), threading.Event()

    def slow():
        closing.set()
        go_on.wait(20)

    recorder = Recorder(tmp_path, lambda path: Video(on_close=slow))
    recorder.start()
    recorder.write(None)
    stopping = threading.Thread(target=recorder.stop)
    stopping.start()
    assert closing.wait(5)
    told = recorder.to_json()
    assert (told["active"], told["failed"], told["message"]) == (False, False, f"{told['file']}: being finished")
    go_on.set()
    stopping.join()
    assert recorder.to_json()["message"] == f"{told['file']}: 1 frames saved"


HANGING = """
import threading, time
from pathlib import Path
from tests.conftest import rgb_manifest
from tests.support.web_run import Served
from tests.unit.runtime.live.web.test_error_log import Video
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.live.web import RunInfo, WebCamera, open_web, parse_web_address

closing, statistics = threading.Event(), RunStatistics()
facts = RunInfo(manifest=rgb_manifest(), model="m", source="s", backend="b")
camera = WebCamera(statistics=statistics, facts=facts, recordings=Path("."))
run = Served(*open_web(parse_web_address("0"), [camera]), statistics)
run.sink._recorder._make_video = lambda path: Video(on_close=lambda: (closing.set(), time.sleep(60)))
run.record(True)
run.give()
threading.Thread(target=run.record, args=(False,), daemon=True).start()
closing.wait(10)
print("at its end", flush=True)
"""


def test_a_recording_whose_disk_hangs_while_a_viewer_ends_it_does_not_keep_the_program_from_ending(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])}
    call = [sys.executable, "-c", HANGING]
    done = subprocess.run(call, capture_output=True, text=True, timeout=30, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "at its end\n", "")


def test_the_end_waits_neither_for_half_a_body_nor_for_a_download_nor_for_the_silent(tmp_path):
    with served(recordings=tmp_path) as page:
        page.record(True)
        page.give()
        name = json.loads(page.record(False)[1])["file"]
        (tmp_path / name).write_bytes(b"0" * (32 << 20))
        asked = [
            b"",
            b"GET",
            b"POST /recording HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9\r\n\r\n{",
            b"GET /recordings/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % name.encode(),
        ]
        waiting = [socket.create_connection(("127.0.0.1", page.port)) for _ in asked]
        for connection, request in zip(waiting, asked, strict=True):
            connection.sendall(request)
        assert waiting[-1].recv(12) == b"HTTP/1.1 200"
        begins = time.monotonic()
        page.sink.close()
        assert time.monotonic() - begins < 3.0
        assert not [thread for thread in threading.enumerate() if thread.name == "web server"]
        for connection in waiting:
            connection.close()
