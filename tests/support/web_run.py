"""A run whose page is served, driven by hand."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from clst_runtime.backends.base import Prediction
from clst_runtime.imaging.geometry import Layout
from clst_runtime.live.results import Result
from clst_runtime.live.statistics import Deadline, RunStatistics
from clst_runtime.live.web import RunInfo, WebCamera, open_web, parse_web_address
from clst_runtime.sources.base import TimedFrame
from tests.conftest import RGB_CLASSES, rgb_manifest

GREY = 120
JSON = {"Content-Type": "application/json"}


def result_of(index, *, size_hw=(32, 64), class_id=0, age_ms=10.0, inference_ms=5.0, image=None, layout=Layout.RGB):
    """A frame of one class; by default the picture is grey."""
    image = np.full((*size_hw, 3), GREY, np.uint8) if image is None else image
    captured_ns = time.monotonic_ns() - int(age_ms * 1e6)
    timed = TimedFrame(index=index, image=image, layout=layout, captured_ns=captured_ns, name=f"{index:06d}")
    mask = np.full(timed.size_hw, class_id, np.uint8)
    return Result(
        timed=timed,
        prediction=Prediction(classes=mask),
        classes=mask,
        mask=mask,
        inference_ns=int(inference_ms * 1e6),
        age_ns=int(age_ms * 1e6),
    )


class Served:
    """The page, and the run behind it."""

    def __init__(self, sink, statistics):
        self.sink, self.statistics = sink, statistics
        self.url, parts = sink.url, urlsplit(sink.url)
        self.port, self.token = parts.port, parts.query.removeprefix("token=")
        self.site = f"http://127.0.0.1:{self.port}"
        self.given = 0

    def give(self, **options):
        """One frame as the pipeline hands it over; it returns how long the sink took in seconds."""
        if self.given == 0:
            self.statistics.begin()
        self.given += 1
        result = result_of(self.given, **options)
        self.statistics.took(result, fresh=True)
        before = time.perf_counter()
        self.sink.write(result)
        return time.perf_counter() - before

    def lose(self, *, losses=1, drops=None):
        """The camera gives nothing."""
        self.statistics.passed(Counter(drops or {}), lost=True, losses=losses)

    def ask(self, path, headers=None, *, method="GET", body=None):
        """Status, headers and text of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def status(self, headers=None):
        """What `/status.json` tells."""
        return json.loads(self.ask("/status.json", headers)[2])

    def record(self, on, headers=None):
        """Switch recording; status code and text."""
        code, _, text = self.ask("/recording", JSON | (headers or {}), method="POST", body=json.dumps({"on": on}))
        return code, text

    @asynccontextmanager
    async def viewer(self, path="/live"):
        """A WebSocket to the page."""
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.site}{path}") as connection:
            yield connection


async def next_picture(connection, *, ask=True):
    """(position, age in ms, JPEG) of the next picture that comes."""
    import struct

    if ask:
        await connection.send_str("next")
    while True:
        message = await connection.receive(timeout=10)
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.BINARY:
            return *struct.unpack(">If", message.data[:8]), message.data[8:]


@contextmanager
def served(address="0", *, recordings=None, deadline=None, alpha=0.5, live=True, token=None, clock=None, manifest=None,
           **facts):  # fmt: skip
    """A page on a free port; closed at the end."""
    clock = {} if clock is None else {"clock": clock}
    statistics = RunStatistics(Deadline(milliseconds=deadline), live=live, **clock)
    told = {"model": "front.onnx", "source": "camera:0", "backend": "fake (1 thread)"} | facts
    info = RunInfo(manifest=manifest or rgb_manifest(), alpha=alpha, **told)
    camera = WebCamera(statistics=statistics, facts=info, recordings=recordings)
    (sink,) = open_web(parse_web_address(address), [camera], token=token)
    try:
        yield Served(sink, statistics)
    finally:
        statistics.end = statistics.end or "the source has ended"
        sink.close()


__all__ = ["RGB_CLASSES", "Served", "next_picture", "result_of", "served"]
