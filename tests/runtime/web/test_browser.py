"""The page in a headless Chromium: what an engineer sees."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tests.conftest import rgb_manifest
from tests.runtime.web.browser import CHROMIUM, opened
from tests.runtime.web.run import served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

MIDDLE = "Array.from(document.getElementById('picture').getContext('2d').getImageData(32, 16, 1, 1).data)"
LOOK = "getComputedStyle(document.getElementById('picture')).filter"
ROOT = Path(__file__).parents[3]


def state_is(state):
    return f"document.body.dataset.state === '{state}'"


class Frames:
    """Gives frames until it is told to stop."""

    def __init__(self, page, **options):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._give, args=(page, options))

    def _give(self, page, options):
        while not self._stop.wait(0.05):
            page.give(**options)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()


async def check_that_it_is_seen(tab, path, colour):
    """The screenshot holds the band of the state in its colour."""
    await tab.screenshot(path)
    band = cv2.imread(str(path))[4, :60, ::-1].astype(int).max(axis=0)  # the brighter of its stripes
    assert np.abs(band - colour).max() < 24, band


async def drive(page, tmp_path):
    async with opened(page.url, tmp_path / "profile") as tab:
        await tab.until(state_is("starting"))
        assert "no mask yet" in await tab.value("document.body.innerText")
        with Frames(page, class_id=2):
            await tab.until(state_is("ready"))
            await tab.until(f"{LOOK} === 'none' && {MIDDLE}[2] > 150")  # blue over grey
            await check_that_it_is_seen(tab, tmp_path / "ready.png", (31, 157, 97))
            await record_by_keyboard(tab)
            await tab.size(390, 844, phone=True)
            assert await tab.value("document.documentElement.scrollWidth") == 390
            await tab.screenshot(tmp_path / "phone.png")
            await tab.size(1440, 900)
        await tab.until(state_is("stale"))
        assert "grayscale(1)" in await tab.value(LOOK)
        assert "STALE" in await tab.value("document.getElementById('banner').innerText.toUpperCase()")
        await check_that_it_is_seen(tab, tmp_path / "stale.png", (242, 165, 26))
        page.lose(losses=2)
        await tab.until(state_is("lost"))
        assert "lost 2 times" in await tab.value("document.getElementById('announcement').textContent")
        with Frames(page, class_id=0):
            await tab.until(state_is("ready"))
            await tab.until(f"{MIDDLE}[0] > 150 && {MIDDLE}[2] < 120")
        page.statistics.end = "Ctrl-C"
        await asyncio.get_running_loop().run_in_executor(None, page.sink.close)
        await tab.until(state_is("ended"))
        assert "Ctrl-C" in await tab.value("document.getElementById('state-words').textContent")
        assert "grayscale(1)" in await tab.value(LOOK)
        return tab


async def record_by_keyboard(tab):
    focus = "document.activeElement.id"
    for _ in range(5):
        await tab.press("Tab", 9)
        if await tab.value(focus) == "record":
            break
    assert await tab.value(focus) == "record"
    for pressed, label in (("true", "Stop recording"), ("false", "Start recording")):
        await asyncio.sleep(0.3)
        await tab.press("Enter", 13)
        await tab.until(f"document.activeElement.getAttribute('aria-pressed') === '{pressed}'")
        await tab.until(f"document.activeElement.textContent === '{label}' && !document.activeElement.disabled")
    await tab.until("document.getElementById('record-words').textContent.includes('frames saved')")


def test_the_page_shows_every_state_records_by_keyboard_and_fits_a_phone(tmp_path):
    recordings = tmp_path / "recordings"
    with served(recordings=recordings, deadline=300, source="rtsp://anna:s3cr3t@10.0.0.7/front") as page:
        tab = asyncio.run(drive(page, tmp_path))
        site = page.url
    assert tab.events("Runtime.exceptionThrown") == []
    entries = [event["entry"] for event in tab.events("Log.entryAdded")]
    errors = [entry["text"] for entry in entries if entry["level"] == "error"]
    assert all("ERR_CONNECTION_REFUSED" in text for text in errors), errors  # after the end, nobody answers
    asked = {event["request"]["url"] for event in tab.events("Network.requestWillBeSent")}
    assert all(url.startswith(site) for url in asked), asked
    assert len(list(recordings.iterdir())) == 1


def test_without_a_folder_the_button_is_off_and_says_why(tmp_path):
    async def look(page):
        async with opened(page.url, tmp_path / "profile") as tab:
            await tab.until("document.getElementById('record-words').textContent.includes('no folder')")
            assert await tab.value("document.getElementById('record').disabled")

    with served() as page:
        asyncio.run(look(page))


HIDE = (
    "Object.defineProperty(document, 'hidden', {get: () => true});document.dispatchEvent(new Event('visibilitychange'))"
)


def test_a_picture_that_is_old_on_this_screen_looks_old_and_a_hidden_page_asks_for_none(tmp_path):
    """The run has newer masks, but they do not reach the screen, as on a slow line."""

    async def look(page):
        async with opened(page.url, tmp_path / "profile") as tab:
            with Frames(page):
                await tab.until(f"{state_is('ready')} && {LOOK} === 'none'")
            write = page.sink.write
            page.sink.write = lambda result: None
            with Frames(page):
                await tab.until(state_is("behind"))
                assert "grayscale(1)" in await tab.value(LOOK)
                assert page.status()["run"]["state"] == "ready"
                page.sink.write = write
                await tab.until(f"{state_is('ready')} && {LOOK} === 'none'")
                await tab.value(HIDE)
                await asyncio.sleep(0.5)
                painted = page.sink._pictures.painted
                await asyncio.sleep(0.5)
                assert page.sink._pictures.painted == painted

    with served() as page:
        asyncio.run(look(page))


CAMERA = {"state": "same", "words": "this looks like the model's camera: shift 0.8", "window": 32, "shift": 0.84,
          "threshold": 1.5, "parts": {}, "strongest": None, "watching": True, "looks": 40, "alarms": 0,
          "reference_frames": 64,
          "collected": {"folder": "new_camera", "frames": 1, "mib": 3.5, "stopped": ""}}  # fmt: skip
OTHER = {"state": "other", "shift": 4.24, "words": "this looks like another camera: shift 4.2 (another camera above "
         "1.5), most in sharpness (4.1); sharpness: noise by +3.2 spreads"}  # fmt: skip


def text_of(name):
    return f"document.getElementById('{name}').textContent"


async def watch_the_camera(page, told, tmp_path):
    page.statistics.domain = lambda: told.domain
    async with opened(page.url, tmp_path / "profile") as tab:
        with Frames(page):
            await tab.until(f"{state_is('ready')} && {text_of('camera')} === 'same camera'")
            kept = "1 frame of another camera kept in new_camera (3.5 MiB there)"
            assert "shift 0.8, another camera above 1.5" in await tab.value(text_of("camera-shift"))
            assert await tab.value(text_of("camera-kept")) == kept
            assert await tab.value("document.getElementById('camera-band').hidden")
            told.domain = CAMERA | OTHER
            await tab.until("!document.getElementById('camera-band').hidden")
            await tab.until(f"{LOOK} === 'none'")  # the picture is of now, so it is not made grey
            assert await tab.value("document.body.dataset.state") == "ready"
            seen = await tab.value("document.body.innerText")
            assert "this looks like another camera: shift 4.2 (another camera above 1.5), most in sharp" in seen
            assert await tab.value(text_of("camera-mark")) == "this looks like another camera: shift 4.2"
            assert "looks like another camera" in await tab.value(text_of("camera-announcement"))
            assert (await tab.value("document.title")).startswith("ANOTHER CAMERA")
            await tab.screenshot(tmp_path / "other.png")
            await tab.size(390, 844, phone=True)
            assert await tab.value("document.documentElement.scrollWidth") == 390
            await tab.screenshot(tmp_path / "other-phone.png")
            await tab.size(1440, 900)
            stopped = CAMERA["collected"] | {"frames": 7, "stopped": "new_camera holds 2047 MiB, 2048 allowed"}
            told.domain = CAMERA | OTHER | {"collected": stopped}
            await tab.until(f"{text_of('camera-kept')}.includes('no more: new_camera holds 2047 MiB')")
            told.domain = CAMERA | {"state": "unknown", "shift": None, "window": 9, "collected": None}
            await tab.until(f"{text_of('camera')} === 'not enough frames yet'")
            assert await tab.value("document.getElementById('camera-band').hidden")
            assert await tab.value("document.getElementById('camera-kept').hidden")
            told.domain = CAMERA | OTHER | {"watching": False}
            await tab.until(f"{text_of('camera')} === 'no longer watched'")
            assert await tab.value("document.getElementById('camera-band').hidden"), "an old verdict is no verdict"
            told.domain = None
            await tab.until(f"{text_of('camera')} === 'no reference in this model'")
    assert tab.events("Runtime.exceptionThrown") == []


def test_another_camera_is_shown_with_its_number_while_masks_come_in_time(tmp_path):
    with served() as page:
        asyncio.run(watch_the_camera(page, SimpleNamespace(domain=CAMERA), tmp_path))
    band = cv2.imread(str(tmp_path / "other.png"))[:200, 700, ::-1].astype(int)
    assert (np.abs(band - (181, 51, 138)).max(axis=1) < 24).sum() > 10, "the band is seen"


LONG = "gst:nvarguscamerasrc sensor-id=0 ! " + " ! ".join(["video/x-raw,format=BGR"] * 12) + " ! appsink"


def test_what_was_proved_is_told_in_words_and_a_long_source_leaves_room_for_the_picture(tmp_path):
    parity = {"reference": "PyTorch fp32", "frames": 16, "labelled": True, "agreement": 0.99987, "reference_miou": 0.5,
              "miou": 0.4991, "fingerprint": {"frames_sha256": ["ab" * 32] * 16}, "holds": True}  # fmt: skip
    engine = {"gpu": "Orin", "tensorrt": "10.3", "rival": {"engine": "cd" * 32}, "none": None}

    async def look(page):
        async with opened(page.url, tmp_path / "profile") as tab:
            await tab.until("document.getElementById('model').innerText.includes('parity')")
            seen = await tab.value("document.getElementById('model').innerText")
            assert "99.987 % of pixels as PyTorch fp32, 16 pictures; mIoU 49.91 %, was 50.00 %" in seen
            assert "gpu Orin · tensorrt 10.3\n" in seen
            assert "8 rows × 16 columns, " in seen
            assert f"source\n{LONG}\n" in await tab.value("document.getElementById('device').innerText")
            assert await tab.value("document.querySelector('header').clientHeight") < 100
            assert "abab" not in seen
            assert "cdcd" not in seen

    with served(manifest=rgb_manifest(parity=parity, engine=engine), source=LONG) as page:
        asyncio.run(look(page))


ALONE = """
import sys, time
from tests.runtime.web.run import served
with served() as page:
    print(page.url, flush=True)
    while True:
        page.give()
        time.sleep(0.05)
"""


def test_a_page_that_hears_nothing_of_the_program_says_so(tmp_path):
    """The program is frozen, so that not even its connections are closed; later it goes on."""

    async def look(url, process):
        async with opened(url, tmp_path / "profile") as tab:
            await tab.until(f"{state_is('ready')} && {MIDDLE}[3] === 255")
            process.send_signal(signal.SIGSTOP)
            await tab.until(state_is("unreachable"))
            assert "grayscale(1)" in await tab.value(LOOK)
            assert "no contact" in (await tab.value("document.getElementById('banner').innerText")).lower()
            process.send_signal(signal.SIGCONT)
            await tab.until(f"{state_is('ready')} && {LOOK} === 'none'")
            process.kill()
            await tab.until(state_is("unreachable"))

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-c", ALONE]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        try:
            asyncio.run(look(process.stdout.readline().strip(), process))
        finally:
            process.kill()
