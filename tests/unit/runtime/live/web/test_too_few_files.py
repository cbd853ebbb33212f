"""A limit on open files that is too low, at the start and while the page is up; and a page that dies."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from clst_runtime.errors import ConfigError
from clst_runtime.live.pipeline import run_pipeline
from tests.support.waiting import until
from tests.support.web_run import served
from tests.unit.runtime.live.web.test_page import Brightest, Drawn

ROOT = os.getcwd()


@contextmanager
def open_files_at_most(more):
    """Lets this process open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as next_free:
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_free.fileno() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("more", range(0, 20, 3))
def test_too_few_files_at_the_start_are_one_line_with_the_cure_or_enough(more, capfd):
    threads = set(threading.enumerate())
    message = ""
    try:
        with open_files_at_most(more), served() as page:
            page.give()
    except ConfigError as error:
        message = error.message
    if message or more < 4:
        assert "Too many open files" in message
        assert "ulimit -n" in message
        assert "\n" not in message
        assert until(lambda: not {each for each in threading.enumerate() if each.name.startswith("web")} - threads)
    assert capfd.readouterr().err == ""


STARTED = """
import resource, sys
from tests.support.web_run import served
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 4096))
from clst_runtime.errors import ClstError
try:
    with served() as page:
        page.give()
except ClstError as error:
    print(error.line(), file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("limit", [4, 9])
def test_a_program_of_so_few_files_ends_with_one_line(limit):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-c", STARTED, str(limit)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert "ulimit -n" in done.stderr


def test_connections_leave_the_run_the_files_that_it_needs(capfd):
    """50 clients of this very program and 50 connections of theirs would be more than it may open."""
    with open_files_at_most(95), served() as page:
        assert until(lambda: page.sink._run_status.machine, 20.0)  # who looks for it opens files, too
        silent = []
        for _ in range(50):
            silent.append(socket.create_connection(("127.0.0.1", page.port)))
            time.sleep(0.005)  # not faster than they are accepted
        assert page.ask("/icon.svg")[0] == 200
        for connection in silent:
            connection.close()
        assert page.statistics.to_json()["warnings"] == []
    assert capfd.readouterr().err == ""


def test_when_no_more_files_can_be_opened_the_page_comes_back_and_says_so_once(capfd):
    with served() as page:
        assert until(lambda: page.sink._run_status.machine, 20.0)  # who looks for it opens files, too
        waiting = [socket.socket() for _ in range(4)]
        with open_files_at_most(0):
            for connection in waiting:
                connection.settimeout(5)
                connection.connect(("127.0.0.1", page.port))
                connection.sendall(b"GET /icon.svg HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert until(lambda: page.statistics.to_json()["warnings"])
        for connection in waiting:
            assert connection.recv(12) == b"HTTP/1.0 200"
            connection.close()
        assert page.ask("/")[0] == 200
        (warning,) = page.statistics.to_json()["warnings"]
        assert warning == "the web page failed: Too many open files"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "address", ["9" * 5000, "a." * 40 + "a:80", "a" * 70 + ":80", "1" * 70 + ":80", "[" * 9 + ":1"]
)
def test_an_address_that_no_machine_has_is_one_line(address):
    with pytest.raises(ConfigError) as caught, served(address):
        pass
    assert "\n" not in caught.value.message


def test_a_page_whose_server_has_died_is_told_as_a_failed_sink_while_the_drive_goes_on(capfd):
    with served() as page:
        server = page.sink._server

        async def die():
            raise SystemExit("killed")

        server._loop.call_soon_threadsafe(lambda: asyncio.ensure_future(die()))
        server._thread.join(5)
        assert not server._thread.is_alive()
        statistics = run_pipeline(Drawn(30, live=True), Brightest(), [page.sink])
    assert statistics.frames == 29, "the first frame of a camera is for the warm-up"
    assert [words.partition(":")[0] for words in statistics.failures] == ["web"]
    assert "the server of the web page has ended" in statistics.failures[0]
    assert capfd.readouterr().err == ""
