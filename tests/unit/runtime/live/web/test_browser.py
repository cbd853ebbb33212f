"""The page in a headless Chromium: what an engineer sees."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from clst_runtime.classes.labels import ClassList, distinct_colours
from tests import ROOT
from tests.conftest import rgb_manifest
from tests.support.browser import CHROMIUM, opened
from tests.support.web_run import result_of, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

MIDDLE = "Array.from(document.getElementById('picture').getContext('2d').getImageData(32, 16, 1, 1).data)"
LOOK = "getComputedStyle(document.getElementById('picture')).filter"


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
        said = await tab.value("document.getElementById('state-words').textContent")
        assert said.startswith("the run is over: somebody pressed Ctrl-C where it runs; ")
        await asyncio.sleep(3.0)  # longer than a page waits for news
        assert await tab.value(state_is("ended")), "that nobody answers any more is no news"
        assert await tab.value("document.querySelectorAll('#recordings li').length") == 1
        assert await tab.value("document.querySelectorAll('#recordings a').length") == 0, "nobody serves them any more"
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
                painted = page.sink._images.painted
                await asyncio.sleep(0.5)
                assert page.sink._images.painted == painted

    with served() as page:
        asyncio.run(look(page))


CAMERA = {"state": "same", "words": "this looks like the model's camera: shift 0.8", "window": 32, "shift": 0.84,
          "threshold": 1.5, "parts": {}, "strongest": None, "watching": True, "looks": 40, "alarms": 0,
          "reference_frames": 64, "leaning": None, "held": 40, "needed": 90,
          "collected": {"folder": "new_camera", "frames": 1, "mib": 3.5, "stopped": ""}}  # fmt: skip
OTHER = {"state": "other", "shift": 4.24, "words": "this looks like another camera: shift 4.2 (another camera above "
         "1.5), most in sharpness (4.1); sharpness: noise by +3.2 spreads"}  # fmt: skip


def text_of(name):
    return f"document.getElementById('{name}').textContent"


async def see_what_is_not_sure_yet(tab, told):
    told.domain = CAMERA | {"state": "unknown", "shift": 11.83, "window": 20, "leaning": "other", "held": 5}
    await tab.until(f"{text_of('camera')} === 'looks like another camera, not sure yet'")
    looks = "shift 11.8, another camera above 1.5; 5 of 90 looks; 20 frames in the window"
    assert await tab.value(text_of("camera-shift")) == looks
    assert await tab.value("document.getElementById('camera-band').hidden"), "no alarm before it is sure"
    told.domain = CAMERA | OTHER | {"shift": 0.7, "leaning": "same", "held": 30}
    await tab.until(f"{text_of('camera')} === 'looks like the model\\'s camera again, not sure yet'")


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
            await tab.until(f"{LOOK} === 'none'")  # the image is of now, so it is not made grey
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
            await see_what_is_not_sure_yet(tab, told)
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
            assert "99.987 % of pixels as PyTorch fp32, 16 images; mIoU 49.91 %, was 50.00 %" in seen
            assert "gpu Orin · tensorrt 10.3\n" in seen
            assert "8 rows × 16 columns, " in seen
            assert f"source\n{LONG}\n" in await tab.value("document.getElementById('device').innerText")
            assert await tab.value("document.querySelector('header').clientHeight") < 100
            assert "abab" not in seen
            assert "cdcd" not in seen

    with served(manifest=rgb_manifest(parity=parity, engine=engine), source=LONG) as page:
        asyncio.run(look(page))


NAMES = ("road", "x" * 200, "<img src=x onerror=alert(1)> & <b>bold</b>", "مبنى قديم", "🚗 vehicle", "a b " * 50)
SHARES = ((4, 16), (1, 8), (0, 5), (2, 2))
"""Class id and rows of 32 in the mask; one row has no class."""
OUTSIDE = """[...document.querySelectorAll('body *')].filter((e) => !e.closest('.unseen')
  && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"""
SHOWN = """import('/charts.js').then(({ largestShown }) => [
  [], [7], [40, 4000], [10, 12, 15, 19], Array(590).fill(40).concat(Array(10).fill(900))].map(largestShown))"""
LINK = """(([link]) => [link.textContent, link.getAttribute('href'), link.download])(
  document.querySelectorAll('#recordings a'))"""


async def look_at_strange_things(page, tmp_path):
    mask = np.full((32, 64), 255, np.uint8)
    mask[:31] = np.repeat([class_id for class_id, _ in SHARES], [rows for _, rows in SHARES])[:, None]
    for index in range(60):
        result = result_of(index, age_ms=4000.0 if index == 20 else 40.0, inference_ms=20.0)
        result.prediction.classes[:] = mask
        page.statistics.took(result, fresh=True)
        page.sink.write(result)
    page.record(True)
    page.sink.write(result)
    page.record(False)
    async with opened(page.url, tmp_path / "profile", width=320, height=800) as tab:
        entries = "[...document.querySelectorAll('#legend li')].map((e) => e.innerText.trim().split(/\\s*\\n\\s*/))"
        await tab.until("document.getElementById('legend').innerText.includes('50.0 %')")
        assert await tab.value(entries) == [
            [NAMES[4], "50.0 %"], [NAMES[1], "25.0 %"], [NAMES[0], "15.6 %"], [NAMES[2], "6.3 %"],
            [NAMES[3], "0.0 %"], [NAMES[5].strip(), "0.0 %"],
        ]  # fmt: skip
        for width in (320, 390, 768, 1280):
            await tab.size(width, 800, phone=width < 500)
            assert await tab.value("document.documentElement.scrollWidth") == width
            assert await tab.value(OUTSIDE) == [], width
        assert await tab.value("document.querySelectorAll('img').length") == 0
        await tab.until(f"{text_of('over')} === '1 frame above the chart, at most 4.0 s'")
        assert await tab.value(text_of("limit-key")) == "deadline 5.0 s, above the chart"
        assert "at most 4000.0 ms" in await tab.value("document.getElementById('latency').getAttribute('aria-label')")
        assert await tab.value(SHOWN) == [0, 7, 50, 19, 900], "ten of six hundred are no outliers"
        name, place, download = await tab.value(LINK)
        assert (place, download) == (f"/recordings/{name}", name)
        assert await tab.value(f"fetch('{place}').then((answer) => answer.status)") == 200
        return tab


def test_long_and_strange_names_an_outlier_shares_and_recordings_fit_a_narrow_screen(tmp_path):
    classes = ClassList(name="n" * 300, names=NAMES, colours=distinct_colours(len(NAMES)))
    manifest = replace(rgb_manifest(), classes=classes)
    with served(manifest=manifest, recordings=tmp_path / "recordings", source="s" * 300, deadline=5000) as page:
        page.statistics.begin()
        page.statistics.warn("w" * 300)
        tab = asyncio.run(look_at_strange_things(page, tmp_path))
    assert tab.events("Runtime.exceptionThrown") == []
    assert [event["entry"]["text"] for event in tab.events("Log.entryAdded")] == []


ALONE = """
import sys, time
from tests.support.web_run import served
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
            said = await tab.value("document.getElementById('state-words').textContent")
            assert "it was killed, or the connection is down" in said
            assert await tab.value("document.getElementById('record').disabled")

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-c", ALONE]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        try:
            asyncio.run(look(process.stdout.readline().strip(), process))
        finally:
            process.kill()
