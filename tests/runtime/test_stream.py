import io
import json
import socket
import threading
import time

import numpy as np
import pytest
from tests.conftest import RGB_CLASSES

from clst_runtime.backends.base import Prediction
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.results import Result
from clst_runtime.sinks import stream as stream_module
from clst_runtime.sinks.stream import open_stream
from clst_runtime.sources import TimedFrame


def result(index, size_hw=(4, 6), class_id=2):
    picture = np.full((*size_hw, 3), 100, np.uint8)
    timed = TimedFrame(index=index, picture=picture, captured_ns=1_000 + index, name=str(index))
    mask = np.full(size_hw, class_id, np.uint8)
    return Result(timed=timed, prediction=Prediction(classes=mask), mask=mask, inference_ns=1, age_ns=21_000_000)


def opened(text, stdout=None):
    return open_stream(text, RGB_CLASSES, 0.5, stdout=stdout)


def connect(sink, count=1):
    """Readers that the sink knows of."""
    family = socket.AF_UNIX if isinstance(sink.address, str) else socket.AF_INET
    readers = []
    for _ in range(count):
        reader = socket.socket(family)
        reader.connect(sink.address)
        reader.settimeout(5)
        readers.append(reader)
    end = time.monotonic() + 5
    while len(sink._readers) < count and time.monotonic() < end:
        time.sleep(0.01)
    return readers


def received(reader):
    """Header and bytes of one picture."""
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

    with pytest.raises(DataError, match="its reader has gone"):
        opened("masks:-", Gone()).write(result(0))


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


def test_a_reader_that_goes_or_does_not_read_is_put_out_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "SEND_SECONDS", 0.2)
    sink = opened(f"overlay:unix:{tmp_path}/s")
    gone, stuck, good = connect(sink, 3)
    gone.close()
    seen = []

    def read():
        for _ in range(20):
            seen.append(received(good)[0]["frame"])

    thread = threading.Thread(target=read)
    thread.start()
    for index in range(20):
        sink.write(result(index, size_hw=(200, 200)))
    thread.join(timeout=10)
    assert seen == list(range(20))
    assert len(sink._readers) == 1
    stuck.close()
    sink.close()


def test_a_socket_file_left_over_is_taken_and_one_in_use_is_not(tmp_path):
    place = f"masks:unix:{tmp_path}/s"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(f"{tmp_path}/s")
    dead.close()
    sink = opened(place)
    with pytest.raises(DataError, match="cannot listen at unix:.*another program"):
        opened(place)
    connect(sink)
    sink.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(DataError, match="cannot listen"):
        opened(f"masks:unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("text", ["masks", "masks:", "colours:-", "masks:tcp:5555", "masks:tcp:h:x", "masks:udp:h:1"])
def test_other_forms_are_refused(text):
    with pytest.raises(ConfigError, match="give"):
        opened(text)


def test_a_port_that_cannot_be_is_refused():
    with pytest.raises(DataError, match="cannot listen at tcp:127.0.0.1:99999"):
        opened("masks:tcp:127.0.0.1:99999")
