"""What the page is told: images, states, figures. And what viewers can do to a run: nothing."""

import asyncio
import itertools
import json
import os
import socket
import subprocess
import threading
import time
from contextlib import suppress

import aiohttp
import cv2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clst_runtime.backends.base import Prediction
from clst_runtime.imaging.geometry import Layout
from clst_runtime.live.pipeline import run_pipeline
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.live.web import RunInfo, WebCamera, open_web, parse_web_address
from clst_runtime.live.web.overlays import shown_size
from clst_runtime.live.web.status import class_shares
from clst_runtime.sources.base import OVERTAKEN, Source, SourceEnded, TimedFrame
from tests.conftest import rgb_manifest
from tests.support.videos import frames_of
from tests.support.web_run import next_picture, result_of, served

SECOND = 1_000_000_000


def rgb_of(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def looking(page, look):
    """Run `look(viewer)` in an event loop."""

    async def main():
        async with page.viewer() as viewer:
            return await look(viewer)

    return asyncio.run(main())


# ---- images


def test_the_picture_is_the_newest_and_shows_the_classes_colours():
    with served(alpha=1.0) as page:
        for class_id in (0, 0, 2):
            page.give(class_id=class_id)
        frame, age_ms, jpeg = looking(page, next_picture)
        assert frame == 3
        assert 10 <= age_ms < 5000
        assert rgb_of(jpeg).shape == (32, 64, 3)
        assert np.abs(rgb_of(jpeg)[16, 32].astype(int) - (0, 0, 255)).max() < 12


def test_colours_of_a_camera_in_bgr_are_right():
    with served(alpha=0.0) as page:
        blue_in_bgr = np.zeros((32, 64, 3), np.uint8)
        blue_in_bgr[..., 0] = 255
        page.give(image=blue_in_bgr, layout=Layout.BGR)
        _, _, jpeg = looking(page, next_picture)
        assert np.abs(rgb_of(jpeg)[16, 32].astype(int) - (0, 0, 255)).max() < 12


@pytest.mark.parametrize(
    ("size_hw", "shown"),
    [
        ((720, 1280), (540, 960)),
        ((1920, 1080), (960, 540)),
        ((540, 960), (540, 960)),
        ((1, 1), (1, 1)),
        ((1, 4000), (1, 960)),
    ],
)
def test_pictures_are_shown_at_most_960_wide_or_high(size_hw, shown):
    assert shown_size(size_hw) == shown


def test_a_large_picture_is_sent_small():
    with served() as page:
        page.give(size_hw=(720, 1280))
        assert rgb_of(looking(page, next_picture)[2]).shape == (540, 960, 3)


def test_a_camera_that_changes_its_size_is_shown_at_the_new_one():
    with served() as page:

        async def look(viewer):
            sizes = []
            for size_hw in ((32, 64), (48, 32)):
                page.give(size_hw=size_hw)
                sizes.append(rgb_of((await next_picture(viewer))[2]).shape[:2])
            return sizes

        assert looking(page, look) == [(32, 64), (48, 32)]


def test_nothing_is_encoded_while_nobody_looks():
    with served() as page:
        for _ in range(20):
            page.give()
        page.ask("/status.json")
        time.sleep(0.2)
        assert page.sink._images.painted == 0


def test_a_frame_is_encoded_once_for_all_viewers():
    async def main(page):
        async with page.viewer() as one, page.viewer() as two, page.viewer() as three:
            jpegs = []
            for _ in range(4):
                asking = [asyncio.ensure_future(next_picture(viewer)) for viewer in (one, two, three)]
                await asyncio.sleep(0.1)
                page.give()
                jpegs.append([jpeg for _, _, jpeg in await asyncio.gather(*asking)])
            return jpegs

    with served() as page:
        jpegs = asyncio.run(main(page))
        assert all(one == two == three for one, two, three in jpegs)
        assert page.sink._images.painted == 4


def test_a_viewer_who_comes_late_gets_the_picture_that_was_encoded_already():
    with served() as page:
        page.give()
        assert looking(page, next_picture)[2] == looking(page, next_picture)[2]
        assert page.sink._images.painted == 1


def test_the_rate_of_pictures_is_bounded_and_frames_are_never_repeated():
    with served() as page:

        async def look(viewer):
            frames, end = [], time.monotonic() + 1.0
            while time.monotonic() < end:
                frames.append((await next_picture(viewer))[0])
            return frames

        giving = threading.Thread(target=lambda: [(page.give(), time.sleep(0.004)) for _ in range(300)])
        giving.start()
        frames = looking(page, look)
        giving.join()
        assert 3 <= len(frames) <= 17  # 15 a second
        assert all(before < after for before, after in itertools.pairwise(frames))
        assert page.sink._images.painted <= len(frames) + 1


# ---- viewers


def deaf_viewer(page):
    """A browser that asks for images and reads nothing."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", page.port))
    deaf.sendall(
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert deaf.recv(12) == b"HTTP/1.1 101"
    return deaf


def ask_often(deaf, stop):
    frame = b"\x81\x84\0\0\0\0next"
    while not stop.is_set():
        deaf.sendall(frame)
        time.sleep(0.01)


def memory_mib():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_browser_that_reads_nothing_neither_slows_the_run_nor_fills_the_memory():
    noise = np.random.default_rng(0).integers(0, 256, (540, 960, 3), dtype=np.uint8)  # 0.6 MB as JPEG

    async def look_too(page):
        async with page.viewer() as viewer:
            return [(await next_picture(viewer))[0] for _ in range(5)]

    with served(alpha=0.0) as page:
        deaf, stop = deaf_viewer(page), threading.Event()
        asking = threading.Thread(target=ask_often, args=(deaf, stop))
        asking.start()
        try:
            end, painted, seconds = time.monotonic() + 20, -1, []
            while page.sink._images.painted != painted:  # until what lies between is full
                painted, settled = page.sink._images.painted, time.monotonic() + 1.0
                assert time.monotonic() < end, "images are made for a browser that takes none"
                while time.monotonic() < settled:
                    seconds.append(page.give(image=noise))
                    time.sleep(0.02)
            before = memory_mib()
            giving = threading.Thread(target=lambda: [(page.give(image=noise), time.sleep(0.02)) for _ in range(100)])
            giving.start()
            frames = asyncio.run(look_too(page))
            giving.join()
            assert len(set(frames)) == 5
            assert np.median(seconds) < 0.005
            assert memory_mib() - before < 40
            assert page.status()["viewers"] == 1
            stop.set()
            asking.join()
            begins = time.monotonic()
            page.sink.close()
            assert time.monotonic() - begins < 2.0
            assert not [
                thread.name for thread in threading.enumerate() if thread.name in ("web server", "web pictures")
            ]
        finally:
            stop.set()
            deaf.close()


def test_a_browser_closed_in_the_middle_is_forgotten_and_nothing_is_encoded_for_it():
    with served() as page:
        page.give()
        deaf = deaf_viewer(page)
        deaf.sendall(b"\x81\x84\0\0\0\0next")
        while page.sink._images.painted == 0:
            time.sleep(0.01)
        deaf.sendall(b"\x81\x84\0\0\0\0next")
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        deaf.close()  # as a process that is killed: reset, no farewell
        end = time.monotonic() + 5
        while page.status()["viewers"] and time.monotonic() < end:
            time.sleep(0.02)
        assert page.status()["viewers"] == 0
        painted = page.sink._images.painted
        page.give()
        time.sleep(0.2)
        assert page.sink._images.painted == painted
        assert looking(page, next_picture)[0] == 2


def test_one_viewer_too_many_is_told_so(monkeypatch):
    monkeypatch.setattr("clst_runtime.live.web.server.MAX_VIEWERS", 1)

    async def main(page):
        async with page.viewer():
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                async with page.viewer():
                    pass

    with served() as page:
        asyncio.run(main(page))


def test_connections_that_say_nothing_cannot_use_up_the_files_of_the_run(monkeypatch):
    monkeypatch.setattr("clst_runtime.live.web.server.MAX_CONNECTIONS", 3)
    with served() as page:
        silent = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(3)]
        time.sleep(0.3)  # until they are counted
        with pytest.raises(OSError):
            page.ask("/")
        silent.pop().close()
        end, code = time.monotonic() + 5, 0
        while code != 200 and time.monotonic() < end:
            with suppress(OSError):
                code = page.ask("/")[0]
        assert code == 200
        for connection in silent:
            connection.close()


def test_a_viewer_who_talks_nonsense_is_let_go():
    with served() as page:

        async def look(viewer):
            await viewer.send_str("nonsense")
            await viewer.send_str("x" * 100_000)
            while (message := await viewer.receive(timeout=5)).type is aiohttp.WSMsgType.TEXT:
                pass
            return message.type

        assert looking(page, look) in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert page.ask("/")[0] == 200


def test_the_live_connection_opened_as_a_page_says_what_it_is():
    with served() as page:
        assert page.ask("/live")[0::2] == (426, "this is the live connection of the page at /\n")


def test_the_end_is_told_to_viewers_and_the_port_is_free_within_two_seconds():
    async def main(page):
        async with page.viewer() as viewer:
            await viewer.receive(timeout=5)
            page.statistics.end = "SIGTERM"
            begins = time.monotonic()
            closing = asyncio.get_running_loop().run_in_executor(None, page.sink.close)
            told = [json.loads(message.data) async for message in viewer if message.type is aiohttp.WSMsgType.TEXT]
            await closing
            return told[-1]["run"], time.monotonic() - begins

    with served() as page:
        page.give()
        idle = socket.create_connection(("127.0.0.1", page.port))  # a browser that keeps a connection open
        run, seconds = asyncio.run(main(page))
        idle.close()
        assert (run["state"], run["end"]) == ("ended", "SIGTERM")
        assert seconds < 2.0
        with served(str(page.port)) as again:
            assert again.ask("/")[0] == 200
        page.sink.close()  # once more does nothing


# ---- state and figures


class Clock:
    """Nanoseconds that go on when they are told to."""

    now = SECOND

    def __call__(self):
        return self.now


def test_the_state_goes_from_starting_over_ready_and_stale_and_lost_to_ended():
    clock = Clock()
    with served(clock=clock) as page:
        statistics = page.statistics

        def mask():
            result = result_of(1)
            object.__setattr__(result.timed, "captured_ns", clock.now)
            statistics.took(result, fresh=True)

        assert page.status()["run"]["state"] == "starting"
        assert page.status()["run"]["seconds"] == 0.0
        assert page.status()["run"]["newest_age_ms"] is None
        statistics.begin()
        mask()
        assert page.status()["run"]["state"] == "ready"
        clock.now += 2 * SECOND
        run = page.status()["run"]
        assert (run["state"], run["newest_age_ms"]) == ("stale", 2000.0)
        page.lose()
        assert page.status()["run"]["state"] == "lost"
        mask()
        assert page.status()["run"]["state"] == "ready"
        statistics.end = "Ctrl-C"
        assert page.status()["run"]["state"] == "ended"


def test_deadline_misses_and_the_streak_are_told():
    with served(deadline=50) as page:
        for age_ms in (10, 60, 70, 10, 80):
            page.give(age_ms=age_ms)
        told = page.status()
        run = told["run"]
        assert (run["deadline_misses"], run["deadline_streak"], run["deadline_longest_streak"]) == (3, 1, 2)
        assert (run["deadline_ms"], told["stale_ms"], told["stale_after"]) == (50, 500.0, 10)


def test_rows_of_the_charts_are_sent_once_each():
    with served() as page:
        page.give(age_ms=20, inference_ms=4)

        async def look(viewer):
            rows = []
            for number in range(5):  # half a second apart
                if number == 1:
                    page.give(age_ms=30, inference_ms=6)
                rows += json.loads((await viewer.receive(timeout=5)).data)["frames"]
            return [row[1:] for row in rows]

        assert looking(page, look) == [[20.0, 4.0], [30.0, 6.0]]


def test_drops_are_kept_by_cause_for_viewers_who_come_later():
    with served() as page:
        page.give()
        page.statistics.passed({OVERTAKEN: 3}, lost=False, losses=0)
        end, rows = time.monotonic() + 5, []
        while time.monotonic() < end and not (rows and rows[-1][1] == {OVERTAKEN: 3}):
            rows = looking(page, lambda viewer: viewer.receive(timeout=5)).json()["drops"]
        assert rows[-1][1] == {OVERTAKEN: 3}


def test_model_and_device_are_told():
    with served(source="rtsp://anna:s3cr3t@10.0.0.7/front") as page:
        end, told = time.monotonic() + 20, {}
        while not told.get("machine") and time.monotonic() < end:
            told = json.loads(page.ask("/facts.json")[2])
        run = told["run"]
        assert (run["network"], run["input_hw"], run["precision"]) == ("brightest_channel", [8, 16], "fp32")
        assert run["classes"][0] == {"name": "red", "colour": [255, 0, 0]}
        assert run["source"] == "rtsp://…@10.0.0.7/front"
        assert told["machine"]["cores"] >= 1


def test_a_machine_that_does_not_tell_its_facts_is_told_as_such(monkeypatch):
    def hangs():
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    monkeypatch.setattr("clst_runtime.live.web.sink.machine_facts", hangs)
    with served() as page:
        end, told = time.monotonic() + 5, {}
        while not told.get("machine") and time.monotonic() < end:
            told = json.loads(page.ask("/facts.json")[2])
        assert "nvidia-smi" in told["machine"]["error"]


def test_a_password_in_a_warning_is_shown_nowhere():
    with served(source="rtsp://u:s3cr3t@h") as page:
        page.give()
        page.statistics.warn("rtsp://u:s3cr3t@h: the stream has ended")
        page.statistics.failures.append("video: rtsp://u:s3cr3t@h")
        page.statistics.end = "rtsp://u:s3cr3t@h: gone"
        for path in ("/", "/facts.json", "/status.json", "/metrics"):
            assert "s3cr3t" not in page.ask(path)[2], path
        assert "s3cr3t" not in looking(page, lambda viewer: viewer.receive(timeout=5)).data
        assert page.status()["run"]["warnings"] == ["rtsp://…@h: the stream has ended"]


# ---- Prometheus


def figures(page, accept=""):
    code, headers, text = page.ask("/metrics", {"Accept": accept})
    assert code == 200
    families = text_string_to_metric_families(text) if not accept else []
    samples = {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}
    return samples, headers["Content-Type"], text


def test_figures_for_prometheus():
    with served(deadline=50, source="rtsp://u:s3cr3t@h") as page:
        for age_ms in (10, 60, 60):
            page.give(age_ms=age_ms)
        page.statistics.passed({OVERTAKEN: 3, "damaged": 2}, lost=False, losses=4)
        page.statistics.dropped("sink video")
        found, kind, _ = figures(page)
        assert kind.startswith("text/plain")
        expected = {
            ("clst_frames_total",): 3,
            ("clst_deadline_misses_total",): 2,
            ("clst_deadline_streak",): 2,
            ("clst_losses_total",): 4,
            ("clst_drops_total", OVERTAKEN): 3,
            ("clst_drops_total", "damaged"): 2,
            ("clst_drops_total", "sink video"): 1,
            ("clst_state", "ready"): 1,
            ("clst_state", "lost"): 0,
            ("clst_capture_to_mask_seconds", "1"): 0.06,
            ("clst_run_info", "brightest_channel", "fake (1 thread)", "fp32", "rtsp://…@h"): 1,
        }
        assert {key: found.get(key) for key in expected} == expected
        assert sum(value for key, value in found.items() if key[0] == "clst_state") == 1
        assert found["clst_inference_seconds", "0.5"] == pytest.approx(0.005, rel=0.01)
        assert 0.05 < found["clst_newest_age_seconds",] < 10


def test_figures_before_the_first_frame():
    with served() as page:
        found, _, _ = figures(page)
        assert found["clst_frames_total",] == 0
        assert found["clst_state", "starting"] == 1
        assert not [key for key in found if key[0] in ("clst_newest_age_seconds", "clst_inference_seconds")]


def test_figures_in_the_form_of_open_metrics():
    with served() as page:
        _, kind, text = figures(page, accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")


# ---- a whole run


class Drawn(Source):
    """Frames of one colour each: red, green, blue, …"""

    def __init__(self, count, *, live):
        super().__init__()
        self.count, self.live, self._next = count, live, 0

    def take(self, timeout_seconds):
        if self._next == self.count:
            raise SourceEnded
        image = np.zeros((32, 64, 3), np.uint8)
        image[..., self._next % 3] = 200
        self._next += 1
        return TimedFrame(index=self._next - 1, image=image, captured_ns=time.monotonic_ns(), name=f"{self._next}")

    def close(self):
        pass


class Brightest:
    """Names each pixel's strongest channel."""

    manifest, description = rgb_manifest(), "NumPy"

    def predict(self, frame):
        return Prediction(classes=frame.argmax(axis=2).astype(np.uint8))


@pytest.mark.parametrize("live", [False, True])
def test_a_whole_run_ends_well_and_its_recording_is_whole(tmp_path, live):
    source, statistics = Drawn(20, live=live), RunStatistics(live=live)
    facts = RunInfo(manifest=rgb_manifest(), model="m", source="s", backend="b", fps=10.0)
    camera = WebCamera(statistics=statistics, facts=facts, recordings=tmp_path)
    (sink,) = open_web(parse_web_address("0"), [camera])
    sink._recorder.start()
    run_pipeline(source, Brightest(), [sink], statistics=statistics)
    assert statistics.failures == []
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", int(sink.url.split(":")[2].strip("/"))), 1):
        pass
    (video,) = tmp_path.iterdir()
    frames = 20 if not live else statistics.frames - statistics.drops["sink web"]
    assert len(frames_of(video)) == frames


# ---- class shares


def test_the_shares_of_the_classes_are_those_of_the_newest_mask():
    with served() as page:
        assert page.status()["shares"] == []
        page.give(class_id=2)
        assert page.status()["shares"] == [0.0, 0.0, 1.0]
        result = result_of(2)
        result.prediction.classes[:8] = 1  # 8 of 32 rows
        result.prediction.classes[-1] = 255  # no class
        page.sink.write(result)
        assert page.status()["shares"] == [round(23 / 32, 4), 0.25, 0.0]
        assert looking(page, lambda viewer: viewer.receive(timeout=5)).json()["shares"] == [0.7188, 0.25, 0.0]


def test_shares_of_a_part_of_a_map_and_of_many_classes_are_exact():
    classes = np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32)
    assert class_shares(classes, 254) == [round(4 / 1024, 4)] * 254
    assert class_shares(classes[::2, 1:31:2], 2) == [round(2 / 240, 4)] * 2
