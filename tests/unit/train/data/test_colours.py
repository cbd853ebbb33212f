"""Colour transfer: expected values follow from mean and spread in L*a*b*; a grey has a* = b* = 0."""

import numpy as np
import pytest

from clst_train.data.colours import colour_shift, colours_of, pixels_of, with_colours


def stripes(*greys: int) -> np.ndarray:
    """8,len,3: a column of each grey."""
    return np.repeat(np.tile(np.array(greys, np.uint8), (8, 1))[..., None], 3, axis=2)


def test_a_mid_grey_has_the_lightness_of_the_definition():
    """119 is 0.1845 of white in linear light: L* = 116·0.1845^(1/3) − 16 = 50.03."""
    colours = colours_of(stripes(119, 119))
    assert colours.mean == pytest.approx([50.03, 0, 0], abs=0.3)
    assert colours.spread == pytest.approx([0, 0, 0], abs=0.01)


def test_moved_greys_become_the_other_images():
    """Two greys have mean and spread of their own; moved they are the other image's two greys."""
    bright, dark = stripes(180, 220), stripes(40, 60)
    moved = with_colours(bright, colours_of(dark))
    assert np.abs(moved.astype(int) - dark).max() <= 1
    back = with_colours(dark, colours_of(bright))
    assert np.abs(back.astype(int) - bright).max() <= 1


def test_an_even_image_is_not_stretched_into_noise():
    """Greys 100 and 101 differ by 0.4 in L*; a spread of 30 must not be made of that."""
    even, wild = stripes(100, 101), stripes(0, 255)
    moved = with_colours(even, colours_of(wild))
    assert colours_of(moved).spread[0] < 15


def test_ignored_pixels_have_no_colours_unless_nothing_else_is_there():
    image, bar = stripes(0, 119), np.tile([True, False], (8, 1))
    assert colours_of(pixels_of(image, bar)).mean[0] == pytest.approx(50.03, abs=0.3)
    assert pixels_of(image, None) is image
    assert pixels_of(image, np.ones((8, 2), bool)) is image


def grey(lightness: float) -> np.ndarray:
    """An even picture of this L*: Y = ((L + 16)/116)³ in linear light, then sRGB's curve."""
    linear = ((lightness + 16) / 116) ** 3
    return np.full((8, 8, 3), round(255 * (1.055 * linear ** (1 / 2.4) - 0.055)), np.uint8)


def shift(source: tuple[float, ...], target: tuple[float, ...]) -> np.ndarray:
    return colour_shift(*([colours_of(grey(value)) for value in values] for values in (source, target)))


def test_a_shift_is_told_in_spreads_of_the_images_means():
    """Means 46, 50, 54 and 26, 30, 34: both spreads √(32/3) = 3.27; −20 / 3.27 = −6.12. Greys have no other shift."""
    found = shift((46, 50, 54), (26, 30, 34))
    assert found == pytest.approx([-6.12, 0, 0], abs=0.15)
    assert shift((26, 30, 34), (46, 50, 54)) == pytest.approx(-found)
    assert shift((40, 60), (60, 40)) == pytest.approx([0, 0, 0], abs=1e-5)


def test_images_all_alike_do_not_make_a_small_difference_large():
    """One image each: no spread is known, so a unit of L* counts as one. Of whole greys these are 50.0 and 53.3."""
    assert shift((50,), (53,))[0] == pytest.approx(3.0, abs=0.5)
