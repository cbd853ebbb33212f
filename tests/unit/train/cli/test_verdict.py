"""`clst-verdict`: what it says of the old camera's labels before any model is asked."""

import json
import re

import numpy as np
import pytest

from clst_runtime.imaging.image_files import write_png
from clst_train.cli.verdict import main as clst_verdict
from tests.conftest import RGB_CLASSES, SIZE_HW, write_labelled, write_rgb_model
from tests.support.command_line import call


@pytest.fixture
def arguments(tmp_path):
    model, data = write_rgb_model(tmp_path / "m.onnx"), write_labelled(tmp_path / "old")
    write_png(tmp_path / "new" / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    return [model, model, "--target", tmp_path / "new", "--source", data, "--split", "val"]


def test_classes_of_the_labels_that_the_models_do_not_have_are_told(arguments, tmp_path):
    names = RGB_CLASSES.to_json() | {"names": ["red", "mud", "blue"]}
    (tmp_path / "old" / "classes.json").write_text(json.dumps(names))
    done = call(clst_verdict, *arguments)
    assert f"note: {tmp_path / 'old'}: " in done.stderr
    assert "mud" in done.stderr


def test_labels_of_one_class_are_refused(arguments, tmp_path):
    for path in (tmp_path / "old" / "labels" / "val").iterdir():
        write_png(path, np.zeros(SIZE_HW, np.uint8))
    done = call(clst_verdict, *arguments)
    assert done.exit_code == 3
    assert "the labels of the old camera have red only" in done.stderr.splitlines()[-1]


def test_a_damaged_image_is_told_before_a_model_is_opened(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("clst_runtime.backends.open_model", pytest.fail)
    (tmp_path / "new" / "b.png").write_bytes((tmp_path / "new" / "a.png").read_bytes()[:3000])
    done = call(clst_verdict, *arguments)
    assert done.exit_code == 3
    assert re.search(r"b\.png: not a readable image \(.*\); take it out, or replace it", done.stderr)
