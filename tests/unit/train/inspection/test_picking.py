"""Which frames are picked to label, and the folder that is written of them."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from clst_runtime.classes.labels import ClassList
from clst_runtime.data.dataset import open_dataset
from clst_runtime.data.prelabels import NAME
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import read_image, read_label, write_png
from clst_train.cli.data import main as clst_data
from clst_train.data.target import find_target
from clst_train.inspection.picking import Place, images_at, pick_frames
from clst_train.inspection.prelabelled_folder import OBJECTS, cvat_labels, name_of, with_own_colours, write_cvat
from tests.conftest import RGB_CLASSES, rgb_manifest, write_rgb_model
from tests.fakes.videos import jpeg, plain, write_avi
from tests.support.command_line import call

FPS = 25
RED, GREEN, BLUE = np.eye(3, dtype=np.uint8) * 200


def drive(folder, *, wide=()):
    """Eight frames 4×8 of red and blue columns; those of `wide` have a green one, too."""
    for index in range(8):
        image = np.zeros((4, 8, 3), np.uint8)
        image[:, ::2], image[:, 1::2] = RED, BLUE
        if index in wide:
            image[:, 3] = GREEN
        write_png(folder / f"f{index}.png", image)
    return folder


def test_the_middle_of_each_stretch_is_written_with_predictions_as_labels_to_correct(tmp_path, rgb_model):
    images = drive(tmp_path / "drive", wide=(2, 3))
    out = tmp_path / "few"
    done = call(clst_data, "pick", images, "--model", rgb_model, "--count", 2, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "2 of 8 frames" in done.stdout
    assert "red 2, green 1, blue 2" in done.stdout
    assert "count for the new model, the only one here" in done.stderr
    assert sorted(each.name for each in (out / "images/val").iterdir()) == ["000_f2.png", "001_f6.png"]
    assert np.array_equal(read_image(out / "images/val/001_f6.png"), read_image(images / "f6.png"))
    assert read_label(out / "labels/val/000_f2.png")[0].tolist() == [0, 2, 0, 1, 0, 2, 0, 2]
    assert json.loads((out / "classes.json").read_text())["names"] == ["red", "green", "blue"]
    rows = list(csv.reader(io.StringIO((out / "picked.csv").read_text())))
    assert rows[1:] == [
        ["000_f2", str(images / "f2.png"), "", "", "0.0", "red, green, blue"],
        ["001_f6", str(images / "f6.png"), "", "", "0.0", "red, blue"],
    ]
    with pytest.raises(DataError, match="2 of 2 labels are still a model's predictions"):
        open_dataset(out, split="val")


def test_where_the_old_model_predicts_another_class_a_pixel_is_left_open(tmp_path, rgb_model):
    """The old one takes red for green and green for red; they agree on blue, three of eight columns."""
    images, out = drive(tmp_path / "drive", wide=range(8)), tmp_path / "few"
    other = ClassList(name="x", names=("green", "red", "blue"), colours=RGB_CLASSES.colours)
    old = write_rgb_model(tmp_path / "old.onnx", manifest=rgb_manifest(classes=other).to_json())
    done = call(clst_data, "pick", images, "--model", old, "--model", rgb_model, "--count", 1, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values == {"folder": str(out), "images": 1, "of": 8, "frames_with": {"red": 1, "green": 1, "blue": 1}}
    assert read_label(out / "labels/val/000_f4.png")[0].tolist() == [255, 2, 255, 255, 255, 2, 255, 2]
    assert "000_f4," in (out / "picked.csv").read_text()
    assert ",62.5," in (out / "picked.csv").read_text()


def test_cvat_gets_the_classes_and_the_predictions_in_their_colours(tmp_path, rgb_model):
    images, out = drive(tmp_path / "drive"), tmp_path / "few"
    assert call(clst_data, "pick", images, "--model", rgb_model, "--count", 1, "--out", out).exit_code == 0
    assert json.loads((out / "cvat/labels.json").read_text())[0] == {
        "name": "red",
        "color": "#ff0000",
        "attributes": [],
    }
    with zipfile.ZipFile(out / "cvat/prelabels.zip") as archive:
        assert archive.read("ImageSets/Segmentation/default.txt") == b"000_f4\n"
        lines = archive.read("labelmap.txt").decode().splitlines()
        assert lines[1:] == ["background:0,0,0::", "red:255,0,0::", "green:0,255,0::", "blue:0,0,255::"]
        coloured = archive.read("SegmentationClass/000_f4.png")
        objects = archive.read("SegmentationObject/000_f4.png")
    assert np.asarray(Image.open(io.BytesIO(coloured)))[0, :2].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert np.asarray(Image.open(io.BytesIO(objects)))[0, :2].tolist() == [[128, 0, 0], [128, 128, 0]]  # 1 and 3
    (out / "labels/val/000_f4.png").write_bytes(coloured)  # as CVAT exports it, here without a correction
    with pytest.raises(DataError, match="1 of 1 labels are still"):
        open_dataset(out, split="val")
    (out / NAME).unlink()
    assert open_dataset(out, split="val")[0].labels[0].tolist() == [0, 2] * 4


def test_what_is_left_open_is_no_object_for_cvat_which_takes_black_for_a_class_else(tmp_path):
    write_cvat(tmp_path / "a.zip", {"one": np.array([[255, 0, 2]], np.uint8)}, RGB_CLASSES)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        kinds = [archive.read(f"Segmentation{kind}/one.png") for kind in ("Class", "Object")]
    shown = [np.asarray(Image.open(io.BytesIO(kind)))[0].tolist() for kind in kinds]
    assert shown == [[[0, 0, 0], [255, 0, 0], [0, 0, 255]], [[0, 0, 0], [128, 0, 0], [128, 128, 0]]]
    assert len(np.unique(OBJECTS, axis=0)) == 256


@pytest.mark.parametrize("colours", [((0, 0, 0), (1, 1, 1)), ((1, 1, 1), (1, 1, 1))])
def test_classes_of_one_colour_or_of_black_get_colours_of_their_own(colours):
    own = with_own_colours(ClassList(name="two", names=("a", "b"), colours=colours))
    assert len({*own.colours, (0, 0, 0)}) == 3
    assert with_own_colours(RGB_CLASSES).colours == RGB_CLASSES.colours
    assert [each["color"] for each in cvat_labels(RGB_CLASSES)] == ["#ff0000", "#00ff00", "#0000ff"]


def test_frames_of_videos_are_picked_after_images_and_read_with_their_times(tmp_path):
    video = write_avi(tmp_path / "v.avi", [jpeg(plain(20 * number)) for number in range(6)])
    write_png(tmp_path / "a.png", np.zeros((4, 8, 3), np.uint8))
    places = pick_frames(find_target([str(video), str(tmp_path / "a.png")]), 7)
    assert [each.frame for each in places] == [None, 0, 1, 2, 3, 4, 5]
    places = pick_frames(find_target([str(video)]), 3)
    assert [each.frame for each in places] == [1, 3, 5]
    found = list(images_at(places))
    assert [round(int(image[0, -1, 0]) / 20) for _, image in found] == [1, 3, 5]
    assert [place.time_s for place, _ in found] == pytest.approx([1 / FPS, 3 / FPS, 5 / FPS], abs=0.001)
    assert name_of(found[1][0]) == "v_000003"


def test_a_video_that_ends_before_a_picked_frame_is_refused(tmp_path):
    video = write_avi(tmp_path / "v.avi", [jpeg(plain(20 * number)) for number in range(3)])
    with pytest.raises(DataError, match="1 of 2 frames could be read"):
        list(images_at([Place(path=video, frame=2), Place(path=video, frame=9)]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--count", 9], "9 frames asked, 8 found; add images or lower --count"),
        (["--out", "there"], "there exists and is not empty; give another folder"),
        (["--model", "other.onnx"], "compare models of the same classes"),
    ],
)
def test_what_cannot_be_picked_is_said_in_one_line(tmp_path, rgb_model, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    drive(tmp_path / "drive")
    write_png(tmp_path / "there/a.png", np.zeros((1, 1), np.uint8))
    other = ClassList(name="x", names=("red", "green", "sky"), colours=RGB_CLASSES.colours)
    write_rgb_model(tmp_path / "other.onnx", manifest=rgb_manifest(classes=other).to_json())
    done = call(clst_data, "pick", "drive", "--out", "few", "--count", 8, "--model", rgb_model, *given)
    assert done.exit_code == 3
    assert words in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "few").exists()


def test_a_video_that_cannot_be_read_is_refused(tmp_path, rgb_model):
    (tmp_path / "v.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    done = call(clst_data, "pick", tmp_path / "v.mp4", "--model", rgb_model, "--out", tmp_path / "few")
    assert done.exit_code == 3
    assert "v.mp4: not a video that this OpenCV can read" in done.stderr
