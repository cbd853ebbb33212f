import cv2
import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import (
    PADDING_RGB,
    Content,
    Fit,
    Fitter,
    Layout,
    classes_to_camera,
    content_of,
    fit_frame,
    fit_labels,
    fit_named,
    resize_classes,
    resize_frame,
    to_rgb,
)


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
    """A smooth colour image: what a camera with half the colour resolution can carry."""
    row, column = np.mgrid[0:rows, 0:columns]
    return np.stack([60 + 2 * row, 80 + 2 * column, 200 - row - column], axis=2).astype(np.uint8)


def as_layout(rgb, layout):
    """The image as a camera would hand it over."""
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
    image = as_layout(rgb, layout)
    assert image.shape == layout.shape((32, 48))
    assert layout.size_hw(image) == (32, 48)
    exact = layout in (Layout.RGB, Layout.BGR)
    assert np.abs(to_rgb(image, layout).astype(int) - rgb).max() <= (0 if exact else 6)


def test_red_is_red_in_every_layout():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    for layout in Layout:
        seen = to_rgb(as_layout(red, layout), layout)[2, 2].astype(int)
        assert np.abs(seen - (255, 0, 0)).max() <= 4, layout


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("size_hw", [(32, 48), (16, 24), (20, 30)])
def test_a_fitter_gives_what_conversion_and_resize_give(layout, size_hw):
    image = as_layout(drawn(32, 48), layout)
    fitter = Fitter(size_hw)
    expected = resize_frame(to_rgb(image, layout), size_hw)
    for _ in range(2):
        assert fitter.fit(image, layout).tolist() == expected.tolist()
    other = as_layout(drawn(64, 64), layout)
    assert fitter.fit(other, layout).tolist() == resize_frame(to_rgb(other, layout), size_hw).tolist()


@pytest.mark.parametrize(("layout", "size_hw"), [(Layout.NV12, (3, 4)), (Layout.NV12, (4, 3)), (Layout.YUYV, (4, 3))])
def test_pixel_pairs_need_even_edges(layout, size_hw):
    with pytest.raises(DataError, match="colours are those of pixel pairs"):
        layout.shape(size_hw)


@pytest.mark.parametrize(
    ("size_hw", "input_hw", "top", "left", "rows", "columns"),
    [
        ((4, 8), (8, 8), 2, 0, 4, 8),  # lies in rows 2–5
        ((8, 4), (8, 8), 0, 2, 8, 4),  # upright
        ((8, 16), (8, 8), 2, 0, 4, 8),  # larger
        ((1, 2), (8, 8), 2, 0, 4, 8),  # smaller
        ((8, 8), (8, 8), 0, 0, 8, 8),  # just so
        ((16, 16), (8, 8), 0, 0, 8, 8),  # of the same shape
        ((3, 8), (8, 8), 2, 0, 3, 8),  # 5 rows of padding: 2 above, 3 below
        ((8, 5), (8, 8), 0, 1, 8, 5),  # 3 columns: 1 left, 2 right
        ((480, 640), (512, 1024), 0, 170, 512, 683),  # 682.67
        ((1080, 1920), (512, 1024), 0, 57, 512, 910),  # 910.22
        ((2, 3), (3, 8), 0, 1, 3, 5),  # 4.5, halves up
        ((1, 1), (8, 16), 0, 4, 8, 8),
        ((1, 1000), (8, 16), 3, 0, 1, 16),  # 0.016 rows
        ((1000, 1), (8, 16), 0, 7, 8, 1),
        ((7, 5), (1, 1), 0, 0, 1, 1),
    ],
)
def test_a_letterbox_keeps_the_shape_and_lies_in_the_middle(size_hw, input_hw, top, left, rows, columns):
    assert content_of(size_hw, input_hw, Fit.LETTERBOX) == Content(top, left, rows, columns)
    assert content_of(size_hw, input_hw, Fit.STRETCH) == Content(0, 0, *input_hw)


def test_a_letterbox_never_leaves_the_frame():
    for rows in range(1, 14):
        for columns in range(1, 14):
            content = content_of((rows, columns), (5, 9), Fit.LETTERBOX)
            assert min(content.size_hw) >= 1
            below, right = 5 - content.top - content.rows, 9 - content.left - content.columns
            assert (below - content.top, right - content.left) in ((0, 0), (0, 1), (1, 0))
            assert content.rows == 5 or content.columns == 9


def test_a_letterboxed_frame_is_the_picture_with_grey_around_it():
    frame = drawn(4, 8)
    fitted = fit_frame(frame, (8, 8), Fit.LETTERBOX)
    assert fitted[2:6].tolist() == frame.tolist()
    assert (fitted[[0, 1, 6, 7]] == PADDING_RGB).all()
    assert PADDING_RGB == (124, 116, 104)
    assert fit_frame(frame, (4, 8), Fit.LETTERBOX) is frame
    assert fit_frame(frame, (8, 8), Fit.STRETCH).tolist() == resize_frame(frame, (8, 8)).tolist()


def test_a_letterbox_scales_bilinearly_with_half_pixel_centres():
    frame = np.repeat(np.array([[0, 100]], np.uint8)[..., None], 3, axis=2)
    fitted = fit_frame(frame, (4, 4), Fit.LETTERBOX)[..., 1]
    assert fitted.tolist() == [[116] * 4, [0, 25, 75, 100], [0, 25, 75, 100], [116] * 4]


def test_padding_has_no_label():
    labels = np.array([[1, 2]], np.uint8)
    assert fit_labels(labels, (5, 4), Fit.LETTERBOX).tolist() == [
        [255] * 4, [1, 1, 2, 2], [1, 1, 2, 2], [255] * 4, [255] * 4,
    ]  # fmt: skip
    assert fit_labels(labels, (2, 2), Fit.STRETCH).tolist() == [[1, 2], [1, 2]]
    assert fit_labels(labels, (1, 2), Fit.LETTERBOX) is labels


@pytest.mark.parametrize("size_hw", [(4, 8), (8, 4), (8, 8), (3, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize("fit", list(Fit))
def test_a_class_map_comes_back_as_it_went(size_hw, fit):
    """Both ways by whole factors or larger ones, so that each pixel's nearest one is its own."""
    rows, columns = size_hw
    labels = (np.arange(rows * columns, dtype=np.uint8) % 200).reshape(size_hw)
    there = fit_labels(labels, (24, 56), fit)
    assert there.shape == (24, 56)
    assert classes_to_camera(there, size_hw, fit).tolist() == labels.tolist()


@pytest.mark.parametrize("size_hw", [(30, 70), (70, 30), (9, 9), (1, 1000), (1000, 1), (1, 1)])
def test_no_pixel_of_padding_comes_back(size_hw):
    inside = content_of(size_hw, (8, 16), Fit.LETTERBOX)
    said = np.where(inside.padding((8, 16)), 9, 1).astype(np.uint8)
    assert (said == 9).any()
    back = classes_to_camera(said, size_hw, Fit.LETTERBOX)
    assert back.shape == size_hw
    assert (back == 1).all()


def test_the_padding_is_what_the_content_is_not():
    assert Content(1, 0, 1, 2).padding((3, 2)).tolist() == [[True, True], [False, False], [True, True]]
    assert not Content(0, 0, 3, 2).padding((3, 2)).any()


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("size_hw", [(32, 48), (16, 16), (20, 64), (32, 80), (48, 48), (5, 9)])
def test_a_letterboxing_fitter_gives_what_the_function_gives(layout, size_hw):
    fitter = Fitter(size_hw, Fit.LETTERBOX)
    images = [drawn(32, 48), drawn(64, 32), drawn(20, 20), 255 - drawn(32, 48)]
    for rgb in images * 2:  # each size leaves something behind for the next
        image = as_layout(rgb, layout)
        expected = fit_frame(to_rgb(image, layout), size_hw, Fit.LETTERBOX)
        for _ in range(2):
            assert fitter.fit(image, layout).tolist() == expected.tolist()
        assert fitter.content == content_of(rgb.shape[:2], size_hw, Fit.LETTERBOX)


@pytest.mark.parametrize("image", [drawn(1, 60), drawn(60, 1), drawn(1, 1), drawn(1, 8), drawn(8, 1)])
@pytest.mark.parametrize("layout", [Layout.RGB, Layout.BGR])
def test_a_fitter_letterboxes_single_rows_columns_and_pixels(image, layout):
    expected = fit_frame(image, (8, 8), Fit.LETTERBOX)
    found = Fitter((8, 8), Fit.LETTERBOX).fit(as_layout(image, layout), layout)
    assert found.tolist() == expected.tolist()


def test_a_fitter_does_not_change_the_camera_s_picture():
    image = drawn(4, 8)
    before = image.copy()
    image.flags.writeable = False
    fitted = Fitter((8, 8), Fit.LETTERBOX).fit(image, Layout.RGB)
    assert not np.shares_memory(fitted, image)
    assert image.tolist() == before.tolist()


def test_a_fit_has_a_known_name():
    assert [fit_named("stretch"), fit_named("letterbox")] == list(Fit)
    for name in ("Letterbox", "", None, ["stretch"], 1):
        with pytest.raises(ValueError, match="known are stretch, letterbox"):
            fit_named(name)
