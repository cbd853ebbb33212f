"""Masks and frames as MCAP: read again by the public readers."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from clst_runtime.backends.base import Prediction
from clst_runtime.cli.run import main as clst_run
from clst_runtime.errors import DataError
from clst_runtime.imaging.recording_files import type_store
from clst_runtime.live.monitor.collector import open_collector
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.growing_file import GrowingFile
from clst_runtime.live.sinks.mcap_files import CHUNK_BYTES, CLASSES, MASKS, McapMaskSink, taken_ns
from clst_runtime.sources import TimedFrame, open_source
from clst_train.data.target import open_target
from tests.conftest import RGB_CLASSES, write_rgb_model
from tests.support.recordings import SECOND, drive, write_mcap

pytest.importorskip("mcap")
pytest.importorskip("rosbags")
SIZE_HW = (2, 3)


def result(index, size_hw=SIZE_HW, stamp_ns=None):
    timed = TimedFrame(
        index=index, image=np.zeros((*size_hw, 3), np.uint8), captured_ns=1, name="", frame_id="front",
        stamp_ns=index * SECOND + 7 if stamp_ns is None else stamp_ns,
    )  # fmt: skip
    mask = np.full(size_hw, index, np.uint8)
    return Result(timed=timed, prediction=Prediction(classes=mask), classes=mask, mask=mask, inference_ns=1, age_ns=1)


def by_mcap(path):
    """Of each message its topic, type, log time and fields, by Foxglove's own reader."""
    from mcap.reader import make_reader

    with path.open("rb") as stream:
        reader = make_reader(stream)
        assert reader.get_header().profile == "ros2"
        return [
            (channel.topic, schema.name, schema.encoding, message.log_time,
             type_store().deserialize_cdr(message.data, schema.name))
            for schema, channel, message in reader.iter_messages()
        ]  # fmt: skip


def masks_by_rosbags(path):
    from rosbags.highlevel import AnyReader

    with AnyReader([path]) as reader:
        read = [(each.topic, time, reader.deserialize(data, each.msgtype)) for each, time, data in reader.messages()]
    return [(time, message.data.tolist()) for topic, time, message in read if topic == MASKS]


def test_masks_are_images_of_ros_with_the_sources_stamps_and_the_classes_stand_there_once(tmp_path):
    path = tmp_path / "masks.mcap"
    sink = McapMaskSink(path, RGB_CLASSES)
    for index in (1, 2):
        sink.write(result(index))
    assert not path.exists()
    sink.close()
    messages = by_mcap(path)
    (classes,) = [message for topic, *_, message in messages if topic == CLASSES]
    assert json.loads(classes.data) == RGB_CLASSES.to_json()
    masks = [each for each in messages if each[0] == MASKS]
    assert [each[1:4] for each in masks] == [
        ("sensor_msgs/msg/Image", "ros2msg", SECOND + 7),
        ("sensor_msgs/msg/Image", "ros2msg", 2 * SECOND + 7),
    ]
    second = masks[1][4]
    assert (second.header.stamp.sec, second.header.stamp.nanosec, second.header.frame_id) == (2, 7, "front")
    assert (second.height, second.width, second.encoding, second.step) == (2, 3, "mono8", 3)
    assert second.data.tolist() == [2] * 6
    assert masks_by_rosbags(path) == [(SECOND + 7, [1] * 6), (2 * SECOND + 7, [2] * 6)]
    assert [each.name for each in tmp_path.iterdir()] == ["masks.mcap"]


def test_the_masks_of_a_run_can_be_read_as_a_source(tmp_path):
    sink = McapMaskSink(tmp_path / "masks.mcap", RGB_CLASSES)
    sink.write(result(5))
    sink.close()
    with open_source(str(tmp_path / "masks.mcap")) as source:
        assert [(timed.stamp_ns, timed.rgb[0, 0].tolist()) for timed in source] == [(5 * SECOND + 7, [5, 5, 5])]


def test_without_a_stamp_a_mask_has_the_time_of_its_capture_by_this_clock(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 100 * SECOND)
    monkeypatch.setattr("time.monotonic_ns", lambda: 9 * SECOND)
    timed = TimedFrame(index=0, image=np.zeros((1, 1, 3), np.uint8), captured_ns=7 * SECOND, name="")
    assert taken_ns(timed) == 98 * SECOND


def test_the_first_mask_is_not_before_the_classes_where_the_clocks_are_read_twice(tmp_path, monkeypatch):
    """The second reading of this machine's clock is 5 ns behind the first."""
    readings = iter([100 * SECOND, 100 * SECOND - 5])
    monkeypatch.setattr("time.time_ns", lambda: next(readings))
    monkeypatch.setattr("time.monotonic_ns", lambda: 3 * SECOND)
    mask = np.zeros(SIZE_HW, np.uint8)
    timed = TimedFrame(index=0, image=np.zeros((*SIZE_HW, 3), np.uint8), captured_ns=SECOND, name="")
    sink = McapMaskSink(tmp_path / "masks.mcap", RGB_CLASSES)
    sink.write(
        Result(timed=timed, prediction=Prediction(classes=mask), classes=mask, mask=mask, inference_ns=1, age_ns=1)
    )
    sink.close()
    assert [(topic, time) for topic, _, _, time, _ in by_mcap(tmp_path / "masks.mcap")] == [
        (CLASSES, 98 * SECOND), (MASKS, 98 * SECOND)]  # fmt: skip


def test_a_run_that_gave_no_frame_leaves_no_file(tmp_path):
    McapMaskSink(tmp_path / "masks.mcap", RGB_CLASSES).close()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("room", "kept"), [(2 * CHUNK_BYTES, 4), (100, 0)])
def test_on_a_full_disk_what_is_whole_is_kept_under_an_unfinished_name(tmp_path, monkeypatch, room, kept):
    real, written = GrowingFile.append, []

    def append(self, piece):
        if sum(map(len, written)) + len(piece) > room:
            raise OSError(28, "No space left on device")
        written.append(piece)
        real(self, piece)

    monkeypatch.setattr(GrowingFile, "append", append)
    sink = McapMaskSink(tmp_path / "masks.mcap", RGB_CLASSES)
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="No space left on device") as full:
        for index in range(9):
            noise = rng.integers(0, 256, (512, 512), np.uint8)
            timed = result(index, (512, 512)).timed
            sink.write(
                Result(
                    timed=timed,
                    prediction=Prediction(classes=noise),
                    classes=noise,
                    mask=noise,
                    inference_ns=1,
                    age_ns=1,
                )
            )
        sink.close()
    assert not (tmp_path / "masks.mcap").exists()
    unfinished = tmp_path / "masks-unfinished.mcap"
    if not kept:
        assert full.value.message.endswith("nothing was recorded")
        assert not unfinished.exists()
        return
    assert full.value.message.endswith(f"its first 4 frames are kept in {unfinished}")  # 4 are a MiB
    with open_source(str(unfinished)) as source:
        assert len([*source]) == kept


def test_a_nearly_full_disk_ends_the_file_before_it_is_full(tmp_path, monkeypatch):
    sink = McapMaskSink(tmp_path / "masks.mcap", RGB_CLASSES)
    sink.write(result(1))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match="less than 64 MiB free on the disk; recording ended after 1 frames"):
        sink.write(result(2))
    sink.close()
    assert len(masks_by_rosbags(tmp_path / "masks.mcap")) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from clst_runtime.live.sinks.mcap_files import McapMaskSink
from tests.conftest import RGB_CLASSES
from tests.unit.runtime.live.test_mcap_files import result
sink = McapMaskSink(Path(sys.argv[1]), RGB_CLASSES)
for index in range(1, 12):
    sink.write(result(index, (512, 512)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_of_a_run_that_was_killed_every_whole_chunk_is_read(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "masks.mcap")], check=False, env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    with open_source(str(tmp_path / "masks-unfinished.mcap")) as source:
        levels = [int(timed.rgb[0, 0, 0]) for timed in source]
    assert levels == [1, 2, 3, 4, 5, 6, 7, 8]  # four are a MiB
    McapMaskSink(tmp_path / "masks.mcap", RGB_CLASSES).close()
    assert (tmp_path / "masks-unfinished.mcap").exists()


def test_collected_frames_are_a_recording_that_training_takes(tmp_path):
    collector = open_collector(tmp_path / "new.mcap", every_seconds=0)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(3)]
    for index, image in enumerate(images):
        timed = TimedFrame(index=index, image=image, captured_ns=0, name="", stamp_ns=index * SECOND + 1)
        collector.save(timed, float(index))
    killed = tmp_path / "new-unfinished.mcap"
    with open_source(str(killed)) as source:  # as a run leaves it that is killed here
        assert [timed.stamp_ns for timed in source] == [1, SECOND + 1, 2 * SECOND + 1]
    collector.close()
    assert not killed.exists()
    target = open_target([str(tmp_path / "new.mcap")], input_hw=(20, 30))
    assert [(target[place] == image).all() for place, image in enumerate(images)] == [True] * 3
    with pytest.raises(DataError, match=r"new.mcap exists; give --collect another name"):
        open_collector(tmp_path / "new.mcap")


def test_a_run_writes_the_masks_of_a_recordings_topic_with_its_stamps(tmp_path):
    topics = {**drive([10, 20], topic="/front"), **drive([30], topic="/rear")}
    source, model = write_mcap(tmp_path / "drive.mcap", topics), write_rgb_model(tmp_path / "m.onnx")
    out = tmp_path / "masks.mcap"
    run = CliRunner().invoke(clst_run, [str(model), "--source", f"{source}?topic=/front", "--mcap", str(out), "--json"])
    assert run.exit_code == 0, run.output
    assert [time for time, _ in masks_by_rosbags(out)] == [1_000_000_005, 1_100_000_005]
    again = CliRunner().invoke(clst_run, [str(model), "--source", f"{source}?topic=/front", "--mcap", str(out)])
    assert (again.exit_code, again.output) == (3, f"error: {out} exists; give another --mcap or --overwrite\n")
    itself = CliRunner().invoke(clst_run, [str(model), "--source", f"{source}?topic=/front", "--mcap", str(source)])
    assert itself.exit_code == 3
    assert "is read by this run" in itself.output
    several = CliRunner().invoke(clst_run, [str(model), "--source", str(source)])
    assert several.exit_code == 3
    assert "choose one" in several.output
