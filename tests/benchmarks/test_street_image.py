"""The frames of the README's image are chosen by their place alone."""

import numpy as np

from benchmarks.report.street_image import beside_legend, chosen_frames
from clst_runtime.classes.labels import load_class_list
from tests.support.videos import film_new_camera


def test_the_first_the_middle_and_the_last_frame_are_taken(tmp_path):
    images = film_new_camera(tmp_path / "v.mp4", frames=7)
    frames = chosen_frames(tmp_path / "v.mp4")
    assert list(frames) == [0, 3, 6]
    for index, frame in frames.items():
        nearest = [float(np.abs(frame.astype(int) - image).mean()) for image in images]
        assert int(np.argmin(nearest)) == index


def test_the_legend_stands_to_the_right_and_the_sheet_stays_as_it_is():
    sheet = np.full((400, 50, 3), 7, np.uint8)
    both = beside_legend(sheet, load_class_list("camvid11"))
    assert both.shape == (400, 180, 3)
    assert (both[:, :50] == 7).all()
    assert both[10, 60].tolist() == list(
        load_class_list("camvid11").colours[0]
    )  # the first class, 4 to 28 from its edge
