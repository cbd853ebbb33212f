"""The frames of the README's image are chosen by their place alone."""

import numpy as np

from benchmarks.report.street_image import chosen_frames
from tests.support.videos import film_new_camera


def test_the_first_the_middle_and_the_last_frame_are_taken(tmp_path):
    images = film_new_camera(tmp_path / "v.mp4", frames=7)
    frames = chosen_frames(tmp_path / "v.mp4")
    assert list(frames) == [0, 3, 6]
    for index, frame in frames.items():
        nearest = [float(np.abs(frame.astype(int) - image).mean()) for image in images]
        assert int(np.argmin(nearest)) == index
