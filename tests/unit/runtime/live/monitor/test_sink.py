"""The monitor in the live loop: when it looks, what it tells, what it keeps."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from clst_runtime.errors import ConfigError, ModelFileError
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.media import images_below
from clst_runtime.live.monitor.drift import HELD, LEAST_WINDOW, DriftDetector
from clst_runtime.live.monitor.sink import NO_REFERENCE, MonitorSink, open_monitor, scene_clock
from clst_runtime.live.pipeline import run_pipeline
from clst_runtime.sources.base import Source, SourceEnded
from tests.conftest import rgb_manifest
from tests.unit.runtime.live.monitor.conftest import HW, OTHER, image, prediction, result

LIVE = SimpleNamespace(live=True, fps=None)


class Told(list):
    def __call__(self, words):
        self.append(words)


def test_another_camera_is_told_once_and_its_frames_are_kept(manifest, tmp_path):
    told = Told()
    monitor = open_monitor(manifest, LIVE, collect=tmp_path / "new", every_seconds=10.0, report=told)
    needed = LEAST_WINDOW + HELD - 1
    for index in range(needed + 40):
        monitor.write(result(index, OTHER))
    assert len(told) == 1
    assert "this looks like another camera: shift" in told[0]
    found = images_below(tmp_path / "new")
    expected = [needed - 1 + 10 * place for place in range(5)]
    assert [(read_image(path) == image(index, OTHER)).all() for path, index in zip(found, expected, strict=True)] == (
        [True] * 5
    )
    snapshot = monitor.snapshot()
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert (snapshot["state"], snapshot["looks"], snapshot["alarms"]) == ("other", needed + 40, 1)
    assert (snapshot["collected"]["frames"], snapshot["reference_frames"]) == (5, 64)
    monitor.close()
    monitor.close()


def test_of_the_own_camera_nothing_is_told_and_nothing_kept(manifest, tmp_path):
    told = Told()
    monitor = open_monitor(manifest, LIVE, collect=tmp_path / "new", report=told)
    for index in range(150):
        monitor.write(result(index))
    assert (told, monitor.snapshot()["state"], list(tmp_path.iterdir())) == ([], "same", [])


def test_a_camera_that_freezes_as_another_one_is_not_collected_meanwhile(manifest, tmp_path):
    monitor = open_monitor(manifest, LIVE, collect=tmp_path / "new", every_seconds=0.0)
    needed = LEAST_WINDOW + HELD - 1
    for index in range(needed):
        monitor.write(result(index, OTHER))
    for index in range(20):
        monitor.write(result(needed + index, picture_=image(needed - 1, OTHER)))
    assert len(images_below(tmp_path / "new")) == 1
    assert monitor.snapshot()["state"] == "frozen"


def test_a_full_folder_is_told_once_and_watching_goes_on(manifest, tmp_path):
    told = Told()
    monitor = open_monitor(manifest, LIVE, collect=tmp_path / "new", report=told)
    monitor.collector.most_bytes = 10
    for index in range(LEAST_WINDOW + HELD + 9):
        monitor.write(result(index, OTHER))
    assert [words.partition(":")[0] for words in told] == [
        "this looks like another camera",
        "no more frames are collected",
    ]
    assert monitor.looks == LEAST_WINDOW + HELD + 9


def test_a_look_a_second_however_fast_the_camera_and_after_a_clock_that_went_back(manifest):
    monitor = open_monitor(manifest, LIVE)
    for index in range(301):  # 30 frames a second for ten seconds
        monitor.write(result(index, seconds=100 + index / 30))
    assert monitor.looks == 11
    monitor.write(result(302, seconds=5.0))
    monitor.write(result(303, seconds=5.5))
    assert monitor.looks == 12
    monitor.write(result(304, seconds=500.0))
    monitor.write(result(305, seconds=500.9))
    monitor.write(result(306, seconds=501.0))
    assert monitor.looks == 14


def test_looks_do_not_drift_when_the_camera_is_not_in_step(manifest):
    """Frames at 0, 0.7, 1.4, 2.1, 2.8 … 6.3 s; those at 0, 1.4, 2.1, 3.5, 4.2, 5.6, 6.3 are the first of a second."""
    monitor = open_monitor(manifest, LIVE)
    looked = []
    for index in range(10):
        before = monitor.looks
        monitor.write(result(index, seconds=0.7 * index))
        looked += [index] * (monitor.looks - before)
    assert looked == [0, 2, 3, 5, 6, 8, 9]


def test_time_is_the_scenes_of_a_camera_a_video_and_single_pictures():
    timed = SimpleNamespace(index=50, captured_ns=7_500_000_000)
    assert scene_clock(LIVE)(timed) == 7.5
    assert scene_clock(SimpleNamespace(live=False, fps=25.0))(timed) == 2.0
    assert scene_clock(SimpleNamespace(live=False, fps=None))(timed) == 50.0


def test_pictures_of_another_size_and_layout_are_judged_as_the_model_sees_them(manifest):
    """BGR at twice the size, blue: the judge must see the model's size and blue, not red."""
    seen = []
    monitor = open_monitor(manifest, LIVE)
    monitor.detector = SimpleNamespace(
        look=lambda frame, made: seen.append(frame.copy()) or watch_judgement, took_last=False
    )
    watch_judgement = DriftDetector(None, 3).status
    blue = np.zeros((2 * HW[0], 2 * HW[1], 3), np.uint8)
    blue[..., 0] = 200
    from clst_runtime.imaging.geometry import Layout

    given = result(0, picture_=blue)
    object.__setattr__(given.timed, "layout", Layout.BGR)
    monitor.write(given)
    assert seen[0].shape == (*HW, 3)
    assert seen[0].reshape(-1, 3).max(axis=0).tolist() == [0, 0, 200]


def test_without_a_reference_there_is_no_watch_and_it_is_said(tmp_path):
    told = Told()
    assert open_monitor(rgb_manifest(), LIVE, report=told) is None
    assert told == [NO_REFERENCE]
    assert "export it with --calib IMAGES" in NO_REFERENCE
    with pytest.raises(ModelFileError, match="--collect .*no reference in the model"):
        open_monitor(rgb_manifest(), LIVE, collect=tmp_path / "new")


def test_a_reference_of_another_model_is_refused(manifest):
    with pytest.raises(ModelFileError, match="damaged"):
        open_monitor(rgb_manifest(domain=manifest.domain, has_confidence=True), LIVE)


def test_a_period_of_no_length_is_refused(reference):
    with pytest.raises(ConfigError, match="give more than 0"):
        MonitorSink(DriftDetector(reference, 3), HW, scene_clock(LIVE), period_seconds=0.0)


class Pictures(Source):
    """Frames of one brightness after another."""

    def __init__(self, levels):
        super().__init__()
        self.left = list(enumerate(levels))

    def take(self, timeout_seconds):
        if not self.left:
            raise SourceEnded
        return result(*self.left.pop(0)).timed

    def close(self):
        self.left = []


def test_in_the_pipeline_a_change_of_camera_is_found_and_collected(manifest, tmp_path):
    backend = SimpleNamespace(manifest=manifest, predict=lambda frame: prediction(frame))
    told = Told()
    source = Pictures([100] * 40 + [OTHER] * 140)
    monitor = open_monitor(manifest, source, collect=tmp_path / "new", every_seconds=5.0, report=told)
    statistics = run_pipeline(source, backend, [monitor])
    assert (statistics.frames, Counter(statistics.drops)) == (180, Counter())
    assert len(told) == 1
    assert 0 < monitor.snapshot()["collected"]["frames"] <= 10
    assert len(images_below(tmp_path / "new")) == monitor.snapshot()["collected"]["frames"]


def test_a_run_too_short_to_be_sure_says_at_its_end_what_it_looked_like(manifest):
    told = Told()
    for level, looks in ((OTHER, LEAST_WINDOW + HELD - 2), (OTHER, LEAST_WINDOW - 1), (100, LEAST_WINDOW)):
        monitor = open_monitor(manifest, LIVE, report=told)
        for index in range(looks):
            monitor.write(result(index, level))
        monitor.close()
        monitor.close()
    assert [words.partition(" (")[0] for words in told] == ["this looks like another camera, but it is not sure yet"]


def test_a_watch_that_is_closed_says_that_it_no_longer_watches(manifest):
    monitor = open_monitor(manifest, LIVE)
    monitor.write(result(0))
    assert monitor.snapshot()["watching"] is True
    monitor.close()
    assert (monitor.snapshot()["watching"], monitor.snapshot()["looks"]) == (False, 1)
