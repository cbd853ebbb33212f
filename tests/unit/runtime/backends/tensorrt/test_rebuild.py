"""An engine that cannot be used here, built again from the ONNX file beside it, on the fake TensorRT and GPU."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from clst_export.cli.export import main as export
from clst_runtime.backends.tensorrt.build.engine import build_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.rebuild import origin_of, rebuild_engine
from clst_runtime.backends.tensorrt.sidecar import read_engine, sidecar_path
from clst_runtime.cli.run import main as run
from clst_runtime.errors import BudgetNotHeld, ConfigError, ModelFileError
from clst_runtime.imaging.image_files import write_png
from tests.conftest import SIZE_HW, write_rgb_model
from tests.unit.runtime.backends.tensorrt.test_build import full


@pytest.fixture
def engine(machine, rgb_model, tmp_path, frames):
    """Built for an Orin, with options of its own."""
    build_engine(rgb_model, tmp_path / "rgb.engine", options=BuildOptions(optimisation_level=1), frames=frames)
    machine.does.calls.clear()
    return tmp_path / "rgb.engine"


def on(command, *arguments):
    done = CliRunner().invoke(command, [str(each) for each in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_an_engine_of_another_gpu_is_built_again_as_it_was_before(engine, machine, frames):
    machine.gpu = ("Thor", "11.0")
    manifest = rebuild_engine(engine, lambda _: frames)
    assert (manifest.engine["gpu"], manifest.engine["compute_capability"]) == ("Thor", "11.0")
    assert manifest.engine["options"]["optimisation_level"] == 1
    assert manifest.engine["agreement"]["frames"] == 3
    assert read_engine(engine)[1].engine == manifest.engine
    assert machine.does.calls.count("build") == 1


def test_the_onnx_file_is_found_by_its_hash_not_by_its_name(engine, rgb_model, tmp_path):
    shutil.move(rgb_model, tmp_path / "another.onnx")
    write_rgb_model(tmp_path / "rgb.onnx", swapped=True)
    assert origin_of(engine) == (tmp_path / "another.onnx", BuildOptions(optimisation_level=1))


def test_an_onnx_file_that_was_changed_since_is_not_taken(engine, rgb_model, frames):
    write_rgb_model(rgb_model, swapped=True)
    with pytest.raises(ModelFileError, match=r"the ONNX file it was built from \(SHA-256 .* is not in "):
        rebuild_engine(engine, lambda _: frames)
    rgb_model.unlink()
    with pytest.raises(ModelFileError, match="copy it there"):
        rebuild_engine(engine, lambda _: frames)


@pytest.mark.parametrize("text", [None, b"", b"\xff\xfe", b"{}", b'{"format_version": 99}'])
def test_without_a_readable_manifest_the_file_of_the_same_name_is_taken(engine, rgb_model, text):
    if text is None:
        sidecar_path(engine).unlink()
    else:
        sidecar_path(engine).write_bytes(text)
    assert origin_of(engine) == (rgb_model, BuildOptions())
    rgb_model.unlink()
    with pytest.raises(ModelFileError, match=r"rgb.engine.json cannot be read, and there is no rgb.onnx"):
        origin_of(engine)


def test_build_options_that_nobody_knows_are_refused(engine):
    value = json.loads(sidecar_path(engine).read_text())
    value["engine"]["options"] = {"level": 9}
    sidecar_path(engine).write_text(json.dumps(value))
    with pytest.raises(ConfigError, match="build option 'level' is unknown"):
        origin_of(engine)


def test_an_engine_that_does_not_hold_leaves_the_old_one(engine, machine, frames):
    old = engine.read_bytes(), sidecar_path(engine).read_text()
    machine.gpu, machine.does.wrong_share = ("Thor", "11.0"), 0.5
    with pytest.raises(BudgetNotHeld):
        rebuild_engine(engine, lambda _: frames)
    assert (engine.read_bytes(), sidecar_path(engine).read_text()) == old


def test_clst_run_builds_again_only_if_it_may_and_only_if_it_must(engine, machine, images, tmp_path):
    given = (engine, "--source", images, "--out", tmp_path / "out", "--masks", "--no-video")
    machine.has_tensorrt("11.4.0.106")
    code, _, told = on(run, *given)
    assert code == 4
    assert "found TensorRT 11.4.0.106" in told
    assert "clst-run --rebuild" in told
    code, _, told = on(run, *given, "--rebuild")
    assert code == 0, told
    assert "building rgb.engine of rgb.onnx" in told
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3
    machine.does.calls.clear()
    code, *_ = on(run, *given, "--rebuild", "--overwrite")
    assert (code, machine.does.calls.count("build")) == (0, 0)


def test_clst_run_mends_a_damaged_engine(engine, images, machine):
    engine.write_bytes(engine.read_bytes()[:-1])
    code, _, told = on(run, engine, "--source", images, "--rebuild")
    assert code == 0, told
    assert "is damaged" in told


def test_an_engine_that_is_built_again_on_a_full_disk_drives_from_memory(engine, machine, images, monkeypatch):
    machine.gpu = ("Thor", "11.0")
    old = engine.read_bytes()
    full(monkeypatch, ".engine")
    code, _, told = on(run, engine, "--source", images, "--rebuild")
    assert code == 0, told
    assert "No space left on device" in told
    assert "on Thor" in told
    assert engine.read_bytes() == old


def test_rebuild_is_refused_where_it_could_do_nothing(engine, rgb_model, images, machine):
    for model, source, why in (
        (rgb_model, images, "--rebuild is for an .engine file"),
        (engine, "raw:16x8", "gives each only once"),
    ):
        code, _, told = on(run, model, "--source", source, "--rebuild")
        assert (code, why in told) == (2, True), told


def test_clst_export_builds_a_lone_engine_again(engine, machine, images, tmp_path):
    machine.gpu = ("Thor", "11.0")
    code, said, told = on(export, "build", engine, "--frames", images)
    assert code == 0, told
    assert "100.000 % of pixels agree" in said
    assert read_engine(engine)[1].engine["gpu"] == "Thor"
    code, said, told = on(export, "build", engine, "--frames", images, "--json")
    assert json.loads(said)["engine"]["gpu"] == "Thor"
    for arguments, why in (((engine,), "give --frames"), ((tmp_path, "--frames", images), "images of its own")):
        code, _, told = on(export, "build", *arguments)
        assert (code, why in told) == (2, True), told
    code, _, told = on(export, "build", engine, "--frames", tmp_path / "none")
    assert code == 3
    assert "none" in told


def test_pictures_are_brought_to_the_models_size(engine, machine, tmp_path):
    write_png(tmp_path / "large" / "0.png", np.zeros((3 * SIZE_HW[0], 2 * SIZE_HW[1], 3), np.uint8))
    code, _, told = on(export, "build", engine, "--frames", tmp_path / "large")
    assert code == 0, told
    assert read_engine(engine)[1].engine["agreement"]["frames"] == 1
