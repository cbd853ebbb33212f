import numpy as np
import pytest

from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ConfigError, DataError
from clst_train.synthetic.camera_looks import LOOKS, find_look
from clst_train.synthetic.scenes import ROAD, SKY, draw_drive, draw_scene, write_scenes


def scenes(look, count=30):
    return [draw_scene(np.random.default_rng([3, index]), LOOKS[look], (96, 192)) for index in range(count)]


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
    image, labels = draw_scene(np.random.default_rng(5), LOOKS["new"], (64, 96))
    again, labels_again = draw_scene(np.random.default_rng(5), LOOKS["new"], (64, 96))
    other, _ = draw_scene(np.random.default_rng(6), LOOKS["new"], (64, 96))
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


def test_the_new_camera_is_darker_and_noisier():
    old, new = (np.stack([image for image, _ in scenes(look)]).astype(float) for look in ("old", "new"))
    assert new.mean() < old.mean() - 15


def test_a_drive_moves_through_one_world():
    frames = [labels for _, labels in draw_drive(1, LOOKS["old"], (64, 96), 3)]
    assert len(frames) == 3
    changed = (frames[0] != frames[1]).mean()
    assert 0 < changed < 0.4


def test_written_scenes_open_as_a_data_set_and_an_existing_folder_is_refused(tmp_path):
    out = tmp_path / "s"
    write_scenes(out, look=LOOKS["old"], counts={"train": 2, "val": 1}, size_hw=(33, 65), seed=1)
    data = open_dataset(out, split="train")
    assert len(data) == 2
    assert data[0].image.shape == (33, 65, 3)
    with pytest.raises(DataError, match="not empty"):
        write_scenes(out, look=LOOKS["old"], counts={"train": 1}, size_hw=(33, 65), seed=1)


def test_an_unknown_look_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'new'"):
        find_look("newer")
