import json
import shutil

import numpy as np
import pytest
from PIL import Image

from clst_runtime.cli import evaluate as cli_eval
from clst_runtime.cli import parity as cli_parity
from clst_runtime.data.dataset import open_dataset
from clst_runtime.data.formats import find_format
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.image_files import write_png
from clst_train.cli import data as cli_data
from clst_train.data.headers import check_pairs
from clst_train.data.inspection import inspect
from tests.conftest import RGB_CLASSES, write_labelled
from tests.support.command_line import call

IMAGE = np.zeros((1, 3, 3), np.uint8)


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    write_png(tmp_path / "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", IMAGE)
    write_png(tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelIds.png", np.array([[7, 26, 0]], np.uint8))
    data = open_dataset(tmp_path, split="val")
    assert data.form.name == "cityscapes"
    assert data[0].labels.tolist() == [[0, 13, 255]]


@pytest.mark.parametrize("split", ["", ".", "..", "../images/val", "val/.."])
def test_a_split_is_a_folder_of_its_own_and_never_all_of_them(tmp_path, split):
    for each in ("train", "val"):
        write_labelled(tmp_path, count=1, split=each)
    with pytest.raises(DataError, match="its splits are train, val"):
        open_dataset(tmp_path, split=split)
    with pytest.raises(DataError, match="its splits are train, val"):
        open_dataset(tmp_path, split=str(tmp_path / "images"))


def test_cityscapes_train_ids_stay_as_they_are(tmp_path):
    write_png(tmp_path / "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", IMAGE)
    write_png(tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelTrainIds.png", np.array([[0, 18, 255]], np.uint8))
    data = open_dataset(tmp_path, split="val")
    assert data.form.name == "cityscapes-trainids"
    assert data[0].labels.tolist() == [[0, 18, 255]]


def test_gta5_palette_indices_are_cityscapes_ids(tmp_path):
    write_png(tmp_path / "images/00001.png", IMAGE)
    label = Image.fromarray(np.array([[7, 23, 4]], np.uint8), mode="P")
    label.putpalette(list(range(256)) * 3)
    (tmp_path / "labels").mkdir()
    label.save(tmp_path / "labels/00001.png")
    data = open_dataset(tmp_path, split="train")
    assert data.form.name == "gta5"
    assert data[0].labels.tolist() == [[0, 10, 255]]


def test_synthia_ids_lie_in_the_first_16_bit_channel(tmp_path):
    import cv2

    write_png(tmp_path / "RGB/0000000.png", IMAGE)
    bgr = np.zeros((1, 3, 3), np.uint16)
    bgr[0, :, 2] = [3, 10, 22]
    (tmp_path / "GT/LABELS").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "GT/LABELS/0000000.png"), bgr)
    data = open_dataset(tmp_path, split="train")
    assert [data.classes.names[i] if i < 255 else "-" for i in data[0].labels[0]] == ["road", "person", "-"]


def test_camvid_colours_become_its_eleven_classes(tmp_path):
    write_png(tmp_path / "701_StillsRaw_full/a.png", IMAGE)
    write_png(
        tmp_path / "LabeledApproved_full/a_L.png", np.array([[[128, 64, 128], [128, 0, 192], [0, 0, 0]]], np.uint8)
    )
    assert open_dataset(tmp_path, split="train")[0].labels.tolist() == [[3, 3, 255]]


def test_a_colour_camvid_does_not_have_is_refused(tmp_path):
    write_png(tmp_path / "701_StillsRaw_full/a.png", IMAGE)
    write_png(tmp_path / "LabeledApproved_full/a_L.png", np.full((1, 3, 3), 77, np.uint8))
    with pytest.raises(DataError, match=r"254 \(3 pixels\)"):
        open_dataset(tmp_path, split="train")[0]


def test_idd_lite_layout(tmp_path):
    write_png(tmp_path / "leftImg8bit/val/12/007_image.png", IMAGE)
    write_png(tmp_path / "gtFine/val/12/007_label.png", np.array([[0, 6, 255]], np.uint8))
    assert open_dataset(tmp_path, split="val")[0].labels.tolist() == [[0, 6, 255]]


def test_folder_layout_with_an_unequal_size_names_both(tmp_path):
    write_labelled(tmp_path, count=1)
    write_png(tmp_path / "labels/val/0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="is 8x16 but .* is 4x4"):
        open_dataset(tmp_path, split="val")[0]


def test_labels_of_the_folder_layout_may_have_the_colours_of_its_classes(tmp_path):
    write_labelled(tmp_path, count=1)
    coloured = np.take(RGB_CLASSES.palette(), open_dataset(tmp_path, split="val")[0].labels, axis=0)
    coloured[1, 0] = RGB_CLASSES.colours[1]
    write_png(tmp_path / "labels/val/0.png", coloured)
    labels = open_dataset(tmp_path, split="val")[0].labels
    assert labels[:2, 0].tolist() == [255, 1]  # black is ignored
    assert np.bincount(labels.ravel()).tolist()[:3] == [62, 1, 64]
    coloured[2, :2] = (1, 2, 3)
    write_png(tmp_path / "labels/val/0.png", coloured)
    with pytest.raises(DataError, match=r"2 pixels have a colour that is no class's in .*, the first \(1, 2, 3\)"):
        open_dataset(tmp_path, split="val")
    classes = RGB_CLASSES.to_json() | {"colors": [[9, 9, 9]] * 3}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    with pytest.raises(DataError, match="gives one to two classes; give class ids"):
        open_dataset(tmp_path, split="val")


def test_missing_labels_are_counted(tmp_path):
    write_labelled(tmp_path, count=3)
    (tmp_path / "labels/val/1.png").unlink()
    with pytest.raises(DataError, match="1 of 3 images in split 'val' have no label"):
        open_dataset(tmp_path, split="val")


def test_an_empty_split_an_unknown_layout_and_an_unknown_format_are_refused(tmp_path):
    with pytest.raises(DataError, match="no known layout"):
        find_format(tmp_path)
    write_labelled(tmp_path)
    with pytest.raises(DataError, match=r"no images in split 'train'"):
        open_dataset(tmp_path, split="train")
    with pytest.raises(ConfigError, match="did you mean 'cityscapes'"):
        find_format(tmp_path, "cityscape")


def test_two_images_of_one_label_are_refused_and_told_by_check(tmp_path):
    data = write_labelled(tmp_path / "d", count=2)
    Image.new("RGB", (16, 8)).save(data / "images/val/0.JPG")
    with pytest.raises(
        DataError, match=r"0\.JPG and .*0\.png share the label .*labels/val/0\.png; rename one with its"
    ):
        open_dataset(data, split="val")
    assert "share the label" in inspect(data, split="val").problems[0]


def test_two_labels_of_one_image_are_refused_and_a_label_may_have_any_suffix(tmp_path):
    data = write_labelled(tmp_path / "d", count=2)
    (data / "labels/val/0.png").rename(data / "labels/val/0.PNG")
    (data / "labels/val/1.png").rename(data / "labels/val/1")
    assert [pair.label.name for pair in open_dataset(data, split="val").files] == ["0.PNG", "1"]
    shutil.copy(data / "labels/val/0.PNG", data / "labels/val/0.png")
    with pytest.raises(DataError, match="are labels of one image; take one out"):
        open_dataset(data, split="val")


def test_equal_names_in_sub_folders_keep_their_own_labels_and_linked_folders_count(tmp_path):
    data = write_labelled(tmp_path / "d", count=1)
    for kind in ("images", "labels"):
        (tmp_path / kind / "driveB").mkdir(parents=True)
        shutil.copy(data / kind / "val/0.png", tmp_path / kind / "driveB/0.png")
        (data / kind / "val/linked").symlink_to(tmp_path / kind / "driveB")
    found = open_dataset(data, split="val")
    assert [str(pair.label.relative_to(data)) for pair in found.files] == [
        "labels/val/0.png",
        "labels/val/linked/0.png",
    ]


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    data = write_labelled(write_labelled(tmp_path / "d", split="val"), split="train")
    (data / "images/empty").mkdir()
    for look in (open_dataset, inspect):
        with pytest.raises(
            DataError, match=r"no images in split 'valid' of the folder layout; its splits are train, val"
        ):
            look(data, split="valid")
    with pytest.raises(DataError, match="no images in split 'val' of the cityscapes layout; nor in any other"):
        open_dataset(data, split="val", format="cityscapes")
    gta5 = tmp_path / "gta5"
    for place in ("images", "labels"):
        (gta5 / place).mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (4, 4)).save(gta5 / f"images/{number}.png")
        Image.new("L", (4, 4), 7).save(gta5 / f"labels/{number}.png")
    with pytest.raises(
        DataError, match=r"no images in split 'test' of the gta5 layout; its splits are train, val, all"
    ):
        open_dataset(gta5, split="test")
    assert [len(open_dataset(gta5, split=split)) for split in ("train", "val", "all")] == [9, 1, 10]


def test_a_list_of_camvid_that_names_a_missing_image_is_refused_and_may_begin_with_a_mark(tmp_path):
    (tmp_path / "LabeledApproved_full").mkdir()
    (tmp_path / "701_StillsRaw_full").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "701_StillsRaw_full/a.png")
    Image.new("RGB", (4, 4), (128, 64, 128)).save(tmp_path / "LabeledApproved_full/a_L.png")
    (tmp_path / "test.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n")
    assert len(open_dataset(tmp_path, split="test", format="camvid")) == 1
    with pytest.raises(DataError, match="no images in split 'val' of the camvid layout; its splits are test, all"):
        open_dataset(tmp_path, split="val", format="camvid")
    (tmp_path / "test.txt").write_text("a.png\nb.png")
    with pytest.raises(DataError, match=r"test\.txt names 1 images that are not there, e\.g\. b"):
        open_dataset(tmp_path, split="test", format="camvid")
    (tmp_path / "test.txt").write_text("a.png", encoding="utf-16")
    with pytest.raises(DataError, match=r"test\.txt is in UTF-16; save it in UTF-8"):
        open_dataset(tmp_path, split="test", format="camvid")


def test_a_label_of_the_picture_as_stored_is_refused_with_the_orientation_and_one_of_the_upright_picture_fits(tmp_path):
    data = write_labelled(tmp_path / "d", count=1)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (16, 8)).save(data / "images/val/0.png", exif=exif)
    dataset = open_dataset(data, split="val")
    for look in (lambda: dataset[0], lambda: check_pairs(dataset, used_hw=(8, 16))):
        with pytest.raises(
            DataError, match="is 16x8 when upright by its EXIF orientation, but .* is 8x16; .* label the"
        ):
            look()
    assert "when upright" in inspect(data, split="val").problems[0]
    Image.fromarray(np.zeros((16, 8), np.uint8)).save(data / "labels/val/0.png")
    found = inspect(data, split="val")
    assert not found.problems
    assert "1 images carry an EXIF orientation, which is applied" in found.remarks[-1]


@pytest.mark.parametrize("command", ["eval", "parity", "check", "convert"])
def test_labels_without_one_labelled_pixel_are_one_line_everywhere(command, tmp_path, rgb_model):
    data = write_labelled(tmp_path / "d", count=2)
    for number in range(2):
        write_png(data / f"labels/val/{number}.png", np.full((8, 16), 255, np.uint8))
    done = {
        "eval": lambda: call(cli_eval.main, rgb_model, "--data", data),
        "parity": lambda: call(cli_parity.main, rgb_model, "--reference", rgb_model, "--data", data),
        "check": lambda: call(cli_data.main, "check", data, "--split", "val", "--sheet", tmp_path / "s.png"),
        "convert": lambda: call(cli_data.main, "convert", data, tmp_path / "out", "--split", "val"),
    }[command]()
    assert done.exit_code == 3
    assert len(done.stderr.splitlines()) == 1
    assert "no pixel " in done.stderr
    assert "of the classes" in done.stderr


def test_a_spread_of_samples_without_a_labelled_pixel_is_refused(tmp_path):
    data = write_labelled(tmp_path / "d", count=4)
    write_png(data / "labels/val/0.png", np.full((8, 16), 255, np.uint8))
    found = open_dataset(data, split="val")
    assert [pair.image.name for pair in found.spread(2).files] == ["0.png", "2.png"]
    with pytest.raises(DataError, match=r"no pixel of its 1 labels carries one of the classes \(red, green, blue\)"):
        found.spread(1)
