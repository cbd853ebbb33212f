import math

import numpy as np
import pytest

from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.image_files import write_png
from clst_train.config import AugmentationConfig, DataConfig
from clst_train.data.augment import draw_geometry
from clst_train.data.loading import source_batch
from clst_train.data.sampling import count_classes, geometry_showing, rare_classes
from clst_train.recipes.recipe import config_from_mapping, read_recipe, with_settings
from tests.conftest import write_labelled


def test_the_probabilities_are_those_of_the_formula():
    """Shares 0.75, 0.25, 0 at T = 0.5: exp(0.5) to exp(1.5), that is 1 to e, and nothing for the absent class."""
    found = rare_classes(np.array([[60, 0, 0], [15, 25, 0]]), 0.5)
    assert found.probabilities.tolist() == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e), 0.0])
    assert [places.tolist() for places in found.images] == [[0, 1], [1], []]


def test_a_low_temperature_does_not_overflow_and_draws_the_rarest():
    assert rare_classes(np.array([[9, 1]]), 0.0005).probabilities.tolist() == pytest.approx([0.0, 1.0])


def test_an_image_with_a_speck_of_the_class_is_not_drawn_unless_there_is_no_better():
    """0.05 % of 10 000 pixels are 5: four are too few beside an image with five, and enough when they are all."""
    assert rare_classes(np.array([[9996, 4], [9995, 5]]), 1.0).images[1].tolist() == [1]
    assert rare_classes(np.array([[9996, 4], [10000, 0]]), 1.0).images[1].tolist() == [0]


def test_without_a_labelled_pixel_the_error_says_so():
    with pytest.raises(DataError, match="no source pixel has a label"):
        rare_classes(np.zeros((2, 3), np.int64), 1.0)
    with pytest.raises(ConfigError, match="rare_class_sampling = -1"):
        DataConfig(rare_class_sampling=-1.0)


def test_the_draws_follow_the_probabilities():
    found = rare_classes(np.array([[60, 0], [15, 25]]), 0.5)
    draws = [found.draw(np.random.default_rng(seed)) for seed in range(2000)]
    assert sum(chosen for chosen, _ in draws) / 2000 == pytest.approx(math.e / (1 + math.e), abs=0.03)
    assert {place for chosen, place in draws if chosen == 1} == {1}
    assert {place for chosen, place in draws if chosen == 0} == {0, 1}


def test_every_label_is_counted_once_at_the_models_size(tmp_path, capsys):
    """8×16 labels, left half class 0 but for one ignored pixel, right half class 2; more images than workers ahead."""
    dataset = open_dataset(write_labelled(tmp_path, count=70), split="val")
    counts = count_classes(dataset, (8, 16))
    assert counts.tolist() == [[63, 0, 64]] * 70
    assert count_classes(dataset, (4, 8)).sum(axis=1).tolist() == [32] * 70
    assert "counting classes 70/70" in capsys.readouterr().err.replace(" 0/70", "")


def test_a_damaged_label_is_named(tmp_path):
    dataset = open_dataset(write_labelled(tmp_path), split="val")
    write_png(tmp_path / "labels/val/1.png", np.full((8, 16), 77, np.uint8))
    with pytest.raises(DataError, match=r"1\.png"):
        count_classes(dataset, (8, 16))


def test_a_crop_is_chosen_to_show_the_class():
    """One 4×4 patch in the corner of a 40×60 label: a plain 16×16 crop shows it in 1 of about 70, ten tries in more."""
    labels = np.zeros((40, 60), np.uint8)
    labels[:4, :4] = 1
    settings = AugmentationConfig(scale=(1.0, 1.0))
    shown = [
        (geometry_showing(np.random.default_rng(seed), 1, labels, settings, (16, 16)).classes(labels) == 1).any()
        for seed in range(200)
    ]
    # of 25·45 corners 4·4 show it: 1 − (1 − 16/1125)^10 = 13 %
    assert np.mean(shown) == pytest.approx(0.13, abs=0.06)
    whole = geometry_showing(np.random.default_rng(0), 1, labels, settings, (40, 60))
    assert (whole.top, whole.left) == (0, 0)


def test_of_the_tries_the_one_that_shows_most_is_taken():
    """0.05 % of 64·64 pixels are 2.05: one pixel here and two there are never enough, so all tries are made."""
    labels = np.zeros((64, 300), np.uint8)
    labels[30, [30, 200, 201]] = 1
    settings, found = AugmentationConfig(scale=(1.0, 1.0)), set()
    for seed in range(20):
        view = geometry_showing(np.random.default_rng(seed), 1, labels, settings, (64, 64))
        rng = np.random.default_rng(seed)
        tries = [draw_geometry(rng, settings, (64, 300), (64, 64)).classes(labels) == 1 for _ in range(10)]
        most = max(int(part.sum()) for part in tries)
        assert (view.classes(labels) == 1).sum() == most
        found.add(most)
    assert found == {1, 2}
    nowhere = geometry_showing(np.random.default_rng(0), 2, labels, settings, (64, 64))
    assert nowhere.crop_hw == (64, 64)


def test_batches_with_rare_classes_are_a_function_of_the_iteration_and_show_them(tmp_path):
    root = write_labelled(tmp_path, count=6)
    rare = np.zeros((8, 16), np.uint8)
    rare[2:5, 3:6] = 1
    write_png(root / "labels/val/4.png", rare)
    dataset = open_dataset(root, split="val")
    values = with_settings(read_recipe("demo"), ["model.input_hw=[32,64]", "augmentation.crop_hw=[32,32]"])
    config = config_from_mapping(values, where="test")
    sampler = rare_classes(count_classes(dataset, (32, 64)), 0.05)
    first, again = (source_batch(dataset, config, 4, 1, 7, sampler) for _ in range(2))
    assert (first.images == again.images).all()
    assert (first.labels == again.labels).all()
    with_class = [(source_batch(dataset, config, 4, 1, i, sampler).labels == 1).any(axis=(1, 2)) for i in range(20)]
    # T = 0.05 draws the rare class all but always, one image of six in turn at best
    assert np.mean(with_class) > 0.9
    in_turn = [(source_batch(dataset, config, 4, 1, i).labels == 1).any(axis=(1, 2)) for i in range(20)]
    assert np.mean(in_turn) < 0.2
