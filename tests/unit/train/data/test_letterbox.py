"""Source and target images that keep their shape: padding has no label, is never learned from, and stays grey."""

import dataclasses
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.geometry import PADDING_RGB, Content, Fit
from clst_runtime.imaging.image_files import write_png
from clst_train.compute.ranks import ONE_PROCESS
from clst_train.data import augment
from clst_train.data.loading import source_batch, target_batch
from clst_train.data.look import Look
from clst_train.data.target import open_target
from clst_train.method.ensemble.store import target_hash
from clst_train.recipes.recipe import config_from_mapping
from clst_train.stages import adaptation as adaptation_stage
from clst_train.stages.adaptation import measured_look
from tests.conftest import write_labelled

BOX, LETTERBOX = (32, 32), Fit.LETTERBOX


@pytest.fixture(autouse=True)
def unmirrored(monkeypatch):
    """Every crop is blurred and none mirrored."""
    monkeypatch.setattr(augment, "MIRRORED", 0.0)
    monkeypatch.setattr(augment, "BLURRED", 1.0)


def settings(**augmentation):
    plain = {"scale": [1.0, 1.0], "crop_hw": list(BOX)}
    values = {"model": {"input_hw": list(BOX), "fit": "letterbox"}, "adaptation": {"batch": 3}}
    return config_from_mapping({**values, "augmentation": plain | augmentation}, where="test")


def old_camera(tmp_path, size_hw=(8, 16), count=2):
    """Left half red, right half blue, the first pixel without a label."""
    return open_dataset(write_labelled(tmp_path / "old", count=count, size_hw=size_hw), split="val")


def new_camera(tmp_path, *sizes, grey=90, **options):
    for index, size_hw in enumerate(sizes):
        write_png(tmp_path / "new" / f"{index}.png", np.full((*size_hw, 3), grey + index, np.uint8))
    return open_target([str(tmp_path / "new")], input_hw=BOX, fit=LETTERBOX, **options)


def test_a_setting_names_the_fit_and_an_unknown_one_is_refused():
    assert settings().fit is LETTERBOX
    assert config_from_mapping({}, where="test").fit is Fit.STRETCH
    with pytest.raises(ConfigError, match=r"model.fit = 'pad'; give stretch or letterbox"):
        config_from_mapping({"model": {"fit": "pad"}}, where="test")


def test_source_padding_has_no_label_and_stays_grey_whatever_the_colours_become(tmp_path):
    """8×16 in 32×32 is 16×32, in rows 8–23; its first pixel, unlabelled, is one of 2×2."""
    batch = source_batch(old_camera(tmp_path), settings(colour=0.4), 2, 0, 0)
    for image, labels, mixing in zip(batch.images, batch.labels, batch.mixing, strict=True):
        padding = np.ones(BOX, bool)
        padding[8:24] = False
        assert (image[padding] == PADDING_RGB).all()
        assert not (image[~padding] == PADDING_RGB).all(axis=1).any()
        expected = np.full(BOX, 255)
        expected[8:24, :16], expected[8:24, 16:], expected[8:10, :2] = 0, 2, 255
        assert labels.tolist() == expected.tolist()
        assert not mixing[padding].any()
        assert mixing.any()


def test_each_target_image_has_the_padding_of_its_own_size(tmp_path):
    """8×16: rows 8–23 are left; 16×8: columns 8–23; 5×5: everything; 9×16: 18 rows, 7 above and 7 below."""
    target = new_camera(tmp_path, (8, 16), (16, 8), (5, 5), (9, 16))
    assert [target.content(index) for index in range(4)] == [
        Content(8, 0, 16, 32), Content(0, 8, 32, 16), Content(0, 0, 32, 32), Content(7, 0, 18, 32),
    ]  # fmt: skip
    assert target.ignored(2) is None
    assert np.flatnonzero(target.ignored(0).all(axis=1)).tolist() == [*range(8), *range(24, 32)]
    assert np.flatnonzero(target.ignored(1).all(axis=0)).tolist() == [*range(8), *range(24, 32)]
    assert target.ignored(3).sum() == 14 * 32
    for index in range(4):
        image, hidden = target[index], target.ignored(index)
        assert (image[~(np.zeros(BOX, bool) if hidden is None else hidden)] == 90 + index).all()
        assert hidden is None or (image[hidden] == PADDING_RGB).all()


def test_a_target_batch_ignores_padding_in_its_crops_and_whole_images(tmp_path):
    target = new_camera(tmp_path, (8, 16), (16, 8), (5, 5))
    batch = target_batch(target, settings(colour=0.4), 0)
    assert sorted(batch.indices.tolist()) == [0, 1, 2]
    for place, index in enumerate(batch.indices):
        expected = target.ignored(int(index))
        expected = np.zeros(BOX, bool) if expected is None else expected
        assert (batch.covered[place] == expected).all()
        assert (batch.ignored[place] == expected).all()
        assert (batch.crops[place][expected] == PADDING_RGB).all()
    square = target_batch(open_target([str(tmp_path / "new" / "2.png")], input_hw=BOX, fit=LETTERBOX), settings(), 0)
    assert square.covered is None
    assert not square.ignored.any()


def test_padding_follows_the_crop(tmp_path):
    """Zoomed twice, 64×64 has padding in rows 0–15 and 48–63; a crop of 32 rows sees what is left of it."""
    target, config = new_camera(tmp_path, (8, 16), (8, 16), (8, 16)), settings(scale=[2.0, 2.0], colour=0.4)
    tops = set()
    for iteration in range(4):
        batch = target_batch(target, config, iteration)
        for view, ignored, crop in zip(batch.geometries, batch.ignored, batch.crops, strict=True):
            rows = np.arange(view.top, view.top + 32)
            outside = (rows < 16) | (rows >= 48)
            assert ignored.all(axis=1).tolist() == ignored.any(axis=1).tolist() == outside.tolist()
            assert (crop[outside] == PADDING_RGB).all()
            tops.add(view.top)
    assert len(tops) > 3


def test_an_ignore_mask_lies_over_the_picture_not_over_the_padding(tmp_path):
    """The lower half of the mask: rows 16–23 of a wide picture, rows 16–31 of a high one."""
    mask = np.zeros((16, 32), np.uint8)
    mask[8:] = 1
    write_png(tmp_path / "mask.png", mask)
    target = new_camera(tmp_path, (8, 16), (16, 8), ignore_mask=str(tmp_path / "mask.png"))
    wide, high = target.ignored(0), target.ignored(1)
    assert np.flatnonzero(~wide.all(axis=1)).tolist() == list(range(8, 16))
    assert not wide[8:16].any()
    assert not high[:16, 8:24].any()
    assert high[16:].all()
    write_png(tmp_path / "mask.png", np.ones((8, 16), np.uint8))
    with pytest.raises(DataError, match="covers every pixel"):
        new_camera(tmp_path, (8, 16), ignore_mask=str(tmp_path / "mask.png"))


def test_frames_of_a_video_keep_their_shape_too(tmp_path):
    write_png(tmp_path / "new" / "0.png", np.full((16, 8, 3), 90, np.uint8))
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 32))
    for _ in range(2):
        writer.write(np.full((32, 64, 3), 200, np.uint8))
    writer.release()
    target = open_target([str(tmp_path / "new"), str(tmp_path / "v.avi")], input_hw=BOX, fit=LETTERBOX)
    assert [target.content(index) for index in range(3)] == [Content(0, 8, 32, 16), *[Content(8, 0, 16, 32)] * 2]
    assert (target[2][target.ignored(2)] == PADDING_RGB).all()
    assert np.abs(target[2][8:24].astype(int) - 200).max() <= 3


def test_the_same_colours_in_another_shape_are_no_other_colours(tmp_path, capsys):
    """Dark pictures of both cameras; with its bright padding the wide one would be told from the square one."""
    root = write_labelled(tmp_path / "old", count=3, size_hw=(16, 16))
    for index in range(3):
        write_png(root / "images" / "val" / f"{index}.png", np.full((16, 16, 3), 20 + index, np.uint8))
    source, target = open_dataset(root, split="val"), new_camera(tmp_path, *[(4, 16)] * 3, grey=20)
    config = settings(target_look=True)
    assert not measured_look(SimpleNamespace(config=config, source=source, target=target)).takes_colours
    assert re.search(r"L\* [+-]0\.0, .* nothing of it", capsys.readouterr().err)


def test_the_look_is_put_on_the_picture_with_colours_of_the_picture(tmp_path):
    """Source grey 200 takes on 90 and 91, and no blur mixes in the padding; under the mask is half of the target."""
    root = write_labelled(tmp_path / "old", count=2, size_hw=(8, 16))
    for index in range(2):
        write_png(root / "images" / "val" / f"{index}.png", np.full((8, 16, 3), 200, np.uint8))
    hidden = np.zeros((4, 16, 3), np.uint8)
    hidden[:, :8] = 255
    write_png(tmp_path / "mask.png", hidden)
    target = new_camera(tmp_path, (4, 16), (4, 16), ignore_mask=str(tmp_path / "mask.png"))
    for index in range(2):
        image = np.full((4, 16, 3), 90 + index, np.uint8)
        image[:, :6] = 250
        write_png(tmp_path / "new" / f"{index}.png", image)
    look = Look(shift=np.full(3, 3.0), blur_px=2.0, noise=np.zeros((7, 3)), size_hw=BOX)
    run = SimpleNamespace(
        config=settings(target_look=True, colour=0.0),
        source=open_dataset(root, split="val"),
        target=target,
        look=look,
        ranks=ONE_PROCESS,
    )
    crops, _ = adaptation_stage.both_batches(run, 0)
    assert (crops.images[:, :8] == PADDING_RGB).all()
    assert {len(np.unique(image[8:24])) for image in crops.images} == {1}
    assert {round(float(image[8:24].mean())) for image in crops.images} == {90, 91}
    run.look = dataclasses.replace(look, noise=np.full((7, 3), 4.0))
    crops, _ = adaptation_stage.both_batches(run, 0)
    assert (crops.images[:, :8] == PADDING_RGB).all()
    assert crops.images[:, 8:24].std() > 2


def test_an_ensemble_of_letterboxed_images_is_none_of_stretched_ones(tmp_path):
    boxed = new_camera(tmp_path, (8, 16))
    stretched = open_target([str(tmp_path / "new")], input_hw=BOX)
    assert target_hash(boxed) != target_hash(stretched)
    assert target_hash(stretched) == target_hash(open_target([str(tmp_path / "new")], input_hw=(64, 64)))
