import threading
import time

import numpy as np
import pytest

from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import write_png
from clst_train.config import AugmentationConfig
from clst_train.data import loading
from clst_train.data.augment import Geometry, draw_geometry, mixing_mask, vary_colours
from clst_train.data.loading import positions, prefetched, source_batch, target_batch
from clst_train.data.target import open_target
from clst_train.recipes.recipe import config_from_mapping, read_recipe, with_settings
from tests.conftest import write_labelled


def test_a_pass_shows_every_image_once():
    seen = np.concatenate([positions(1, 1, 6, 2, iteration) for iteration in range(3)])
    assert sorted(seen.tolist()) == [0, 1, 2, 3, 4, 5]


def test_a_batch_that_does_not_divide_is_filled_up_with_the_first_images_of_the_pass():
    """Two batches of four show each of seven images, and one of them twice, but not in one batch."""
    first, second = (positions(1, 1, 7, 4, iteration).tolist() for iteration in (2, 3))
    assert sorted(set(first + second)) == list(range(7))
    assert second[3] == first[0]
    assert positions(1, 1, 7, 4, 0).tolist() != first


def test_each_process_has_orders_of_its_own_and_passes_may_be_longer_than_it_needs():
    orders = [[positions(1, 1, 9, 1, iteration, share=rank).item() for iteration in range(9)] for rank in range(2)]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]
    longer = [positions(1, 1, 2, 1, iteration, pass_steps=3).item() for iteration in range(6)]
    assert longer[0] == longer[2] != longer[1]
    assert longer[3] == longer[5] != longer[4]


def test_a_batch_is_a_function_of_its_iteration_alone():
    assert positions(1, 1, 9, 3, 7).tolist() == positions(1, 1, 9, 3, 7).tolist()
    assert positions(1, 1, 1, 4, 0).tolist() == [0, 0, 0, 0]


def test_geometry_moves_image_and_labels_alike():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    view = Geometry(zoomed_hw=(3, 4), top=1, left=1, crop_hw=(2, 2), mirrored=True)
    assert view.classes(labels).tolist() == [[6, 5], [10, 9]]
    assert view.image(np.repeat(labels[..., None], 3, 2))[..., 0].tolist() == [[6, 5], [10, 9]]


def test_a_crop_always_fits():
    for seed in range(50):
        view = draw_geometry(np.random.default_rng(seed), AugmentationConfig(scale=(0.2, 2.0)), (20, 30), (16, 30))
        assert view.image(np.zeros((20, 30, 3), np.uint8)).shape == (16, 30, 3)


def test_no_colour_change_leaves_the_image():
    image = np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8)
    same = vary_colours(np.random.default_rng(1), image, 0.0)
    assert (same == image).all()


class Given:
    """Random numbers that are given: the three strengths, then the balance; nothing is blurred."""

    def __init__(self, strengths, balance):
        self.draws = [np.array(strengths, float), np.array(balance, float), 1.0]

    def uniform(self, low, high, count=None):
        return self.draws.pop(0)

    def random(self):
        return 1.0


@pytest.mark.parametrize(
    ("strengths", "balance", "expected"),
    [
        ((1, 1, 1), (1, 1, 1), [[30, 60, 90], [10, 20, 60]]),
        ((2, 1, 1), (1, 1, 1), [[60, 120, 180], [20, 40, 120]]),
        ((1, 1, 0), (1, 1, 1), [[60, 60, 60], [30, 30, 30]]),  # no saturation: the mean of the three channels
        ((1, 1, 2), (1, 1, 1), [[0, 60, 120], [0, 10, 90]]),  # twice as far from grey; -10 is cut off at 0
        ((1, 2, 1), (1, 1, 1), [[15, 75, 135], [0, 0, 75]]),  # twice as far from the image's mean, 45
        ((1, 1, 1), (2, 1, 0), [[60, 60, 0], [20, 20, 0]]),
        ((4, 0, 1), (1, 1, 1), [[180, 180, 180], [180, 180, 180]]),  # no contrast: the mean after the brightness
        ((1, 1, 0), (2, 1, 0), [[40, 40, 40], [13, 13, 13]]),  # grey is that of the balanced colours: 40/3 is rounded
        ((9, 1, 1), (1, 1, 1), [[255, 255, 255], [90, 180, 255]]),
    ],
)
def test_colours_change_by_brightness_contrast_saturation_and_balance(strengths, balance, expected):
    """Counted by hand, the strengths in this order."""
    image = np.array([[[30, 60, 90], [10, 20, 60]]], np.uint8)
    varied = vary_colours(Given(strengths, balance), image, 0.5)
    assert varied.dtype == np.uint8
    assert np.abs(varied[0].astype(int) - expected).max() <= 1  # OpenCV's fixed point


def test_source_training_varies_colours_twice_as_much(tmp_path, monkeypatch):
    dataset = open_dataset(write_labelled(tmp_path, count=2), split="val")
    settings = ["augmentation.colour=0.2", "model.input_hw=[32,64]", "augmentation.crop_hw=[32,64]"]
    config, strengths = config_from_mapping(with_settings(read_recipe("demo"), settings), where="test"), []
    monkeypatch.setattr(loading, "vary_colours", lambda rng, image, strength: strengths.append(strength) or image)
    for stage in (0, 1):
        source_batch(dataset, config, 1, stage, 0)
    assert strengths == [0.4, 0.2]


def test_without_colour_changes_a_crop_is_the_picture_s_own_pixels_or_their_mirror(tmp_path):
    dataset = open_dataset(write_labelled(tmp_path, count=2, size_hw=(32, 64)), split="val")
    settings = ["augmentation.scale=[1.0,1.0]", "augmentation.colour=0", "model.input_hw=[32,64]"]
    settings.append("augmentation.crop_hw=[32,64]")
    config = config_from_mapping(with_settings(read_recipe("demo"), settings), where="test")
    own = dataset[0].image
    found = [image for i in range(8) for image in source_batch(dataset, config, 2, 0, i).images]
    mirrored = [np.array_equal(image, own[:, ::-1]) for image in found]
    assert all(np.array_equal(image, own) or turned for image, turned in zip(found, mirrored, strict=True))
    assert 0 < sum(mirrored) < 16


def test_half_of_the_classes_are_mixed_and_never_the_ignored():
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    mask = mixing_mask(np.random.default_rng(0), labels, 255)
    assert mask.sum() == 2
    assert not mask[0, 3]
    assert mixing_mask(np.random.default_rng(0), np.full((1, 2), 255, np.uint8), 255).sum() == 0
    one = mixing_mask(np.random.default_rng(0), np.full((1, 2), 7, np.uint8), 255)
    assert one.dtype == np.bool_
    assert one.tolist() == [[True, True]]  # of one class the larger half is that one


def test_prefetching_keeps_the_order_and_raises_what_went_wrong():
    assert list(prefetched(lambda i: i * i, 2, 5)) == [(2, 4), (3, 9), (4, 16)]
    with pytest.raises(ZeroDivisionError):
        list(prefetched(lambda i: 1 // i, 0, 2))
    assert list(prefetched(lambda i: i, 3, 3)) == []


def test_several_loaders_keep_the_order_though_later_batches_are_ready_first():
    def slow_at_first(iteration):
        time.sleep(0.03 * (4 - iteration))
        return iteration

    assert list(prefetched(slow_at_first, 0, 4, loaders=4)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_several_loaders_work_at_the_same_time_and_no_further_ahead_than_allowed():
    """Each of two waits for the other, so one thread alone would never end; the third is not begun before it may."""
    both, begun = threading.Barrier(2), []

    def meet(iteration):
        begun.append(iteration)
        if iteration < 2:
            both.wait(timeout=10)
        return iteration

    batches = prefetched(meet, 0, 9, ahead=1, loaders=2)
    assert next(batches) == (0, 0)
    time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2]  # the one handed out and two ahead
    batches.close()


def test_an_error_comes_when_its_batch_has_its_turn_and_ends_the_loaders():
    def fails_at_two(iteration):
        if iteration == 2:
            raise DataError("damaged.png")
        return iteration

    batches = prefetched(fails_at_two, 0, 9, loaders=3)
    assert [next(batches), next(batches)] == [(0, 0), (1, 1)]
    with pytest.raises(DataError, match="damaged"):
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def labelled(tmp_path, count=4):
    from tests.conftest import write_labelled

    return open_dataset(write_labelled(tmp_path / "d", count=count, size_hw=(40, 48)), split="val")


def test_target_from_folders_pictures_and_videos(tmp_path):
    import cv2

    for index in range(2):
        write_png(tmp_path / "a" / f"{index}.png", np.full((4, 6, 3), index, np.uint8))
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for _ in range(5):
        writer.write(np.full((32, 32, 3), 90, np.uint8))
    writer.release()
    target = open_target([str(tmp_path / "a"), str(tmp_path / "v.avi")], input_hw=(8, 8), every=2)
    assert len(target) == 2 + 3
    assert target[1].shape == target[4].shape == (8, 8, 3)


def test_no_target_an_empty_one_and_a_mask_over_everything_are_refused(tmp_path):
    with pytest.raises(DataError, match="no target"):
        open_target([], input_hw=(8, 8))
    with pytest.raises(DataError, match="no such folder"):
        open_target([str(tmp_path / "none")], input_hw=(8, 8))
    write_png(tmp_path / "a" / "0.png", np.zeros((4, 4, 3), np.uint8))
    write_png(tmp_path / "mask.png", np.full((4, 4), 1, np.uint8))
    with pytest.raises(DataError, match="covers every pixel"):
        open_target([str(tmp_path / "a")], input_hw=(8, 8), ignore_mask=str(tmp_path / "mask.png"))


def test_the_ignore_mask_follows_the_crop(tmp_path):
    """The left half is masked: in a plain crop the left columns are ignored, in a mirrored one the right."""
    rng = np.random.default_rng(0)
    for index in range(8):
        write_png(tmp_path / "a" / f"{index}.png", rng.integers(0, 255, (8, 8, 3)).astype(np.uint8))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    write_png(tmp_path / "mask.png", mask)
    target = open_target([str(tmp_path / "a")], input_hw=(32, 32), ignore_mask=str(tmp_path / "mask.png"))
    small = ["model.input_hw=[32,32]", "augmentation.crop_hw=[32,32]", "augmentation.scale=[1,1]", "adaptation.batch=8"]
    values = with_settings(read_recipe("demo"), small)
    config = config_from_mapping(values, where="test")
    batch = target_batch(target, config, 0)
    mirrored = [view.mirrored for view in batch.geometries]
    assert True in mirrored
    assert False in mirrored
    for ignored, view in zip(batch.ignored, batch.geometries, strict=True):
        assert ignored.all(axis=0).tolist() == [not view.mirrored] * 16 + [view.mirrored] * 16


def test_an_ignore_mask_may_be_smaller_but_not_of_another_shape(tmp_path):
    write_png(tmp_path / "a" / "0.png", np.zeros((40, 60, 3), np.uint8))
    for size_hw in ((20, 30), (40, 60), (80, 120)):
        mask = np.zeros(size_hw, np.uint8)
        mask[size_hw[0] // 2 :] = 9
        write_png(tmp_path / "mask.png", mask)
        target = open_target([str(tmp_path / "a")], input_hw=(8, 8), ignore_mask=str(tmp_path / "mask.png"))
        assert target.ignored(0).sum(axis=1).tolist() == [0] * 4 + [8] * 4
    write_png(tmp_path / "mask.png", np.zeros((60, 40), np.uint8))
    with pytest.raises(DataError, match=r"mask is 40×60, the camera's images are 60×40"):
        open_target([str(tmp_path / "a")], input_hw=(8, 8), ignore_mask=str(tmp_path / "mask.png"))


def test_a_zoomed_picture_keeps_its_shape():
    plain = AugmentationConfig()
    view = draw_geometry(np.random.default_rng(4), plain, (64, 96), (48, 48))
    assert view.zoomed_hw[1] / view.zoomed_hw[0] == pytest.approx(1.5, abs=0.03)
