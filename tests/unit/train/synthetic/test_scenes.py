from dataclasses import replace

import numpy as np
import pytest

from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ConfigError, DataError
from clst_train.synthetic.camera_looks import BRIGHTNESS, Look, find_look, photograph
from clst_train.synthetic.camera_model import Camera
from clst_train.synthetic.scenes import ROAD, SKY, draw_drive, draw_scene, write_scenes


def scenes(look, count=30):
    return [draw_scene(np.random.default_rng([3, index]), find_look(look), (96, 192)) for index in range(count)]


@pytest.mark.parametrize("look", ["old", "new"])
def test_every_class_occurs_and_the_road_lies_below_the_sky(look):
    drawn = scenes(look)
    ids = np.unique(np.stack([labels for _, labels in drawn]))
    assert ids.tolist() == list(range(10))
    for _, labels in drawn:
        road = np.nonzero(labels == ROAD)[0]
        sky = np.nonzero(labels == SKY)[0]
        assert labels[-1, 96] == ROAD or (labels[-20:] == ROAD).any()
        if len(sky):
            assert sky.mean() < road.mean()


def test_the_same_seed_draws_the_same_scene_and_another_one_another():
    image, labels = draw_scene(np.random.default_rng(5), find_look("new"), (64, 96))
    again, labels_again = draw_scene(np.random.default_rng(5), find_look("new"), (64, 96))
    other, _ = draw_scene(np.random.default_rng(6), find_look("new"), (64, 96))
    assert (image == again).all()
    assert (labels == labels_again).all()
    assert (image != other).any()


def test_labels_lie_on_their_objects():
    sky_blue, road_grey = [], []
    for image, labels in scenes("old"):
        sky_blue.append(image[labels == SKY].mean(axis=0))
        road_grey.append(image[labels == ROAD].mean())
    assert all(colour[2] > 150 for colour in sky_blue)
    assert max(road_grey) < 150


def look_of(camera, *, haze=0.0, night=0.0):
    return Look(name="mine", camera=camera, height_m=(1.5, 1.5), pitch_deg=(0, 0), haze=haze, night=night)


def photographed(look, *, grey=200, size_hw=(4, 4), lights=0.0, seed=0):
    """A grey scene with counted labels, and the brightness that is drawn for it."""
    labels = np.arange(size_hw[0] * size_hw[1]).reshape(size_hw).astype(np.uint8)
    nearness, lamps = np.ones(size_hw, np.float32), np.full(size_hw, lights, np.float32)
    radiance = np.full((*size_hw, 3), grey, np.uint8)
    image, labels = photograph(np.random.default_rng(seed), look, radiance, labels, nearness, lamps)
    return image, labels, np.random.default_rng(seed).uniform(*BRIGHTNESS)


def test_the_camera_of_the_defaults_sees_the_scene_in_its_brightness():
    image, labels, brightness = photographed(look_of(Camera()))
    assert (image == int(200 * brightness)).all()
    assert labels.ravel().tolist() == list(range(16))


def test_labels_follow_the_lens():
    _, labels, _ = photographed(look_of(Camera(focal_length_factor=2.0)))
    assert labels.tolist() == [[5, 5, 6, 6], [5, 5, 6, 6], [9, 9, 10, 10], [9, 9, 10, 10]]


def test_a_longer_lens_sees_what_a_narrower_pinhole_sees():
    wide, lens = Camera(old_field_of_view_deg=90.0), Camera(old_field_of_view_deg=90.0, focal_length_factor=1.5)
    pinhole = Camera(old_field_of_view_deg=float(np.degrees(2 * np.arctan(1 / 1.5))))
    before, seen, drawn = (
        draw_scene(np.random.default_rng(4), look_of(each), (96, 192))[1] for each in (wide, lens, pinhole)
    )
    assert (before == drawn).mean() < 0.8
    assert (seen == drawn).mean() > 0.95


def test_short_exposures_are_for_daylight():
    linear = {"old_gamma": 1.0, "gamma": 1.0}
    day, _, brightness = photographed(look_of(Camera(**linear, exposure_stops=-2.0)))
    assert abs(day.astype(float) - 200 * brightness / 4).max() <= 1
    night, _, _ = photographed(look_of(Camera(**linear, exposure_stops=-2.0), night=1.0))
    exposed_as_ever, _, _ = photographed(look_of(Camera(**linear), night=1.0))
    assert np.array_equal(night, exposed_as_ever)


def test_the_night_is_bluish_and_lamps_shine_in_it():
    dark, _, _ = photographed(look_of(Camera(), night=1.0), grey=0)
    lamp, _, _ = photographed(look_of(Camera(), night=1.0), grey=0, lights=1.0)
    assert dark.max() == 0
    assert lamp[0, 0].tolist() == [229, 204, 127]  # 0.9, 0.8 and 0.5 of 255
    road, _, _ = photographed(look_of(Camera(), night=1.0))
    assert (np.diff(road.astype(int), axis=2) > 0).all()


def test_the_old_cameras_noise_is_a_grey_level_and_the_new_camera_is_darker_and_noisier():
    # 100 / 255 is 0.127 in linear light: 1274 of 10000 electrons, whose noise of sqrt(1274 + 25) electrons is 0.0036
    # of full scale; the response is 1.4 times as steep there: 1.3 grey levels
    old, _, _ = photographed(find_look("old"), grey=100, size_hw=(64, 64))
    new, _, _ = photographed(replace(find_look("new"), night=0.0, haze=0.0), grey=100, size_hw=(64, 64))
    assert old.std(axis=(0, 1)) == pytest.approx([1.3] * 3, abs=0.2)
    assert new[24:40, 24:40].std(axis=(0, 1)).min() > 2.5  # after a JPEG that smoothes it
    assert new.mean() < old.mean() - 20


def test_a_drive_moves_through_one_world():
    frames = [labels for _, labels in draw_drive(1, find_look("old"), (64, 96), 3)]
    assert len(frames) == 3
    changed = (frames[0] != frames[1]).mean()
    assert 0 < changed < 0.4


def test_written_scenes_open_as_a_data_set_and_an_existing_folder_is_refused(tmp_path):
    out = tmp_path / "s"
    write_scenes(out, look=find_look("old"), counts={"train": 2, "val": 1}, size_hw=(33, 65), seed=1)
    data = open_dataset(out, split="train")
    assert len(data) == 2
    assert data[0].image.shape == (33, 65, 3)
    with pytest.raises(DataError, match="not empty"):
        write_scenes(out, look=find_look("old"), counts={"train": 1}, size_hw=(33, 65), seed=1)


def test_an_unknown_look_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'new'"):
        find_look("newer")
