import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.imaging.videos import count_frames
from clst_runtime.sources import open_source
from clst_train.data import target as target_module
from clst_train.data import video_store
from clst_train.data.target import open_target
from clst_train.data.video_store import FrameFile
from tests.fakes.videos import jpeg, plain, write_avi, write_mkv

SIZE_HW = (16, 32)


def numbered(path, count, first=0):
    """A video whose n-th frame has the grey 2·n in its right half."""
    return write_avi(path, [jpeg(plain(2 * number)) for number in range(first, first + count)])


def numbers(target):
    return [round(int(target[place][0, -1, 0]) / 2) for place in range(len(target))]


def test_each_nth_frame_is_taken_and_said(tmp_path):
    target = open_target([str(numbered(tmp_path / "v.avi", 10))], input_hw=SIZE_HW, every=4)
    assert numbers(target) == [0, 4, 8]
    assert target.remarks == (f"{tmp_path}/v.avi: 3 of 10 frames are taken, one in 4",)
    assert target.sizes == (SIZE_HW,) * 3


def test_of_long_videos_so_many_are_taken_that_there_are_not_too_many_in_all(tmp_path, monkeypatch):
    places = [str(numbered(tmp_path / "a.avi", 7)), str(numbered(tmp_path / "b.avi", 5, 50))]
    assert numbers(open_target(places, input_hw=SIZE_HW, every=0)) == [*range(7), *range(50, 55)]
    monkeypatch.setattr(target_module, "MOST_FRAMES", 4)
    assert numbers(open_target(places, input_hw=SIZE_HW, every=0)) == [0, 3, 6, 50, 53]


def test_a_video_that_is_named_twice_counts_once(tmp_path):
    path = numbered(tmp_path / "v.avi", 3)
    (tmp_path / "link.avi").symlink_to(path)
    target = open_target([str(path), str(tmp_path / "link.avi")], input_hw=SIZE_HW)
    assert numbers(target) == [0, 1, 2]
    assert "1 target images or videos have several names" in target.remarks[0]


def test_only_the_frames_that_are_chosen_are_decoded_and_each_video_once(tmp_path, monkeypatch):
    places = [str(numbered(tmp_path / "a.avi", 6)), str(numbered(tmp_path / "b.avi", 6, 50))]
    opened = []
    monkeypatch.setattr(
        video_store, "open_video", lambda path, real=video_store.open_video: opened.append(path) or real(path)
    )
    target = open_target(places, input_hw=SIZE_HW, choose=lambda total: [1, total // 2, total - 1])
    assert numbers(target) == [1, 50, 55]
    assert [path.name for path in opened] == ["a.avi", "b.avi"]
    assert [path.name for path in target.origins] == ["a.avi", "b.avi", "b.avi"]


def test_for_a_damaged_frame_the_next_one_serves(tmp_path):
    packets = [jpeg(plain(2 * number)) for number in range(8)]
    packets[3] = bytes(300)
    path = str(write_avi(tmp_path / "v.avi", packets))
    target = open_target([path], input_hw=SIZE_HW, every=3)
    assert numbers(target) == [0, 4, 6]
    assert "left out: 1" in target.remarks[0]
    assert numbers(open_target([path], input_hw=SIZE_HW)) == [0, 1, 2, 4, 5, 6, 7]


def test_a_video_that_ends_early_gives_as_many_as_were_asked_for(tmp_path):
    packets = [jpeg(plain(2 * number)) for number in range(6)] + [bytes(300)] * 6
    path = str(write_avi(tmp_path / "v.avi", packets))
    target = open_target([path], input_hw=SIZE_HW, choose=lambda total: [0, total // 2, total - 1])
    assert numbers(target) == [0, 3, 5]


def test_frames_are_the_same_each_time_they_are_read_and_by_any_thread(tmp_path):
    rng = np.random.default_rng(0)
    path = write_avi(tmp_path / "v.avi", [jpeg(rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)) for _ in range(20)])
    target, again = (open_target([str(path)], input_hw=(9, 15)) for _ in range(2))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda place: target[place % 20], range(200)))
    assert all(np.array_equal(frame, again[place % 20]) for place, frame in enumerate(read))


def test_frames_that_the_disk_has_no_room_for_are_refused_with_the_cure(tmp_path, monkeypatch):
    path = numbered(tmp_path / "v.avi", 10)
    monkeypatch.setattr(video_store.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"10 frames of videos need 0\.0 GiB in .*give shorter videos.*TMPDIR"):
        open_target([str(path)], input_hw=SIZE_HW)
    with pytest.raises(DataError, match="ask for fewer"):
        open_target([str(path)], input_hw=SIZE_HW, choose=range)


def test_a_disk_that_fills_up_meanwhile_is_told(tmp_path):
    code = """
import resource, numpy as np
from clst_train.data.video_store import FrameFile
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
file = FrameFile(100, (64, 64), 0, "")
try:
    [file.append(np.zeros((64, 64, 3), np.uint8)) for _ in range(100)]
except Exception as error:
    print(type(error).__name__, error.message)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert told.startswith("DataError")
    assert "no room for frames of videos" in told


def test_no_file_with_a_name_is_left_even_while_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    file = FrameFile(2, (4, 4), 5, "")
    file.append(np.full((4, 4, 3), 7, np.uint8))
    assert list(tmp_path.iterdir()) == []
    assert (list(file), len(file)) == ([5], 1)
    assert file[5].tolist() == np.full((4, 4, 3), 7).tolist()
    with pytest.raises(KeyError):
        file[6]


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    """Sixteen times the frames, 60 MiB of them, take less than 20 MiB more."""
    noise = [jpeg(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for seed in range(4)]
    code = """
import resource, sys
from clst_train.data.target import open_target
target = open_target([sys.argv[1]], input_hw=(256, 320))
print(len(target), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (16, 256):
        path = write_avi(tmp_path / f"{count}.avi", [noise[place % 4] for place in range(count)], (64, 64))
        told = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        taken, peak = map(int, told.stdout.split())
        assert taken == count
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 20 * 1024


def test_frames_are_counted_without_being_decoded(tmp_path):
    assert count_frames(numbered(tmp_path / "v.avi", 7)) == 7
    assert count_frames(write_mkv(tmp_path / "v.mkv", [plain(20)] * 3, seconds=9)) == 3
    (tmp_path / "t.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    with pytest.raises(DataError, match="t.mp4"):
        count_frames(tmp_path / "t.mp4")


@pytest.mark.parametrize("every", [0, 1])
def test_a_video_without_a_frame_is_refused_in_one_line(tmp_path, every):
    with pytest.raises(DataError, match=r"v\.avi: not one frame could be read"):
        open_target([str(write_avi(tmp_path / "v.avi", [bytes(200)] * 3))], input_hw=SIZE_HW, every=every)


def turned(path, degrees):
    """A video of 32 rows and 64 columns that asks to be shown turned, as phones write it."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 32))
    for level in (40, 120, 200):
        writer.write(plain(level, (32, 64)))
    writer.release()
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_video_is_the_same_for_training_and_for_driving(tmp_path, degrees):
    path = turned(tmp_path / "v.mp4", degrees)
    size_hw = (64, 32) if degrees in (90, 270) else (32, 64)
    target = open_target([str(path)], input_hw=size_hw)
    with open_source(str(path)) as source:
        driven = [timed.rgb for timed in source]
    assert target.sizes == (size_hw,) * 3
    assert all(np.array_equal(target[place], frame) for place, frame in enumerate(driven))
    bright = driven[1][:, :, 0] > 60
    rows, columns = np.nonzero(bright)
    where = (rows.mean() / size_hw[0] > 0.5, columns.mean() / size_hw[1] > 0.5)
    assert where[1] == (degrees == 0) if degrees in (0, 180) else where[0] == (degrees == 90)
