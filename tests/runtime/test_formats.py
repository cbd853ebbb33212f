import numpy as np
import pytest
from PIL import Image
from tests.conftest import write_labelled

from clst_runtime.dataset import open_dataset
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.formats import find_format
from clst_runtime.images import write_png

PICTURE = np.zeros((1, 3, 3), np.uint8)


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    write_png(tmp_path / "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", PICTURE)
    write_png(tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelIds.png", np.array([[7, 26, 0]], np.uint8))
    data = open_dataset(tmp_path, split="val")
    assert data.form.name == "cityscapes"
    assert data[0].labels.tolist() == [[0, 13, 255]]


def test_cityscapes_train_ids_stay_as_they_are(tmp_path):
    write_png(tmp_path / "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", PICTURE)
    write_png(tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelTrainIds.png", np.array([[0, 18, 255]], np.uint8))
    data = open_dataset(tmp_path, split="val")
    assert data.form.name == "cityscapes-trainids"
    assert data[0].labels.tolist() == [[0, 18, 255]]


def test_gta5_palette_indices_are_cityscapes_ids(tmp_path):
    write_png(tmp_path / "images/00001.png", PICTURE)
    label = Image.fromarray(np.array([[7, 23, 4]], np.uint8), mode="P")
    label.putpalette(list(range(256)) * 3)
    (tmp_path / "labels").mkdir()
    label.save(tmp_path / "labels/00001.png")
    data = open_dataset(tmp_path, split="train")
    assert data.form.name == "gta5"
    assert data[0].labels.tolist() == [[0, 10, 255]]


def test_synthia_ids_lie_in_the_first_16_bit_channel(tmp_path):
    import cv2

    write_png(tmp_path / "RGB/0000000.png", PICTURE)
    bgr = np.zeros((1, 3, 3), np.uint16)
    bgr[0, :, 2] = [3, 10, 22]
    (tmp_path / "GT/LABELS").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "GT/LABELS/0000000.png"), bgr)
    data = open_dataset(tmp_path, split="train")
    assert [data.classes.names[i] if i < 255 else "-" for i in data[0].labels[0]] == ["road", "person", "-"]


def test_camvid_colours_become_its_eleven_classes(tmp_path):
    write_png(tmp_path / "701_StillsRaw_full/a.png", PICTURE)
    write_png(
        tmp_path / "LabeledApproved_full/a_L.png", np.array([[[128, 64, 128], [128, 0, 192], [0, 0, 0]]], np.uint8)
    )
    assert open_dataset(tmp_path, split="train")[0].labels.tolist() == [[3, 3, 255]]


def test_a_colour_camvid_does_not_have_is_refused(tmp_path):
    write_png(tmp_path / "701_StillsRaw_full/a.png", PICTURE)
    write_png(tmp_path / "LabeledApproved_full/a_L.png", np.full((1, 3, 3), 77, np.uint8))
    with pytest.raises(DataError, match=r"254 \(3 pixels\)"):
        open_dataset(tmp_path, split="train")[0]


def test_idd_lite_layout(tmp_path):
    write_png(tmp_path / "leftImg8bit/val/12/007_image.png", PICTURE)
    write_png(tmp_path / "gtFine/val/12/007_label.png", np.array([[0, 6, 255]], np.uint8))
    assert open_dataset(tmp_path, split="val")[0].labels.tolist() == [[0, 6, 255]]


def test_folder_layout_with_an_unequal_size_names_both(tmp_path):
    write_labelled(tmp_path, count=1)
    write_png(tmp_path / "labels/val/0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="is 8x16 but .* is 4x4"):
        open_dataset(tmp_path, split="val")[0]


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
