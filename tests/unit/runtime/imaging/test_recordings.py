"""Recordings by the public writers of MCAP and rosbag2. A frame is grey, and its level says which one it is."""

import subprocess
import sys

import numpy as np
import pytest

from clst_runtime.data.inputs import check_place, images_of, place_name
from clst_runtime.errors import ConfigError, DataError, MissingDependency
from clst_runtime.imaging.videos import count_frames, open_video
from clst_runtime.sources import open_source
from clst_runtime.sources.base import CORRUPT, OVERTAKEN, SourceEnded
from clst_runtime.sources.files import PlayedSource
from clst_train.data.target import open_target
from clst_train.data.video_store import frames_at
from tests.support.recordings import (
    SECOND,
    coded_video,
    drive,
    image,
    message,
    picture,
    plain,
    text,
    write_bag,
    write_foxglove,
    write_mcap,
)

pytest.importorskip("mcap")
pytest.importorskip("rosbags")

IMAGE, PICTURE, VIDEO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "foxglove_msgs/msg/CompressedVideo"


def read(place):
    """Of each frame its position and level; then the warnings."""
    with open_source(str(place)) as source:
        return [(timed.index, int(timed.rgb[0, 0, 0])) for timed in source], source.warnings


def refusal(place, error=DataError):
    with pytest.raises(error) as refused:
        open_video(place).read()
    assert "\n" not in refused.value.message
    return refused.value.message


@pytest.fixture(params=["drive.mcap", "sqlite3", "mcap"])
def recording(request, tmp_path):
    """A file, and folders with either storage: levels 10, 20, 30."""
    if request.param == "drive.mcap":
        return write_mcap(tmp_path / "drive.mcap", drive([10, 20, 30]))
    return write_bag(tmp_path / "bag", drive([10, 20, 30]), request.param)


def test_frame_k_of_a_recording_is_frame_k_of_a_run_with_its_stamp(recording):
    with open_source(str(recording)) as source:
        frames = [*source]
        assert source.fps == pytest.approx(10)
        assert source.warnings == []
    assert [timed.index for timed in frames] == [0, 1, 2]
    assert [int(timed.rgb[0, 0, 0]) for timed in frames] == [10, 20, 30]
    assert [timed.stamp_ns for timed in frames] == [1_000_000_005, 1_100_000_005, 1_200_000_005]
    assert {(timed.frame_id, timed.name, timed.size_hw) for timed in frames} >= {("front", "000001", (2, 4))}


def test_frames_are_counted_and_any_one_is_gone_to(recording):
    assert count_frames(recording) == 3
    video = open_video(recording)
    assert [(int(frame[0, 0, 0]), video.position) for frame in frames_at(video, [0, 2])] == [(10, 0), (30, 2)]
    video.close()


def test_a_target_takes_the_frames_of_a_topic_as_of_a_video(tmp_path):
    topics = {**drive([10, 20, 30, 40], topic="/front"), **drive([99], topic="/rear")}
    place = f"{write_mcap(tmp_path / 'd.mcap', topics)}?topic=/front"
    check_place(tmp_path / "d.mcap?topic=/front")
    target = open_target([place], input_hw=(2, 4), every=2)
    assert [int(target[index][0, 0, 0]) for index in range(len(target))] == [10, 30]
    assert target.sizes == ((2, 4), (2, 4))
    assert place_name(place) == "d.mcap?topic=/front"


def test_a_frame_without_a_stamp_has_the_time_of_its_recording(tmp_path):
    path = write_mcap(tmp_path / "d.mcap", {"/front": (IMAGE, [(7 * SECOND, image(plain(1)))])})
    with open_source(str(path)) as source:
        assert [timed.stamp_ns for timed in source] == [7 * SECOND]
        assert source.fps is None


def test_a_frame_of_yuv_keeps_its_layout(tmp_path):
    yuyv = np.full((2, 4, 2), 128, np.uint8)
    path = write_mcap(tmp_path / "d.mcap", {"/front": (IMAGE, [(1, image(yuyv, encoding="yuv422_yuy2"))])})
    with open_source(str(path)) as source:
        (timed,) = source
    assert timed.layout.value == "yuyv"
    assert timed.size_hw == (2, 4)
    assert timed.rgb[0, 0].tolist() == [130, 130, 130]  # 1.164 · (128 − 16)


def test_compressed_pictures_are_read_and_a_damaged_one_is_left_out(tmp_path):
    good = [picture(plain(level)) for level in (10, 30)]
    broken = message(PICTURE, 0, "front", format="jpeg", data=np.zeros(9, np.uint8))
    path = write_mcap(tmp_path / "d.mcap", {"/front": (PICTURE, [(1, good[0]), (2, broken), (3, good[1])])})
    frames, warnings = read(path)
    assert frames == [(0, 10), (2, 30)]
    assert warnings == [f"{path}: damaged frames were left out: 1 (no picture of format 'jpeg')"]


def test_the_order_is_that_of_log_times_whatever_that_in_the_file(tmp_path):
    topics = drive([10, 20, 30, 40])
    kind, messages = topics["/front"]
    mixed = [messages[place] for place in (2, 0, 3, 1)]
    for chunk_size in (1, 1 << 20):
        path = write_mcap(tmp_path / f"{chunk_size}.mcap", {"/front": (kind, mixed)}, chunk_size=chunk_size)
        assert [level for _, level in read(path)[0]] == [10, 20, 30, 40]
        video = open_video(path)
        video.skip_to(3)
        assert int(video.read()[0, 0, 0]) == 40
        video.close()


def test_frames_of_equal_log_times_are_all_found(tmp_path):
    messages = [(5, image(plain(level))) for level in (10, 20, 30, 40)]
    path = write_mcap(tmp_path / "d.mcap", {"/front": (IMAGE, messages)}, chunk_size=1)
    video = open_video(path)
    assert [int(frame[0, 0, 0]) for frame in frames_at(video, [1, 3])] == [20, 40]
    video.close()


def test_stamps_that_go_back_are_said_and_frames_come_as_they_were_recorded(tmp_path):
    stamps = [5, 6, 2, 3, 1]
    messages = [(number, image(plain(number), stamp_ns=stamp)) for number, stamp in enumerate(stamps)]
    path = write_mcap(tmp_path / "d.mcap", {"/front": (IMAGE, messages)})
    frames, warnings = read(path)
    assert frames == [(number, number) for number in range(5)]
    assert warnings == [f"{path}: time goes back 2 times, first at frame 2; frames are taken in the order of recording"]


@pytest.mark.parametrize("options", [{"chunk_size": 1, "compression": "NONE"}, {"use_chunking": False}])
def test_of_a_recording_that_was_cut_every_whole_frame_is_read(tmp_path, options):
    whole = write_mcap(tmp_path / "whole.mcap", drive([10, 20, 30]), **options).read_bytes()
    place = whole.index(bytes([30] * 24))  # within the last frame's pixels
    path = tmp_path / "cut.mcap"
    path.write_bytes(whole[: place + 12])
    frames, warnings = read(path)
    assert frames == [(0, 10), (1, 20)]
    assert warnings == [f"{path}: it is truncated; 2 frames of /front are whole"]
    assert count_frames(path) == 2


def test_of_a_recording_that_was_cut_before_its_first_frame_nothing_can_be_read(tmp_path):
    path = tmp_path / "cut.mcap"
    path.write_bytes(write_mcap(tmp_path / "whole.mcap", drive([10])).read_bytes()[:60])
    assert refusal(path) == (
        f"{path}: it is truncated, and in what is whole of it is no topic with images; its topics are none"
    )


def test_a_bag_whose_file_was_cut_is_refused_with_the_file_to_read(tmp_path):
    bag = write_bag(tmp_path / "bag", drive([10, 20, 30]), "mcap")
    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-20])
    assert f"what is whole of a file broken off is read by its own name, e.g. {file}" in refusal(bag)
    assert [level for _, level in read(file)[0]] == [10, 20, 30]


def test_a_database_that_was_cut_is_refused_in_a_line(tmp_path):
    bag = write_bag(tmp_path / "bag", drive([10] * 40))
    (file,) = bag.glob("*.db3")
    file.write_bytes(file.read_bytes()[:5000])
    assert "malformed" in refusal(bag)


def test_a_file_of_a_rosbag2_without_its_folder_is_read(tmp_path):
    bag = write_bag(tmp_path / "bag", drive([10, 20]))
    (bag / "metadata.yaml").unlink()
    (file,) = bag.glob("*.db3")
    assert read(file)[0] == [(0, 10), (1, 20)]
    with pytest.raises(DataError, match=r"1 videos are left out, e.g. .*\.db3; name a video itself"):
        images_of(bag)


def test_where_several_topics_have_images_they_are_listed(tmp_path):
    topics = {**drive([10, 20]), **drive([30], topic="/rear"), "/words": ("std_msgs/msg/String", [(1, text("a"))])}
    path = write_mcap(tmp_path / "d.mcap", topics)
    listed = "/front (sensor_msgs/msg/Image, 2 messages), /rear (sensor_msgs/msg/Image, 1 messages)"
    assert refusal(path) == f"{path}: several topics have images: {listed}; choose one, as {path}?topic=/front"
    assert read(f"{path}?topic=/rear")[0] == [(0, 30)]
    assert listed in refusal(tmp_path / "d.mcap?topic=/frond")
    assert "'/front'" in refusal(tmp_path / "d.mcap?topic=/frond")
    assert f"topic /words holds std_msgs/msg/String, no images; with images are {listed}" in refusal(
        tmp_path / "d.mcap?topic=/words"
    )


def test_a_recording_without_images_lists_its_topics(tmp_path):
    topics = {"/words": ("std_msgs/msg/String", [(1, text("a"))]), "/front": (IMAGE, [])}
    for path in (write_mcap(tmp_path / "d.mcap", topics), write_bag(tmp_path / "bag", topics)):
        assert "no topic with images; its topics are /" in refusal(path)
        assert "/words (std_msgs/msg/String, 1 messages)" in refusal(path)


def test_an_encoding_that_is_not_read_is_refused_with_its_topic(tmp_path):
    bayer = image(np.zeros((2, 4), np.uint8), encoding="bayer_rggb8")
    path = write_mcap(tmp_path / "d.mcap", {"/front": (IMAGE, [(1, bayer)])})
    assert refusal(path).startswith(f"{path}: topic /front, frame 0: encoding 'bayer_rggb8' is a raw Bayer mosaic")


@pytest.mark.parametrize(
    ("options", "words"),
    [("topik=/a", "did you mean 'topic'"), ("rate=0", "rate '0'"), ("rate=x", "rate 'x'"), ("front", "option 'front'")],
)
def test_options_that_cannot_be_are_refused(tmp_path, options, words):
    write_mcap(tmp_path / "d.mcap", drive([10]))
    assert words in refusal(tmp_path / f"d.mcap?{options}", ConfigError)


def test_what_is_only_named_like_a_recording_is_refused(tmp_path):
    (tmp_path / "d.mcap").write_bytes(b"")
    assert "no MCAP file by what it holds" in refusal(tmp_path / "d.mcap")


def test_without_the_packages_the_extra_is_named(tmp_path, monkeypatch):
    path = write_mcap(tmp_path / "d.mcap", drive([10]))
    monkeypatch.setitem(sys.modules, "mcap.reader", None)
    with pytest.raises(MissingDependency, match=r"recordings: pip install .*\[recordings\]"):
        open_video(path)


def test_who_names_no_recording_imports_no_package_for_them():
    code = "import sys, clst_runtime.sources; sys.exit(bool({'mcap', 'rosbags', 'av'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "h265")])
def test_a_coded_video_begins_at_its_key_frame(tmp_path, codec, name):
    pytest.importorskip("av")
    levels = [20, 60, 100, 140, 180]
    packets = coded_video(levels, codec)
    lost = coded_video([40, 40, 40], codec)[1:]  # two frames that lack what they follow
    coded = [*lost, *packets]
    data = [message(VIDEO, 0, "front", data=np.frombuffer(each, np.uint8), format=name) for each in coded]
    path = write_mcap(tmp_path / "d.mcap", {"/front": (VIDEO, [*zip(range(1, 8), data, strict=True)])})
    frames, warnings = read(path)
    assert [position for position, _ in frames] == [2, 3, 4, 5, 6]
    assert all(abs(level - expected) <= 4 for (_, level), expected in zip(frames, levels, strict=True))
    assert warnings == [f"{path}: the first 2 frames are left out: a video begins at a key frame"]
    video = open_video(path)
    assert [video.position for _ in frames_at(video, [3, 6])] == [3, 6]
    video.close()


def test_a_video_in_another_format_is_refused(tmp_path):
    data = message(VIDEO, 0, "front", data=np.zeros(4, np.uint8), format="vp9")
    path = write_mcap(tmp_path / "d.mcap", {"/front": (VIDEO, [(1, data)])})
    assert "video format 'vp9' is not read; read are h264, h265" in refusal(path)


def test_foxgloves_own_messages_in_protobuf_are_read(tmp_path):
    pytest.importorskip("mcap_protobuf")
    raw = {"frame_id": "front", "width": 4, "height": 2, "encoding": "rgb8", "step": 12, "data": bytes([70] * 24)}
    path = write_foxglove(tmp_path / "r.mcap", "RawImage", [(9, {**raw, "stamp_ns": 2 * SECOND + 3})])
    with open_source(str(path)) as source:
        (timed,) = source
    assert (timed.stamp_ns, timed.frame_id, int(timed.rgb[1, 3, 2])) == (2 * SECOND + 3, "front", 70)
    packets = coded_video([20, 60])
    coded = [(place + 1, {"frame_id": "f", "data": each, "format": "h264"}) for place, each in enumerate(packets)]
    frames, _ = read(write_foxglove(tmp_path / "v.mcap", "CompressedVideo", coded))
    assert [position for position, _ in frames] == [0, 1]


class Clock:
    """A clock that only a wait moves on."""

    now = 0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)


def test_played_at_its_rate_a_recording_drops_what_nobody_takes(tmp_path):
    path = write_mcap(tmp_path / "d.mcap", drive([10, 20, 30, 40, 50]))
    clock = Clock()
    with PlayedSource(path, 2, clock=clock, sleep=clock.sleep) as source:  # one each 50 ms
        assert source.fps == pytest.approx(20)
        first = source.take(1)
        assert (first.index, first.captured_ns) == (0, 0)
        assert source.take(0.04) is None
        assert (clock.now, source.waiting_ns()) == (40_000_000, 50_000_000)
        second = source.take(1)
        assert (second.index, second.captured_ns, clock.now) == (1, 50_000_000, 50_000_000)
        clock.now = 170_000_000  # 2 at 100 and 3 at 150 ms are due
        fourth = source.take(1)
        assert (fourth.index, fourth.captured_ns) == (3, 150_000_000)
        assert source.drops[OVERTAKEN] == 1
        assert source.take(1).index == 4
        assert source.waiting_ns() == 0, "the end can be heard at once"
        with pytest.raises(SourceEnded):
            source.take(1)


def test_played_at_its_rate_a_damaged_frame_is_a_drop(tmp_path):
    broken = message(PICTURE, 0, "front", format="jpeg", data=np.zeros(9, np.uint8))
    path = write_mcap(tmp_path / "d.mcap", {"/front": (PICTURE, [(1, broken), (2, picture(plain(10)))])})
    with open_source(f"{path}?rate=1") as source:
        assert source.live
        assert [timed.index for timed in source] == [1]
        assert source.drops[CORRUPT] + source.drops[OVERTAKEN] == 1


def test_a_bag_of_ros_1_is_read(tmp_path):
    from rosbags.rosbag1 import Writer

    from clst_runtime.imaging.recording_files import type_store

    store = type_store(ros_1=True)
    types = store.types
    with Writer(tmp_path / "d.bag") as writer:
        connection = writer.add_connection("/front", IMAGE, typestore=store)
        for number in (1, 2):
            header = types["std_msgs/msg/Header"](
                seq=0, stamp=types["builtin_interfaces/msg/Time"](sec=number, nanosec=0), frame_id="front"
            )
            made = types[IMAGE](
                header=header, height=1, width=1, encoding="rgb8", is_bigendian=0, step=3,
                data=np.full(3, number, np.uint8),
            )  # fmt: skip
            writer.write(connection, number * SECOND, store.serialize_ros1(made, IMAGE))
    assert read(tmp_path / "d.bag")[0] == [(0, 1), (1, 2)]
