from dataclasses import replace

import numpy as np
import pytest

from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.errors import ConfigError, DataError
from clst_train.synthetic.camera_model import Camera, camera_names, camera_toml, find_camera
from clst_train.synthetic.reimaging import (
    encode,
    expose,
    geometry_of,
    noise_of,
    reimage,
    take,
    take_labels,
    undistorted,
)

SIZES = [(360, 480), (227, 320), (720, 1280), (1024, 2048)]


def rng():
    return np.random.default_rng(0)


def ids(rows, columns):
    return np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns)


def scene(rows=120, columns=160):
    """Labels of ten discs on a chequered ground, and an image that is white where the label is 1."""
    down, across = np.mgrid[:rows, :columns]
    labels = ((down // 30 + across // 40) % 2).astype(np.uint8)
    for y, x, radius in np.random.default_rng(1).integers((0, 0, 4), (rows, columns, 20), (10, 3)):
        labels[(down - y) ** 2 + (across - x) ** 2 <= radius**2] ^= 1
    return np.repeat((labels * 255)[..., None], 3, axis=2), labels


def test_the_camera_of_the_defaults_gives_the_old_image():
    image = np.random.default_rng(2).integers(0, 256, (12, 20, 3), np.uint8)
    taken, labels = reimage(Camera(), image, ids(12, 20), rng=rng())
    assert np.array_equal(taken, image)
    assert np.array_equal(labels, ids(12, 20))


def test_a_doubled_focal_length_shows_the_middle_half_enlarged():
    moved = take_labels(Camera(focal_length_factor=2.0), ids(4, 4))
    assert moved.tolist() == [[5, 5, 6, 6], [5, 5, 6, 6], [9, 9, 10, 10], [9, 9, 10, 10]]


def test_what_lies_outside_the_old_image_is_ignored_and_black():
    camera, image = Camera(focal_length_factor=1 / 3), np.full((9, 9, 3), 200, np.uint8)
    taken, labels = reimage(camera, image, ids(9, 9), rng=rng())
    assert labels[3:6, 3:6].tolist() == [[10, 13, 16], [37, 40, 43], [64, 67, 70]]
    assert (labels == IGNORE_ID).sum() == 81 - 9
    assert (taken[labels == IGNORE_ID] == 0).all()
    assert (taken[labels != IGNORE_ID] == 200).all()


def test_the_optical_axis_moves_the_image():
    # 0.25 of 4 columns to the right: what was in column 1 is in column 2
    assert take_labels(Camera(principal_point_shift=(0.25, 0.0)), ids(1, 4)).tolist() == [[IGNORE_ID, 0, 1, 2]]
    assert take_labels(Camera(principal_point_shift=(0.0, -0.5)), ids(2, 1)).tolist() == [[1], [IGNORE_ID]]


@pytest.mark.parametrize(
    ("sides", "size"),
    [((0, 0), (60, 80)), ((30, 0), (30, 40)), ((0, 40), (30, 40)), ((40, 40), (40, 40)), ((120, 0), (120, 160))],
)
def test_the_new_image_has_the_sensors_rows_and_columns(sides, size):
    camera = Camera(rows=sides[0], columns=sides[1])
    taken, labels = reimage(camera, np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), np.uint8), rng=rng())
    assert taken.shape[:2] == labels.shape == size


def test_a_pixel_of_a_coarser_sensor_gets_the_light_of_all_that_it_covers():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 1] = 255  # one bright column of two: half of the light
    taken = take(Camera(rows=1, columns=2), image, rng())
    assert taken[0, 0].tolist() == [round(255 * 0.5 ** (1 / 2.2))] * 3
    assert taken[0, 1].tolist() == [0, 0, 0]


def test_distortion_is_undone_by_hand():
    # 1 · (1 − 0.1 · 1²) = 0.9; 0.5 · (1 − 0.1 · 0.25 + 0.2 · 0.0625) = 0.49375; pincushion: 1 · 1.1
    assert undistorted(np.array([0.0, 0.9]), (-0.1, 0.0)) == pytest.approx([0.0, 1.0], abs=1e-6)
    assert undistorted(np.array([0.49375]), (-0.1, 0.2)) == pytest.approx([0.5], abs=1e-6)
    assert undistorted(np.array([1.1]), (0.1, 0.0)) == pytest.approx([1.0], abs=1e-6)


def test_a_barrel_sees_further_at_the_border():
    # 90 degrees: focal length 100.5 px. The ray at 0.8 is imaged at 0.8 · (1 − 0.1 · 0.64) = 0.7488, so 75.25 px
    # right of the middle, which is column 100, is seen what was 80.4 px right of it.
    across = geometry_of(Camera(old_field_of_view_deg=90.0, distortion=(-0.1, 0.0)), (1, 201)).across[0]
    assert np.interp(100 + 0.7488 * 100.5, np.arange(201), across) == pytest.approx(100 + 80.4, abs=1e-2)


@pytest.mark.parametrize("name", camera_names())
def test_labels_follow_the_image_within_a_pixel(name):
    lens = find_camera(name)
    geometry_alone = Camera(
        old_gamma=1.0,
        gamma=1.0,
        focal_length_factor=lens.focal_length_factor,
        distortion=lens.distortion,
        principal_point_shift=lens.principal_point_shift,
    )
    image, labels = scene()
    taken, moved = reimage(geometry_alone, image, labels, rng=rng())
    seen = (taken[..., 0] > 127).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(moved, 1, mode="edge"), (3, 3)).reshape(*moved.shape, 9)
    inside = (windows == moved[..., None]).all(axis=2)  # no edge within a pixel
    assert 0.8 < inside.mean() < 0.95
    assert np.array_equal(seen[inside], moved[inside])
    assert (seen == moved)[~inside].mean() > 0.9  # nor are the edges shifted by one
    assert (moved != labels).mean() > 0.1


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("name", camera_names())
def test_the_shipped_cameras_see_nothing_that_the_old_image_lacks(name, size_hw):
    assert not geometry_of(find_camera(name), size_hw).outside.any()


def test_light_is_halved_by_a_stop_and_falls_off_to_the_corners():
    light = np.full((201, 201, 3), 0.5, np.float32)
    linear = Camera(gamma=1.0)
    assert expose(replace(linear, exposure_stops=-1.0), light, rng())[100, 100].tolist() == [64, 64, 64]  # 63.75
    dimmed = expose(replace(linear, vignetting=0.36), light, rng())[..., 0]
    assert dimmed[100, 100] == 128  # 127.5
    assert abs(int(dimmed[0, 0]) - 0.64 * 127.5) < 1
    # cos⁴ with cos² = 0.8 in the corner; half way there tan² is a quarter of 0.25: 1 / 1.0625² = 0.8858
    assert abs(int(dimmed[50, 50]) - 0.8858 * 127.5) < 1


def test_colours_pass_through_the_matrix_then_the_gains():
    light = np.array([[[0.2, 0.4, 0.6]]], np.float32)
    camera = Camera(gamma=1.0, colour_matrix=((0, 1, 0), (0.5, 0.5, 0), (0, 0, 1)), white_balance=(1.0, 2.0, 3.0))
    assert expose(camera, light, rng()).tolist() == [[[102, 153, 255]]]  # 0.4, 0.3 · 2, 0.6 · 3 clipped


def test_noise_is_that_of_electrons_and_of_reading_them():
    camera = Camera(gamma=1.0, full_scale_electrons=400.0, read_noise_electrons=10.0)
    taken = expose(camera, np.full((200, 200, 3), 0.5, np.float32), rng()) / 255
    # 200 electrons: √(200 + 100) = 17.3 of 400
    assert taken.std() == pytest.approx(17.32 / 400, rel=0.02)
    assert taken.mean() == pytest.approx(0.5, abs=0.002)


def test_jpeg_quality_is_drawn_for_each_image():
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    camera = Camera(jpeg_quality=(20, 95))
    files = {encode(camera, image, noise_of(1, str(index)))[0] for index in range(5)}
    assert len(files) > 1
    assert all(content.startswith(b"\xff\xd8") for content in files)
    one = Camera(jpeg_quality=(20, 20))
    assert encode(one, image, noise_of(1, "a")) == encode(one, image, noise_of(2, "b"))


def test_the_seed_and_the_name_decide_the_noise():
    image, keys = np.full((16, 16, 3), 90, np.uint8), ((1, "a"), (1, "a"), (1, "b"), (2, "a"))
    taken = [reimage(find_camera("severe"), image, ids(16, 16), rng=noise_of(*key))[0] for key in keys]
    assert np.array_equal(taken[0], taken[1])
    assert not np.array_equal(taken[0], taken[2])
    assert not np.array_equal(taken[0], taken[3])


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (7, 1)])
def test_images_of_one_pixel_or_line_can_be_taken(size_hw):
    taken, labels = reimage(
        find_camera("severe"), np.zeros((*size_hw, 3), np.uint8), np.zeros(size_hw, np.uint8), rng=rng()
    )
    assert taken.shape[:2] == labels.shape == size_hw


def test_labels_of_another_size_are_refused():
    with pytest.raises(DataError, match="labels of the image's size"):
        reimage(Camera(), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), rng=rng())


def test_distortion_that_folds_the_image_over_is_refused():
    # r − r³ has its highest point 0.385 at 0.577; the corner lies at 0.72
    with pytest.raises(ConfigError, match="folds the image over"):
        geometry_of(Camera(distortion=(-1.0, 0.0)), (360, 480))
    with pytest.raises(ConfigError, match="folds the image over"):  # and comes back further out
        geometry_of(Camera(distortion=(-2.0, 1.1)), (360, 480))
    geometry_of(Camera(distortion=(-0.25, 0.0)), (360, 480))


@pytest.mark.parametrize("name", camera_names())
def test_a_shipped_camera_written_whole_is_read_as_the_same(tmp_path, name):
    path = tmp_path / "c.toml"
    path.write_text(camera_toml(find_camera(name)))
    assert find_camera(path) == find_camera(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("focal_length_factor = 0", "camera.focal_length_factor = 0.0; give 0.1 to 10"),
        ("gamma = 0", "camera.gamma = 0.0"),
        ("gamma = 'x'", "camera.gamma = 'x'; expected float"),
        ("gamma = nan", "finite number"),
        ("jpeg_quality = [0, 50]", "camera.jpeg_quality = [0, 50]; give [lowest, highest]"),
        ("jpeg_quality = [60, 50]", "camera.jpeg_quality"),
        ("jpeg_quality = [60]", "camera.jpeg_quality = [60]"),
        ("jpeg_quality = 60", "expected a list"),
        ("distortion = [0.1]", "expected 2 values"),
        ("white_balance = [1, 0, 1]", "gains above 0"),
        ("colour_matrix = [[1, 0, 0], [0, 0, 0], [0, 0, 1]]", "the sum of each above 0"),
        ("vignetting = 1", "0 up to below 1"),
        ("read_noise_electrons = 5", "give less than full_scale_electrons = 0.0"),
        ("rows = -1", "camera.rows = -1"),
        ("gama = 1", "did you mean 'gamma'"),
        ("[lens]", "camera.lens is unknown"),
        ("gamma =", "not a camera in TOML"),
    ],
)
def test_impossible_cameras_are_one_line_with_the_value(tmp_path, text, words):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        find_camera(path)
    assert words in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.line()


def test_an_unknown_severity_names_those_that_exist():
    with pytest.raises(ConfigError, match="did you mean 'severe'.*known: middle, mild, severe"):
        find_camera("sever")
