import numpy as np
import pytest
from PIL import Image, ImageFile

from clst_runtime.data.headers import read_header
from clst_runtime.data.inputs import images_of
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import read_image, read_label, write_png


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


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.fromarray(np.array([[1, 2]], np.uint8))
    image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "p.png", transparency=b"\0\x80\xff")
    assert read_image(tmp_path / "p.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert read_label(tmp_path / "p.png").tolist() == [[1, 2]]


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
    with pytest.raises(DataError, match=r"t\.jpg: a damaged image \(Corrupt JPEG data: premature end"):
        read_image(path)


def test_a_jpeg_that_lacks_a_part_between_two_restart_markers_is_refused(tmp_path):
    path = tmp_path / "t.jpg"
    content = noisy_jpeg(path, restart_marker_blocks=2)
    path.write_bytes(content.replace(content[content.index(b"\xff\xd1") - 40 : content.index(b"\xff\xd1")], b""))
    with pytest.raises(DataError, match="a damaged image"):
        read_image(path)


def test_a_jpeg_with_bytes_too_many_is_read(tmp_path):
    path = tmp_path / "t.jpg"
    content = noisy_jpeg(path)
    expected = read_image(path)
    path.write_bytes(content[:-2] + b"\x11\x22\x33" + content[-2:] + b"more")
    assert np.array_equal(read_image(path), expected)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_reading_the_head_refuses_a_file_whose_pixels_are_cut_off(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    for missing in (60, len(whole) // 2):
        path.write_bytes(whole[:-missing])
        with pytest.raises(DataError, match=rf"t\.{suffix}: (not a readable|a damaged) image"):
            read_header(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("more", [b"", b"\0" * 100, b"bytes of the camera's maker"])
def test_a_whole_file_with_or_without_bytes_behind_it_has_a_head(tmp_path, suffix, more):
    path = tmp_path / f"t.{suffix}"
    Image.new("RGB", (6, 4)).save(path)
    path.write_bytes(path.read_bytes() + more)
    assert read_header(path).size_hw == (4, 6)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_head_of_a_whole_file_is_read_without_decoding_it(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"t.{suffix}"
    Image.new("RGB", (6, 4)).save(path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert read_header(path).size_hw == (4, 6)


def test_missing_and_empty_folders_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        images_of(tmp_path / "none")
    with pytest.raises(DataError, match="no image in it"):
        images_of(tmp_path)


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot write"):
        write_png(blocked / "x.png", np.zeros((2, 2), np.uint8))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


# Labels that can be read in two ways

IDS = [0, 1, 2, 3, 255]
"""What a list of four classes knows."""


def png(path, rows, bits, colour_type=0, palette=(), extra=b""):
    """A PNG written by hand: Pillow writes no 2-bit greys, and no optimiser's palettes."""
    import struct
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = b""
    for row in rows:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        lines += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, colour_type, 0, 0, 0)
    colours = chunk(b"PLTE", bytes(np.array(palette, np.uint8))) if len(palette) else b""
    body = chunk(b"IHDR", head) + colours + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def greys(*values):
    return [[value] * 3 for value in values]


@pytest.mark.parametrize(
    ("bits", "stored", "ids"),
    [
        (2, [0, 1, 2, 3], [0, 1, 2, 3]),  # packed they would be 0, 85, 170, 255
        (2, [1, 2], [1, 2]),
        (4, [0, 3], [0, 3]),
        (4, [0, 7, 15], [0, 7, 15]),  # no ids at all: told with its numbers by the mapping
        (1, [0, 0], [0, 0]),
        (8, [0, 3, 255], [0, 3, 255]),
    ],
)
def test_greys_of_few_bits_are_the_ids_that_were_stored(bits, stored, ids, tmp_path):
    assert read_label(png(tmp_path / "l.png", [stored], bits), IDS).tolist() == [ids]


@pytest.mark.parametrize(("bits", "stored", "told"), [(1, [0, 1], "0, 1 or 0, 255"), (2, [0, 3], "0, 3 or 0, 255")])
def test_greys_that_may_be_ids_or_an_ignored_255_packed_are_refused(bits, stored, told, tmp_path):
    path = png(tmp_path / "l.png", [stored], bits)
    with pytest.raises(DataError, match=rf"{bits}-bit greys, whose ids may be {told}; write the labels as 8-bit grey"):
        read_label(path, IDS)


def test_with_one_class_a_bit_that_is_set_can_only_mean_ignored(tmp_path):
    assert read_label(png(tmp_path / "l.png", [[0, 1]], 1), [0, 255]).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("palette", "indices", "ids"),
    [
        (greys(2, 0, 255, 1), [0, 1, 2, 3], [2, 0, 255, 1]),  # an optimiser's: the colours are the ids
        (greys(0, 1, 2, 3), [3, 1], [3, 1]),
        (greys(0, 60, 120, 180), [0, 1, 2, 3], [0, 1, 2, 3]),  # greys to look at, no ids
        ([[0, 0, 0], [128, 64, 128], [0, 0, 255], [1, 1, 1]], [0, 1, 3], [0, 1, 3]),
    ],
)
def test_a_palette_gives_its_indices_unless_it_is_one_of_ids_as_greys(palette, indices, ids, tmp_path):
    assert read_label(png(tmp_path / "l.png", [indices], 2, 3, palette), IDS).tolist() == [ids]


def test_a_palette_of_black_and_white_may_mean_two_classes_or_ignored_and_is_refused(tmp_path):
    path = png(tmp_path / "l.png", [[0, 1]], 1, 3, greys(0, 255))
    with pytest.raises(DataError, match="a palette of greys, whose ids may be 0, 1 or 0, 255"):
        read_label(path, IDS)


def test_transparent_palettes_and_opaque_grey_with_alpha_keep_their_ids_and_a_real_alpha_is_refused(tmp_path):
    palette = Image.fromarray(np.array([[0, 2]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 9, 9, 200, 0, 200, 0])
    palette.save(tmp_path / "t.png", transparency=2)
    assert read_label(tmp_path / "t.png", IDS).tolist() == [[0, 2]]
    Image.fromarray(np.array([[[3, 255], [1, 255]]], np.uint8), mode="LA").save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", IDS).tolist() == [[3, 1]]
    Image.fromarray(np.array([[[3, 255], [1, 0]]], np.uint8), mode="LA").save(tmp_path / "b.png")
    with pytest.raises(DataError, match="LA colour image, not label ids"):
        read_label(tmp_path / "b.png", IDS)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_labels_of_8_bits_are_the_same_in_every_format_without_loss(suffix, tmp_path):
    Image.fromarray(np.array([[0, 3, 255]], np.uint8)).save(tmp_path / f"l.{suffix}")
    assert read_label(tmp_path / f"l.{suffix}", IDS).tolist() == [[0, 3, 255]]


def test_labels_as_jpeg_inverted_tiff_and_webp_are_refused(tmp_path):
    label = Image.fromarray(np.zeros((16, 16), np.uint8))
    label.save(tmp_path / "l.png", format="JPEG")
    label.save(tmp_path / "j.tif", compression="jpeg")
    for name in ("l.png", "j.tif"):
        with pytest.raises(DataError, match="JPEG changes label ids at every edge; give the labels as PNG"):
            read_label(tmp_path / name)
    label.save(tmp_path / "i.tif", tiffinfo={262: 0})
    label.save(tmp_path / "w.webp")
    for name, words in (("i.tif", "greys inverted"), ("w.webp", "a RGB colour image")):
        with pytest.raises(DataError, match=words):
            read_label(tmp_path / name)


# EXIF orientation

TURNS = {1: [[1, 2, 3], [4, 5, 6]], 2: [[3, 2, 1], [6, 5, 4]], 3: [[6, 5, 4], [3, 2, 1]], 4: [[4, 5, 6], [1, 2, 3]],
         5: [[1, 4], [2, 5], [3, 6]], 6: [[4, 1], [5, 2], [6, 3]], 7: [[6, 3], [5, 2], [4, 1]],
         8: [[3, 6], [2, 5], [1, 4]], 9: [[1, 2, 3], [4, 5, 6]]}  # fmt: skip
"""What an image stored as 1 2 3 / 4 5 6 shows upright, by its EXIF orientation; 9 is none."""


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_pictures_and_labels_are_upright_as_exif_says(orientation, suffix, tmp_path):
    exif, path = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[274] = orientation
    stored = Image.fromarray(np.array(TURNS[1], np.uint8))
    (stored.convert("RGB") if suffix == "webp" else stored).save(path, exif=exif, lossless=True)
    expected = np.array(TURNS[orientation])
    if suffix == "tif" and orientation in (5, 6, 7, 8):
        with pytest.raises(DataError, match="a TIFF file that lies on its side"):
            read_image(path)
        return
    assert read_image(path)[..., 0].tolist() == expected.tolist()
    header = read_header(path)
    assert (header.size_hw, header.rotated) == (expected.shape, 2 <= orientation <= 8)
    if suffix != "webp":
        assert read_label(path).tolist() == expected.tolist()


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_exif_chunk_of_a_png_counts_wherever_it_stands(place, tmp_path):
    import struct
    import zlib

    exif = Image.Exif()
    exif[274] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    path = png(tmp_path / "a.png", TURNS[1], 8, extra=chunk if place == "before" else b"")
    if place == "after":
        path.write_bytes(path.read_bytes()[:-12] + chunk + path.read_bytes()[-12:])
    assert read_image(path)[..., 0].tolist() == TURNS[6]


def test_a_damaged_exif_is_none(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.jpg", exif=b"Exif\0\0damaged")
    assert read_image(tmp_path / "a.jpg").shape == (2, 3, 3)
