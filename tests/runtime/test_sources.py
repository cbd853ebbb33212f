import time

import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.sources import live_address, open_source
from clst_runtime.sources.base import OVERTAKEN
from clst_runtime.sources.live import LiveSource


class FakeCamera:
    """Gives `count` frames, one every `pause` seconds; the frame's first pixel is its number, in BGR."""

    def __init__(self, *, count=1000, pause=0.002, opened=True, stall=False):
        self.count, self.pause, self.opened, self.stall, self.given, self.released = (
            count,
            pause,
            opened,
            stall,
            0,
            False,
        )

    def __call__(self, *arguments):
        return self

    def isOpened(self):  # noqa: N802
        return self.opened

    def get(self, _):
        return 30.0

    def read(self, into=None):
        time.sleep(0.5 if self.stall else self.pause)
        if self.given >= self.count:
            return False, None
        self.given += 1
        return True, np.full((2, 2, 3), (self.given - 1, 0, 7), np.uint8)

    def release(self):
        self.released = True


def test_a_live_source_gives_the_newest_frame_and_counts_the_others():
    camera = FakeCamera()
    with LiveSource("camera:0", camera, (0,), 2.0) as source:
        frames = iter(source)
        first = next(frames)
        time.sleep(0.1)
        second = next(frames)
        assert second.index > first.index + 5
        assert source.drops[OVERTAKEN] >= second.index - first.index - 2
        assert second.rgb[0, 0].tolist() == [7, 0, second.index]
    assert camera.released


def test_a_stream_that_ends_ends_the_loop_with_a_warning():
    with LiveSource("rtsp://x", FakeCamera(count=1), ("rtsp://x",), 1.0) as source:
        assert len(list(source)) == 1
        assert "ended" in source.warnings[0]


def test_an_absent_camera_is_one_clear_error():
    with pytest.raises(DataError, match="cannot be opened"):
        open_source("camera:3", capture=FakeCamera(opened=False))


def test_addresses_of_live_sources():
    assert live_address("camera:2") == (2, ())
    assert live_address("0") == (0, ())
    assert live_address("/dev/video1") == (1, ())
    assert live_address("rtsp://a/b")[0] == "rtsp://a/b"
    assert live_address("nonsense")[0] is None


def test_a_video_with_fewer_frames_than_announced_is_warned_of(tmp_path):
    class Video(FakeCamera):
        def get(self, what):
            return 25.0 if what == 5 else 10

    path = tmp_path / "v.mp4"
    path.write_bytes(b"x")
    with open_source(str(path), capture=Video(count=4, pause=0)) as source:
        assert len(list(source)) == 4
        assert "4 of 10" in source.warnings[0]


def test_a_video_without_a_frame_is_damaged(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"x")
    with (
        open_source(str(path), capture=FakeCamera(count=0, pause=0)) as source,
        pytest.raises(DataError, match="damaged"),
    ):
        list(source)
