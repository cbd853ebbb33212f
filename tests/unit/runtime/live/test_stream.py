import errno
import io
import json
import os
import resource
import socket
import threading
import time

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.live.results import Result
from clst_runtime.live.sinks import readers as readers_module
from clst_runtime.live.sinks.stream import open_stream
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.sources import TimedFrame
from clst_runtime.system.standard_streams import Output
from tests.conftest import RGB_CLASSES
from tests.support.waiting import until


def result(index, size_hw=(4, 6), class_id=2):
    image = np.full((*size_hw, 3), 100, np.uint8)
    timed = TimedFrame(index=index, image=image, captured_ns=1_000 + index, name=str(index))
    mask = np.full(size_hw, class_id, np.uint8)
    return Result(
        timed=timed, prediction=Prediction(classes=mask), classes=mask, mask=mask, inference_ns=1, age_ns=21_000_000
    )


def opened(text, stdout=None, statistics=None):
    statistics = RunStatistics() if statistics is None else statistics
    return open_stream(text, RGB_CLASSES, 0.5, stdout=stdout, statistics=statistics)


@pytest.fixture
def served(request, tmp_path):
    """A stream of masks through a socket, and the statistics of its run."""
    statistics = RunStatistics()
    place = "tcp:127.0.0.1:0" if getattr(request, "param", "unix") == "tcp" else f"unix:{tmp_path}/s"
    sink = opened(f"masks:{place}", statistics=statistics)
    yield sink, statistics
    sink.close()


both_kinds = pytest.mark.parametrize("served", ["unix", "tcp"], indirect=True)


def connect(sink, count=1):
    """Readers that the sink knows of."""
    before, readers = len(sink.readers), [unconnected(sink) for _ in range(count)]
    for reader in readers:
        connect_to(sink.address, reader)
    assert until(lambda: len(sink.readers) == before + count)
    return readers


def connect_to(address, reader):
    """The queue of a server of Unix sockets is short for a moment, while it starts."""
    end = time.monotonic() + 5
    while True:
        try:
            return reader.connect(address)
        except BlockingIOError:
            assert time.monotonic() < end
            time.sleep(0.005)


def unconnected(sink):
    reader = socket.socket(socket.AF_UNIX if isinstance(sink.address, str) else socket.AF_INET)
    reader.settimeout(5)
    return reader


def received(reader):
    """Header and bytes of one image."""
    stream = reader.makefile("rb", buffering=0)
    line = b""
    while not line.endswith(b"\n"):
        line += stream.read(1)
    facts, data = json.loads(line), b""
    while len(data) < facts["bytes"]:
        data += stream.read(facts["bytes"] - len(data))
    return facts, data


def test_masks_on_standard_output_are_bare_bytes_of_one_size():
    out = io.BytesIO()
    sink = opened("masks:-", out)
    sink.write(result(0, class_id=2))
    sink.write(result(1, size_hw=(8, 12), class_id=1))
    sink.close()
    assert out.getvalue() == bytes([2] * 24 + [1] * 24)
    assert not out.closed


def test_overlays_are_rgb():
    out = io.BytesIO()
    opened("overlay:-", out).write(result(0, class_id=2))
    # Half of grey 100 and half of blue 0,0,255
    assert out.getvalue() == bytes([50, 50, 178]) * 24


def test_a_reader_of_standard_output_that_goes_is_told_of():
    class Gone(io.BytesIO):
        def write(self, _):
            raise BrokenPipeError

    with pytest.raises(DataError, match="^the reader of standard output has gone$"):
        opened("masks:-", Gone()).write(result(0))


def test_a_pipe_that_takes_a_part_at_a_time_or_nothing_just_now_tears_no_picture():
    """Two masks of 400 kB through a pipe of 64 KiB that somebody has made non-blocking."""
    taking, giving = os.pipe()
    os.set_blocking(giving, False)
    seen = bytearray()

    def read():
        while block := os.read(taking, 30_000):
            seen.extend(block)

    thread = threading.Thread(target=read)
    with Output(giving, "w") as stdout:
        sink = opened("masks:-", stdout)
        thread.start()
        sink.write(result(0, LARGE, class_id=1))
        sink.write(result(1, LARGE, class_id=2))
    thread.join(timeout=10)
    os.close(taking)
    assert seen == bytes([1]) * 400_000 + bytes([2]) * 400_000


@pytest.mark.parametrize("place", ["unix:{folder}/s", "tcp:127.0.0.1:0"])
def test_readers_of_a_socket_get_a_header_and_the_bytes(tmp_path, place):
    sink = opened(f"masks:{place.format(folder=tmp_path)}")
    sink.write(result(0))
    first, second = connect(sink, 2)
    sink.write(result(7, class_id=1))
    for reader in (first, second):
        facts, data = received(reader)
        assert facts == {"frame": 7, "captured_ns": 1007, "age_ms": 21.0, "kind": "masks", "shape": [4, 6], "bytes": 24}
        assert data == bytes([1] * 24)
    sink.close()
    assert first.recv(1) == b"", "the end is told"
    assert not (tmp_path / "s").exists()
    sink.close()


@both_kinds
def test_readers_that_have_gone_are_noticed_without_a_picture_and_leave_no_descriptor(served):
    sink, _ = served
    files = len(os.listdir("/proc/self/fd"))
    for reader in connect(sink, 5):
        reader.close()
    assert until(lambda: len(sink.readers) == 0)
    assert until(lambda: len(os.listdir("/proc/self/fd")) == files)


LARGE = (400, 1000)
"""Rows and columns of a mask of which the kernel holds only a few."""


@both_kinds
def test_slow_readers_make_nobody_wait_and_get_whole_pictures_the_newest_first(served):
    sink, statistics = served
    *slow, good = connect(sink, 6)
    begun, skipped = time.monotonic(), 0
    for index in range(60):
        sink.write(result(index, LARGE, class_id=index % 3))
        assert received(good)[0]["frame"] == index, "every picture"
    assert time.monotonic() - begun < 8, "five readers that take nothing cost no time"
    for reader in slow:
        seen = [received(reader)]
        while seen[-1][0]["frame"] != 59:
            seen.append(received(reader))
        frames = [facts["frame"] for facts, _ in seen]
        assert frames == sorted(set(frames))
        assert frames[-2] < 30, "what waited made room for the newest"
        assert all(data == bytes([facts["frame"] % 3]) * 400_000 for facts, data in seen)
        skipped += 60 - len(frames)
    assert statistics.to_json()["drops"] == {"reader of stream of masks": skipped}
    assert statistics.warnings == []


def test_a_slow_reader_that_keeps_up_again_gets_every_picture_again(served, monkeypatch):
    monkeypatch.setattr(readers_module, "PROMPT_AGAIN", 5)
    sink, _ = served
    (reader,) = connect(sink)
    for index in range(40):
        sink.write(result(index, LARGE))
    while received(reader)[0]["frame"] != 39:
        pass
    for index in range(40, 46):
        sink.write(result(index, LARGE))
        assert received(reader)[0]["frame"] == index
    for index in range(46, 56):  # as many may wait again
        sink.write(result(index, LARGE))
    assert [received(reader)[0]["frame"] for _ in range(10)] == list(range(46, 56))


@both_kinds
def test_a_reader_that_takes_nothing_at_all_is_put_out(served, monkeypatch):
    monkeypatch.setattr(readers_module, "STUCK_SECONDS", 0.3)
    sink, statistics = served
    stuck, good = connect(sink, 2)
    for index in range(30):
        sink.write(result(index, LARGE))
        received(good)
    assert until(lambda: len(sink.readers) == 1)
    assert statistics.warnings == ["stream of masks: a reader that took nothing for 0.3 s was put out"]
    sink.write(result(30, LARGE))
    assert received(good)[0]["frame"] == 30
    stuck.close()


def test_readers_are_bounded_in_number_and_one_more_is_refused_in_words(served, monkeypatch):
    monkeypatch.setattr(readers_module, "MOST_READERS", 3)
    sink, statistics = served
    first, *others = connect(sink, 3)
    for _ in range(4):
        refused = unconnected(sink)
        refused.connect(sink.address)
        assert refused.recv(1) == b""
    (line,) = statistics.warnings
    assert line == "stream of masks: a reader was refused: 3 are there, which is as many as there may be (4 times)"
    first.close()
    assert until(lambda: len(sink.readers) == len(others))
    connect(sink)


def test_readers_wait_while_no_descriptor_is_free_and_cost_nothing_meanwhile(served):
    sink, statistics = served
    early, *late = [unconnected(sink) for _ in range(4)]
    early.connect(sink.address)
    assert until(lambda: len(sink.readers) == 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for reader in late:
            reader.connect(sink.address)
        assert until(lambda: statistics.warnings)
        busy = time.process_time()
        time.sleep(0.4)
        assert time.process_time() - busy < 0.2, "no busy loop"
        sink.write(result(7))
        assert received(early)[0]["frame"] == 7
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert until(lambda: len(sink.readers) == 4)
    assert statistics.warnings == [
        f"stream of masks: a reader has to wait until descriptors are free: {os.strerror(errno.EMFILE)}"
    ]


@both_kinds
def test_the_end_gives_what_is_left_to_those_who_take_it_and_waits_for_nobody_else(served, monkeypatch):
    monkeypatch.setattr(readers_module, "END_SECONDS", 0.5)
    sink, _ = served
    stuck, good = connect(sink, 2)
    for index in range(10):
        sink.write(result(index, LARGE))
    seen = []

    def read():
        for _ in range(10):
            seen.append(received(good)[0]["frame"])

    thread = threading.Thread(target=read)
    thread.start()
    begun = time.monotonic()
    sink.close()
    assert time.monotonic() - begun < 5
    thread.join(timeout=10)
    assert seen == list(range(10))
    assert good.recv(1) == b""
    sink.write(result(10))
    stuck.close()


def test_a_run_of_files_goes_at_the_pace_of_the_fastest_reader_and_waits_for_no_other(tmp_path):
    statistics = RunStatistics(live=False)
    sink = opened(f"masks:unix:{tmp_path}/s", statistics=statistics)
    stuck, fast = connect(sink, 2)
    seen = []

    def read():
        for _ in range(40):
            seen.append(received(fast)[0]["frame"])
            time.sleep(0.01)

    thread = threading.Thread(target=read)
    thread.start()
    begun = time.monotonic()
    for index in range(40):
        sink.write(result(index, LARGE))
    assert time.monotonic() - begun < 10, "not a second for each picture"
    sink.close()
    thread.join(timeout=10)
    assert seen == list(range(40)), "10 ms for each image, of which 16 may wait"
    assert statistics.drops["reader of stream of masks"] > 10, "what the other one did not get"
    stuck.close()


def test_a_run_of_files_does_not_wait_long_for_readers_that_take_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(readers_module, "LOSSLESS_SECONDS", 0.2)
    monkeypatch.setattr(readers_module, "END_SECONDS", 0.1)
    sink = opened(f"masks:unix:{tmp_path}/s", statistics=RunStatistics(live=False))
    stuck = connect(sink, 2)
    begun = time.monotonic()
    for index in range(60):
        sink.write(result(index, LARGE))
    sink.close()
    assert time.monotonic() - begun < 5, "once, not for each picture"
    for reader in stuck:
        reader.close()


def test_a_socket_file_left_over_is_taken_and_one_in_use_is_not(tmp_path):
    place = f"masks:unix:{tmp_path}/s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(f"{tmp_path}/s")
    dead.close()
    sink = opened(place)
    with pytest.raises(DataError, match="cannot listen at unix:.*another program"):
        opened(place)
    assert until(lambda: len(sink.readers) == 0), "the attempt was no reader"
    assert connect(sink)
    sink.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(DataError, match="cannot listen"):
        opened(f"masks:unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("text", ["masks", "masks:", "colours:-", "masks:tcp:5555", "masks:tcp:h:x", "masks:udp:h:1"])
def test_other_forms_are_refused(text):
    with pytest.raises(ConfigError, match="give"):
        opened(text)


def test_a_folder_that_is_not_there_is_no_other_program(tmp_path):
    with pytest.raises(DataError, match="cannot listen at unix:.*: No such file or directory$"):
        opened(f"masks:unix:{tmp_path}/none/s")


def test_a_port_that_cannot_be_is_refused():
    with pytest.raises(DataError, match="cannot listen at tcp:127.0.0.1:99999"):
        opened("masks:tcp:127.0.0.1:99999")
