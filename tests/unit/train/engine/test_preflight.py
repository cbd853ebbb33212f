"""Whether the target's images show enough scenes, before anything is trained."""

import dataclasses

import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Fit
from clst_runtime.imaging.image_files import write_png
from clst_train.data.target import open_target
from clst_train.engine.preflight import doubt_of_scenes


def target(folder, scenes, images, **more):
    """So many images that show the scenes in turn, brought to 32x64."""
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(0, 256, (4, 8, 3), np.uint8), np.ones((4, 4, 1), np.uint8)) for _ in range(scenes)]
    for number in range(images):
        write_png(folder / f"{number:02}.png", pictures[number % scenes])
    return open_target([str(folder)], input_hw=(32, 64), **more)


@pytest.mark.parametrize(
    ("scenes", "images", "doubt"),
    [
        (10, 10, ""),
        (10, 15, ""),
        (10, 16, "only 10 of 16 target images differ: "),
        (9, 13, "only 9 of 13 target images differ: "),
        (9, 9, "only 9 target images: "),
        (1, 1, "only 1 target image: "),
        (2, 80, "only 1 of 40 target images, spread over all 80, differ: "),
    ],
)
def test_ten_images_and_two_thirds_have_to_differ(tmp_path, scenes, images, doubt):
    """Of 80 images that show two scenes in turn every second one is looked at: one scene."""
    found = doubt_of_scenes(target(tmp_path, scenes, images))
    assert found.startswith(doubt)
    assert bool(found) is bool(doubt)
    assert ("--target takes several" in found) is bool(doubt)


def test_a_letterbox_makes_no_images_alike(tmp_path):
    """The pictures fill 16 of 256 rows: with the bars they would all correlate."""
    found = target(tmp_path, 10, 10, fit=Fit.LETTERBOX)
    assert doubt_of_scenes(found) == ""
    tall = open_target([str(tmp_path)], input_hw=(256, 32), fit=Fit.LETTERBOX)
    assert doubt_of_scenes(tall) == ""


def test_a_bonnet_under_the_ignore_mask_makes_no_images_alike(tmp_path):
    """A white bonnet hides the lower half of ten pictures of other places."""
    rng, bonnet = np.random.default_rng(0), np.full((8, 32, 3), 255, np.uint8)
    for number in range(10):
        picture = rng.integers(0, 40, bonnet.shape, np.uint8)
        write_png(tmp_path / f"{number}.png", np.concatenate([picture, bonnet]))
    mask = np.zeros((16, 32), np.bool_)
    mask[8:] = True
    bare = open_target([str(tmp_path)], input_hw=(32, 64))
    assert doubt_of_scenes(bare).startswith("only 1 of 10 target images differ")
    assert doubt_of_scenes(dataclasses.replace(bare, mask=mask)) == ""


def test_a_damaged_image_is_named_at_once(tmp_path):
    found = target(tmp_path, 8, 8)
    content = (tmp_path / "03.png").read_bytes()
    (tmp_path / "03.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"03\.png"):
        doubt_of_scenes(found)
