"""Sheets of images."""

import numpy as np

from clst_runtime.classes.labels import load_class_list
from clst_runtime.imaging.overlay import beside_legend


def test_the_legend_stands_to_the_right_and_the_sheet_stays_as_it_is():
    sheet, classes = np.full((400, 50, 3), 7, np.uint8), load_class_list("camvid11")
    both = beside_legend(sheet, classes)
    assert both.shape == (400, 50 + 40 + 9 * 12, 3)  # traffic sign has 12 letters
    assert (both[:, :50] == 7).all()
    assert both[10, 60].tolist() == list(classes.colours[0])  # the first class, 4 to 28 from its edge


def test_beside_a_low_image_no_class_is_cut_off():
    classes = load_class_list("camvid11")
    both = beside_legend(np.full((20, 50, 3), 7, np.uint8), classes)
    assert both.shape[0] == 18 * 11 + 6
    assert both[10 * 18 + 10, 60].tolist() == list(classes.colours[10])
