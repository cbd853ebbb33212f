"""The next target set: bounded, whole, in order, and what clst-train takes."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.media import images_below
from clst_runtime.live.monitor import collector as module
from clst_runtime.live.monitor.collector import Collector
from clst_runtime.sources import TimedFrame
from clst_train.data.target import open_target


def image(seed=0, hw=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


def timed(pixels, **facts):
    return TimedFrame(index=0, image=pixels, captured_ns=0, name="000000", **facts)


def free(monkeypatch, count):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=count))


def test_pictures_are_kept_to_the_bit_at_the_cameras_size_red_green_blue(tmp_path):
    red = np.zeros((6, 10, 3), np.uint8)
    red[..., 0] = 255
    path = Collector(tmp_path / "new").save(timed(red), 0.0)
    assert (read_image(path) == red).all()


def test_the_folder_is_a_target_of_clst_train(tmp_path):
    collector = Collector(tmp_path / "new")
    for index in range(3):
        collector.save(timed(image(index)), 10.0 * index)
    images = open_target([str(tmp_path / "new")], input_hw=(20, 30))
    assert [(images[place] == image(place)).all() for place in range(len(images))] == [True] * 3


def test_at_most_one_in_n_seconds(tmp_path):
    collector = Collector(tmp_path, every_seconds=2.0)
    saved = []
    for tenth in range(0, 100):
        if collector.is_due(tenth / 10):
            collector.save(timed(image(tenth)), tenth / 10)
            saved.append(tenth)
    assert saved == [0, 20, 40, 60, 80]
    assert collector.is_due(3.0)  # a clock that went back must not stop it for ever
    assert not collector.is_due(9.9)


def test_a_second_run_goes_on_counting_names_and_bytes(tmp_path):
    first = Collector(tmp_path)
    paths = [first.save(timed(image(index)), float(index)) for index in range(2)]
    (tmp_path / "notes.txt").write_text("of somebody else")
    (tmp_path / ".00000009-unfinished.png").write_bytes(b"x" * 5000)
    second = Collector(tmp_path)
    assert second.held_bytes == sum(path.stat().st_size for path in paths) == first.held_bytes
    paths.append(second.save(timed(image(2)), 0.0))
    assert [path.name[:9] for path in paths] == ["00000001-", "00000002-", "00000003-"]
    assert images_below(tmp_path) == paths
    assert (second.written, first.written) == (1, 2)


def test_it_ends_before_the_folder_holds_more_than_allowed(tmp_path):
    collector = Collector(tmp_path, most_mib=1)
    noise = image(hw=(300, 400))  # 360 kB that cannot be compressed: two fit into a MiB
    saved = [collector.save(timed(noise), 10.0 * index) for index in range(3)]
    assert [path is not None for path in saved] == [True, True, False]
    assert "holds 0 MiB, 1 allowed" in collector.stopped
    assert not collector.is_due(1e9)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == collector.held_bytes <= 1 << 20
    assert Collector(tmp_path, most_mib=1).save(timed(noise), 0.0) is None  # nor does the next run


def test_the_disks_floor_is_kept(tmp_path, monkeypatch):
    collector = Collector(tmp_path)
    free(monkeypatch, module.FREE_FLOOR_BYTES + 10_000)
    assert collector.save(timed(image()), 0.0) is not None
    free(monkeypatch, module.FREE_FLOOR_BYTES + 100)
    assert collector.save(timed(image()), 9.0) is None
    assert "less than 64 MiB would be free" in collector.stopped
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_fails_stops_collecting_and_leaves_nothing_half(tmp_path, monkeypatch):
    collector = Collector(tmp_path / "new")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert collector.save(timed(image()), 0.0) is None
    assert "No space left on device" in collector.stopped
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("bounds", [{"every_seconds": -1.0}, {"most_mib": 0}])
def test_bounds_without_sense_are_refused(tmp_path, bounds):
    with pytest.raises(ConfigError, match="give at least 0 s and 1 MiB"):
        Collector(tmp_path, **bounds)


def test_a_file_in_place_of_the_folder_is_refused_before_driving(tmp_path):
    (tmp_path / "new").write_text("")
    with pytest.raises(DataError, match="is a file; give --collect a folder"):
        Collector(tmp_path / "new")


def test_nothing_is_made_before_the_first_picture(tmp_path):
    Collector(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
