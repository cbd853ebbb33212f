import numpy as np
import pytest

from clst_runtime.errors import DataError
from clst_runtime.evaluation.confusion import ConfusionMatrix, mean_of_known


def test_iou_counted_by_hand():
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([[0, 0, 1, 255]]), np.array([[0, 1, 1, 0]]))
    assert confusion.matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert confusion.iou()[:2].tolist() == [0.5, 0.5]
    assert np.isnan(confusion.iou()[2])
    assert confusion.miou() == 0.5
    assert confusion.pixel_accuracy() == pytest.approx(2 / 3)


def test_a_class_only_in_the_prediction_counts_as_zero():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([[0]]), np.array([[1]]))
    assert confusion.iou().tolist() == [0.0, 0.0]


def test_all_ignored_gives_nan():
    confusion = ConfusionMatrix(2)
    confusion.update(np.full((2, 2), 255), np.zeros((2, 2)))
    assert np.isnan(confusion.miou())
    assert np.isnan(confusion.pixel_accuracy())


def test_wrong_shapes_and_ids_are_refused():
    with pytest.raises(DataError, match="shape"):
        ConfusionMatrix(2).update(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(DataError, match="class id 2"):
        ConfusionMatrix(2).update(np.zeros((1, 1)), np.full((1, 1), 2))


def test_the_mean_leaves_out_classes_that_do_not_occur():
    assert mean_of_known([0.25, float("nan"), 0.75]) == 0.5
    assert np.isnan(mean_of_known([float("nan")]))
    assert np.isnan(mean_of_known([]))
