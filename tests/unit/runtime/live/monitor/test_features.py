"""A frame's numbers, counted by hand."""

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.live.monitor.features import (
    CONFIDENCE,
    IMAGE_PARTS,
    brightness_range,
    feature_names,
    frame_features,
    part_of,
)

CLASSES = ("road", "sky", "car")


def named(frame, classes=None, confidence=None):
    classes = np.zeros(frame.shape[:2], np.uint8) if classes is None else classes
    values = frame_features(frame, Prediction(classes=classes, confidence=confidence), len(CLASSES))
    names = feature_names(CLASSES, has_confidence=confidence is not None)
    return dict(zip(names, values, strict=True))


def full(colour, hw=(64, 96)):
    return np.full((*hw, 3), colour, np.uint8)


def test_a_grey_picture_has_one_brightness_no_colour_and_no_edge():
    found = named(full(128))
    # L* of sRGB 128: Y = ((128/255 + 0.055) / 1.055)^2.4 = 0.2159, L* = 116 · 0.2159^(1/3) − 16 = 53.59
    assert [found[f"brightness: quantile {q}"] for q in (0.05, 0.5, 0.95)] == pytest.approx([53.59] * 3, abs=0.05)
    assert [found[f"colour: {w}"] for w in ("mean a", "mean b", "spread of a")] == pytest.approx([0.0] * 3, abs=0.1)
    assert [found[f"sharpness: {w}"] for w in ("fine edges", "coarse edges", "noise")] == pytest.approx(
        [np.log(0.05)] * 3
    )


def test_the_channels_are_red_green_blue():
    found = named(full((255, 0, 0)))
    assert (found["colour: mean a"], found["colour: mean b"]) == pytest.approx((80.1, 67.2), abs=0.3)
    assert named(full((0, 0, 255)))["colour: mean b"] == pytest.approx(-107.9, abs=0.3)


def test_half_black_half_white_is_as_far_apart_as_can_be():
    frame = full(0)
    frame[:32] = 255
    found = named(frame)
    assert found["brightness: quantile 0.05"] == pytest.approx(0.0, abs=0.01)
    assert found["brightness: quantile 0.95"] == pytest.approx(100.0, abs=0.01)
    values = frame_features(frame, Prediction(classes=np.zeros((64, 96), np.uint8)), 3)
    assert brightness_range(values) == pytest.approx(100.0, abs=0.02)
    assert brightness_range(frame_features(full(7), Prediction(classes=np.zeros((64, 96), np.uint8)), 3)) == 0.0


def test_class_shares_are_roots_and_a_class_that_is_not_there_is_0():
    classes = np.zeros((4, 4), np.uint8)
    classes[0] = 2
    found = named(full(9, (4, 4)), classes)
    assert [found[f"classes: {name}"] for name in CLASSES] == pytest.approx([np.sqrt(0.75), 0.0, 0.5])


def test_confidence_is_its_mean_and_the_root_of_the_unsure_share():
    confidence = np.full((4, 4), 255, np.uint8)
    confidence[0] = 127  # a quarter just below a half
    confidence[1] = 128
    found = named(full(9, (4, 4)), confidence=confidence)
    assert found["confidence: mean"] == pytest.approx((2 * 255 + 127 + 128) / 4 / 255)
    assert found["confidence: unsure"] == pytest.approx(0.5)


def test_noise_is_measured_in_grey_levels_and_not_where_the_sensor_clips():
    noisy = 120 + np.random.default_rng(0).normal(0.0, 8.0, (128, 192, 1))
    frame = np.repeat(noisy, 3, axis=2).clip(0, 255).astype(np.uint8)
    assert 6.0 < np.exp(named(frame)["sharpness: noise"]) < 8.5
    frame[:, :96] = 255  # a clipped sky would be the flattest of all
    assert 6.0 < np.exp(named(frame)["sharpness: noise"]) < 8.5
    assert named(full(255))["sharpness: noise"] == pytest.approx(np.log(0.05))


def test_a_blurred_lens_loses_fine_edges_more_than_coarse_ones_and_keeps_its_brightness():
    import cv2

    sharp = np.kron(np.random.default_rng(1).integers(0, 255, (16, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    before, after = named(sharp), named(cv2.GaussianBlur(sharp, (0, 0), 2.0))
    fine, coarse = (before[f"sharpness: {w} edges"] - after[f"sharpness: {w} edges"] for w in ("fine", "coarse"))
    assert fine > coarse + 0.5 > 0.5
    assert after["brightness: quantile 0.5"] == pytest.approx(before["brightness: quantile 0.5"], abs=4.0)


def test_one_pixel_has_a_fingerprint():
    values = frame_features(full(200, (1, 1)), Prediction(classes=np.ones((1, 1), np.uint8)), 3)
    assert np.isfinite(values).all()
    assert len(values) == len(feature_names(CLASSES, has_confidence=False)) == 4 + 5 + 3 + 3


def test_every_name_belongs_to_a_part():
    names = feature_names(CLASSES, has_confidence=True)
    assert [part_of(name) for name in names].count(CONFIDENCE) == 2
    assert {part_of(name) for name in names} == {*IMAGE_PARTS, "classes", CONFIDENCE}
