import numpy as np

from clst_runtime.frames import resize_classes, resize_frame


def test_a_frame_of_the_right_size_is_not_copied():
    frame = np.zeros((4, 6, 3), np.uint8)
    assert resize_frame(frame, (4, 6)) is frame


def test_bilinear_has_half_pixel_centres():
    frame = np.repeat(np.array([[0, 100]], np.uint8)[..., None], 3, axis=2)
    assert resize_frame(frame, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]


def test_classes_are_never_mixed_and_keep_their_place():
    classes = np.array([[0, 9]], np.uint8)
    assert resize_classes(classes, (2, 6)).tolist() == [[0, 0, 0, 9, 9, 9]] * 2
    assert resize_classes(np.array([[0, 1, 2, 3, 4, 5]], np.uint8), (1, 2)).tolist() == [[1, 4]]
