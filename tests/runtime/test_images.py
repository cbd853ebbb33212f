import numpy as np
import pytest
from PIL import Image

from clst_runtime.errors import DataError
from clst_runtime.images import read_image, read_label, write_png
from clst_runtime.places import pictures_of


def test_a_red_picture_is_red(tmp_path):
    Image.new("RGB", (3, 2), (255, 0, 0)).save(tmp_path / "red.png")
    image = read_image(tmp_path / "red.png")
    assert image.shape == (2, 3, 3)
    assert image[0, 0].tolist() == [255, 0, 0]


def test_a_paletted_label_gives_its_indices_not_its_colours(tmp_path):
    label = Image.fromarray(np.array([[7, 8]], np.uint8), mode="P")
    label.putpalette([250] * 768)
    label.save(tmp_path / "l.png")
    assert read_label(tmp_path / "l.png").tolist() == [[7, 8]]


def test_a_16_bit_colour_label_gives_its_first_channel_in_full(tmp_path):
    import cv2

    bgr = np.zeros((1, 2, 3), np.uint16)
    bgr[0, :, 2] = [10, 300]
    bgr[0, :, 1] = 99
    cv2.imwrite(str(tmp_path / "s.png"), bgr)
    assert read_label(tmp_path / "s.png").tolist() == [[10, 300]]


def test_a_colour_picture_is_no_label(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "c.png")
    with pytest.raises(DataError, match="not label ids"):
        read_label(tmp_path / "c.png")


def test_a_16_bit_image_is_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 4000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="8 bits"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="not a readable image"):
        read_image(path)


def noisy_jpeg(path, **options):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, quality=90, **options)
    return path.read_bytes()


def test_a_jpeg_that_lacks_its_last_mark_only_is_read(tmp_path):
    path = tmp_path / "t.jpg"
    content = noisy_jpeg(path)
    expected = read_image(path)
    path.write_bytes(content[:-2])
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("missing", [10, 60, 500])
def test_a_jpeg_that_lacks_its_last_bytes_is_refused(tmp_path, missing):
    path = tmp_path / "t.jpg"
    path.write_bytes(noisy_jpeg(path)[:-missing])
    with pytest.raises(DataError, match=r"t\.jpg: "):
        read_image(path)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_was_cut_and_ended_by_a_marker_is_refused(tmp_path, progressive):
    path = tmp_path / "t.jpg"
    content = noisy_jpeg(path, progressive=progressive)
    path.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    with pytest.raises(DataError, match=r"t\.jpg: a damaged picture \(Corrupt JPEG data: premature end"):
        read_image(path)


def test_a_jpeg_that_lacks_a_part_between_two_restart_markers_is_refused(tmp_path):
    path = tmp_path / "t.jpg"
    content = noisy_jpeg(path, restart_marker_blocks=2)
    path.write_bytes(content.replace(content[content.index(b"\xff\xd1") - 40 : content.index(b"\xff\xd1")], b""))
    with pytest.raises(DataError, match="a damaged picture"):
        read_image(path)


def test_a_jpeg_with_bytes_too_many_is_read(tmp_path):
    path = tmp_path / "t.jpg"
    content = noisy_jpeg(path)
    expected = read_image(path)
    path.write_bytes(content[:-2] + b"\x11\x22\x33" + content[-2:] + b"more")
    assert np.array_equal(read_image(path), expected)


def test_missing_and_empty_folders_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        pictures_of(tmp_path / "none")
    with pytest.raises(DataError, match="no image in it"):
        pictures_of(tmp_path)


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_png(blocked / "x.png", np.zeros((2, 2), np.uint8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]
