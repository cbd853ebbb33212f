"""The temperature of networks whose confidence is known, by hand."""

import math

import numpy as np
import pytest
import torch

from clst_runtime.data.dataset import open_dataset
from clst_runtime.evaluation.unlabelled import made_smaller
from clst_runtime.imaging.geometry import Fit
from clst_train.engine.temperature import IMAGES, MOST, SMALLER, in_smaller, logits_at, matching, temperature_of
from clst_train.models.deployable import Deployable
from clst_train.models.segmenter import Segmenter, TrainingOutputs
from tests.conftest import write_labelled

SIZE_HW = (20, 40)
SURE, UNSURE = math.log(8), math.log(3)  # of one class beside two with 0: 80 %; of two classes: 75 %


def points(logits, *truth):
    """Points that all have the same logits, and their classes."""
    return torch.tensor(logits, dtype=torch.float32).expand(len(truth), -1), np.array(truth, np.uint8)


def test_doubled_logits_of_a_network_that_is_right_as_often_as_it_says_are_halved():
    """Of five points with 80 % four are right, of four with 75 % three: said in two images."""
    seen = [points((SURE, 0, 0), 0, 0, 0, 0, 1), points((UNSURE, 0, -99), 0, 0, 0, 1)]
    assert matching(seen) == 1
    assert matching([(2 * logits, truth) for logits, truth in seen]) == pytest.approx(2, abs=1e-3)


def test_points_that_are_ignored_do_not_count():
    seen = points((2 * SURE, 0, 0), *([0] * 4 + [1]), *([255] * 9))
    assert matching([seen]) == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize(("truth", "temperature"), [((0, 0, 0), 1.0), ((1, 1, 1), MOST), ((255, 255), 1.0), ((), 1.0)])
def test_always_right_always_wrong_and_nothing_labelled_are_bounded(truth, temperature):
    assert matching([points((9, 0, 0), *truth)]) == temperature


def test_one_class_is_right_and_sure_at_any_temperature():
    assert matching([points((9.0,), 0, 0)]) == 1


class Brightest(Segmenter):
    """Logits are a pixel's three values in hundreds, times `sure`; one that `turns` has them in another order where
    more than a fifth of neighbouring pixels differ, as in images made smaller."""

    feature_channels, output_stride, class_count = 3, 1, 3

    def __init__(self, sure=1.0, *, turns=False):
        super().__init__()
        self.sure, self.turns = torch.nn.Parameter(torch.tensor(sure)), turns

    def training_outputs(self, images):
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (self.normalisation.mean, self.normalisation.std))
        seen = (images * std + mean).round()
        detailed = (seen[..., 1:] != seen[..., :-1]).any(1).float().mean() > 0.2
        logits = self.sure * (seen.roll(1, 1) if self.turns and detailed else seen) / 100
        return TrainingOutputs(features=seen, logits=logits, auxiliary=None)


def stripes(columns):
    """Red and blue in turns of so many columns."""
    frame = np.zeros((*SIZE_HW, 3), np.uint8)
    red = np.arange(SIZE_HW[1]) // columns % 2 == 0
    frame[:, red, 0] = frame[:, ~red, 2] = 200
    return frame


def seen_in(network, frame, ignored=None):
    """Logits of a frame, and the classes in it made smaller."""
    deployable = Deployable(network, SIZE_HW)
    return logits_at(deployable, frame), in_smaller(deployable, frame, ignored)


def test_a_network_that_sees_the_same_in_an_image_made_smaller_is_as_sure_as_it_was():
    assert matching([seen_in(Brightest(), stripes(20))]) == 1


def test_one_that_sees_other_things_in_it_becomes_less_sure_but_where_pixels_do_not_count():
    """All of the smaller image gets another class: the confidence, 200 / 100 over 0 and 0, cannot fall that far."""
    frame, network = stripes(8), Brightest(turns=True)
    changes = [(each[:, 1:] != each[:, :-1]).any(2).mean() for each in (frame, made_smaller(frame, SMALLER))]
    assert changes[0] < 0.2 < changes[1]
    assert matching([seen_in(network, frame)]) == MOST
    assert matching([seen_in(network, frame, np.ones(SIZE_HW, bool))]) == 1
    half = np.zeros(SIZE_HW, bool)
    half[:, :20] = True
    logits, classes = seen_in(network, frame, half)
    assert (logits.shape, (classes == 255).mean()) == ((1024, 3), 0.5)


class Images(list):
    """Target images; all of each pixel counts."""

    def ignored(self, index):
        return None


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Images whose left half is red and right half blue, as the labels say."""
    return open_dataset(write_labelled(tmp_path_factory.mktemp("old"), size_hw=SIZE_HW), split="val")


def found(network, old, target):
    return temperature_of(network, old, target, input_hw=SIZE_HW, fit=Fit.STRETCH)


def test_the_larger_one_of_both_counts_and_without_a_new_camera_the_old_one_is_made_smaller(old):
    assert found(Brightest(), old, None) == 1, "right everywhere, and the same in smaller ones"
    assert found(Brightest(turns=True), old, None) == 1, "two colours are too little detail at any size"
    assert found(Brightest(turns=True), old, Images([stripes(8)])) == MOST
    assert found(Brightest(-1.0), old, Images([stripes(20)])) == MOST, "wrong everywhere, and the same in smaller ones"


def test_the_images_are_evenly_spread_and_no_more_than_needed(old):
    read = []

    class Counted(Images):
        def __getitem__(self, index):
            read.append(index)
            return stripes(20)

    found(Brightest(), old, Counted([None] * 3 * IMAGES))
    assert read == [3 * place for place in range(IMAGES)]


def test_no_image_is_predicted_twice(old, monkeypatch):
    """A whole image of the old camera serves its labels and the smaller one."""
    seen, logits = [], Deployable.logits
    monkeypatch.setattr(Deployable, "logits", lambda self, frame: seen.append(frame) or logits(self, frame))
    found(Brightest(), old, None)
    assert len(seen) == 2 * len(old)
    seen.clear()
    found(Brightest(), old, Images([stripes(20)]))
    assert len(seen) == len(old) + 2
