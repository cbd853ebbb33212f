"""One list of files for every command: which files a place stands for, and what kind of file each is."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from clst_runtime.data.inputs import images_of, own_names
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import write_png
from clst_runtime.imaging.media import Kind, files_below, images_below, kind_of, name_for_opencv
from clst_runtime.sources import open_source
from tests.conftest import write_labelled

GREY = np.full((4, 6, 3), 100, np.uint8)
PACKETS = (b"G" + bytes(187)) * 5


def names_below(folder):
    return [str(path.relative_to(folder)) for path in images_below(folder)]


def write_video(path, frames=3):
    """An AVI of grey frames 16x32 at 10 frames a second, under any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.parent / "made.avi"
    writer = cv2.VideoWriter(str(made.absolute()), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 16))
    for index in range(frames):
        writer.write(np.full((16, 32, 3), 50 + index, np.uint8))
    writer.release()
    os.replace(made, path)
    return path


def test_hidden_files_and_those_of_file_systems_are_left_out_and_suffixes_are_of_any_case(tmp_path):
    for name in ("a.PNG", "b/c.png", ".d.png", "._a.png", ".e/f.png", "lost+found/g.png", "__MACOSX/h.png"):
        write_png(tmp_path / name, GREY)
    (tmp_path / "notes.txt").write_text("no picture")
    assert names_below(tmp_path) == ["a.PNG", "b/c.png"]


def test_linked_folders_are_followed_each_real_one_once_and_loops_end(tmp_path):
    write_png(tmp_path / "elsewhere" / "1.png", GREY)
    write_png(tmp_path / "in" / "z" / "2.png", GREY)
    (tmp_path / "in" / "a").symlink_to(tmp_path / "in" / "z")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to("self")
    assert names_below(tmp_path / "in") == ["link/1.png", "z/2.png"], "a folder goes by its own name"


def test_a_file_is_what_it_holds_whatever_its_name(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a", format="JPEG")
    Image.fromarray(GREY).save(tmp_path / "2026.11.28", format="WEBP")
    Image.fromarray(GREY).save(tmp_path / "picture.mp4", format="PNG")
    write_video(tmp_path / "clip.png")
    (tmp_path / "text").write_text("words")
    assert names_below(tmp_path) == ["2026.11.28", "a", "picture.mp4"]
    assert kind_of(tmp_path / "clip.png") is Kind.VIDEO


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypmp42", Kind.VIDEO),
        (b"\0\0\0\x18ftypheic", Kind.IMAGE),
        (b"\x1aE\xdf\xa3", Kind.VIDEO),
        (PACKETS, Kind.VIDEO),
        (b"cut" + PACKETS, Kind.VIDEO),
        (b"\0\0\0\1" + PACKETS, Kind.VIDEO),
        (b"\0\0\1\xba", Kind.VIDEO),
        (b"BM" + bytes(12) + b"\x28\0\0\0", Kind.IMAGE),
        (b"MM\0*", Kind.IMAGE),
        (b"BMW and other makers", None),
        (b"Fat-free", None),
        (b"G" * 2000, None),
        (b"#EXTM3U\n/etc/passwd", None),
        (b"ffconcat version 1.0\nfile other.mp4", None),
        (b"\xff\xfe#\0", None),
        (b"", None),
    ],
)
def test_kinds_are_told_by_the_first_bytes(head, kind, tmp_path):
    (tmp_path / "file").write_bytes(head)
    assert kind_of(tmp_path / "file") is kind


@pytest.mark.parametrize("name", ["a.ts", "A.MTS", "a.m2ts", "a.mp4", "a.mkv"])
def test_an_unknown_content_goes_by_its_suffix_but_a_text_is_never_a_video(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"\0damaged")
    assert kind_of(path) is Kind.VIDEO
    path.write_text("#EXTM3U\nhttp://elsewhere/1.ts\n")
    assert kind_of(path) is None
    with pytest.raises(DataError, match="not an image or video by what it holds"):
        open_source(str(path))


def test_a_folder_or_file_that_may_not_be_read_is_told_and_not_left_out(tmp_path, monkeypatch):
    write_png(tmp_path / "open" / "a.png", GREY)
    real = os.scandir

    def scan(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    (tmp_path / "shut").mkdir()
    with pytest.raises(DataError, match=r"shut: Permission denied; make the folder readable, or take it out"):
        files_below(tmp_path)


def test_frames_of_equal_stems_have_names_of_their_own(tmp_path):
    for name in ("a/1.png", "b/1.png", "f0.png", "F0.jpg", "g.png", "g.png.png", "h.png/1.png", "h.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(GREY).save(path)
    with open_source(str(tmp_path)) as source:
        names = [timed.name for timed in source]
    assert names == ["F0.jpg", "a/1", "b/1", "f0.png", "g", "g.png", "h.jpg", "h.png/1"]


def test_names_differ_whatever_the_case_and_hold_no_control_characters():
    paths = [tmp for tmp in map(os.fsdecode, (b"A/1.png", b"a/1.png", b"x\ny.png", b"\xff.png"))]
    from pathlib import Path

    assert own_names(list(map(Path, paths))) == ["A/1", "a/1~2", "x\\ny", "\\xff"]


@pytest.mark.parametrize("name", [b"2026-11-28T12:00:00.mp4", b"drive%03d.mp4", b"\xff.mp4", b"a\nb.avi", b"noname"])
def test_a_video_of_any_name_is_read_by_its_relative_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / os.fsdecode(name))
    with open_source(os.fsdecode(name)) as source:
        assert len(list(source)) == 3


def test_a_name_that_opencv_cannot_write_is_refused_instead_of_ending_the_process(tmp_path):
    with pytest.raises(DataError, match="no name in UTF-8"), name_for_opencv(tmp_path / os.fsdecode(b"\xff.mp4")):
        pass


def test_results_and_labels_are_no_pictures_of_a_camera(tmp_path):
    data = write_labelled(tmp_path / "data")
    for folder in (data / "labels", data / "labels" / "val"):
        with pytest.raises(DataError, match=r"labels of a data set, no images; give .*data/images"):
            images_of(folder)
    write_png(tmp_path / "driven" / "masks" / "1.png", GREY)
    write_png(tmp_path / "driven" / "camera" / "1.png", GREY)
    (tmp_path / "driven" / "frames.jsonl").touch()
    for folder in (tmp_path / "driven", tmp_path / "driven" / "masks"):
        with pytest.raises(DataError, match="results of clst-run, no images of a camera"):
            images_of(folder)
    assert len(images_of(tmp_path / "driven" / "camera").paths) == 1
    write_png(tmp_path / "b.png", GREY)
    inside = images_of(tmp_path)
    assert "2 results of commands are left out" in inside.remarks[1]
    assert [path.name for path in inside.paths if path.parent == tmp_path or "driven" in path.parts] == ["b.png"]
    write_png(tmp_path / "several" / "legend.png", GREY)
    (tmp_path / "several" / "statistics.json").touch()
    with pytest.raises(DataError, match="results of clst-run, no images of a camera"):
        images_of(tmp_path / "several")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").touch()
    with pytest.raises(DataError, match="a run of clst-train"):
        images_of(tmp_path / "run")


def test_what_a_folder_holds_beside_pictures_is_said(tmp_path):
    write_video(tmp_path / "only" / "clip.ts")
    (tmp_path / "only" / "a.json").touch()
    with pytest.raises(DataError, match=r"no image in it .*; 1 videos are left out, .*clip\.ts; name a video itself; "):
        images_of(tmp_path / "only")
    write_png(tmp_path / "only" / "a.png", GREY)
    assert "1 videos are left out" in images_of(tmp_path / "only").remarks[0]
    with pytest.raises(DataError, match="no such folder"):
        images_of(tmp_path / "none")


def test_a_data_set_driven_through_gives_all_its_images_and_learned_from_those_of_a_split(tmp_path):
    data = write_labelled(tmp_path / "data", count=2, split="train")
    write_labelled(tmp_path / "data", count=3, split="val")
    assert len(images_of(data).paths) == 5
    assert len(images_of(data, split="train").paths) == 2


def test_a_link_that_leads_nowhere_is_told_before_anything_is_run(tmp_path):
    write_png(tmp_path / "a.png", GREY)
    (tmp_path / "b.png").symlink_to("nothing")
    with pytest.raises(DataError, match=r"b\.png: no such file, a link that leads nowhere"):
        open_source(str(tmp_path))


def test_a_message_is_one_line_whatever_a_file_is_called():
    assert DataError("a\nb\udcff: no such file").line() == "error: a\\nb\\udcff: no such file"
