"""Bad and unusual input of clst-train: one clear line and nothing left behind, or it works and says what it did."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from clst_runtime.classes.labels import load_class_list
from clst_runtime.data.headers import read_header
from clst_runtime.data.inputs import images_of
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import read_image, write_png
from clst_train.cli.train import main as clst_train
from clst_train.data.headers import check_images
from clst_train.data.target import open_target
from clst_train.method.batchnorm import estimate_statistics
from clst_train.models.built_in.ddrnet import PooledNorm
from clst_train.models.checkpoint import load_checkpoint
from tests.support.command_line import call
from tests.support.miniature import write_cityscapes, write_synthia

pytestmark = pytest.mark.usefixtures("narrow", "no_pictures")
SMALL = (
    *("--recipe", "demo", "--size", "64x96", "--set", "augmentation.crop_hw=[64,64]", "--set", "source.batch=2"),
    *("--set", "source.iterations=2", "--set", "adaptation.iterations=1", "--set", "adaptation.batch=2"),
    *("--set", "run.checkpoint_every=1", "--set", "run.precision=fp32"),
)
HW = (64, 96)


@pytest.fixture
def old(cameras, tmp_path):
    """A copy of the old camera's data set, to spoil."""
    return shutil.copytree(cameras / "old", tmp_path / "old")


@pytest.fixture
def new(cameras, tmp_path):
    """A copy of the new camera's images, to spoil."""
    return shutil.copytree(cameras / "new" / "images" / "train", tmp_path / "the new camera ü")


def refused(out, *arguments, code=3):
    """Run, expect one line and no folder; returns the line."""
    done = call(clst_train, *SMALL, *arguments, "--out", out)
    assert done.exit_code == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("note: ", "training on ", "memory: "))]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert not out.exists()
    return lines[0]


def trained(out, *arguments):
    """Run to the end; returns stderr. Weights and logged losses must be numbers."""
    done = call(clst_train, *SMALL, *arguments, "--out", out)
    assert done.exit_code == 0, done.stderr
    state = load_checkpoint(out / "checkpoints" / "adapted.pt").segmenter_state
    assert all(torch.isfinite(value).all() for value in state.values())
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(entry["loss"] is not None for entry in entries if "loss" in entry)
    return done.stderr


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damage_the_middle(path):
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + b"\xff" * 16 + content[half + 16 :])


# What is refused before anything is made


def test_an_image_that_is_cut_off_is_named_before_training(old, new, tmp_path):
    truncate(old / "images" / "train" / "00002.png")
    line = refused(tmp_path / "out", "--source", old, "--target", new)
    assert f"error: {old}/images/train/00002.png: not a readable image (image file is truncated" in line


def test_a_label_that_is_missing_is_named(old, new, tmp_path):
    (old / "labels" / "train" / "00002.png").unlink()
    line = refused(tmp_path / "out", "--source", old, "--target", new)
    assert "1 of 4 images in split 'train' have no label, e.g. 00002.png needs" in line


def test_a_label_of_another_size_is_named_before_training(old, new, tmp_path):
    write_png(old / "labels" / "train" / "00002.png", np.zeros((10, 20), np.uint8))
    line = refused(tmp_path / "out", "--source", old, "--target", new)
    assert f"{old}/images/train/00002.png is 64x96 but {old}/labels/train/00002.png is 10x20" in line


def test_a_source_without_a_labelled_pixel_is_refused(old, new, tmp_path):
    for path in (old / "labels" / "train").iterdir():
        write_png(path, np.full(HW, 255, np.uint8))
    line = refused(tmp_path / "out", "--source", old, "--target", new)
    assert "no pixel of its 4 labels carries one of the classes (road, sidewalk," in line


def test_one_class_is_nothing_to_tell_apart(old, new, tmp_path):
    (old / "classes.json").write_text(json.dumps({"names": ["road"]}))
    for path in (old / "labels" / "train").iterdir():
        write_png(path, np.zeros(HW, np.uint8))
    line = refused(tmp_path / "out", "--source", old, "--target", new, "--set", "model.classes=")
    assert "has one class (road): every pixel would be that" in line


def test_validation_labels_of_other_classes_are_refused_and_a_few_are_noted(cameras, new, tmp_path):
    val = shutil.copytree(cameras / "new", tmp_path / "val")
    names = list(load_class_list("scenes10").names)
    (val / "classes.json").write_text(json.dumps({"names": [f"thing {name}" for name in names]}))
    places = ("--source", cameras / "old", "--target", new, "--val", val)
    assert "only 0 have equal names (none); give a mapping file" in refused(tmp_path / "out", *places)
    (val / "classes.json").write_text(json.dumps({"names": [*names[:9], "unicycle"]}))
    told = trained(tmp_path / "out", *places)
    assert f"note: {val}: pixels of unicycle are ignored, scenes10 has no such class" in told
    assert "becomes bicycle" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a video that this OpenCV can read"),
        (b"no video at all", "not an image or video by what it holds"),
        (b"\x00\x00\x00\x18ftypmp42", "not a video that this OpenCV can read"),
    ],
)
def test_a_video_that_is_none_is_refused(content, words, tmp_path):
    (tmp_path / "drive.MP4").write_bytes(content)
    with pytest.raises(DataError, match=rf"drive\.MP4: {words}"):
        open_target([str(tmp_path / "drive.MP4")], input_hw=HW)


def test_an_out_folder_that_cannot_be_made_is_refused(cameras, new):
    blocked = cameras / "old" / "classes.json" / "out"
    assert f"cannot write {blocked}" in refused(blocked, "--source", cameras / "old", "--target", new)


def test_a_batch_of_one_crop_too_small_for_its_statistics_is_refused(cameras, new, tmp_path):
    places = ("--source", cameras / "old", "--target", new)
    for setting in ("source.batch=1", "adaptation.batch=1"):
        line = refused(tmp_path / "out", *places, "--network", "ddrnet23_slim", "--set", setting)
        assert "a batch of one crop of 64x64 leaves BatchNorm a single value" in line


# What stops a run in the middle


def test_a_damaged_image_in_the_middle_is_named_and_the_last_checkpoint_kept(cameras, new, tmp_path, monkeypatch):
    """One that is not in the sample is read only after source training; mended, the run goes on."""
    monkeypatch.setattr("clst_train.engine.preflight.doubt_of_scenes", lambda target: "")
    whole = (new / "00001.png").read_bytes()
    damage_the_middle(new / "00001.png")
    out = tmp_path / "out"
    done = call(clst_train, *SMALL, "--source", cameras / "old", "--target", new, "--out", out)
    assert done.exit_code == 3
    line = done.stderr.splitlines()[-1]
    assert f"error: {new / '00001.png'}: not a readable image (" in line
    assert f"the last checkpoint is kept; correct it and go on with --resume {out}" in line
    assert load_checkpoint(out / "checkpoints" / "resume.pt").iteration == 2
    assert not (out / "checkpoints" / "adapted.pt").exists()
    (new / "00001.png").write_bytes(whole)
    assert call(clst_train, "--resume", out).exit_code == 0
    assert (out / "checkpoints" / "adapted.pt").is_file()


# What works, and says what it did


def test_one_target_image_is_enough(cameras, new, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(new / "00000.png", one / "nur eins, größer.png")
    places = ("--source", cameras / "old", "--target", one, "--size", "96x128")
    trained(tmp_path / "out", *places, "--network", "ddrnet23_slim", "--set", "augmentation.crop_hw=[96,128]")
    before, after = (load_checkpoint(tmp_path / "out" / "checkpoints" / f"{n}.pt") for n in ("source", "adapted"))
    name = "conv1.1.running_mean"  # one image describes no camera
    assert torch.equal(before.segmenter_state[name], after.segmenter_state[name])
    assert not torch.equal(before.segmenter_state["conv1.0.weight"], after.segmenter_state["conv1.0.weight"])


def test_a_layer_that_never_sees_two_values_keeps_its_statistics():
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.AdaptiveAvgPool2d(1), PooledNorm(1))
    network[2].running_mean.fill_(7.0)
    assert estimate_statistics(network, [torch.tensor([[[[1.0, 3.0]]]])]) == 1
    assert network[0].running_mean.item() == 2.0
    assert (network[2].running_mean.item(), network[2].running_var.item()) == (7.0, 1.0)


def test_images_of_mixed_sizes_work_and_are_noted_and_ignored_labels_are_no_loss(old, new, tmp_path):
    for kind in ("images", "labels"):
        path = old / kind / "train" / "00001.png"
        with Image.open(path) as picture:
            picture.resize((70, 50), Image.Resampling.NEAREST).save(path)
    write_png(old / "labels" / "train" / "00000.png", np.full(HW, 255, np.uint8))
    with Image.open(new / "00003.png") as picture:
        picture.convert("L").resize((33, 41)).save(new / "00003.png")
    told = trained(tmp_path / "out", "--source", old, "--target", new)
    assert f"note: {old}: images of 2 sizes: 64x96 (3), 50x70 (1); all are brought to 64x96" in told
    assert "note: images of 2 sizes: 64x96 (3), 41x33 (1); all are brought to 64x96" in told


# Which files of a target folder are target images


def test_a_folder_gives_every_image_below_it_and_no_label(new, tmp_path):
    picture = read_image(new / "00001.png")
    write_png(new / "labels" / "00001.png", picture)
    write_png(new / "b_gtFine_labelIds.png", picture)
    write_png(new / "deep" / "er" / "A B.png", picture)
    (new / "deep" / "er" / "A B.png").rename(new / "deep" / "er" / "A B.PNG")
    Image.fromarray(picture).save(new / "ü.JPG")
    write_png(new / ".hidden" / "x.png", picture)
    write_png(new / ".x.png", picture)
    (new / "notes.txt").write_text("no image")
    elsewhere = tmp_path / "elsewhere"
    write_png(elsewhere / "linked.png", picture)
    (new / "sequence").symlink_to(elsewhere)
    (new / "again.png").symlink_to(new / "00001.png")
    (new / "loop").symlink_to(new)
    target = open_target([str(new), str(new / "00000.png")], input_hw=HW)
    named = sorted(str(path.relative_to(new)) for path in target.paths if path.resolve() != (new / "00001.png"))
    # again.png comes first in the order of names and stands for 00001.png; the folder's own 00000.png counts once
    assert named == ["00000.png", "00002.png", "00003.png", "deep/er/A B.PNG", "sequence/linked.png", "ü.JPG"]
    assert len(target) == 7
    assert "2 files named like labels are left out" in target.remarks[0]
    assert "2 target images or videos have several names" in target.remarks[1]


def test_the_root_of_cityscapes_gives_its_train_images_only_with_or_without_labels(tmp_path):
    root = write_cityscapes(tmp_path / "Cityscapes")
    with_labels = open_target([str(root)], input_hw=HW)
    assert [path.parent.name for path in with_labels.paths] == ["traina", "traina", "trainb"]
    shutil.rmtree(root / "gtFine")
    assert open_target([str(root)], input_hw=HW).paths == with_labels.paths
    shutil.rmtree(root / "leftImg8bit" / "train")
    with pytest.raises(DataError, match="none of split train; name the folder of images itself"):
        open_target([str(root)], input_hw=HW)


def test_other_roots_give_their_train_images_and_no_label(cameras, tmp_path):
    found = images_of(cameras / "new", split="train").paths
    assert {path.parent for path in found} == {cameras / "new" / "images" / "train"}
    found = images_of(write_synthia(tmp_path / "synthia"), split="train").paths
    assert {path.parent.name for path in found} == {"RGB"}


def test_a_folder_of_labels_alone_is_refused_and_a_missing_one(new, tmp_path):
    write_png(tmp_path / "only" / "labels" / "1.png", np.zeros(HW, np.uint8))
    with pytest.raises(DataError, match="no image in it .*; 1 files named like labels are left out"):
        images_of(tmp_path / "only")
    with pytest.raises(DataError, match="no such folder"):
        images_of(tmp_path / "none")
    (new / "dead.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="dead.png: no such file"):
        open_target([str(new)], input_hw=HW)


def flat(rows=12, columns=16, values=3):
    """A label map in small: bands of rows, each of one value."""
    return np.repeat((np.arange(rows) * values // rows).astype(np.uint8)[:, None], columns, axis=1)


@pytest.mark.parametrize("kind", ["class ids", "colours"])
def test_a_folder_whose_pictures_are_labels_is_refused_by_what_they_show(kind, tmp_path):
    """Named itself, a folder of labels has no telling name below it."""
    palette = np.random.default_rng(1).integers(0, 256, (3, 3), dtype=np.uint8)
    for number in range(7):
        write_png(tmp_path / f"{number}.png", flat() if kind == "class ids" else palette[flat()])
    with pytest.raises(DataError, match=r"its images are areas of few values \(0\.png: 3\), as label files are"):
        open_target([str(tmp_path)], input_hw=HW)
    with pytest.raises(DataError, match=r"1\.png: an image of areas of few values \(3\), as label files are"):
        open_target([str(tmp_path / "1.png")], input_hw=HW)


def test_one_picture_like_a_label_among_others_a_covered_lens_and_dark_noise_are_pictures(tmp_path):
    rng = np.random.default_rng(2)
    write_png(tmp_path / "a" / "0.png", rng.integers(0, 5, HW, dtype=np.uint8))  # few values, but no areas
    write_png(tmp_path / "b" / "0.png", flat())
    write_png(tmp_path / "b" / "1.png", rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
    write_png(tmp_path / "c" / "0.png", np.zeros(HW, np.uint8))  # one value
    smooth = np.repeat(np.arange(96, dtype=np.uint8)[:, None], 64, axis=1)  # areas of 96 values
    write_png(tmp_path / "d" / "0.png", smooth)
    counts = [len(open_target([str(tmp_path / place)], input_hw=HW)) for place in "abcd"]
    assert counts == [1, 2, 1, 1]


def test_labels_given_as_target_are_told_in_one_line_and_nothing_is_left(cameras, tmp_path):
    line = refused(tmp_path / "run", "--source", cameras / "old", "--target", cameras / "new" / "labels" / "train")
    assert f"labels of a data set, no images; give {cameras / 'new' / 'images' / 'train'}" in line


# Kinds of pixels


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1"])
def test_grey_and_transparency_become_rgb(mode, tmp_path):
    with Image.new("RGBA", (4, 2), (200, 200, 200, 0)) as picture:
        picture.convert(mode).save(tmp_path / "a.png")
    image = open_target([str(tmp_path)], input_hw=(2, 4))[0]
    assert image.shape == (2, 4, 3)
    if mode != "1":
        assert (image == 200).all(), "transparency is dropped, not blended"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_pictures_are_refused_whatever_their_channels(channels, tmp_path):
    """Pillow would hand a 16-bit RGB picture on as 8 bits without a word."""
    shape = (2, 4) if channels == 1 else (2, 4, channels)
    cv2.imwrite(str(tmp_path / "a.png"), np.full(shape, 60_000, np.uint16))
    with pytest.raises(DataError, match=r"a\.png.*more than 8 bits a channel; convert the images to 8 bits"):
        open_target([str(tmp_path)], input_hw=(2, 4))
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        read_image(tmp_path / "a.png")


def test_a_paletted_picture_among_target_images_is_taken_for_a_label(tmp_path):
    Image.new("P", (4, 2)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: a paletted image, as label files are"):
        open_target([str(tmp_path)], input_hw=(2, 4))


def test_an_exif_orientation_is_applied_and_said(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # "turn by 90 degrees"
    Image.new("RGB", (48, 32)).save(tmp_path / "a.jpg", exif=exif)
    target = open_target([str(tmp_path)], input_hw=(32, 48))
    assert "1 images carry an EXIF orientation, which is applied" in target.remarks[0]
    assert read_header(tmp_path / "a.jpg").size_hw == read_image(tmp_path / "a.jpg").shape[:2] == (48, 32)


def test_no_pictures_are_nothing_to_remark_and_a_head_without_a_picture_is_refused(tmp_path):
    assert check_images([], used_hw=HW) == ((), ())
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: not a readable image"):
        read_header(tmp_path / "a.png")
