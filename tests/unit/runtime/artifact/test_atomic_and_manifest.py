import json
import os
import stat
import time
from pathlib import Path

import pytest

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.errors import DataError, ModelFileError
from clst_runtime.imaging.geometry import Fit
from clst_runtime.system.files.atomic import check_can_write, folder_written_whole, write_text, written_whole
from tests.conftest import rgb_manifest


def test_an_interrupt_while_writing_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "f.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_whole_or_as_it_was(tmp_path, there):
    path = tmp_path / "f"
    if there:
        path.mkdir()
    with pytest.raises(KeyboardInterrupt), folder_written_whole(path) as temporary:
        write_text(temporary / "a" / "b.txt", "half")
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == ([path] if there else [])
    with folder_written_whole(path) as temporary:
        write_text(temporary / "a" / "b.txt", "whole")
    assert sorted(tmp_path.rglob("*")) == [path, path / "a", path / "a" / "b.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((path / "a").stat().st_mode)


def test_what_cannot_be_written_is_found_before_the_work(tmp_path):
    check_can_write(tmp_path / "new" / "folder" / "f.onnx")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot write .*f.onnx: .*file is a file; give another place"):
        check_can_write(tmp_path / "file" / "f.onnx")
    with pytest.raises(DataError, match="it is a folder"):
        check_can_write(tmp_path)
    with pytest.raises(DataError, match="cannot write /proc/self/f.onnx: /proc/self: No such file"):  # for root, too
        check_can_write(Path("/proc/self/f.onnx"))


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(DataError, match="is a device or a pipe"):
            write_text(path, "x")
        with pytest.raises(DataError, match="is a device or a pipe"):
            check_can_write(path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert len([*tmp_path.iterdir()]) == 2


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
    "change",
    [
        {"input_hw": [1]}, {"input_hw": [8, 16.0]}, {"input_hw": [0, 16]}, {"input_hw": [True, 16]}, {"input_hw": "88"},
        {"input_hw": [32768, 8]}, {"input_hw": [16384, 16384]}, {"input_hw": {"0": 8, "1": 16}}, {"surprise": 1},
        {"fit": "pad"}, {"fit": None}, {"fit": []}, {"classes": {"names": []}}, {"classes": {"names": "rgb"}},
        {"classes": []}, {"classes": None}, {"network": 3}, {"network": "a\nb"}, {"network": "x" * 300},
        {"network": ""}, {"colour_order": "BGR"}, {"mean": [0, 0]}, {"mean": [0, 0, "0"]}, {"std": [1, 1, 0]},
        {"std": [1, 1, None]}, {"ignore_id": 0}, {"ignore_id": 255.0}, {"precision": 8}, {"has_confidence": 1},
        {"temperature": 0}, {"temperature": "2"}, {"temperature": None}, {"parity": {"ece": "1"}},
        {"source_checkpoint_sha256": "0"}, {"source_checkpoint_sha256": None}, {"model_sha256": 0},
        {"tool_versions": {"onnx": 1}}, {"tool_versions": []}, {"parity": []}, {"parity": {"frames": "many"}},
        {"parity": {"bounds": {"min_agreement": "0.9"}}}, {"parity": {"miou": []}}, {"calibration": 1}, {"domain": "x"},
        {"build_check": "yes"}, {"build_check": {"version": 1}}, {"build_check": {"layers": {"CONVOLUTION": "55"}}},
        {"build_check": {"layers": {}}}, {"build_check": {"layers": {}, "seconds": "2"}},
        {"provenance": "a"}, {"provenance": {"weights_file": 3}}, {"provenance": {"weights_sha256": "0"}},
        {"engine": {"gpu": 3}}, {"engine": {"engine_bytes": -1}}, {"engine": {"onnx_sha256": "ff"}},
    ],
)  # fmt: skip
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


def test_names_of_networks_with_quotes_and_other_letters_survive_and_older_files_say_nothing_of_provenance():
    odd = "réseaux.straße:Netz?label='a \"b\" <c>'&width=3"
    manifest = rgb_manifest(network=odd, provenance={"package": "nets 1.2", "weights_sha256": "a" * 64})
    assert Manifest.from_json(manifest.to_json(), where="x") == manifest
    old = json.loads(manifest.to_json())
    del old["provenance"]
    assert Manifest.from_json(json.dumps(old), where="x").provenance == {}


def test_files_from_before_the_build_check_were_not_checked():
    old = json.loads(rgb_manifest().to_json())
    del old["build_check"]
    assert Manifest.from_json(json.dumps(old), where="x").build_check == {}


def test_text_that_is_no_json_is_refused():
    with pytest.raises(ModelFileError, match="damaged"):
        Manifest.from_json("{", where="x")


@pytest.mark.parametrize("field", ["network", "input_hw", "mean", "std", "classes", "source_checkpoint_sha256"])
def test_a_manifest_without_a_field_is_refused(field):
    value = json.loads(rgb_manifest().to_json())
    del value[field]
    with pytest.raises(ModelFileError, match=f"does not fit .{field} is missing"):
        Manifest.from_json(json.dumps(value), where="x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 1_000_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"format_version": ' + "9" * 4_000_000 + "}", "is not a usable number"),
        ('{"format_version": 1, "parity": ' + "[" * 30 + "]" * 30 + "}", "nested too deep"),
        ('{"format_version": 1e999}', "is not a usable number"),
        ('{"format_version": NaN}', "is not a usable number"),
        ('{"format_version": 1, "format_version": 1}', "is there twice"),
        ('{"format_version": "' + "x" * 5_000_000 + '"}', "MiB of text"),
        ("[]", "expected a JSON object"),
        ('{"format_version": true}', "format version True, expected 1"),
    ],
)
def test_a_manifest_that_means_harm_is_refused_at_once_in_a_short_line(text, words):
    begun = time.process_time()
    with pytest.raises(ModelFileError, match=words) as caught:
        Manifest.from_json(text, where="x")
    assert time.process_time() - begun < 2
    assert len(str(caught.value)) < 300


def test_a_temperature_survives_and_files_from_before_it_have_1():
    manifest = rgb_manifest(temperature=1.25)
    assert Manifest.from_json(manifest.to_json(), where="x") == manifest
    old = json.loads(manifest.to_json())
    del old["temperature"]
    assert Manifest.from_json(json.dumps(old), where="x").temperature == 1
