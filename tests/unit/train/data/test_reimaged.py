import dataclasses
import json

import numpy as np
import pytest

from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import read_image, write_png
from clst_runtime.imaging.media import files_below
from clst_train.cli.data import main as clst_data
from clst_train.data.reimaged import Written, reimage_folder
from clst_train.synthetic.camera_model import Camera, find_camera
from tests.conftest import write_labelled
from tests.support.command_line import call


def names(folder):
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


def bytes_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_below(folder)}


def test_a_labelled_set_is_written_in_the_folder_layout_with_its_camera(tmp_path):
    data, out = write_labelled(tmp_path / "d", count=2), tmp_path / "out"
    done = call(clst_data, "camera", data, "--camera", "middle", "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"folder": str(out), "splits": {"val": {"images": 2, "outside": 0.0}}}
    assert names(out) == [
        "camera.toml", "classes.json", "images/val/0.jpg", "images/val/1.jpg", "labels/val/0.png", "labels/val/1.png",
    ]  # fmt: skip
    assert find_camera(out / "camera.toml") == find_camera("middle")
    assert open_dataset(out, split="val").classes.names == ("red", "green", "blue")


def test_without_a_change_images_and_labels_are_the_old_ones(tmp_path):
    data = write_labelled(tmp_path / "d", count=1)
    assert reimage_folder(data, tmp_path / "out", Camera()) == {"val": Written(images=1, labelled=True, outside=0.0)}
    before, after = (open_dataset(root, split="val")[0] for root in (data, tmp_path / "out"))
    assert np.array_equal(before.image, after.image)
    assert np.array_equal(before.labels, after.labels)


def test_pixels_outside_are_counted(tmp_path):
    data = write_labelled(tmp_path / "d", count=1, size_hw=(9, 9))
    written = reimage_folder(data, tmp_path / "out", Camera(focal_length_factor=1 / 3))
    assert written["val"].outside == pytest.approx(72 / 81)


def test_the_same_seed_gives_the_same_files_whatever_else_is_there(tmp_path):
    data = write_labelled(tmp_path / "d", count=2)
    first, second, third = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    reimage_folder(data, first, find_camera("severe"))
    reimage_folder(data, third, find_camera("severe"), seed=2)
    (data / "images/val/0.png").unlink()
    reimage_folder(data, second, find_camera("severe"))
    assert bytes_of(first)["images/val/1.jpg"] == bytes_of(second)["images/val/1.jpg"]
    assert bytes_of(first)["images/val/1.jpg"] != bytes_of(third)["images/val/1.jpg"]


def test_images_of_a_plain_folder_become_one_split(tmp_path):
    for name in ("b/2.png", "1.png"):
        write_png(tmp_path / "drive" / name, np.zeros((4, 6, 3), np.uint8))
    done = call(clst_data, "camera", tmp_path / "drive", "--camera", "mild", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert names(tmp_path / "out") == ["camera.toml", "images/train/1.jpg", "images/train/b/2.jpg"]
    assert "train: 2 images without labels" in done.stdout
    reimage_folder(tmp_path / "drive", tmp_path / "named", Camera(), splits=["night"])
    assert names(tmp_path / "named") == ["camera.toml", "images/night/1.png", "images/night/b/2.png"]


def test_splits_without_labels_stay_splits(tmp_path):
    for name in ("train/1.png", "val/2.png", "test/3.png"):
        write_png(tmp_path / "d/images" / name, np.zeros((4, 6, 3), np.uint8))
    reimage_folder(tmp_path / "d", tmp_path / "out", Camera())
    assert names(tmp_path / "out") == ["camera.toml", "images/train/1.png", "images/val/2.png"]
    reimage_folder(tmp_path / "d", tmp_path / "test", Camera(), splits=["test"])
    assert names(tmp_path / "test") == ["camera.toml", "images/test/3.png"]


def test_cityscapes_ids_become_classes(tmp_path):
    write_png(tmp_path / "city/leftImg8bit/train/ulm/a_leftImg8bit.png", np.full((1, 2, 3), 50, np.uint8))
    write_png(tmp_path / "city/gtFine/train/ulm/a_gtFine_labelIds.png", np.array([[7, 26]], np.uint8))
    reimage_folder(tmp_path / "city", tmp_path / "out", Camera())
    sample = open_dataset(tmp_path / "out", split="train")[0]
    assert sample.labels.tolist() == [[0, 13]]
    assert (sample.image == 50).all()


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path):
    data, out = write_labelled(tmp_path / "d", count=2), tmp_path / "out"
    write_png(data / "labels/val/1.png", np.zeros((3, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    fold, wide = tmp_path / "fold.toml", tmp_path / "wide.toml"
    fold.write_text("distortion = [-3.0, 0.0]")
    wide.write_text("rows = 16384")
    good = write_labelled(tmp_path / "good", count=1)
    for root, more, code, words in (
        (data, ("--camera", "mild"), 3, "1.png is 8x16 but"),
        (tmp_path / "empty", ("--camera", "mild"), 3, "no image in it"),
        (tmp_path / "none", ("--camera", "mild"), 3, "no such folder"),
        (good, ("--camera", "mildd"), 3, "did you mean 'mild'"),
        (good, ("--camera", fold), 3, f"{fold}: camera.distortion = [-3.0, 0.0] folds the image over"),
        (good, ("--camera", wide), 3, f"{wide}: camera: an image of 8x16 would become 16384x32768"),
        (good, ("--camera", "mild", "--split", "day"), 3, "its splits are val"),
        (good, ("--camera", "mild", "--seed", "-1"), 2, "--seed"),
        (good, (), 2, "--camera"),
        (good / "images/val/0.png", ("--camera", "mild"), 3, "a file; give a folder of images"),
    ):
        done = call(clst_data, "camera", root, "--out", out, *more)
        assert done.exit_code == code, (more, done.stderr)
        assert words in done.stderr
        assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("x")
    done = call(clst_data, "camera", good, "--camera", "mild", "--out", out)
    assert done.exit_code == 3
    assert "exists and is not empty" in done.stderr
    assert names(out) == ["mine"]


def test_some_missing_labels_are_refused(tmp_path):
    data = write_labelled(tmp_path / "d", count=2)
    (data / "labels/val/1.png").unlink()
    with pytest.raises(DataError, match="1 of 2 images in split 'val' have no label"):
        reimage_folder(data, tmp_path / "out", Camera())
    (data / "labels/val/0.png").unlink()
    assert reimage_folder(data, tmp_path / "out", Camera())["val"].labelled is False
    assert read_image(tmp_path / "out/images/val/0.png").shape == (8, 16, 3)


def test_the_command_prints_a_camera_to_start_a_file_of_ones_own_from(tmp_path):
    done = call(clst_data, "camera", "--camera", "middle", "--settings")
    assert done.exit_code == 0, done.stderr
    (tmp_path / "mine.toml").write_text(done.stdout)
    assert find_camera(tmp_path / "mine.toml") == find_camera("middle")
    assert done.stdout.count("\n# ") == len(dataclasses.fields(Camera)) - 1  # a sentence above each value
    for line in done.stdout.splitlines():
        assert not line.startswith("#") or len(line) <= 120
    missing = call(clst_data, "camera", "--camera", "middle")
    assert missing.exit_code == 2
    assert "give ROOT" in missing.stderr


def test_labels_of_another_size_are_found_before_any_image_is_made(tmp_path, monkeypatch):
    data = write_labelled(tmp_path / "d", count=3)
    write_png(data / "labels/val/2.png", np.zeros((3, 3), np.uint8))
    monkeypatch.setattr("clst_train.data.reimaged.take", lambda *_: pytest.fail("an image was made"))
    with pytest.raises(DataError, match="2.png is 8x16 but"):
        reimage_folder(data, tmp_path / "out", Camera())
