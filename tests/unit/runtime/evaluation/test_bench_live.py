"""Live runs without a camera: images that are replayed, ages of masks, memory that grows."""

import itertools

import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.evaluation.latency.capture_to_mask import live_source, run_live
from clst_runtime.sources.base import Source, SourceEnded
from clst_runtime.sources.replay import ReplaySource
from clst_runtime.system.memory import MemoryTrace, resident_bytes
from tests.conftest import SIZE_HW, write_labelled
from tests.support.shell import shell
from tests.unit.runtime.evaluation.test_bench import FakeBackend

PERIOD = 100_000_000
"""Nanoseconds at 10 frames a second."""


class Clock:
    """Time that passes only by sleeping or by hand."""

    def __init__(self):
        self.now = 5_000

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)


def replay(clock):
    images = [np.full((2, 2, 3), value, np.uint8) for value in (1, 2, 3)]
    return ReplaySource(images, fps=10.0, clock=clock, sleep=clock.sleep)


def test_frames_come_when_they_are_due_and_are_as_old_as_that():
    clock = Clock()
    source = replay(clock)
    first, second = source.take(1.0), source.take(1.0)
    assert (first.index, second.index) == (0, 1)
    assert (first.captured_ns, second.captured_ns) == (5_000, 5_000 + PERIOD)
    assert clock.now == 5_000 + PERIOD
    assert second.image[0, 0, 0] == 2
    assert source.drops.total() == 0


def test_who_comes_late_gets_the_newest_and_the_others_are_drops():
    clock = Clock()
    source = replay(clock)
    source.take(1.0)
    clock.now += 3 * PERIOD + 7
    late = source.take(1.0)
    assert (late.index, late.image[0, 0, 0]) == (3, 1)
    assert clock.now - late.captured_ns == 7
    assert source.drops == {"overtaken": 2}


def test_pictures_that_pass_while_the_model_is_warmed_up_are_known_at_its_end():
    clock = Clock()
    source = replay(clock)
    source.take(1.0)
    clock.now += 3 * PERIOD + 7
    assert source.status().drops == {"overtaken": 2}, "the third is the newest and may still be taken"
    assert source.take(1.0).index == 3
    assert source.status().drops == {"overtaken": 2}


def test_a_short_patience_ends_without_a_frame_and_loses_none():
    clock = Clock()
    source = replay(clock)
    source.take(1.0)
    assert source.take(0.06) is None
    assert source.take(0.06).index == 1
    assert source.drops.total() == 0


def test_nothing_to_replay_is_an_error():
    with pytest.raises(DataError, match="no images to replay"):
        ReplaySource([])


def test_a_live_run_lasts_its_time_and_knows_every_age():
    images = [np.zeros((*SIZE_HW, 3), np.uint8)]
    result = run_live(FakeBackend(milliseconds=2), ReplaySource(images, fps=50.0), 0.6, replayed_fps=50.0)
    assert len(result.ages_ns) == result.statistics["frames"]
    assert 5 <= result.statistics["frames"] <= 35
    assert min(result.ages_ns) > 2_000_000
    assert result.statistics["end"] == "the wanted time"


def test_a_model_slower_than_the_camera_drops_frames():
    result = run_live(FakeBackend(milliseconds=60), ReplaySource([np.zeros((*SIZE_HW, 3), np.uint8)], fps=50.0), 0.6)
    assert result.statistics["drops"]["overtaken"] > result.statistics["frames"]


class Silent(Source):
    """A camera that gives nothing, then goes."""

    live = True

    def __init__(self):
        super().__init__()
        self.closed = False

    def take(self, timeout_seconds):
        raise SourceEnded

    def close(self):
        self.closed = True


def test_a_source_without_a_frame_is_an_error_and_closed():
    source = Silent()
    with pytest.raises(DataError, match="not one frame"):
        run_live(FakeBackend(), source, 0.2)
    assert source.closed


def test_pictures_are_replayed_and_said_to_be(tmp_path):
    data = write_labelled(tmp_path / "data", count=2)
    source, fps = live_source(str(data / "images"))
    assert source.live
    assert fps == 30.0
    assert source.take(1.0).image.shape == (*SIZE_HW, 3)


def test_the_command_measures_glass_to_mask_alone(tmp_path, rgb_model):
    data = write_labelled(tmp_path / "data")
    done = shell("clst-bench", rgb_model, "--live", data / "images", "--seconds", "0.7", "--max-p99-ms", "10000")
    assert done.returncode == 0, done.stderr
    assert "capture-to-mask, ms" in done.stdout
    assert "host-to-host" not in done.stdout
    assert "replayed at 30 frames/s" in done.stdout
    done = shell("clst-bench", rgb_model, "--live", data / "images", "--seconds", "0.4", "--max-p99-ms", "0.0001")
    assert done.returncode == 6


def trace(values):
    clock, numbers = itertools.count(), iter(values)
    found = MemoryTrace(look=lambda: next(numbers), clock=lambda: next(clock))
    for _ in values:
        found.look()
    return found


def test_growth_is_what_comes_after_settling():
    mib = 2**20
    assert trace([mib * value for value in (1, 90, 100, 100, 100, 100, 100, 100)]).growth_mib() == 0.0
    assert (
        trace([mib * value for value in range(0, 160, 10)]).growth_mib() == 90.0
    )  # medians of 40 50 60 and 130 140 150
    assert trace([mib] * 7).growth_mib() is None
    assert trace([]).growth_mib() is None


def test_memory_is_looked_at_twice_a_second_however_often_one_asks():
    times = iter((0.0, 0.1, 0.49, 0.5, 0.6))
    found = MemoryTrace(look=lambda: 2**20, clock=lambda: next(times))
    for _ in range(5):
        found.look()
    assert found.samples_mib == [1.0, 1.0]


def test_this_process_has_memory(tmp_path):
    assert resident_bytes() > 2**20
    assert resident_bytes(tmp_path / "none") is None
    (tmp_path / "statm").write_text("nonsense")
    assert resident_bytes(tmp_path / "statm") is None
