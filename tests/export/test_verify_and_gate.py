"""Ties counted by hand: what differs within the precision's reach, and what differs beyond it."""

import dataclasses

import numpy as np
import pytest
from tests.conftest import RGB_CLASSES

from clst_export.gate import BOUNDS, Bounds
from clst_export.judge import Verdict
from clst_export.precision import Precision
from clst_export.verify import verify
from clst_runtime.backends.base import Prediction


class Colours:
    """Logits are the colour channels themselves."""

    def logits(self, frame):
        return frame.permute(0, 3, 1, 2).float()


@dataclasses.dataclass
class Says:
    """A backend that always gives this class map."""

    classes: np.ndarray

    def predict(self, frame):
        return Prediction(classes=self.classes)


def found(tie_fraction):
    """Four pixels, largest logit 200; the backend says green everywhere.

    Gaps of red to green: 0 (green wins), 1, 10, 100.
    """
    frame = np.array([[[0, 200, 0], [101, 100, 0], [110, 100, 0], [200, 100, 0]]], np.uint8)
    return verify(Colours(), Says(np.full((1, 4), 1, np.uint8)), [frame], tie_fraction=tie_fraction)


@pytest.mark.parametrize(("tie_fraction", "untied"), [(0.0, 3), (0.005, 2), (0.05, 1), (0.5, 0)])
def test_a_tie_is_a_gap_up_to_the_share_of_the_largest_logit(tie_fraction, untied):
    agreement = found(tie_fraction)
    assert (agreement.differing_pixels, agreement.pixels, agreement.agreement) == (3, 4, 0.25)
    assert agreement.worst_margin == 100
    assert agreement.tie_margin == 200 * tie_fraction
    assert agreement.untied_pixels == untied


def test_no_frames_agree_in_nothing_and_differ_in_nothing():
    agreement = verify(Colours(), Says(np.zeros((1, 1), np.uint8)), [])
    assert (agreement.pixels, agreement.differing_pixels, agreement.worst_margin) == (0, 0, 0.0)


def verdict(agreement, *, labelled=False, drop=0.0):
    iou = np.array([0.5, 0.5, 0.5])
    return Verdict(classes=RGB_CLASSES, frames=1, labelled=labelled, agreement=agreement, reference_iou=iou,
                   candidate_iou=iou - drop)  # fmt: skip


def test_untied_pixels_are_bounded_as_a_share_of_all():
    bounds = Bounds(min_agreement=0.0, max_miou_drop=1.0, tie_fraction=0.05, max_untied=0.25)
    assert bounds.failures(verdict(0.25), found(0.05)) == []  # one of four
    stricter = dataclasses.replace(bounds, max_untied=0.24)
    assert stricter.failures(verdict(0.25), found(0.05)) == [
        "1 of 4 pixels differ and are no ties, the worst by a logit margin of 100.0000 (a tie is below 10.0000)"
    ]


def test_the_miou_is_asked_only_where_there_are_labels_and_a_gain_is_no_failure():
    bounds = Bounds(min_agreement=0.9, max_miou_drop=0.01)
    assert bounds.failures(verdict(0.95, drop=0.02)) == []
    assert len(bounds.failures(verdict(0.95, labelled=True, drop=0.02))) == 1
    assert bounds.failures(verdict(0.95, labelled=True, drop=-0.2)) == []
    assert len(bounds.failures(verdict(0.85, labelled=True, drop=0.02))) == 2


def test_a_miou_that_is_no_number_does_not_hold():
    bounds = Bounds(min_agreement=0.0, max_miou_drop=1.0)
    assert bounds.failures(verdict(1.0, labelled=True, drop=float("nan"))) != []


def test_each_precision_has_bounds_and_float32_allows_ties_alone():
    assert set(BOUNDS) == set(Precision)
    assert BOUNDS[Precision.FP32].max_untied == 0.0
    assert BOUNDS[Precision.FP16].min_agreement == 0.999
