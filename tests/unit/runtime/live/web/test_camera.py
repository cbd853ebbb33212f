"""What the page, `/status.json` and `/metrics` tell of the monitor of the camera."""

import json

import numpy as np
import pytest

from clst_runtime.live.monitor.drift import HELD, LEAST_WINDOW, OTHER_ABOVE
from clst_runtime.live.monitor.sink import open_monitor
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.live.statistics_log import StatisticsLog
from clst_runtime.sources.base import Source
from tests.support.web_run import served
from tests.unit.runtime.live.monitor.conftest import OTHER, image, manifest, reference, result  # noqa: F401  fixtures
from tests.unit.runtime.live.web.test_page import figures, looking

BELIEVED = LEAST_WINDOW + HELD - 1
"""Looks at another camera after which it is told as such."""


class Live(Source):
    """A camera that nobody reads."""

    live = True

    def take(self, timeout_seconds):
        return None

    def close(self):
        pass


@pytest.fixture
def watched(manifest, tmp_path):  # noqa: F811
    """A page whose run is watched, and the watch; it collects one frame every 10 s."""
    with served(manifest=manifest) as page:
        monitor = open_monitor(
            manifest, Live(), collect=tmp_path / "new", every_seconds=10.0, report=page.statistics.warn
        )
        page.statistics.domain = monitor.snapshot
        yield page, monitor


def camera_figures(page):
    return {key: value for key, value in figures(page)[0].items() if key[0].startswith("clst_camera")}


def states(found):
    return {key[1] for key, value in found.items() if key[0] == "clst_camera_state" and value == 1}


def test_before_the_first_judgement_there_is_no_score_and_no_verdict(watched):
    page, monitor = watched
    for index in range(LEAST_WINDOW - 1):
        monitor.write(result(index, OTHER))
    domain = page.status()["run"]["domain"]
    assert (domain["state"], domain["shift"], domain["window"]) == ("unknown", None, LEAST_WINDOW - 1)
    found = camera_figures(page)
    assert states(found) == {"unknown"}
    assert ("clst_camera_shift",) not in found
    assert ("clst_camera_is_another",) not in found
    assert found["clst_camera_shift_threshold",] == OTHER_ABOVE


def test_from_the_own_camera_over_another_one_to_the_bound_of_its_folder(watched):
    page, monitor = watched
    for index in range(LEAST_WINDOW):
        monitor.write(result(index))
    found = camera_figures(page)
    assert states(found) == {"same"}
    assert found["clst_camera_is_another",] == 0
    assert 0 < found["clst_camera_shift",] < OTHER_ABOVE
    assert found["clst_camera_collected_frames_total",] == 0
    for index in range(LEAST_WINDOW, LEAST_WINDOW + 32 + BELIEVED):
        monitor.write(result(index, OTHER))
    domain = page.status()["run"]["domain"]
    found = camera_figures(page)
    assert states(found) == {"other"}
    assert found["clst_camera_is_another",] == 1
    assert found["clst_camera_shift",] == domain["shift"] > OTHER_ABOVE
    kept = domain["collected"]["frames"]
    assert found["clst_camera_collected_frames_total",] == kept > 0
    assert (found["clst_camera_collecting",], domain["collected"]["stopped"]) == (1, "")
    monitor.collector.most_bytes = 1
    for index in range(500, 511):
        monitor.write(result(index, OTHER))
    found = camera_figures(page)
    assert (found["clst_camera_collected_frames_total",], found["clst_camera_collecting",]) == (kept, 0)
    assert "0 allowed" in page.status()["run"]["domain"]["collected"]["stopped"]


def test_of_a_camera_that_sees_nothing_no_verdict_is_told(watched):
    page, monitor = watched
    for index in range(LEAST_WINDOW):
        monitor.write(result(index))
    black = np.zeros_like(image(0))
    for index in range(LEAST_WINDOW, LEAST_WINDOW + 5):
        monitor.write(result(index, picture_=black + np.uint8(index % 2)))
    found = camera_figures(page)
    assert states(found) == {"uniform"}
    assert ("clst_camera_is_another",) not in found


def test_without_a_reference_the_figures_are_absent_and_not_zero():
    with served() as page:
        page.give()
        assert camera_figures(page) == {}
        assert page.status()["run"]["domain"] is None
        assert json.loads(page.ask("/facts.json")[2])["run"]["knows_its_camera"] is False


def test_without_a_folder_nothing_is_said_of_collecting(manifest):  # noqa: F811
    with served(manifest=manifest) as page:
        page.statistics.domain = open_monitor(manifest, Live()).snapshot
        assert not [key for key in camera_figures(page) if "collect" in key[0]]
        assert json.loads(page.ask("/facts.json")[2])["run"]["knows_its_camera"] is True


def test_a_monitor_that_has_stopped_has_no_figures_any_more(watched):
    page, monitor = watched
    for index in range(LEAST_WINDOW):
        monitor.write(result(index))
    assert camera_figures(page)
    monitor.close()
    assert camera_figures(page) == {}
    assert page.status()["run"]["domain"]["watching"] is False


def test_every_figure_of_the_camera_has_its_help(watched):
    page, monitor = watched
    for index in range(LEAST_WINDOW):
        monitor.write(result(index))
    text = figures(page)[2]
    for name in ("state", "is_another", "shift", "shift_threshold", "collected_frames_total", "collecting"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"# HELP clst_camera_{name} ")]
        assert len(line.split()) > 8, line


def test_viewers_are_told_with_every_status(watched):
    page, monitor = watched
    for index in range(LEAST_WINDOW):
        monitor.write(result(index))

    async def look(viewer):
        while True:  # the first status may be a moment older
            domain = (await viewer.receive(timeout=5)).json()["run"]["domain"]
            if domain is not None and domain["looks"] == LEAST_WINDOW:
                return domain

    told = looking(page, look)
    assert (told["state"], told["words"].partition(":")[0]) == ("same", "this looks like the model's camera")


def test_the_log_of_statistics_tells_the_camera_of_that_moment(manifest):  # noqa: F811
    statistics, lines = RunStatistics(), []
    log = StatisticsLog(statistics, lines.append, 1.0, clock=iter((0.0, 1.0, 2.0)).__next__)
    log.idle()
    monitor = open_monitor(manifest, Live())
    statistics.domain = monitor.snapshot
    monitor.write(result(0))
    log.idle()
    assert [line["domain"] and line["domain"]["looks"] for line in lines] == [None, 1]
    assert json.loads(json.dumps(lines[1]))["domain"]["state"] == "unknown"
