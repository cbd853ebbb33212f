"""Recording, switched from the page."""

import http.client
import json
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from clst_runtime.live.sinks.video_files import video_suffix
from clst_runtime.live.web.recording import Recorder
from tests.support.videos import frames_of, times_of
from tests.support.web_run import result_of, served


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
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
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
    monkeypatch.setattr("clst_runtime.live.web.recording.time.strftime", lambda _: "overlay-20200101-000000")
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


# ---- finished recordings, fetched


def recorded(page, count=3):
    """The name of a new recording of so many frames."""
    page.record(True)
    for _ in range(count):
        page.give()
    return json.loads(page.record(False)[1])["file"]


def fetched(page, name, headers=None):
    """Status, headers and bytes of a recording."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    try:
        connection.request("GET", f"/recordings/{name}", headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_a_finished_recording_can_be_fetched_whole_and_in_parts(tmp_path):
    with served(recordings=tmp_path) as page:
        name = recorded(page)
        whole = (tmp_path / name).read_bytes()
        (told,) = page.status()["recording"]["finished"]
        assert told == {"file": name, "frames": 3, "mib": round(len(whole) / 2**20, 1)}
        code, headers, body = fetched(page, name)
        assert (code, body) == (200, whole)
        assert headers["Content-Type"].startswith("video/")
        assert headers["X-Content-Type-Options"] == "nosniff"
        code, headers, body = fetched(page, name, {"Range": "bytes=10-19"})
        assert (code, headers["Content-Range"], body) == (206, f"bytes 10-19/{len(whole)}", whole[10:20])
        assert fetched(page, name, {"Range": f"bytes={len(whole)}-"})[0] == 416
        assert page.ask(f"/recordings/{name}", method="HEAD")[1]["Content-Length"] == str(len(whole))


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "secret.mp4", "%2e%2e%2fsecret.mp4", "..%5csecret.mp4", "link.mp4", "a/b", "%00", "%ff", "é"],
)
def test_no_other_file_is_served(tmp_path, name):
    folder = tmp_path / "recordings"
    folder.mkdir()
    (tmp_path / "secret.mp4").write_text("secret")
    (folder / "secret.mp4").write_text("secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    with served(recordings=folder) as page:
        recorded(page)
        code, _, body = fetched(page, quote(name, safe="%/"))
        assert code in (400, 404)
        assert b"secret" not in body


def test_while_it_is_recorded_or_after_it_was_removed_there_is_nothing_to_fetch(tmp_path):
    with served(recordings=tmp_path) as page:
        page.record(True)
        page.give()
        told = page.status()["recording"]
        assert (told["finished"], fetched(page, told["file"])[0]) == ([], 404)
        name = json.loads(page.record(False)[1])["file"]
        (tmp_path / name).unlink()
        assert fetched(page, name)[0::2] == (404, b"no recording of this run is called so\n")
        assert page.status()["run"]["warnings"] == []


def test_recordings_are_for_those_who_know_the_token(tmp_path):
    with served("0.0.0.0:0", recordings=tmp_path) as page:
        held = {"Authorization": f"Bearer {page.token}"}
        page.record(True, held)
        page.give()
        name = json.loads(page.record(False, held)[1])["file"]
        assert fetched(page, name)[0] == 401
        assert fetched(page, name, held)[0] == 200


def test_what_a_full_disk_has_ended_can_be_fetched_as_far_as_it_goes(tmp_path):
    video = Ending(tmp_path)
    recorder = Recorder(tmp_path, video.at)
    recorder.start()
    recorder.write(None)
    assert recorder.to_json()["failed"]
    (told,) = recorder.to_json()["finished"]
    assert recorder.finished(told["file"]).read_bytes() == b"what was saved"


class Ending:
    """A video whose disk is full at once; what it has is finished all the same."""

    def __init__(self, folder):
        self.path = folder

    def at(self, path):
        self.path = path
        return self

    def write(self, result):
        raise OSError(28, "No space left on device")

    def close(self):
        self.path.write_bytes(b"what was saved")
