"""The confidence of the network that is deployed, counted by hand."""

import math

import numpy as np
import pytest
import torch

from clst_runtime.classes.labels import ClassList
from clst_train.models.checkpoint_backend import segmenter_backend
from clst_train.models.segmenter import Segmenter, TrainingOutputs

NAMED = ClassList(name="n", names=("a", "b", "c"), colours=((0, 0, 0), (1, 1, 1), (2, 2, 2)))
SIZE_HW = (4, 6)


class Gives(Segmenter):
    """A network that gives every pixel the same logits."""

    feature_channels, output_stride, class_count = 3, 1, 3

    def __init__(self, *logits):
        super().__init__()
        self.given = torch.nn.Parameter(torch.tensor(logits, dtype=torch.float32).view(1, 3, 1, 1))

    def training_outputs(self, images):
        logits = self.given.expand(len(images), -1, *images.shape[2:])
        return TrainingOutputs(features=images, logits=logits, auxiliary=None)


def said(segmenter, **options):
    backend = segmenter_backend(segmenter, network="tiny", classes=NAMED, input_hw=SIZE_HW, **options)
    return backend.manifest, backend.predict(np.zeros((*SIZE_HW, 3), np.uint8))


@pytest.mark.parametrize(("logits", "share"), [((0, 0, 0), 1 / 3), ((math.log(8), 0, 0), 0.8), ((30, 0, 0), 1)])
def test_the_confidence_is_the_softmax_of_the_winner(logits, share):
    manifest, found = said(Gives(*logits), with_confidence=True)
    assert manifest.has_confidence
    assert found.classes.shape == found.confidence.shape == SIZE_HW
    assert set(found.confidence.ravel()) == {round(255 * share)}


def test_a_network_that_validates_in_training_has_none():
    manifest, found = said(Gives(1, 0, 0))
    assert (manifest.has_confidence, found.confidence) == (False, None)
