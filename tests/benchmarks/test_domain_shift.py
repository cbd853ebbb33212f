"""What counts as the same camera, and the arithmetic of the table."""

import numpy as np
import pytest

from benchmarks.monitor.domain_shift import DAY, IDD, VIDEO, kind, measure, summary


def test_a_drive_is_same_another_drive_another_light_or_another_camera():
    assert [kind(drive, DAY) for drive in (*DAY, "CamVid dusk", *IDD, VIDEO)] == (
        ["same", "same", "light", "other", "other", "other"]
    )
    assert [kind(drive, ("CamVid dusk",)) for drive in (*DAY, "CamVid dusk", IDD[0])] == [
        "light",
        "light",
        "same",
        "other",
    ]
    assert [kind(drive, DAY[1:]) for drive in DAY] == ["drive", "same"]
    assert [kind(drive, IDD[:1]) for drive in (*IDD, DAY[0], VIDEO)] == ["same", "same", "other", "other"]


def test_auroc_is_the_share_of_pairs_in_which_the_other_camera_is_farther_ties_half():
    found = summary([1.0, 3.0], [1.0, 2.0], 1.5)
    assert (found["auroc"], found["above"], found["windows"]) == (pytest.approx(2.5 / 4), 0.5, 2)
    assert summary([], [1.0], 1.5) == {"windows": 0}


def test_each_half_is_the_reference_once_and_is_never_judged_by_itself():
    random = np.random.default_rng(0)
    prints = {"CamVid dusk": random.normal(0, 3, (64, 1)), VIDEO: random.normal(50, 3, (16, 1))}
    found = measure(prints, ("colour: mean a",), ("CamVid dusk",), 8)
    assert found["reference_frames"] == 32
    assert {name: rows["windows"] for name, rows in found["drives"].items()} == {
        "CamVid dusk, other half": 14,  # 7 windows of 8 in 32 frames, twice
        VIDEO: 6,
    }
    assert found["kinds"]["other"]["auroc"] == found["kinds"]["other"]["above"] == 1.0
