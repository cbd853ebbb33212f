"""The manifest read out of an ONNX file without the package onnx."""

import hashlib
import time

import pytest

from clst_export.graph.model_file import save_model
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends import open_model
from clst_runtime.errors import ModelFileError
from clst_runtime.system.files.hashing import file_sha256
from tests.conftest import rgb_manifest, write_rgb_model


def test_the_manifest_is_the_one_that_was_written(tmp_path):
    manifest = rgb_manifest(network="Straßenmodell", tool_versions={"clst": "0.1.0"})
    model = write_rgb_model(tmp_path / "m.onnx", manifest=manifest.to_json())
    assert read_onnx_manifest(model) == manifest


def test_it_is_found_among_other_metadata(tmp_path):
    import onnx

    model = onnx.load(str(write_rgb_model(tmp_path / "m.onnx")))
    text = model.metadata_props[0].value
    onnx.helper.set_model_props(model, {"first": "", "clst_manifest": text, "last": "x" * 300})
    model.doc_string, model.model_version = "words", 1 << 62
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert read_onnx_manifest(tmp_path / "m.onnx") == rgb_manifest()


def test_a_file_cut_off_anywhere_is_refused_with_one_line(tmp_path):
    whole = write_rgb_model(tmp_path / "m.onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in (*range(0, len(whole), 7), len(whole) - 1):  # the manifest is the last field
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelFileError) as error:
            read_onnx_manifest(cut)
        assert "\n" not in error.value.message
    assert "damaged or no ONNX file (field 14 ends after the file)" in error.value.message


@pytest.mark.parametrize("content", [b"\xff" * 40, b"\x07", b"PK\x03\x04 a zip", b"\x72\x02\x08\x01"])
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged or no ONNX file|no clst manifest"):
        read_onnx_manifest(tmp_path / "x.onnx")


def test_a_file_of_which_a_byte_was_changed_is_refused_before_it_is_run(tmp_path):
    import onnx

    model = onnx.load(str(write_rgb_model(tmp_path / "m.onnx")))
    written = save_model(model, rgb_manifest(), tmp_path / "m.onnx")
    assert read_onnx_manifest(tmp_path / "m.onnx") == written
    whole = (tmp_path / "m.onnx").read_bytes()
    place = whole.index(b"ArgMax")
    (tmp_path / "m.onnx").write_bytes(whole[:place] + b"ArgMin" + whole[place + 6 :])
    words = r"is damaged: SHA-256 of its graph \w{12}…, its manifest says \w{12}…"
    for opening in (read_onnx_manifest, open_model):
        with pytest.raises(ModelFileError, match=words):
            opening(tmp_path / "m.onnx")


def test_other_metadata_is_no_part_of_the_graph(tmp_path):
    import onnx

    model = onnx.load(str(write_rgb_model(tmp_path / "m.onnx")))
    save_model(model, rgb_manifest(), tmp_path / "m.onnx")
    onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, "vehicle": "7"})
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert read_onnx_manifest(tmp_path / "m.onnx").network == "brightest_channel"


def test_missing_and_empty_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="No such file"):
        read_onnx_manifest(tmp_path / "none.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelFileError, match="no clst manifest"):
        read_onnx_manifest(tmp_path / "empty.onnx")
    with pytest.raises(ModelFileError, match="no clst manifest"):
        read_onnx_manifest(write_rgb_model(tmp_path / "bare.onnx", manifest=None))


def test_the_hash_is_the_files(tmp_path):
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_a_file_of_nothing_but_tiny_fields_and_one_of_two_manifests_are_refused_at_once(tmp_path, rgb_model):
    (tmp_path / "many.onnx").write_bytes(b"\x08\x01" * 5_000_000)
    begun = time.process_time()
    with pytest.raises(ModelFileError, match="more than 100000 fields"):
        read_onnx_manifest(tmp_path / "many.onnx")
    assert time.process_time() - begun < 2
    content = rgb_model.read_bytes()
    entry = b"\x0a\x0dclst_manifest\x12\x02{}"
    rgb_model.write_bytes(content + b"\x72" + bytes([len(entry)]) + entry)
    with pytest.raises(ModelFileError, match="it has two manifests"):
        read_onnx_manifest(rgb_model)
