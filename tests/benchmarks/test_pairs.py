"""Which images each change of camera learns from, lets choices read and is scored on."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from click import UsageError

from benchmarks.adaptation import pairs
from benchmarks.adaptation.pairs import CAMVID_AS_SYNTHETIC, LABELLED_ALIKE, PAIRS, drive_of, shared_out, stretch_of
from clst_runtime.classes.labels import load_class_list
from clst_runtime.imaging.image_files import write_png
from clst_train.data.target import open_target

CAMVID = load_class_list("camvid11")
IDD = load_class_list("idd7")
TO_GROUPS = dict.fromkeys(CAMVID.names) | {
    "road": "drivable",
    "car": "vehicles",
    "sky": "sky",
    "building": "far objects",
    "sidewalk": "non-drivable",
}
IDD_TRAIN = tuple(f"{drive}_{frame}" for drive in range(1, 9) for frame in (10, 20))
"""Eight drives of two frames."""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """CamVid and IDD-Lite in little, labelled by the last class below a row of the first."""
    monkeypatch.setattr(pairs, "CHOICE_FRAMES", 3)
    for name, classes, splits in (
        (
            "camvid",
            CAMVID,
            {"train": ("0006R0_f1", "0016E5_1", "0001TP_1"), "val": ("0016E5_2",), "test": ("0001TP_2",)},
        ),
        ("idd_lite", IDD, {"train": IDD_TRAIN, "val": ("90_10", "91_10")}),
    ):
        root = tmp_path / "data" / name
        for split, stems in splits.items():
            for stem in stems:
                image = np.random.default_rng(len(stem)).integers(0, 256, (24, 32, 3), dtype=np.uint8)
                write_png(root / "images" / split / f"{stem}.png", image)
                (root / "images" / split / f"{stem}.png").rename(root / "images" / split / f"{stem}.jpg")
                labels = np.full((24, 32), len(classes) - 1, np.uint8)
                labels[0] = 0
                write_png(root / "labels" / split / f"{stem}.png", labels)
        (root / "classes.json").write_text(json.dumps(classes.to_json()))
    (tmp_path / "data" / "camvid_to_idd7.json").write_text(json.dumps({"map": TO_GROUPS}))
    return tmp_path / "data"


def stems(labelled):
    return sorted(pair.image.stem for pair in labelled.open().files)


def targets(pair):
    found = open_target((str(pair.target),), input_hw=(24, 32))
    return sorted(path.stem for path in found.paths)


@pytest.mark.parametrize(
    ("name", "source", "target", "test"),
    [
        ("light-dusk-to-day", ["0001TP_1", "0001TP_2"], ["0016E5_1"], ["0006R0_f1"]),
        ("light-day-to-dusk", ["0006R0_f1", "0016E5_1"], ["0001TP_1"], ["0001TP_2"]),
        ("country-idd-to-camvid", sorted(IDD_TRAIN), ["0016E5_1"], ["0006R0_f1"]),
        (
            "country-camvid-to-idd",
            ["0001TP_1", "0001TP_2", "0006R0_f1", "0016E5_1"],
            sorted(IDD_TRAIN),
            ["90_10", "91_10"],
        ),
    ],
)
def test_each_pair_learns_from_one_camera_looks_at_the_other_and_is_scored_on_images_of_neither(
    name, source, target, test, data, tmp_path
):
    pair = PAIRS[name](tmp_path / "work", data)
    assert stems(pair.source) == source
    assert targets(pair) == target
    assert stems(pair.test) == test
    assert stems(pair.oracle) == target, "the oracle learns from the very images that the others see without labels"
    assert pair.choice == pair.oracle


def drives(labelled):
    return {drive_of(stem) for stem in stems(labelled)}


@pytest.mark.parametrize("severity", ["none", "middle"])
def test_source_target_choice_and_test_of_another_camera_share_no_drive(severity, data, tmp_path):
    pair = PAIRS[f"camera-{severity}"](tmp_path / "work", data)
    parts = [drives(each) for each in (pair.source, pair.oracle, pair.choice, pair.test)]
    assert [len(part) for part in parts] == [4, 2, 2, 2], "half of eight; three frames need two drives; the rest; val"
    assert len(set.union(*parts)) == 10
    assert parts[3] == {"90", "91"}
    assert targets(pair) == stems(pair.oracle)
    again = PAIRS[f"camera-{severity}"](tmp_path / "work", data)
    assert stems(again.source) == stems(pair.source), "made once, and found again"
    old, new = pair.source.open().classes.names, pair.test.open().classes.names
    assert old == new
    assert (pair.test.root == pair.source.root) == (severity == "none")


def test_images_of_another_camera_of_that_name_are_refused(data, tmp_path):
    pair = PAIRS["camera-mild"](tmp_path / "work", data)
    camera = pair.test.root / "camera.toml"
    camera.write_text(re.sub(r"(?m)^gamma = .*", "gamma = 1.125", camera.read_text()))
    with pytest.raises(UsageError, match="the camera mild was another"):
        PAIRS["camera-mild"](tmp_path / "work", data)


def test_drives_are_shared_out_whole_and_always_in_the_same_way():
    """Half of the 1000 frames are the source's, 120 for choices; a drive that crosses a limit stays whole."""
    frames = [f"{drive}_{frame}" for drive in range(100) for frame in range(10)]
    found = shared_out(frames)
    assert {part: len(names) for part, names in found.items()} == {"source": 50, "choice": 12, "target": 38}
    assert Counter(name for names in found.values() for name in names) == Counter(map(str, range(100)))
    assert shared_out(reversed(frames)) == found


def test_a_stretch_is_ten_seconds_of_camvid_and_a_whole_drive_of_idd():
    names = ["0006R0_f00930", "0006R0_f01170", "0006R0_f01200", "0016E5_00930"]
    assert [stretch_of(name, 300) for name in names] == ["0006R0/3", "0006R0/3", "0006R0/4", "0016E5/3"]
    assert stretch_of("96_000300", 0) == stretch_of("96_999999", 0) == "96"


def test_synthetic_scenes_are_scored_on_the_nine_classes_that_camvid_labels_alike(data, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "SYNTHETIC_FOR_CAMVID", {"train": 2})
    pair = PAIRS["synthetic-to-camvid"](tmp_path / "work", data)
    assert len(stems(pair.source)) == 2
    assert targets(pair) == stems(pair.choice) == ["0016E5_1"]
    classes = load_class_list("scenes10")
    assert set(pair.classes()) - set(pair.headline) == {"bicycle"}
    assert set(CAMVID_AS_SYNTHETIC) == set(CAMVID.names)
    assert set(CAMVID_AS_SYNTHETIC.values()) - {None} == set(LABELLED_ALIKE) <= set(classes.names)
    labels = pair.test.open(classes)[0].labels  # the miniature's pixels are bicyclists below a row of sky
    assert (labels[1:] == 255).all()
