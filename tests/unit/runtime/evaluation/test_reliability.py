"""Calibration counted by hand, and where `clst-eval` reports it."""

import json

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import DataError
from clst_runtime.evaluation.change import measure_change
from clst_runtime.evaluation.evaluate import evaluate
from clst_runtime.evaluation.reliability import BINS, Reliability
from tests.conftest import RGB_CLASSES, rgb_manifest, write_labelled, write_rgb_model
from tests.support.command_line import call

SURE, UNSURE = 255, 51  # 100 % and 20 %


def counted(labels, classes, confidence):
    found = Reliability()
    found.update(*(np.array([each], np.uint8) for each in (labels, classes, confidence)))
    return found


def test_the_error_of_four_pixels_counted_by_hand():
    """Two pixels with 100 %, one of them right: 50 points off. Two with 20 %, none right: 20 off. The mean is 35 %."""
    found = counted([0, 0, 1, 1, 255], [0, 1, 0, 0, 1], [SURE, SURE, UNSURE, UNSURE, SURE])
    assert found.ece() == pytest.approx(0.35)
    assert found.to_json() == {
        "ece": pytest.approx(0.35),
        "bins": [
            {"pixels": 2, "confidence": 0.2, "right": 0.0},
            {"pixels": 2, "confidence": 1.0, "right": 0.5},
        ],
    }


def test_errors_in_one_bin_cancel_and_those_of_two_bins_do_not():
    """Levels 238 to 255 are the last of 15 bins, 221 to 237 the one before."""
    assert counted([0] * 2, [0, 1], [238, 255]).ece() == pytest.approx((238 + 255) / 2 / 255 - 0.5)
    assert counted([0] * 2, [0, 1], [237, 238]).ece() == pytest.approx((18 / 255 + 238 / 255) / 2)


def test_each_level_is_in_the_bin_that_its_share_lies_in():
    every = np.arange(256, dtype=np.uint8)
    found = Reliability()
    found.update(np.zeros(256), every * 0, every)
    assert found.bins()[:, 0].tolist() == [17.0] * (BINS - 1) + [18.0]
    assert found.bins()[0, 1] == pytest.approx(8 / 255)


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    assert counted([0] * 5, [0, 1, 1, 1, 1], [UNSURE] * 5).ece() == pytest.approx(0)
    assert counted([0], [0], [SURE]).ece() == 0


def test_without_a_labelled_pixel_there_is_no_error_to_speak_of():
    found = counted([255, 255], [0, 1], [SURE, SURE])
    assert np.isnan(found.ece())
    assert found.or_none() is None
    assert found.to_json() == {"ece": None, "bins": []}


def test_other_shapes_are_refused():
    with pytest.raises(DataError, match=r"confidence \(1, 1\)"):
        counted([0, 0], [0, 0], [SURE])


class Says:
    """A model that takes every pixel for red, with one confidence, or none."""

    description = "says"

    def __init__(self, confidence):
        self.confidence, self.manifest = confidence, rgb_manifest()

    def predict(self, frame):
        classes = np.zeros(frame.shape[:2], np.uint8)
        return Prediction(classes=classes, confidence=None if self.confidence is None else classes + self.confidence)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def labelled(tmp_path):
    return write_labelled(tmp_path / "data")


def test_a_model_and_a_comparison_have_the_error_where_there_is_a_confidence(labelled):
    data = open_dataset(labelled, split="val", classes=RGB_CLASSES)
    result = evaluate(Says(SURE), data)
    assert result.reliability.pixels[SURE] == sum((data.labels(index) != 255).sum() for index in range(3))
    assert result.reliability.ece() == pytest.approx(1 - result.pixel_accuracy)
    assert evaluate(Says(None), data).reliability is None
    found = measure_change(Says(None), Says(UNSURE), data)
    assert found.old.reliability is None
    assert found.new.reliability.ece() == pytest.approx(abs(result.pixel_accuracy - 0.2))
    assert "reliability" not in found.old.to_json(RGB_CLASSES)
    assert "expected calibration error: new " in found.report((("a.pt", Says(None)), ("b.pt", Says(UNSURE))))


def test_clst_eval_prints_it_and_leaves_it_out_of_a_model_without(labelled, tmp_path, monkeypatch):
    model = write_rgb_model(tmp_path / "m.onnx")
    assert "calibration" not in call(clst_eval, model, "--data", labelled).stdout
    monkeypatch.setattr("clst_runtime.backends.open_model", lambda path, **_: Says(SURE))
    accuracy = json.loads((done := call(clst_eval, model, "--data", labelled, "--json")).stdout)["pixel_accuracy"]
    assert json.loads(done.stdout)["reliability"]["ece"] == pytest.approx(1 - accuracy)
    line = f"expected calibration error  {100 * (1 - accuracy):.2f}"
    assert line in call(clst_eval, model, "--data", labelled).stdout
