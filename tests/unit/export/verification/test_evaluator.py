import dataclasses
import math

import numpy as np
import pytest

from clst_export.verification.evaluator import Evaluator, contents_of, labelled_frames
from clst_runtime.backends.base import Prediction
from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Content, Fit
from tests.conftest import RGB_CLASSES, SIZE_HW, rgb_manifest, write_labelled


@dataclasses.dataclass
class Says:
    """A backend that names the strongest channel, but says `wrong` on the first `count` pixels of each row."""

    count: int = 0
    wrong: int = 1
    calls: int = 0
    sure: int | None = None

    @property
    def manifest(self):
        return rgb_manifest()

    def predict(self, frame):
        self.calls += 1
        classes = frame.argmax(axis=2).astype(np.uint8)
        classes[:, : self.count] = self.wrong
        return Prediction(classes=classes, confidence=None if self.sure is None else np.full_like(classes, self.sure))


def red(blue_columns=0):
    frame = np.zeros((*SIZE_HW, 3), np.uint8)
    frame[..., 0] = 200
    frame[:, SIZE_HW[1] - blue_columns :] = (0, 0, 200)
    return frame


def test_without_labels_the_float32_maps_are_the_truth():
    """16 columns: 8 red, 8 blue; the candidate calls 4 of the red ones green: agreement 12/16."""
    comparison = Evaluator(Says(), [red(8)]).evaluate(Says(count=4))
    assert comparison.agreement == 0.75
    assert comparison.drop == 0.25
    assert comparison.reference_iou[[0, 2]].tolist() == [1, 1]
    assert math.isnan(comparison.reference_iou[1])
    assert comparison.candidate_iou.tolist() == [0.5, 0.0, 1.0]
    assert comparison.to_json()["iou"]["green"] == {"reference": None, "model": 0.0}


def test_with_labels_the_drop_is_that_of_the_miou():
    """Truth: all red. Reference: right on 8 of 16 columns, the rest blue. Candidate: 4 of them green."""
    labels = np.zeros(SIZE_HW, np.uint8)
    comparison = Evaluator(Says(), [red(8)], [labels]).evaluate(Says(count=4))
    assert comparison.reference_miou == 0.25  # red 0.5, blue 0
    assert comparison.candidate_miou == pytest.approx(0.25 / 3)  # red 0.25, green 0, blue 0
    assert comparison.drop == pytest.approx(0.25 - 0.25 / 3)


def test_with_labels_and_a_confidence_there_is_a_calibration_error():
    """Truth: all red, right on 8 of 16 columns with 80 %; padding does not count."""
    labels = np.zeros(SIZE_HW, np.uint8)
    comparison = Evaluator(Says(), [red(8)], [labels]).evaluate(Says(sure=204))
    assert comparison.to_json()["ece"] == pytest.approx(0.3)
    padded = Evaluator(Says(), [red(8)], [labels], [Content(0, 0, 8, 8)]).evaluate(Says(sure=204))
    assert padded.to_json()["ece"] == pytest.approx(0.2)
    assert "ece" not in Evaluator(Says(), [red(8)]).evaluate(Says(sure=204)).to_json(), "no labels"
    assert "ece" not in Evaluator(Says(), [red(8)], [labels]).evaluate(Says()).to_json(), "no confidence"


def test_padding_is_not_judged():
    """What the candidate says wrong lies in the left 4 columns; of the other 12 it says everything right."""
    box = [Content(0, 4, 8, 12)]
    comparison = Evaluator(Says(), [red(8)], contents=box).evaluate(Says(count=4))
    assert (comparison.agreement, comparison.drop) == (1.0, 0.0)
    assert Evaluator(Says(), [red(8)], contents=box).evaluate(Says(count=6)).agreement == 10 / 12
    labels = np.zeros((16, 24), np.uint8)  # twice the picture of 8×12: 4 columns red, 8 blue
    labels[:, 8:] = 2
    assert Evaluator(Says(), [red(8)], [labels], box).evaluate(Says(count=4)).candidate_miou == 1.0
    subset = Evaluator(Says(), [red(8)] * 4, contents=[Content(0, place, 8, 12) for place in range(4)]).subset(2)
    assert [content.left for content in subset.contents] == [0, 2]


def test_labelled_pictures_say_where_they_lie(tmp_path):
    """8×8 in 8×16: columns 4–11."""
    dataset = open_dataset(write_labelled(tmp_path, size_hw=(8, 8)), split="val")
    frames, labels = labelled_frames(dataset, SIZE_HW, 2, Fit.LETTERBOX)
    contents = contents_of(labels, SIZE_HW, Fit.LETTERBOX)
    assert contents == [Content(0, 4, 8, 8)] * 2
    assert (frames[0][:, 4:8] == (200, 0, 0)).all()
    assert (frames[0][:, :4] == (124, 116, 104)).all()
    boxed = Evaluator(Says(), frames, labels, contents).evaluate(Says(count=4))
    assert (boxed.agreement, boxed.reference_miou) == (1.0, 1.0)


def test_a_better_candidate_has_a_negative_drop():
    labels = np.full(SIZE_HW, 1, np.uint8)
    assert Evaluator(Says(), [red()], [labels]).evaluate(Says(count=16)).drop == -1.0


def test_the_reference_is_computed_once_and_a_subset_is_spread_evenly():
    reference = Says()
    evaluate = Evaluator(reference, [red(index) for index in range(10)])
    part = evaluate.subset(2)
    assert reference.calls == 10
    assert [int((classes == 2).sum()) // SIZE_HW[0] for classes in part.maps] == [0, 5]
    assert evaluate.subset(10) is evaluate
    assert part.evaluate(Says()).frames == 2


def test_no_frames_are_refused():
    with pytest.raises(DataError, match="--frames"):
        Evaluator(Says(), [])


def test_labels_keep_their_size_and_ignored_pixels_do_not_count(tmp_path):
    dataset = open_dataset(write_labelled(tmp_path, count=3, size_hw=(16, 32)), split="val", classes=RGB_CLASSES)
    frames, labels = labelled_frames(dataset, SIZE_HW, 2)
    assert [frame.shape for frame in frames] == [(*SIZE_HW, 3)] * 2
    assert [label.shape for label in labels] == [(16, 32)] * 2
    comparison = Evaluator(Says(), frames, labels).evaluate(Says())
    assert (comparison.labelled, comparison.candidate_miou, comparison.drop) == (True, 1.0, 0.0)
