"""Old and new model on images without labels: what is seen of each counted by hand, and what follows from it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.classes.labels import ClassList
from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ConfigError
from clst_runtime.evaluation import unlabelled
from clst_runtime.evaluation.change import Verdict
from clst_runtime.evaluation.unlabelled import (
    Calibration,
    NoEstimate,
    Seen,
    check_scenes,
    differing,
    estimate_change,
    estimate_of,
    inner,
    labelled_pixels,
    made_smaller,
    visible,
)
from clst_runtime.imaging.image_files import write_png
from tests.conftest import RGB_CLASSES, SIZE_HW, rgb_manifest, write_labelled

RED, GREEN, BLUE = range(3)


def test_a_smaller_image_lies_in_the_middle_with_its_mirror_image_around_it():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 8:] = 200
    small = made_smaller(image)
    assert small.shape == image.shape
    assert inner(small).shape == (6, 12, 3)
    assert (small[1:7, 2:8].tolist(), small[1:7, 8:14].tolist()) == ([[[0] * 3] * 6] * 6, [[[200] * 3] * 6] * 6)
    assert np.array_equal(small[0], small[2])
    assert np.array_equal(small[:, 0], small[:, 4])


def test_an_image_of_one_pixel_has_a_smaller_one_of_one_pixel():
    assert inner(made_smaller(np.full((1, 1, 3), 7, np.uint8))).tolist() == [[[7, 7, 7]]]


def test_what_is_seen_of_an_image_in_counts():
    """At the smaller one's size the map is red, red, blue, nothing; there it says red, green, blue, blue."""
    whole = np.repeat(np.repeat(np.array([[RED, RED], [BLUE, 255]], np.uint8), 2, 0), 2, 1)
    seen = Seen.of(whole, np.array([[RED, GREEN], [BLUE, BLUE]], np.uint8), 3)
    assert seen.agreement.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert seen.predicted.tolist() == [8, 0, 4]
    assert (seen + seen).predicted.tolist() == [16, 0, 8]
    assert seen.agreements.tolist() == [0.5, 0, 1]


def test_shares_deviate_by_their_factor_whichever_is_larger_and_a_missing_class_as_one_of_a_thousandth():
    seen = Seen(agreement=np.eye(3, dtype=int), predicted=np.array([50, 50, 0]))
    assert seen.deviations(np.array([25, 74, 1])) == pytest.approx([math.log(2), math.log(1.48), math.log(10)])


def test_a_calibration_is_in_proportion_to_the_disagreement():
    of = Calibration(agreement=2, shares=10, of_estimate=0.3, of_disagreement=8)
    assert of.estimate(0.5, 4, -0.2) == 3
    half = 1.96 * math.sqrt(0.9**2 + 4**2)
    assert of.interval(0.5, 3) == pytest.approx((3 - half, 3 + half))
    assert of.interval(0, 0) == (0, 0)


def seen(hits, missed, predicted):
    """Each of two classes is seen the same in `hits` pixels, and taken for the other in `missed`."""
    return Seen(agreement=np.array([[hits, missed, 0], [missed, hits, 0], [0, 0, 0]]), predicted=np.array(predicted))


def estimate(old, new, between, labelled=(25, 75, 0)):
    return estimate_of(old, new, np.array(between), np.array(labelled), RGB_CLASSES, 12)


HALF_DIFFERENT = [[30, 20, 0], [20, 30, 0], [0, 0, 0]]  # IoU 30/70 of both


def test_the_estimate_by_hand(monkeypatch):
    """Agreements are 60/140 and 90/110; the new shares are those of the labels, the old ones 2 and 2/3 times as large.

    Blue, which neither model nor label has, deviates from nothing.
    """
    of = Calibration(agreement=1, shares=10, of_estimate=0, of_disagreement=7)
    monkeypatch.setattr(unlabelled, "OF_MIOU", of)
    monkeypatch.setattr(unlabelled, "OF_CLASS", of)
    found = estimate(seen(60, 40, [50, 50, 0]), seen(90, 10, [25, 75, 0]), HALF_DIFFERENT)
    ahead, closer = 100 * (90 / 110 - 60 / 140), (math.log(2) + math.log(1.5)) / 3
    assert found.disagreement == pytest.approx(4 / 7)
    assert found.off == pytest.approx(((2 * 1.5) ** (1 / 3), 1))
    assert found.points == pytest.approx(4 / 7 * (ahead + 10 * closer))
    assert found.interval == pytest.approx((found.points - 1.96 * 4, found.points + 1.96 * 4))
    assert found.class_points[:2] == pytest.approx([4 / 7 * (ahead + 10 * math.log(f)) for f in (2, 1.5)])
    assert (math.isnan(found.class_points[BLUE]), found.class_intervals[BLUE]) == (True, None)
    assert [each.tolist() for each in found.shares] == [[0.5, 0.5, 0], [0.25, 0.75, 0]]
    assert (found.verdict, found.failures()) == (Verdict.BETTER, [])


def test_the_way_back_is_the_opposite():
    there = estimate(seen(60, 40, [50, 50, 0]), seen(90, 10, [25, 75, 0]), HALF_DIFFERENT)
    back = estimate(seen(90, 10, [25, 75, 0]), seen(60, 40, [50, 50, 0]), HALF_DIFFERENT)
    assert back.points == pytest.approx(-there.points)
    assert (back.verdict, back.failures()) == (Verdict.WORSE, [back.text()])


def of_other_things(old, new):
    """Both models find the first class in so many of 100 pixels, of which the old camera's labels have 1."""
    before, after = (seen(60, 40, [old, 100 - old, 0]), seen(90, 10, [new, 100 - new, 0]))
    return before, after, HALF_DIFFERENT, (1, 99, 0)


def test_images_of_other_things_than_the_labels_leave_it_unclear_and_the_text_says_why():
    """Shares are off by 25, 1.32 and 1 in the old model: cube root 3.21; by 20, 1.24 and 1 in the new one: 2.91."""
    before, after, between, labels = of_other_things(25, 20)
    found = estimate(before, after, between, labels)
    assert found.off == pytest.approx((3.21, 2.91), abs=0.01)
    assert (found.by_signs, found.verdict, found.failures()) == (Verdict.BETTER, Verdict.UNCLEAR, [])
    assert found.text().startswith(
        "unclear: both signs say better, but these images show other things than the old camera's labels: in both "
        "models the classes' shares of pixels are off by a factor of 2.5 or more, "
    )
    back = estimate(after, before, between, labels)
    assert (back.by_signs, back.verdict, back.failures()) == (Verdict.WORSE, Verdict.UNCLEAR, [])


def test_one_model_that_sees_what_the_labels_have_is_enough():
    """The new one's shares are off by the cube root of 12 times 1.125: 2.38."""
    found = estimate(*of_other_things(25, 12))
    assert found.off == pytest.approx((3.21, 2.38), abs=0.01)
    assert found.verdict is Verdict.BETTER
    assert found.text().startswith("better: mIoU changes by about +")


def test_models_that_see_the_same_are_no_change_and_others_that_are_alike_in_all_signs_are_unclear():
    alike = seen(60, 40, [50, 50, 0])
    found = estimate(alike, alike, [[50, 0, 0], [0, 50, 0], [0, 0, 0]])
    assert (found.verdict, found.points, found.interval) == (Verdict.NO_CHANGE, 0, (0, 0))
    assert found.text() == "no change: both models predict the same on each of 12 images"
    assert estimate(alike, alike, HALF_DIFFERENT).verdict is Verdict.UNCLEAR


class Model:
    """Names each pixel's strongest channel, or what `says` makes of a frame."""

    description = "fake"

    def __init__(self, says=lambda frame: frame.argmax(2), **manifest):
        self.manifest, self._says = rgb_manifest(**manifest), says

    def predict(self, frame):
        return Prediction(classes=self._says(frame).astype(np.uint8))


def by_columns(frame):
    """What no image shows: red and blue in turn."""
    return np.broadcast_to(np.arange(frame.shape[1]) % 2 * BLUE, frame.shape[:2])


def pictures(count=12):
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 256, (4, 8, 3), np.uint8), np.ones((2, 2, 1), np.uint8)) for _ in range(count)]


def test_a_model_that_sees_other_things_in_images_made_smaller_is_worse_and_its_file_order_of_classes_does_not_matter():
    images = [(image, None) for image in pictures()]
    turned = RGB_CLASSES.__class__(
        name="turned", names=("blue", "green", "red"), colours=((0, 0, 1), (0, 1, 0), (1, 0, 0))
    )
    found = estimate_change(Model(), Model(by_columns), images, np.ones(3))
    assert (found.verdict, found.images) == (Verdict.WORSE, 12)
    same = estimate_change(Model(), Model(lambda frame: 2 - frame.argmax(2), classes=turned), images, np.ones(3))
    assert same.verdict is Verdict.NO_CHANGE


def test_ignored_pixels_do_not_count():
    ignored = np.ones((8, 16), bool)
    ignored[:, :8] = False
    sees_right_differently = Model(lambda frame: np.where(np.arange(16) < 8, frame.argmax(2), GREEN))
    images = pictures()
    found = estimate_change(Model(), sees_right_differently, [(image, ignored) for image in images], np.ones(3))
    assert found.disagreement == 0
    assert (
        estimate_change(Model(), sees_right_differently, [(image, None) for image in images], np.ones(3)).disagreement
        > 0
    )


def test_models_of_other_classes_are_refused():
    other = ClassList(name="two", names=("red", "blue"), colours=((1, 0, 0), (0, 0, 1)))
    with pytest.raises(ConfigError, match="no class 'green'"):
        estimate_change(Model(), Model(classes=other), [], np.ones(3))


def still(count):
    """Each of so many pictures twice, as a camera that stands still sees it in changing light."""
    return [(image * light).astype(np.uint8) for image in pictures(count) for light in (1, 0.9)]


def test_ten_images_have_to_differ():
    check_scenes(still(10))
    with pytest.raises(NoEstimate, match="9 of 18 images differ from one another, 10 are needed"):
        check_scenes(still(9))


def test_noise_makes_no_scenes_of_one():
    """A dim slope of 20 grey values, with noise of 25 in each of 480x640 pixels: averages are the slope's."""
    rng = np.random.default_rng(0)
    slope = np.broadcast_to(np.linspace(100, 120, 640)[:, None], (480, 640, 3))
    noisy = [np.clip(slope + rng.normal(0, 25, slope.shape), 0, 255).astype(np.uint8) for _ in range(12)]
    assert differing(noisy) == 1
    assert differing([*noisy, noisy[0][:, ::-1], np.swapaxes(noisy[0], 0, 1)]) == 3


def test_pixels_that_do_not_count_have_the_mean_colour_of_the_others():
    image = np.array([[[0, 10, 20], [4, 20, 20]], [[255, 255, 255]] * 2], np.uint8)
    mask = np.array([[False, False], [True, True]])
    assert visible(image, mask).tolist() == [[[0, 10, 20], [4, 20, 20]], [[2, 15, 20]] * 2]
    assert visible(image, None) is image
    assert visible(image, np.ones((2, 2), bool)) is image


def test_no_image_shows_no_scene():
    assert differing([]) == 0


def test_images_without_any_contrast_are_one_scene():
    with pytest.raises(NoEstimate, match="1 of 20"):
        check_scenes([np.full((8, 16, 3), 10 * grey, np.uint8) for grey in range(20)])


def test_images_of_too_few_scenes_are_refused_before_any_model_is_asked():
    with pytest.raises(NoEstimate, match="9 of 18"):
        estimate_change(Model(pytest.fail), Model(pytest.fail), [(image, None) for image in still(9)], np.ones(3))


def test_the_old_cameras_labels_are_counted(tmp_path):
    """Three images, half red without one pixel, half blue."""
    found = labelled_pixels(open_dataset(write_labelled(tmp_path), split="val"))
    assert found.tolist() == [3 * 63, 0, 3 * 64]


@pytest.mark.parametrize(("label", "words"), [(0, "have red only"), (255, "have nothing only")])
def test_labels_of_fewer_than_two_classes_leave_no_estimate(tmp_path, label, words):
    dataset = open_dataset(write_labelled(tmp_path), split="val")
    for path in (tmp_path / "labels" / "val").iterdir():
        write_png(path, np.full(SIZE_HW, label, np.uint8))
    with pytest.raises(NoEstimate, match=words):
        labelled_pixels(dataset)


def test_json_and_report_hold_the_same_numbers():
    found = estimate(seen(60, 40, [50, 50, 0]), seen(90, 10, [25, 75, 0]), HALF_DIFFERENT)
    models = tuple((name, SimpleNamespace(description="fake")) for name in ("old.onnx", "new.onnx"))
    values, text = found.to_json(models), found.report(models)
    assert values["verdict"] == "better"
    assert values["miou"]["change_points"] == found.points
    assert values["shares_off"] == min(found.off) == pytest.approx(1)
    assert values["classes"]["blue"] == {"change_points": None, "interval_points": None}
    assert values["new"]["agreement"] == {
        "red": pytest.approx(0.818, abs=1e-3),
        "green": pytest.approx(0.818, abs=1e-3),
        "blue": None,
    }
    assert "blue" not in text
    assert text.endswith(found.text())
