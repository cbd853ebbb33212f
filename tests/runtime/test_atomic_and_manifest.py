import json
import os
import stat

import pytest
from tests.conftest import rgb_manifest

from clst_runtime.atomic import check_can_write, write_text, written_whole
from clst_runtime.errors import DataError, ModelFileError
from clst_runtime.frames import Fit
from clst_runtime.manifest import Manifest


def test_an_interrupt_while_writing_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "f.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch):
    check_can_write(tmp_path / "new" / "folder" / "f.onnx")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot write .*f.onnx: .*file is a file; give another --out"):
        check_can_write(tmp_path / "file" / "f.onnx")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(DataError, match="may not be written"):
        check_can_write(tmp_path / "f.onnx")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    path = tmp_path / "f.txt"
    with pytest.raises(DataError, match=r"cannot write .*No space left"), written_whole(path):
        raise OSError(28, os.strerror(28))
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_usual_permissions(tmp_path):
    mask = os.umask(0o022)
    try:
        write_text(tmp_path / "f", "x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_a_manifest_survives_the_round_trip():
    manifest = rgb_manifest(parity={"agreement": 1.0})
    assert Manifest.from_json(manifest.to_json(), where="x") == manifest


def test_another_format_version_is_refused_with_both_numbers():
    text = json.dumps(json.loads(rgb_manifest().to_json()) | {"format_version": 99})
    with pytest.raises(ModelFileError, match="format version 99, expected 1"):
        Manifest.from_json(text, where="x")


@pytest.mark.parametrize(
    "change", [{"input_hw": [1]}, {"surprise": 1}, {"fit": "pad"}, {"fit": None}, {"classes": {"names": []}}]
)
def test_a_garbled_manifest_is_refused(change):
    text = json.dumps(json.loads(rgb_manifest().to_json()) | change)
    with pytest.raises(ModelFileError, match="does not fit"):
        Manifest.from_json(text, where="x")


def test_an_unknown_fit_is_named_with_those_that_are_known():
    text = json.dumps(json.loads(rgb_manifest().to_json()) | {"fit": "crop"})
    with pytest.raises(ModelFileError, match="fit 'crop' is unknown; known are stretch, letterbox"):
        Manifest.from_json(text, where="x")


def test_a_letterbox_survives_and_files_from_before_it_stretch():
    manifest = rgb_manifest(fit=Fit.LETTERBOX)
    assert json.loads(manifest.to_json())["fit"] == "letterbox"
    assert Manifest.from_json(manifest.to_json(), where="x") == manifest
    old = json.loads(rgb_manifest().to_json())
    assert (old["format_version"], old["fit"]) == (1, "stretch")
    assert Manifest.from_json(json.dumps(old), where="x") == rgb_manifest()
    del old["fit"]
    assert Manifest.from_json(json.dumps(old), where="x").fit is Fit.STRETCH


def test_text_that_is_no_json_is_refused():
    with pytest.raises(ModelFileError, match="damaged"):
        Manifest.from_json("{", where="x")
