"""Which images each pair of cameras learns from and is scored on."""

import json

import numpy as np
import pytest
from click import UsageError

from benchmarks.adaptation import pairs
from benchmarks.adaptation.pairs import CAMVID_AS_SYNTHETIC, LABELLED_ALIKE, PAIRS
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


@pytest.fixture
def data(tmp_path):
    """CamVid and IDD-Lite in little: four drives or places, labelled by the last class below a row of the first."""
    for name, classes, splits in (
        (
            "camvid",
            CAMVID,
            {"train": ("0006R0_1", "0016E5_1", "0001TP_1"), "val": ("0016E5_2",), "test": ("0001TP_2",)},
        ),
        ("idd_lite", IDD, {"train": ("a",), "val": ("b",)}),
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
    found = open_target(pair.target, input_hw=(24, 32))
    return sorted(path.stem for path in found.paths)


@pytest.mark.parametrize(
    ("name", "source", "target", "test"),
    [
        ("camvid-dusk", ["0006R0_1", "0016E5_1"], ["0001TP_1"], ["0001TP_2"]),
        ("camvid-dusk-to-day", ["0001TP_1"], ["0006R0_1", "0016E5_1"], ["0016E5_2"]),
        ("camvid-same", ["0006R0_1", "0016E5_1"], ["0006R0_1", "0016E5_1"], ["0016E5_2"]),
        ("idd-to-camvid", ["a"], ["0001TP_1", "0006R0_1", "0016E5_1"], ["0016E5_2"]),
        ("camvid-to-idd", ["0001TP_1", "0006R0_1", "0016E5_1"], ["a"], ["b"]),
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
    assert set(stems(pair.own_validation)).isdisjoint(source)


def test_synthetic_scenes_are_scored_on_the_nine_classes_that_camvid_labels_alike(data, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "SYNTHETIC_FOR_CAMVID", {"train": 2, "val": 1})
    pair = PAIRS["drawn-to-camvid"](tmp_path / "work", data)
    assert len(stems(pair.source)) == 2
    assert targets(pair) == ["0001TP_1", "0006R0_1", "0016E5_1"]
    classes = load_class_list("scenes10")
    assert set(pair.classes()) - set(pair.headline) == {"bicycle"}
    assert set(CAMVID_AS_SYNTHETIC) == set(CAMVID.names)
    assert set(CAMVID_AS_SYNTHETIC.values()) - {None} == set(LABELLED_ALIKE) <= set(classes.names)
    labels = pair.test.open(classes)[0].labels  # the miniature's pixels are bicyclists below a row of sky
    assert (labels[1:] == 255).all()


def test_a_pair_without_its_data_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="needs --data"):
        PAIRS["drawn-to-camvid"](tmp_path, None)
