"""Labels that are a model's predictions are no labels until somebody has corrected them."""

import numpy as np
import pytest

from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.data.dataset import open_dataset
from clst_runtime.data.prelabels import NAME, write_prelabelled
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import read_label, write_png
from clst_train.data.inspection import inspect
from tests.conftest import RGB_CLASSES, write_labelled
from tests.support.command_line import call


@pytest.fixture
def prelabelled(tmp_path):
    """Two labels, both predictions."""
    root = write_labelled(tmp_path / "few", count=2)
    paths = [root / f"labels/val/{index}.png" for index in range(2)]
    write_prelabelled(root, {path: read_label(path).astype(np.uint8) for path in paths})
    return root


def correct(path):
    labels = read_label(path).astype(np.uint8)
    labels[0, 0] = 1
    write_png(path, labels)


def test_labels_that_nobody_has_corrected_are_refused_until_each_has_another_pixel(prelabelled, rgb_model):
    done = call(clst_eval, rgb_model, "--data", prelabelled)
    assert done.exit_code == 3
    assert done.stderr.strip().splitlines()[-1] == (
        f"error: {prelabelled}: 2 of 2 labels are still a model's predictions, e.g. 0.png; correct them, or remove "
        f"the lines of those that are right from {prelabelled / NAME}"
    )
    assert "2 of 2 labels are still a model's" in inspect(prelabelled, split="val").problems[0]
    correct(prelabelled / "labels/val/0.png")
    with pytest.raises(DataError, match=r"1 of 2 labels are still a model's predictions, e\.g\. 1\.png"):
        open_dataset(prelabelled, split="val")
    correct(prelabelled / "labels/val/1.png")
    assert len(open_dataset(prelabelled, split="val")) == 2
    assert inspect(prelabelled, split="val").problems == []


def test_a_prelabel_that_is_only_stored_anew_in_colours_is_not_corrected(prelabelled):
    path = prelabelled / "labels/val/1.png"
    write_png(path, RGB_CLASSES.palette()[read_label(path)])
    correct(prelabelled / "labels/val/0.png")
    with pytest.raises(DataError, match="1 of 2 labels"):
        open_dataset(prelabelled, split="val")


def test_a_prelabel_whose_line_is_removed_counts_as_a_label(prelabelled):
    lines = (prelabelled / NAME).read_text().splitlines(keepends=True)
    assert lines[0].startswith("# ")
    (prelabelled / NAME).write_text(lines[0])
    assert len(open_dataset(prelabelled, split="val")) == 2
