"""ROS's encodings as layouts; every byte below was put there by hand."""

import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Layout
from clst_runtime.imaging.ros_images import decoded, image_of

cv2 = pytest.importorskip("cv2")
TWO = (1, 2)  # one row, two columns


@pytest.mark.parametrize(
    ("encoding", "data", "layout", "expected"),
    [
        ("rgb8", [1, 2, 3, 4, 5, 6], Layout.RGB, [[[1, 2, 3], [4, 5, 6]]]),
        ("bgr8", [1, 2, 3, 4, 5, 6], Layout.BGR, [[[1, 2, 3], [4, 5, 6]]]),
        ("RGB8", [1, 2, 3, 4, 5, 6], Layout.RGB, [[[1, 2, 3], [4, 5, 6]]]),
        ("rgba8", [1, 2, 3, 9, 4, 5, 6, 9], Layout.RGB, [[[1, 2, 3], [4, 5, 6]]]),
        ("bgra8", [1, 2, 3, 9, 4, 5, 6, 9], Layout.BGR, [[[1, 2, 3], [4, 5, 6]]]),
        ("mono8", [7, 8], Layout.RGB, [[[7, 7, 7], [8, 8, 8]]]),
        ("yuv422_yuy2", [10, 20, 11, 30], Layout.YUYV, [[[10, 20], [11, 30]]]),
        ("yuyv", [10, 20, 11, 30], Layout.YUYV, [[[10, 20], [11, 30]]]),
        ("yuv422", [20, 10, 30, 11], Layout.YUYV, [[[10, 20], [11, 30]]]),
        ("uyvy", [20, 10, 30, 11], Layout.YUYV, [[[10, 20], [11, 30]]]),
    ],
)
def test_an_encoding_is_read_as_its_layout(encoding, data, layout, expected):
    image, found = image_of(encoding, TWO, len(data), bytes(data))
    assert found is layout
    assert image.tolist() == expected


@pytest.mark.parametrize(("encoding", "chroma"), [("nv12", [20, 30]), ("nv21", [30, 20])])
def test_nv12_and_nv21_have_a_plane_of_brightness_and_one_of_colours_at_half_size(encoding, chroma):
    image, layout = image_of(encoding, (2, 2), 2, bytes([1, 2, 3, 4, *chroma]))
    assert layout is Layout.NV12
    assert image.tolist() == [[1, 2], [3, 4], [20, 30]]
    assert layout.size_hw(image) == (2, 2)


def test_uyvy_and_yuyv_of_the_same_picture_have_the_same_colours():
    rng = np.random.default_rng(0)
    yuyv = rng.integers(0, 256, (4, 6, 2), np.uint8)
    uyvy = np.ascontiguousarray(yuyv[..., ::-1])
    image, layout = image_of("yuv422", (4, 6), 12, uyvy.tobytes())
    expected = cv2.cvtColor(uyvy, cv2.COLOR_YUV2RGB_UYVY)
    assert np.array_equal(cv2.cvtColor(image, cv2.COLOR_YUV2RGB_YUY2), expected)
    assert layout is Layout.YUYV


def test_padding_at_the_end_of_rows_is_cut_off():
    data = bytes([1, 2, 3, 99, 4, 5, 6, 99])  # two rows of one pixel, a step of 4
    image, _ = image_of("rgb8", (2, 1), 4, data)
    assert image.tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


def test_pixels_are_not_copied_where_they_lie_as_they_are_wanted():
    data = np.arange(6, dtype=np.uint8)
    image, _ = image_of("bgr8", TWO, 6, data)
    assert np.shares_memory(image, data)


@pytest.mark.parametrize(
    ("encoding", "size_hw", "step", "count", "words"),
    [
        ("bayer_rggb8", (2, 2), 2, 4, ["bayer_rggb8", "mosaic", "image_proc"]),
        ("16UC1", (2, 2), 4, 8, ["16UC1", "rgb8, bgr8"]),
        ("rgb8", (2, 2), 6, 11, ["2x2 rgb8", "11 bytes", "12"]),
        ("rgb8", (2, 2), 5, 12, ["rows of 5", "at least 6"]),
        ("yuyv", (1, 3), 6, 6, ["1x3", "pixel pairs"]),
        ("rgb8", (0, 2), 6, 0, ["2x0"]),
    ],
)
def test_what_cannot_be_an_image_is_refused_with_its_values(encoding, size_hw, step, count, words):
    with pytest.raises(DataError) as refused:
        image_of(encoding, size_hw, step, bytes(count))
    assert all(word in refused.value.message for word in words)


def test_a_png_is_decoded_as_bgr():
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    assert decoded("bgr8; png compressed bgr8", data).tolist() == pixels.tolist()


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_what_is_no_picture_is_none(data):
    assert decoded("jpeg", data) is None


def test_depths_are_refused_by_their_format():
    with pytest.raises(DataError, match="compressedDepth"):
        decoded("16UC1; compressedDepth", b"1")
