"""A graph that is opened for a moment, before it has a name."""

import tempfile

import numpy as np
import onnx
import pytest

from clst_export.graph.model_file import opened
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.errors import DataError
from tests.conftest import SIZE_HW


def test_it_computes_and_leaves_no_file(rgb_model, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with opened(onnx.load(rgb_model), read_onnx_manifest(rgb_model)) as backend:
        assert backend.predict(np.zeros((*SIZE_HW, 3), np.uint8)).classes.shape == SIZE_HW
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_room_for_it_the_error_says_where_and_what_to_set(rgb_model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with (
        pytest.raises(
            DataError, match=r"temporary file into .*file: Not a directory; set TMPDIR to a folder with room"
        ),
        opened(onnx.load(rgb_model), read_onnx_manifest(rgb_model)),
    ):
        pass


def test_what_fails_while_it_is_open_is_not_taken_for_that(rgb_model):
    with pytest.raises(OSError, match="ours"), opened(onnx.load(rgb_model), read_onnx_manifest(rgb_model)):
        raise OSError("ours")
