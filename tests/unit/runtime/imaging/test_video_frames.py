import subprocess
import sys

import cv2
import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.imaging.containers import is_cut
from clst_runtime.imaging.decoder_messages import overheard
from clst_runtime.imaging.video_frames import Frames, VideoFile
from clst_runtime.sources import open_source
from clst_runtime.sources.address import LiveAddress
from clst_runtime.sources.base import CORRUPT
from clst_runtime.sources.live import LiveSource, Timeouts
from tests.fakes.videos import jpeg, plain, write_avi, write_mkv

LEVELS = [20, 60, 100, 140, 180]
IMAGE_FOLDERS = [plain(level) for level in LEVELS]
REFUSES_INTERLACED = tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 13)


def levels(path):
    """Of each frame its position, and the grey of its right half to the nearest of `LEVELS`; then the warnings."""
    with open_source(str(path)) as source:
        read = {timed.index: min(LEVELS, key=lambda level: abs(level - int(timed.rgb[0, -1, 0]))) for timed in source}
        return read, source.warnings


def whole(*values):
    return dict(enumerate(values))


def test_a_whole_file_is_read_without_a_warning(tmp_path):
    assert levels(write_avi(tmp_path / "v.avi", list(map(jpeg, IMAGE_FOLDERS)))) == (whole(*LEVELS), [])
    assert levels(write_mkv(tmp_path / "v.mkv", IMAGE_FOLDERS)) == (whole(*LEVELS), [])


def test_frames_of_an_interlaced_video_are_right_or_refused_with_the_cure(tmp_path):
    path = write_mkv(tmp_path / "v.mkv", IMAGE_FOLDERS, interlaced=True)
    if not REFUSES_INTERLACED:
        assert levels(path) == (whole(*LEVELS), [])
        return
    with pytest.raises(DataError, match=r"v.mkv: frame 0: its frames are interlaced.*: ffmpeg -i v.mkv -vf yadif"):
        levels(path)


@pytest.mark.skipif(not REFUSES_INTERLACED, reason="this OpenCV converts interlaced frames")
def test_interlaced_frames_of_a_stream_are_corrupt_and_none_is_handed_out(tmp_path):
    path = write_mkv(tmp_path / "v.mkv", IMAGE_FOLDERS, interlaced=True)
    timeouts = Timeouts(start_seconds=0.2, first_pause_seconds=0.01)
    with LiveSource("rtsp://x", LiveAddress(kind="stream", place=str(path)), timeouts) as source:
        with pytest.raises(DataError, match="its frames are interlaced|gives no frames"):
            for _ in range(600):
                assert source.take(0.05) is None
        assert source.drops[CORRUPT] >= 5


def test_that_interlaced_frames_are_refused_stands_in_one_line_and_none_comes_from_ffmpeg(tmp_path):
    path = write_mkv(tmp_path / "v.mkv", IMAGE_FOLDERS, interlaced=True)
    code = f"from clst_runtime.sources import open_source\nwith open_source({str(path)!r}) as s: print(len(list(s)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "swscaler" not in told
    assert ("interlaced" in told) == REFUSES_INTERLACED


@pytest.mark.skipif(not REFUSES_INTERLACED, reason="this OpenCV converts interlaced frames")
def test_silencing_ffmpeg_does_not_hide_what_was_not_converted(tmp_path, monkeypatch):
    path = write_mkv(tmp_path / "v.mkv", IMAGE_FOLDERS, interlaced=True)
    code = f"from clst_runtime.sources import open_source\nwith open_source({str(path)!r}) as s: print(len(list(s)))"
    for name in ("OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_DEBUG"):
        monkeypatch.setenv(name, "-8")
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "are interlaced" in ended.stderr


@pytest.mark.parametrize("closed", ["2", "0 and 2"])
def test_without_a_standard_error_frames_are_checked_all_the_same(tmp_path, closed):
    path = write_mkv(tmp_path / "v.mkv", IMAGE_FOLDERS)
    code = f"from clst_runtime.sources import open_source\nwith open_source({str(path)!r}) as s: print(len(list(s)))"
    shell = f'exec "$0" -c "$1" 2>&- {"<&-" if "0" in closed else ""}'
    ended = subprocess.run(["sh", "-c", shell, sys.executable, code], stdout=subprocess.PIPE, text=True)
    assert ended.stdout == "5\n"


def test_a_video_in_which_nothing_moves_is_read_in_full(tmp_path):
    black = [np.zeros((32, 48, 3), np.uint8)] * 4
    assert levels(write_mkv(tmp_path / "black.mkv", black)) == (whole(20, 20, 20, 20), [])
    assert levels(write_avi(tmp_path / "black.avi", list(map(jpeg, black)), (32, 48)))[1] == []


class Swscale:
    """A capture by FFmpeg that gives frames by a plan: a value, `same` for one that was not converted, `gone`."""

    def __init__(self, plan, orientation=0):
        self.plan, self.orientation, self.place, self.asked = list(plan), orientation, -1, 0
        self.memory = np.full((4, 6, 3), 77, np.uint8)

    def __call__(self, _):
        return self

    def isOpened(self):  # noqa: N802
        return True

    def getBackendName(self):  # noqa: N802
        return "FFMPEG"

    def get(self, what):
        return {5: 25.0, 7: len(self.plan), 48: self.orientation}.get(what, 0.0)

    def grab(self):
        self.place += 1
        return self.place < len(self.plan) and self.plan[self.place] != "gone"

    def retrieve(self, into=None):
        self.asked += 1
        what = self.plan[self.place]
        if what == "same":
            import os

            os.write(2, b"[swscaler @ 0x5] Cannot convert interlaced to progressive frames\n")
        else:
            self.memory[...] = what
        if self.orientation == 180:
            self.memory[...] = self.memory[::-1, ::-1].copy()
        return True, self.memory.copy()

    def release(self):
        pass


def seen(plan, **options):
    capture = Swscale(plan, **options)
    frames, values = Frames(capture), []
    for _ in plan:
        assert frames.grab()
        image = frames.retrieve()
        values.append(None if image is None else int(image[0, 0, 0]))
    return values, capture.asked


def test_a_frame_that_was_not_converted_is_found_wherever_it_stands():
    assert seen(["same", "same", 5, 6, "same", 7, "same", 8]) == ([None, None, 5, 6, None, 7, None, 8], 8)
    assert seen([5, 6, "same", 7, "same"]) == ([5, 6, None, 7, None], 6)
    assert seen([5, 5, 5, 6]) == ([5, 5, 5, 6], 6), "equal ones are asked about once more, and taken"
    assert seen([5, "same", "same", 6], orientation=180)[0] == [5, None, None, 6]


def test_what_else_is_written_meanwhile_goes_where_it_was_meant_to_go(capfd):
    def call():
        print("another line", file=sys.__stderr__, flush=True)
        import os

        os.write(2, b"by a decoder: 3 extraneous bytes before marker 0xd9\n")
        return 7

    assert overheard(call) == (7, "")
    assert capfd.readouterr().err == "another line\nby a decoder: 3 extraneous bytes before marker 0xd9\n"


def test_beside_a_complaint_other_lines_go_on_too(capfd):
    import os

    lines = b"[swscaler @ 1] Cannot convert\n (Invalid argument): fmt:yuv420p\nof another thread\n"
    assert overheard(lambda: os.write(2, lines)) == (len(lines), "[swscaler @ 1] Cannot convert")
    assert capfd.readouterr().err == "of another thread\n"


def test_an_error_meanwhile_leaves_standard_error_as_it_was(capfd):
    with pytest.raises(ZeroDivisionError):
        overheard(lambda: 1 // 0)
    print("after", file=sys.__stderr__)
    assert capfd.readouterr().err == "after\n"


def test_a_damaged_packet_in_the_middle_costs_one_frame_and_the_others_keep_their_places(tmp_path):
    packets = list(map(jpeg, IMAGE_FOLDERS))
    packets[2] = bytes(len(packets[2]))
    read, (warning,) = levels(write_avi(tmp_path / "v.avi", packets))
    assert read == {0: 20, 1: 60, 3: 140, 4: 180}
    assert warning == f"{tmp_path}/v.avi: damaged frames were left out: 1"


def test_a_frame_that_is_cut_short_is_left_out(tmp_path):
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(4)]
    packets = list(map(jpeg, images))
    packets[1] = packets[1][: len(packets[1]) // 2]
    with open_source(str(write_avi(tmp_path / "v.avi", packets, (64, 64)))) as source:
        assert [timed.index for timed in source] == [0, 2, 3]
        assert "left out: 1" in source.warnings[0]


def test_a_source_of_which_the_decoder_always_complains_has_a_habit(tmp_path):
    rng = np.random.default_rng(3)
    packets = [jpeg(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))[:-200] for _ in range(4)]
    with open_source(str(write_avi(tmp_path / "v.avi", packets, (64, 64)))) as source:
        assert [timed.index for timed in source] == [0, 1, 2, 3]


def test_many_damaged_packets_in_a_row_do_not_end_a_file(tmp_path):
    packets = [jpeg(IMAGE_FOLDERS[0]), *[bytes(200)] * 60, jpeg(IMAGE_FOLDERS[4])]
    read, (warning,) = levels(write_avi(tmp_path / "v.avi", packets))
    assert read == {0: 20, 61: 180}
    assert "left out: 60" in warning


def test_a_file_that_gives_no_frame_is_damaged(tmp_path):
    with pytest.raises(DataError, match=r"v.avi: not one frame could be read; the file is damaged"):
        levels(write_avi(tmp_path / "v.avi", [bytes(200)] * 3))


def test_a_whole_file_whose_length_is_rounded_up_is_not_called_truncated(tmp_path):
    assert levels(write_mkv(tmp_path / "v.mkv", IMAGE_FOLDERS, seconds=6 / 25)) == (whole(*LEVELS), [])


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_truncated_file_is_called_so(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    if suffix == ".avi":
        write_avi(path, list(map(jpeg, IMAGE_FOLDERS)))
    elif suffix == ".mkv":
        write_mkv(path, IMAGE_FOLDERS)
    else:
        index_in_front(mp4_of_noise(path))
    content = path.read_bytes()
    assert not is_cut(path)
    path.write_bytes(content[: len(content) * 2 // 3])
    read, warnings = levels(path)
    assert 0 < len(read) < 5
    assert any(f"{max(read) + 1} of 5 announced frames could be read; it is truncated" in told for told in warnings)


def mp4_of_noise(path):
    rng = np.random.default_rng(3)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 64))
    for _ in range(5):
        writer.write(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def index_in_front(path):
    """Put an MP4 file's index before its frames, so that it can be read when its end is missing."""
    content, boxes, place = path.read_bytes(), {}, 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        boxes[content[place + 4 : place + 8]] = (place, content[place : place + size])
        place += size
    index = bytearray(boxes[b"moov"][1])
    moved = len(boxes[b"ftyp"][1]) + len(index) - boxes[b"mdat"][0]
    first = index.index(b"stco") + 12
    for at in range(first, first + 4 * int.from_bytes(index[first - 4 : first], "big"), 4):
        index[at : at + 4] = (int.from_bytes(index[at : at + 4], "big") + moved).to_bytes(4, "big")
    path.write_bytes(boxes[b"ftyp"][1] + bytes(index) + boxes[b"mdat"][1])


def test_a_recording_without_a_known_length_is_not_called_truncated(tmp_path):
    path = write_mkv(tmp_path / "v.mkv", IMAGE_FOLDERS)
    content = path.read_bytes()
    at = content.index(b"\x18\x53\x80\x67") + 4
    path.write_bytes(content[:at] + b"\x01" + b"\xff" * 7 + content[at + 8 :])
    assert levels(path) == (whole(*LEVELS), [])


@pytest.mark.parametrize("content", [b"", b"a text\n" * 50, b"\0\0\0\x18ftypisom", bytes(5000)])
def test_what_is_no_video_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"v\.mp4: not (an? .*video|one frame)") as refused:
        list(open_source(str(path)))
    assert "\n" not in refused.value.message


def test_positions_stay_right_when_frames_are_passed_over(tmp_path):
    packets = list(map(jpeg, IMAGE_FOLDERS))
    packets[1] = bytes(300)
    video = VideoFile(write_avi(tmp_path / "v.avi", packets))
    assert video.skip()
    assert video.read() is not None
    assert (video.position, video.damaged) == (2, 1)
    video.close()
