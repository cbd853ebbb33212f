"""Requests that never end, are too large or damaged, and readers that stop: each is bounded, none is an error here."""

import gzip
import logging
import socket
import time
import zlib
from contextlib import suppress

import pytest

from tests.support.waiting import until
from tests.support.web_run import served
from tests.unit.runtime.live.web.test_error_log import answer_to, raw

OFF = b'{"on": false}'


def posted(headers, body=b""):
    """A wish to switch recording, as bare bytes."""
    head = b"POST /recording HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + headers + b"\r\n" + body


def chunk(body):
    return b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n" % (len(body), body)


@pytest.fixture
def quick(monkeypatch):
    """The server waits for the rest of a body that it has answered for a short time, so that tests are short."""
    monkeypatch.setattr("clst_runtime.live.web.server.LINGERING_SECONDS", 0.2)


@pytest.fixture
def connection(monkeypatch, quick, page):
    """A connection whose body is waited for 0.3 s.

    Its first request has the shipped 10 s: a server that this machine holds up for a moment must not close it unheard.
    """
    with socket.create_connection(("127.0.0.1", page.port), 5) as connection:
        assert until(lambda: connected(page))
        with monkeypatch.context() as short:
            short.setattr("clst_runtime.live.web.server.SILENT_SECONDS", 0.3)
            yield connection


@pytest.fixture
def page(tmp_path, caplog, capfd):
    """A page, of which nothing may be logged, printed or told as an error of its own."""
    caplog.set_level(logging.DEBUG)
    with served(recordings=tmp_path / "recordings") as page:
        yield page
        assert page.statistics.to_json()["warnings"] == []
        assert page.ask("/")[0] == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr().err == ""


# ---- bodies


@pytest.mark.parametrize(
    "request_",
    [posted(b"Content-Length: 13\r\n"), posted(b"Content-Length: 13\r\n", OFF[:5]), posted(*chunk(OFF[:5]))],
    ids=["nothing", "a part", "a part in chunks"],
)
def test_a_body_that_does_not_come_is_given_up(connection, request_):
    begins = time.monotonic()
    answer = answer_to(request_, connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert answer.endswith(b"\r\n\r\nthe body of the request did not come\n"), "and the connection is closed"
    assert 0.25 < time.monotonic() - begins < 4.0


def test_a_body_that_comes_by_the_drop_is_given_up(connection):
    connection.sendall(posted(b"Content-Length: 4000\r\n"))
    connection.settimeout(0.1)
    answer, end = b"", time.monotonic() + 5
    while not answer and time.monotonic() < end:
        connection.sendall(b" ")
        with suppress(TimeoutError):
            answer = connection.recv(100)
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_body_that_is_announced_as_too_large_is_refused_before_it_comes(quick, page):
    answer = raw(page, posted(b"Content-Length: 999999999999\r\n", b"{"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b"\r\n\r\na request may hold 4096 bytes\n")


def test_chunks_without_an_end_are_refused_when_they_are_too_many(quick, page):
    answer = raw(page, posted(*chunk(b" " * 5000)))
    assert answer.startswith(b"HTTP/1.1 413")
    assert not answer.endswith(b"(still open)")


BOMB = gzip.compress(b" " * (8 << 20))
"""8 MiB in 8 kB; its first 4 kB are far more than a request may hold, too."""


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"gzip", gzip.compress(OFF)), (b"gzip", BOMB[:4000]), (b"gzip", b"\x1f\x8bnonsense"), (b"deflate", b"nonsense"),
     (b"deflate", zlib.compress(OFF)), (b"br", b"nonsense"), (b"unheard-of", OFF), (b"GZIP, gzip", OFF)],
    ids=range(8),  # gzip notes the time, and processes that share the tests must call them alike
)  # fmt: skip
def test_a_body_that_is_compressed_is_refused_whether_or_not_it_is_whole(quick, page, kind, body):
    answer = raw(page, posted(b"Content-Encoding: %s\r\nContent-Length: %d\r\n" % (kind, len(body)), body))
    assert answer[:12] in (b"HTTP/1.1 415", b"HTTP/1.0 400"), answer
    assert len(answer.partition(b"\r\n\r\n")[2]) < 200
    assert not answer.endswith(b"(still open)")


def test_a_compressed_body_is_not_unpacked_in_any_request(quick, page):
    head = b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    assert raw(page, head % len(BOMB) + BOMB).startswith(b"HTTP/1.1 415")


def test_a_page_is_answered_although_the_body_of_the_request_never_comes(quick, page):
    answer = raw(page, b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert not answer.endswith(b"(still open)")


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"5\r\n{}\r\n-1\r\n"])
def test_chunks_that_are_damaged_are_refused(quick, page, chunks):
    assert raw(page, posted(b"Transfer-Encoding: chunked\r\n", chunks))[9:12] == b"400"


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_no_trace(page):
    with socket.create_connection(("127.0.0.1", page.port), 5) as connection:
        connection.sendall(posted(b"Content-Length: 13\r\n", OFF[:5]))
        time.sleep(0.1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert until(lambda: not connected(page))


# ---- strange first lines


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"DELETE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"405"),
        (b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"405"),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /recordings/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", b"403"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: the-unexpected\r\nConnection: close\r\n\r\n", b"417"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40, b"400"),
    ],
)
def test_a_request_that_is_strange_has_a_short_answer(page, request_, code):
    answer = raw(page, request_)
    assert answer[9:12] == code, answer
    assert b"Traceback" not in answer
    assert len(answer) < 9500


# ---- connections


def connected(page):
    return len(page.sink._server._runner.server.connections)


def test_the_second_request_may_not_stay_half_either(monkeypatch, page):
    monkeypatch.setattr("clst_runtime.live.web.server.KEPT_SECONDS", 0.3)
    with served() as short:
        whole = b"GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n"
        assert not raw(short, whole + b"\r\n" + whole).endswith(b"(still open)")


def test_who_asks_and_does_not_read_the_answers_is_let_go(monkeypatch):
    monkeypatch.setattr("clst_runtime.live.web.address.UNREAD_SECONDS", 0.5)
    with served() as page, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", page.port))
        deaf.settimeout(0.2)
        with pytest.raises(OSError):
            while True:
                deaf.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        assert until(lambda: connected(page) == 0, 8.0)
        assert page.statistics.to_json()["warnings"] == []


def test_connections_that_say_nothing_keep_nobody_out(monkeypatch):
    monkeypatch.setattr("clst_runtime.live.web.server.MAX_SILENT", 8)
    with served() as page:
        silent = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(40)]
        assert until(lambda: connected(page) == 8)
        assert page.ask("/")[0] == 200
        for connection in silent:
            connection.close()
