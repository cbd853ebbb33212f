"""The page of several cameras: each with pictures, figures and recordings of its own."""

import asyncio
import json
from contextlib import ExitStack, contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clst_runtime.live.statistics import RunStatistics
from clst_runtime.live.web import RunInfo, WebCamera, open_web, parse_web_address
from tests.conftest import rgb_manifest
from tests.support.browser import CHROMIUM, opened
from tests.support.web_run import Served, next_picture

NAMES = ("front", "rear")


@contextmanager
def two(tmp_path):
    """A page with two cameras, each driven by hand."""
    statistics = {name: RunStatistics() for name in NAMES}
    cameras = [
        WebCamera(
            name=name,
            statistics=each,
            facts=RunInfo(manifest=rgb_manifest(), model="m.onnx", source=f"camera:{name}", backend="fake"),
            recordings=tmp_path / name,
        )
        for name, each in statistics.items()
    ]
    sinks = open_web(parse_web_address("0"), cameras)
    with ExitStack() as closed:
        for sink in sinks:
            closed.callback(sink.close)
        yield {name: Served(sink, statistics[name]) for name, sink in zip(NAMES, sinks, strict=True)}


def of(name, path):
    return f"{path}?camera={name}"


def test_each_camera_has_facts_status_and_pictures_of_its_own(tmp_path):
    async def pictures(page):
        found = {}
        for name, index in zip(NAMES, (3, 5), strict=True):
            async with page.viewer(of(name, "/live")) as connection:
                found[name] = await next_picture(connection)
                assert found[name][0] == index
        return found

    with two(tmp_path) as pages:
        for name, count, class_id in (("front", 3, 0), ("rear", 5, 2)):
            for _ in range(count):
                pages[name].give(class_id=class_id)
        front = pages["front"]
        told = {name: json.loads(front.ask(of(name, "/status.json"))[2]) for name in NAMES}
        assert {name: each["run"]["frames"] for name, each in told.items()} == {"front": 3, "rear": 5}
        assert {name: each["shares"] for name, each in told.items()} == {"front": [1, 0, 0], "rear": [0, 0, 1]}
        facts = json.loads(front.ask(of("rear", "/facts.json"))[2])
        assert facts["run"]["source"] == "camera:rear"
        assert json.loads(front.ask("/status.json")[2])["run"]["frames"] == 3, "without a name the first one"
        found = asyncio.run(pictures(front))
        assert found["front"][2] != found["rear"][2]


def test_the_status_of_each_tells_the_state_of_all(tmp_path):
    with two(tmp_path) as pages:
        for page in pages.values():
            page.give()
        pages["rear"].lose()
        assert pages["front"].status()["cameras"] == {"front": "ready", "rear": "lost"}
        assert pages["front"].status()["run"]["state"] == "ready"


def test_a_camera_that_is_not_there_is_no_page(tmp_path):
    with two(tmp_path) as pages:
        for path in ("/status.json", "/facts.json", "/live", "/recordings/a.mp4"):
            code, _, text = pages["front"].ask(of("left", path))
            assert (code, text) == (404, "no camera is named so; cameras: front, rear\n")


def test_figures_have_the_camera_as_a_label(tmp_path):
    with two(tmp_path) as pages:
        pages["front"].give()
        pages["rear"].lose(losses=2, drops={"overtaken": 4})
        text = pages["front"].ask("/metrics")[2]
        families = {family.name: family.samples for family in text_string_to_metric_families(text)}
        assert [(s.labels, s.value) for s in families["clst_frames"]] == [
            ({"camera": "front"}, 1),
            ({"camera": "rear"}, 0),
        ]
        assert [s.labels["camera"] for s in families["clst_state"] if s.value and s.labels["state"] == "lost"] == [
            "rear"
        ]
        assert [s.labels for s in families["clst_newest_age_seconds"]] == [{"camera": "front"}]
        assert {s.labels["source"] for s in families["clst_run_info"]} == {"camera:front", "camera:rear"}
        assert text.count("# TYPE clst_frames_total") == 1, "a family stands there once"


def test_each_camera_is_recorded_by_itself(tmp_path):
    with two(tmp_path) as pages:
        headers = {"Content-Type": "application/json"}
        code, _, _ = pages["front"].ask(of("rear", "/recording"), headers, method="POST", body='{"on": true}')
        assert code == 200
        for page in pages.values():
            page.give()
        assert [page.sink._recorder.to_json()["active"] for page in pages.values()] == [False, True]
    assert not (tmp_path / "front").exists()
    assert len(list((tmp_path / "rear").iterdir())) == 1


def test_the_page_ends_with_the_last_camera(tmp_path):
    with two(tmp_path) as pages:
        pages["rear"].give()
        pages["rear"].statistics.end = "error"
        pages["rear"].sink.close()
        assert pages["front"].status()["cameras"] == {"front": "starting", "rear": "ended"}
        pages["front"].sink.close()
        with pytest.raises(ConnectionError):
            pages["front"].ask("/")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_the_page_shows_the_chosen_camera_and_the_state_of_all(tmp_path):
    async def look(pages):
        links = "Array.from(document.querySelectorAll('#cameras a'), (each) => each.textContent).join()"
        chosen = "document.querySelector('#cameras a[aria-current]').dataset.camera"
        async with opened(pages["front"].url, tmp_path / "profile") as tab:
            for name, state in (("front", "ready"), ("rear", "lost")):
                await tab.until(f"{links} === 'frontready,rearlost' && document.body?.dataset.state === '{state}'")
                await tab.until(f"document.getElementById('source')?.textContent === 'camera:{name}'")
                assert await tab.value(chosen) == name
                await tab.screenshot(tmp_path / f"{name}.png")
                await tab.value("document.querySelector('#cameras a[data-camera=rear]').click()")
            pages["rear"].statistics.end = "error"
            pages["rear"].sink.close()
            await tab.until("document.getElementById('banner')?.innerText.includes('this camera has ended, others')")

    with two(tmp_path) as pages:
        for page in pages.values():
            page.statistics.deadline = type(page.statistics.deadline)(milliseconds=100_000)  # never stale here
            page.give(class_id=1)
        pages["rear"].lose()
        asyncio.run(look(pages))
