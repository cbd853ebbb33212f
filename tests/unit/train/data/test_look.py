"""The look of a camera: blur and noise are put on images by hand, and have to be found again."""

import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from clst_runtime.data.dataset import open_dataset
from clst_runtime.imaging.image_files import write_png
from clst_train.data import look as module
from clst_train.data.loading import source_batch
from clst_train.data.look import Look
from clst_train.data.target import TargetImages
from clst_train.recipes.recipe import config_from_mapping
from clst_train.stages.adaptation import measured_look

SIZE = (128, 192)


def scenes(count: int = 12) -> list[np.ndarray]:
    """Even areas, as of sky and road, beside fine texture, as of leaves; in mid greys."""
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        image = np.full((*SIZE, 3), 120.0)
        image[:64, 64:] += cv2.GaussianBlur(rng.standard_normal((64, 128)), (0, 0), 0.7)[..., None] * 60
        made.append(np.clip(image, 30, 220).astype(np.uint8))
    return made


def noisy(image: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """The same noise in all three channels: luma alone."""
    noise = np.random.default_rng(seed).normal(0, deviation, SIZE)[..., None]
    return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)


def look_of(old: list[np.ndarray], new: list[np.ndarray], ignored: np.ndarray | None = None) -> Look:
    return module.look_of([(image, None) for image in old], [(image, ignored) for image in new], SIZE)


def test_the_same_camera_has_no_look_of_its_own():
    look = look_of(scenes(), scenes())
    assert look.blur_px < 0.05
    assert look.noise.max() < 0.05
    image = scenes()[0]
    assert (look.put_on(image, image, np.random.default_rng(0)) == image).all()
    assert str(look).startswith("the new camera has 0.0 px more blur and 0.0 grey values more noise; its mean colours")
    assert str(look).endswith("spreads (more than 2 counts); source images take on nothing of it")


@pytest.mark.parametrize("sigma", [0.6, 1.0])
def test_a_blur_is_found_again(sigma):
    blurred = [cv2.GaussianBlur(image, (0, 0), sigma) for image in scenes()]
    look = look_of(scenes(), blurred)
    assert look.blur_px == pytest.approx(sigma, abs=0.15)
    assert look_of(blurred, scenes()).blur_px == 0, "a sharper camera's images are not made of blurred ones"


def test_noise_is_found_again_and_not_taken_for_texture():
    """The quietest patches' power is a little below the mean: 4 grey values are found as 3 to 4."""
    look = look_of(scenes(), [noisy(image, 4.0, 7 + index) for index, image in enumerate(scenes())])
    assert look.blur_px < 0.3
    assert ((look.noise[2:, 0] > 3.0) & (look.noise[2:, 0] < 4.2)).all()
    assert look.noise[:, 1:].max() < 0.5, "no colour noise"
    grey = np.full((*SIZE, 3), 128, np.uint8)
    shown = look.put_on(grey, grey, np.random.default_rng(0)).astype(float)
    assert 2.5 < shown.std() < 4.2
    assert abs(shown.mean() - 128) < 0.5


def test_noise_that_the_old_camera_has_as_well_is_not_added_again():
    old = [noisy(image, 5.0, 50 + index) for index, image in enumerate(scenes())]
    new = [noisy(image, 3.0, 90 + index) for index, image in enumerate(scenes())]
    assert look_of(old, new).noise[2:].max() < 0.5


def test_nor_is_it_where_the_contrast_alone_is_another():
    """Source images, which keep their contrast without the colours, keep the whole of their noise as well."""
    old = [noisy(image, 4.0, 50 + index) for index, image in enumerate(scenes())]
    new = [noisy(image * 0.5 + 60, 4.0, 90 + index) for index, image in enumerate(scenes())]
    look = look_of(old, new)
    assert not look.takes_colours
    assert look.noise[2:].max() < 1


def test_blur_and_noise_together_are_told_apart():
    """Noise that were taken for picture would leave 0.65 px of 1."""
    new = [noisy(cv2.GaussianBlur(image, (0, 0), 1.0), 8.0, index) for index, image in enumerate(scenes())]
    look = look_of(scenes(), new)
    assert look.blur_px == pytest.approx(1.0, abs=0.25)
    assert 6.0 < look.grain[..., 0].std() < 8.4


def test_each_image_has_other_noise_and_the_same_draw_the_same():
    look = look_of(scenes(), [noisy(image, 4.0, index) for index, image in enumerate(scenes())])
    image = scenes()[0]
    first, second, again = (look.put_on(image, image, np.random.default_rng(seed)) for seed in (1, 2, 1))
    assert (first == again).all()
    assert (first != second).mean() > 0.5


def lamps() -> np.ndarray:
    """Two by night: 8 of 96 patches are bright, and all of these show an edge."""
    image = np.zeros((*SIZE, 3), np.uint8)
    for column in (32, 128):
        cv2.circle(image, (column, 64), 12, (220, 220, 220), -1)
    return image


@pytest.mark.parametrize("image", [np.zeros((*SIZE, 3), np.uint8), np.full((*SIZE, 3), 255, np.uint8), lamps()])
def test_images_of_which_nearly_all_is_black_or_white_show_neither_and_the_line_says_so(image):
    look = look_of(scenes(), [image] * 3)
    assert (look.blur_px, look.noise.max()) == (0, 0)
    assert "has blur and noise that cannot be measured, since nearly all is too dark, too bright" in str(look)


def test_pictures_smaller_than_a_patch_show_neither():
    """Of a letterbox 32 pixels high, say."""
    look = look_of([np.full((8, 32, 3), 128, np.uint8)] * 2, scenes())
    assert (look.blur_px, look.noise.max()) == (0, 0)


def test_what_lies_under_the_ignore_mask_is_not_taken_for_the_camera():
    """A bright even frame without noise, 24 rows above and below, which are one patch and a half."""
    bars = np.zeros(SIZE, bool)
    bars[:24], bars[-24:] = True, True
    new = [noisy(image, 4.0, index) for index, image in enumerate(scenes())]
    framed = [np.where(bars[..., None], np.uint8(220), image) for image in new]
    look, wrong = look_of(scenes(), framed, bars), look_of(scenes(), framed)
    assert (look.takes_colours, wrong.takes_colours) == (False, True)
    assert 3.0 < look.grain[..., 0].std() < 4.2
    assert not wrong.takes_noise


def test_of_large_images_some_patches_tell_the_same(monkeypatch):
    """Of 96 patches every third."""
    new = [noisy(image, 4.0, index) for index, image in enumerate(scenes())]
    whole = look_of(scenes(), new)
    monkeypatch.setattr(module, "MOST_PATCHES", 40)
    some = look_of(scenes(), new)
    assert some.noise[2:, 0] == pytest.approx(whole.noise[2:, 0], abs=0.3)
    assert some.noise[2, 0] != whole.noise[2, 0]


def test_colours_are_taken_where_they_are_others():
    """All images of one camera alike: a spread counts as one unit of L*, so 120 → 60 is far above 2."""
    dark = [np.full((*SIZE, 3), 60, np.uint8)] * 2
    look = look_of([np.full((*SIZE, 3), 120, np.uint8)] * 2, dark)
    assert look.takes_colours
    image = np.full((*SIZE, 3), 120, np.uint8)
    assert look.put_on(image, dark[0], np.random.default_rng(0)).mean() < 62
    assert not look_of(scenes(), scenes()).takes_colours


@pytest.fixture
def bright(tmp_path):
    """Four even source images."""
    for index in range(4):
        write_png(tmp_path / "images" / "train" / f"{index}.png", np.full((32, 32, 3), 200, np.uint8))
        write_png(tmp_path / "labels" / "train" / f"{index}.png", np.zeros((32, 32), np.uint8))
    (tmp_path / "classes.json").write_text('{"names": ["road", "sky"], "colors": [[128, 64, 128], [70, 130, 180]]}')
    return open_dataset(tmp_path, split="train")


@pytest.fixture
def darker(tmp_path):
    paths = []
    for index in range(3):
        paths.append(tmp_path / "new" / f"{index}.png")
        write_png(paths[-1], np.full((32, 32, 3), 70, np.uint8))
    return TargetImages(paths=tuple(paths), video_frames={}, input_hw=(32, 32))


def config(**augmentation: object):
    augmentation = {"colour": 0.0, "scale": [1.0, 1.0], "crop_hw": [32, 32], **augmentation}
    return config_from_mapping({"model": {"input_hw": [32, 32]}, "augmentation": augmentation}, where="test")


def test_source_crops_take_on_the_colours_of_their_own_target_image(bright):
    look = Look(shift=np.full(3, 3.0), blur_px=0.0, noise=np.zeros((7, 3)), size_hw=(32, 32))
    shown = [np.full((32, 32, 3), level, np.uint8) for level in (20, 240)]
    found = source_batch(bright, config(), 2, 1, 0, look=(look, shown)).images
    assert [round(float(image.mean())) for image in found] == [20, 240]
    assert (source_batch(bright, config(), 2, 1, 0, look=(look, shown)).images == found).all()
    assert (source_batch(bright, config(), 2, 1, 0).images == 200).all()


def test_the_images_decide_whether_the_colours_are_taken_and_a_line_says_it(bright, darker, capsys, monkeypatch):
    """Bright ones have a mean L* of 80.6, darker ones of 29.8, all alike: the shift is some −51 units."""

    def decided(**settings: object) -> tuple[Look | None, str]:
        run = SimpleNamespace(config=config(**settings), source=bright, target=darker)
        return measured_look(run), capsys.readouterr().err

    for least, words in ((45.0, "colours"), (55.0, "nothing of it")):
        monkeypatch.setattr(module, "LEAST_SHIFT", least)
        look, told = decided(target_look=True)
        assert look.takes_colours == (least == 45.0)
        assert re.search(
            rf"0\.0 px more blur and 0\.0 grey values more noise; .*L\* -5.*take on {words}$", told.strip()
        )
        assert told.count("\n") == 1
    assert decided(target_look=False) == (None, "")
