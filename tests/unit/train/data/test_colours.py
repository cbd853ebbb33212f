"""Colour transfer: expected values follow from mean and spread in L*a*b*; a grey has a* = b* = 0."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ConfigError
from clst_runtime.imaging.image_files import write_png
from clst_train.config import AugmentationConfig
from clst_train.data.colours import colour_shift, colours_of, with_colours
from clst_train.data.loading import source_batch
from clst_train.data.target import TargetImages
from clst_train.recipes.recipe import config_from_mapping
from clst_train.stages import adaptation
from clst_train.stages.adaptation import takes_colours


def stripes(*greys: int) -> np.ndarray:
    """8,len,3: a column of each grey."""
    return np.repeat(np.tile(np.array(greys, np.uint8), (8, 1))[..., None], 3, axis=2)


def test_a_mid_grey_has_the_lightness_of_the_definition():
    """119 is 0.1845 of white in linear light: L* = 116·0.1845^(1/3) − 16 = 50.03."""
    colours = colours_of(stripes(119, 119))
    assert colours.mean == pytest.approx([50.03, 0, 0], abs=0.3)
    assert colours.spread == pytest.approx([0, 0, 0], abs=0.01)


def test_wholly_moved_greys_become_the_other_images():
    """Two greys have mean and spread of their own; moved wholly they are the other image's two greys."""
    bright, dark = stripes(180, 220), stripes(40, 60)
    moved = with_colours(bright, colours_of(bright), colours_of(dark), 1.0)
    assert np.abs(moved.astype(int) - dark).max() <= 1
    back = with_colours(dark, colours_of(dark), colours_of(bright), 1.0)
    assert np.abs(back.astype(int) - bright).max() <= 1


def test_a_strength_of_nothing_leaves_the_image_and_half_is_between():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    other = colours_of(stripes(10, 30))
    own = colours_of(image)
    assert np.abs(with_colours(image, own, other, 0.0).astype(int) - image).max() <= 1
    grey = stripes(119, 119)
    half = colours_of(with_colours(grey, colours_of(grey), colours_of(stripes(0, 0)), 0.5))
    assert half.mean[0] == pytest.approx(25.0, abs=0.5)


def test_an_even_image_is_not_stretched_into_noise():
    """Greys 100 and 101 differ by 0.4 in L*; a spread of 30 must not be made of that."""
    even, wild = stripes(100, 101), stripes(0, 255)
    moved = with_colours(even, colours_of(even), colours_of(wild), 1.0)
    assert colours_of(moved).spread[0] < 15


def test_a_crop_is_moved_as_the_whole_image_is():
    whole, other = stripes(20, 90, 200, 240), colours_of(stripes(40, 60))
    moved = with_colours(whole, colours_of(whole), other, 1.0)
    crop = with_colours(whole[:, 2:], colours_of(whole), other, 1.0)
    assert (crop == moved[:, 2:]).all()


@pytest.fixture
def bright(tmp_path):
    for index in range(4):
        write_png(tmp_path / "images" / "train" / f"{index}.png", np.tile(stripes(180, 220), (4, 16, 1)))
        write_png(tmp_path / "labels" / "train" / f"{index}.png", np.zeros((32, 32), np.uint8))
    (tmp_path / "classes.json").write_text('{"names": ["road", "sky"], "colors": [[128, 64, 128], [70, 130, 180]]}')
    return open_dataset(tmp_path, split="train")


def colour_config(share: float):
    augmentation = {"target_colours": share, "colour": 0.0, "scale": [1.0, 1.0], "crop_hw": [32, 32]}
    values = {"model": {"input_hw": [32, 32]}, "augmentation": augmentation}
    return config_from_mapping(values, where="test")


def test_source_crops_take_on_the_colours_of_their_own_target_image(bright):
    looks = [np.tile(stripes(level, level + 10), (4, 16, 1)) for level in (20, 240)]
    found = source_batch(bright, colour_config(1.0), 2, 1, 0, colours_from=looks).images
    assert found[0].mean() < 190 < 200 < found[1].mean() + 1
    moved = [source_batch(bright, colour_config(1.0), 2, 1, i, colours_from=looks).images for i in range(20)]
    assert min(images[0].mean() for images in moved) < 60
    again = source_batch(bright, colour_config(1.0), 2, 1, 0, colours_from=looks).images
    assert (again == found).all()


def test_the_share_is_a_probability_and_nothing_changes_without_it(bright):
    looks = [np.tile(stripes(20, 30), (4, 16, 1))] * 4
    plain = source_batch(bright, colour_config(0.0), 4, 1, 3).images
    assert (source_batch(bright, colour_config(0.0), 4, 1, 3, colours_from=looks).images == plain).all()
    half = [source_batch(bright, colour_config(0.5), 4, 1, i, colours_from=looks).images for i in range(25)]
    changed = sum(int(image.mean() < 199) for images in half for image in images)
    assert 30 < changed < 70
    with pytest.raises(ConfigError, match=r"target_colours = 1.5; give a probability"):
        AugmentationConfig(target_colours=1.5)


def grey(lightness: float) -> np.ndarray:
    """An even picture of this L*: Y = ((L + 16)/116)³ in linear light, then sRGB's curve."""
    linear = ((lightness + 16) / 116) ** 3
    return np.full((8, 8, 3), round(255 * (1.055 * linear ** (1 / 2.4) - 0.055)), np.uint8)


def test_a_shift_is_told_in_spreads_of_the_images_means():
    """Means 46, 50, 54 and 26, 30, 34: both spreads √(32/3) = 3.27; −20 / 3.27 = −6.12. Greys have no other shift."""
    shift = colour_shift([grey(v) for v in (46, 50, 54)], [grey(v) for v in (26, 30, 34)])
    assert shift == pytest.approx([-6.12, 0, 0], abs=0.15)
    other_way = colour_shift([grey(v) for v in (26, 30, 34)], [grey(v) for v in (46, 50, 54)])
    assert other_way == pytest.approx(-shift)
    assert colour_shift([grey(40), grey(60)], [grey(60), grey(40)]) == pytest.approx([0, 0, 0], abs=1e-5)


def test_images_all_alike_do_not_make_a_small_difference_large():
    """One image each: no spread is known, so a unit of L* counts as one. Of whole greys these are 50.0 and 53.3."""
    assert colour_shift([grey(50)], [grey(53)])[0] == pytest.approx(3.0, abs=0.5)


@pytest.fixture
def darker(tmp_path):
    paths = []
    for index in range(3):
        paths.append(tmp_path / "new" / f"{index}.png")
        write_png(paths[-1], np.tile(stripes(60, 80), (4, 16, 1)))
    return TargetImages(paths=tuple(paths), video_frames={}, input_hw=(32, 32))


def test_the_images_decide_whether_source_crops_take_on_the_targets_colours(bright, darker, capsys, monkeypatch):
    """Bright ones have a mean L* near 80, darker ones near 29, all alike: the shift is some −51 units."""

    def decided(**settings: float) -> tuple[bool, str]:
        values = {"model": {"input_hw": [32, 32]}, "augmentation": {"target_colours": 0.5, **settings}}
        run = SimpleNamespace(config=config_from_mapping(values, where="test"), source=bright, target=darker)
        return takes_colours(run), capsys.readouterr().err

    monkeypatch.setattr(adaptation, "LEAST_SHIFT", 45.0)
    taken, told = decided()
    assert (taken, told.count("\n")) == (True, 1)
    assert re.search(r"L\* -5.* take them on .*from 45 on", told)
    monkeypatch.setattr(adaptation, "LEAST_SHIFT", 55.0)
    kept, told = decided()
    assert (kept, "keep theirs" in told) == (False, True)
    assert decided(target_colours=0.0) == (False, "")
