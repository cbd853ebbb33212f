"""Recording, switched from the page."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.runtime.web.run import result_of, served
from tests.videos import frames_of, times_of

from clst_runtime.sinks.video_files import video_suffix
from clst_runtime.web.recording import Recorder


def test_without_a_folder_recording_is_impossible_and_the_reason_is_told():
    with served() as page:
        told = page.status()["recording"]
        assert (told["possible"], told["active"]) == (False, False)
        assert told["reason"] == "no folder for recordings was given when clst-run was started"
        code, text = page.record(True)
        assert (code, text.count("\n")) == (409, 1)
        assert "no folder" in text
        assert page.record(False)[0] == 200


def test_switched_many_times_every_recording_is_a_whole_file_of_its_own(tmp_path):
    folder = tmp_path / "new" / "recordings"
    with served(recordings=folder) as page:
        for count in (1, 2, 3, 4):
            page.give()  # not recorded
            assert page.record(True)[0] == 200
            for _ in range(count):
                page.give()
            told = json.loads(page.record(False)[1])
            assert (told["active"], told["failed"], told["frames"]) == (False, False, count)
            assert told["message"] == f"{told['file']}: {count} frames saved"
            assert len(frames_of(folder / told["file"])) == count
        assert len(list(folder.iterdir())) == 4


def test_started_twice_it_is_one_recording(tmp_path):
    with served(recordings=tmp_path) as page:
        page.record(True)
        page.give()
        first = page.status()["recording"]
        told = json.loads(page.record(True)[1])
        assert (told["file"], told["frames"], told["active"]) == (first["file"], 1, True)


def test_stopped_before_a_frame_came_it_leaves_no_file(tmp_path):
    with served(recordings=tmp_path) as page:
        page.record(True)
        told = json.loads(page.record(False)[1])
        assert (told["message"], told["failed"]) == ("no frame came, so no file was made", False)
        assert list(tmp_path.iterdir()) == []


def test_the_end_of_the_run_finishes_the_recording(tmp_path):
    with served(recordings=tmp_path) as page:
        page.record(True)
        for _ in range(3):
            page.give()
    (video,) = tmp_path.iterdir()
    assert len(frames_of(video)) == 3


def test_a_full_disk_ends_the_recording_with_its_message_and_not_the_run(tmp_path, monkeypatch):
    with served(recordings=tmp_path) as page:
        page.record(True)
        page.give()
        page.give()
        monkeypatch.setattr("clst_runtime.sinks.video.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
        page.give()
        told = page.status()["recording"]
        assert (told["active"], told["failed"], told["frames"]) == (False, True, 2)
        assert "less than 64 MiB free" in told["message"]
        (video,) = tmp_path.iterdir()
        assert len(frames_of(video)) == 2
        page.give()
        assert page.status()["run"]["state"] == "ready"
        monkeypatch.undo()
        page.record(True)
        page.give()
        assert json.loads(page.record(False)[1])["failed"] is False


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with served(recordings=tmp_path / "file" / "recordings") as page:
        page.record(True)
        page.give()
        told = page.status()["recording"]
        assert (told["active"], told["failed"]) == (False, True)
        assert str(tmp_path / "file") in told["message"]


class Failing:
    """A video that cannot be finished."""

    def write(self, result):
        pass

    def close(self):
        raise OSError(28, "No space left on device", "overlay.mp4")


def test_a_recording_that_cannot_be_finished_is_told_as_failed(tmp_path):
    recorder = Recorder(tmp_path, lambda path: Failing())
    recorder.start()
    recorder.write(None)
    recorder.stop()
    told = recorder.to_json()
    assert (told["failed"], told["message"]) == (True, "overlay.mp4: No space left on device")


def test_names_differ_when_the_clock_stands_still(tmp_path, monkeypatch):
    monkeypatch.setattr("clst_runtime.web.recording.time.strftime", lambda _: "overlay-20200101-000000")
    (tmp_path / f"overlay-20200101-000000{video_suffix()}").write_text("of an earlier run")
    recorder = Recorder(tmp_path, lambda path: Failing())
    names = []
    for _ in range(3):
        recorder.start()
        names.append(recorder.to_json()["file"])
        recorder.stop()
    assert names == [f"overlay-20200101-000000-{number}{video_suffix()}" for number in (2, 3, 4)]


def test_a_recording_of_a_camera_plays_at_the_time_that_really_passed(tmp_path):
    with served(recordings=tmp_path) as page:
        page.record(True)
        for index, seconds in enumerate((7.0, 7.5, 7.6, 9.0)):
            result = result_of(index)
            timed = replace(result.timed, captured_ns=int(seconds * 1e9))
            page.sink.write(replace(result, timed=timed))
        page.record(False)
    (video,) = tmp_path.iterdir()
    assert times_of(video) == pytest.approx([0, 0.5, 0.6, 2.0], abs=0.002)
