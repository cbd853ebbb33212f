import cv2
import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.frames import Fitter, Layout, resize_classes, resize_frame, to_rgb


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


def drawn(rows, columns):
    """A smooth colour picture: what a camera with half the colour resolution can carry."""
    row, column = np.mgrid[0:rows, 0:columns]
    return np.stack([60 + 2 * row, 80 + 2 * column, 200 - row - column], axis=2).astype(np.uint8)


def as_layout(rgb, layout):
    """The picture as a camera would hand it over."""
    if layout is Layout.RGB:
        return rgb
    if layout is Layout.BGR:
        return np.ascontiguousarray(rgb[..., ::-1])
    if layout is Layout.YUYV:
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUY2)
    planes = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    rows, columns = rgb.shape[:2]
    u, v = planes[rows:].reshape(2, rows // 2, columns // 2)
    return np.vstack([planes[:rows], np.stack([u, v], axis=2).reshape(rows // 2, columns)])


@pytest.mark.parametrize("layout", list(Layout))
def test_every_layout_is_the_same_picture(layout):
    rgb = drawn(32, 48)
    picture = as_layout(rgb, layout)
    assert picture.shape == layout.shape((32, 48))
    assert layout.size_hw(picture) == (32, 48)
    exact = layout in (Layout.RGB, Layout.BGR)
    assert np.abs(to_rgb(picture, layout).astype(int) - rgb).max() <= (0 if exact else 6)


def test_red_is_red_in_every_layout():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    for layout in Layout:
        seen = to_rgb(as_layout(red, layout), layout)[2, 2].astype(int)
        assert np.abs(seen - (255, 0, 0)).max() <= 4, layout


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("size_hw", [(32, 48), (16, 24), (20, 30)])
def test_a_fitter_gives_what_conversion_and_resize_give(layout, size_hw):
    picture = as_layout(drawn(32, 48), layout)
    fitter = Fitter(size_hw)
    expected = resize_frame(to_rgb(picture, layout), size_hw)
    for _ in range(2):
        assert fitter.fit(picture, layout).tolist() == expected.tolist()
    other = as_layout(drawn(64, 64), layout)
    assert fitter.fit(other, layout).tolist() == resize_frame(to_rgb(other, layout), size_hw).tolist()


@pytest.mark.parametrize(("layout", "size_hw"), [(Layout.NV12, (3, 4)), (Layout.NV12, (4, 3)), (Layout.YUYV, (4, 3))])
def test_pixel_pairs_need_even_edges(layout, size_hw):
    with pytest.raises(DataError, match="colours are those of pixel pairs"):
        layout.shape(size_hw)
