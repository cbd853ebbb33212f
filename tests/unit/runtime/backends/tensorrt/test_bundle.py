"""Bundles: written whole where the exporter is, built, verified and kept where the GPU is."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from clst_export.card import card
from clst_export.cli.export import main as export
from clst_export.inspection import facts_of
from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends import open_model
from clst_runtime.backends.tensorrt.build import engine as build_module
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.bundle.device_engine import build_bundle
from clst_runtime.backends.tensorrt.bundle.format import read_bundle
from clst_runtime.backends.tensorrt.bundle.proving import device_name
from clst_runtime.backends.tensorrt.sidecar import read_engine
from clst_runtime.errors import BudgetNotHeld, ConfigError, DataError, MissingDependency, ModelFileError
from clst_runtime.imaging.image_files import read_image, read_label
from tests.conftest import SIZE_HW, write_rgb_model
from tests.contracts.test_layers import FORBID, child
from tests.support.shell import shell
from tests.unit.runtime.backends.tensorrt.conftest import HERE, model
from tests.unit.runtime.backends.tensorrt.test_build import full

ENGINE = f"model-{HERE}.engine"


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_bundle_holds_model_frames_and_class_maps(bundle, rgb_model, frames):
    places = [f"{place}/{index:04d}.png" for place in ("expected", "frames") for index in range(3)]
    assert names(bundle) == sorted(["README.md", "bundle.json", "model.onnx", *places])
    assert (bundle / "model.onnx").read_bytes() == rgb_model.read_bytes()
    for index, frame in enumerate(frames):
        assert np.array_equal(read_image(bundle / f"frames/{index:04d}.png"), frame)
        assert np.array_equal(read_label(bundle / f"expected/{index:04d}.png"), frame.argmax(axis=2))
    assert "clst-export build bundle" in (bundle / "README.md").read_text()
    assert bundle.stat().st_mode & 0o777 == (bundle / "frames").stat().st_mode & 0o777


def test_the_first_start_builds_and_the_second_only_checks(machine, bundle, frames):
    with open_model(bundle) as backend:
        assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))
    assert machine.does.calls.count("build") == 1
    made = {ENGINE, f"{ENGINE}.json", f"model-{HERE}.cache", f"proof-{HERE}.json"}
    assert made <= set(names(bundle))
    before = (bundle / ENGINE).stat().st_mtime_ns
    machine.does.calls.clear()
    assert build_bundle(bundle) == bundle / ENGINE
    assert machine.does.calls == []
    assert (bundle / ENGINE).stat().st_mtime_ns == before
    with open_model(bundle):
        assert machine.does.calls[0] == "deserialise"


def test_each_gpu_and_tensorrt_gets_its_own_engine(machine, bundle):
    build_bundle(bundle)
    machine.has_tensorrt("11.4.0.106")
    machine.gpu = ("NVIDIA Jetson AGX Thor", "11.0")
    second = build_bundle(bundle)
    kind = "nvidia-jetson-agx-thor-11.0-16sm"
    assert second.name == f"model-{kind}-trt11.4.0.106-cuda12.6-jetson-linux-36.4.3.engine"
    machine.has_tensorrt("10.3.0")
    machine.gpu = ("Orin", "8.7")
    machine.does.calls.clear()
    assert build_bundle(bundle).name == ENGINE
    assert machine.does.calls == []


def test_names_of_gpus_become_names_of_files():
    facts = {"gpu": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "multiprocessors": 132}
    facts |= {"tensorrt": "10.3.0", "cuda": "13.0", "driver": "580.65.06", "library": "tensorrt"}
    assert device_name(facts) == "nvidia-h100-80gb-hbm3-9.0-132sm-trt10.3.0-cuda13.0-580.65.06"
    assert device_name(facts | {"gpu": "???"}) == "gpu-9.0-132sm-trt10.3.0-cuda13.0-580.65.06"
    rtx = facts | {"library": "rtx", "tensorrt": "1.7.1"}
    assert device_name(rtx) == "nvidia-h100-80gb-hbm3-9.0-132sm-rtx1.7.1-cuda13.0-580.65.06"


def test_modules_of_one_name_with_other_multiprocessors_do_not_share_an_engine(machine, bundle):
    """An Orin Nano of 4 GB and an AGX Orin are both `Orin` of compute capability 8.7."""
    machine.gpu = ("Orin", "8.7", 4)
    small = build_bundle(bundle)
    assert small.name == ENGINE.replace("16sm", "4sm")
    machine.gpu = ("Orin", "8.7", 16)
    large = build_bundle(bundle)
    assert machine.does.calls.count("build") == 2
    with pytest.raises(
        ModelFileError, match=r"was built for Orin \(compute capability 8.7, 4 multiprocessors\), found Orin"
    ):
        open_model(small)
    open_model(large).close()


def test_a_damaged_engine_is_built_again_and_that_is_said(machine, bundle, capsys):
    engine = build_bundle(bundle)
    engine.write_bytes(engine.read_bytes()[:-1])
    machine.does.calls.clear()
    capsys.readouterr()
    build_bundle(bundle)
    assert "build" in machine.does.calls
    told = capsys.readouterr().err
    assert "is damaged" in told
    assert "building it again" in told


def test_other_options_build_again(machine, bundle, capsys):
    build_bundle(bundle)
    machine.does.calls.clear()
    options = BuildOptions(workspace_mib=32).to_json()
    change(bundle, options=options)
    engine = build_bundle(bundle)
    assert read_engine(engine)[1].engine["options"]["workspace_mib"] == 32
    assert "with other options" in capsys.readouterr().err


def test_the_bundles_own_options_are_used(machine, rgb_model, tmp_path, frames):
    write_bundle(rgb_model, tmp_path / "b", frames, options=BuildOptions(optimisation_level=1))
    assert read_engine(build_bundle(tmp_path / "b"))[1].engine["options"]["optimisation_level"] == 1


def test_an_engine_that_differs_is_not_used(machine, bundle):
    machine.does.wrong_share = 0.1
    with pytest.raises(BudgetNotHeld):
        open_model(bundle)
    assert ENGINE not in names(bundle)


def test_the_device_compares_without_onnx_runtime(machine, bundle, monkeypatch):
    def absent(*_):
        raise AssertionError("ONNX Runtime was asked")

    monkeypatch.setattr(build_module, "onnx_class_maps", absent)
    facts = json.loads(build_bundle(bundle).with_name(f"{ENGINE}.json").read_text())["engine"]
    assert facts["agreement"]["reference"].startswith("ONNX Runtime")


def test_without_tensorrt_or_gpu_the_onnx_file_is_named_and_the_option_that_runs_it(machine, bundle):
    machine.has_no_gpu()
    with pytest.raises(MissingDependency, match=r"PyCUDA cannot be imported .*JetPack 6") as error:
        open_model(bundle)
    told = "'cuda-bindings<13'); its ONNX file runs without them: clst-run --fallback, or "
    assert error.value.message.endswith(f"{told}{bundle / 'model.onnx'}")
    machine.has_tensorrt(None)
    with pytest.raises(MissingDependency, match=r"TensorRT .*--fallback, or .*bundle/model\.onnx") as error:
        open_model(bundle)
    assert "\n" not in error.value.message
    with open_model(bundle / "model.onnx") as backend:
        assert backend.manifest.input_hw == SIZE_HW


def test_what_is_no_folder_is_no_bundle(tmp_path):
    (tmp_path / "net.pt").write_bytes(b"")
    for name, found in (("net.pt", "a file"), ("none", "no such folder")):
        with pytest.raises(ModelFileError, match=rf"{name}: {found}, where a bundle is needed, the folder that"):
            build_bundle(tmp_path / name)


@pytest.mark.parametrize("file", ["model.onnx", "frames/0001.png", "expected/0002.png"])
def test_a_damaged_or_missing_file_is_found_before_the_build(machine, bundle, file):
    content = bytearray((bundle / file).read_bytes())
    content[-1] ^= 1
    (bundle / file).write_bytes(content)
    with pytest.raises(ModelFileError, match=f"{file} is damaged: SHA-256 .*copy the folder again"):
        build_bundle(bundle)
    (bundle / file).unlink()
    with pytest.raises(ModelFileError, match=f"{file} is missing"):
        build_bundle(bundle)
    assert machine.does.calls == []


def change(bundle, **values):
    index = bundle / "bundle.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | values))


def test_an_index_that_does_not_fit_is_refused(machine, bundle, tmp_path):
    whole = (bundle / "bundle.json").read_text()
    for values, told in (
        ({"format_version": 3}, "bundle version 3, expected 1 or 2"),
        ({"frame_sha256": {}}, "names no frames"),
        ({"expected_sha256": {"0000.png": "0" * 64}}, "not the same ones"),
        ({"options": None}, "damaged"),
    ):
        change(bundle, **values)
        with pytest.raises(ModelFileError, match=told):
            open_model(bundle)
        (bundle / "bundle.json").write_text(whole)
    change(bundle, options={"level": 3})
    with pytest.raises(ConfigError, match="build option 'level' is unknown"):
        open_model(bundle)
    for text in ("", "[]", "{"):
        (bundle / "bundle.json").write_text(text)
        with pytest.raises(ModelFileError, match="damaged"):
            open_model(bundle)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelFileError, match=r"without bundle\.json"):
        open_model(tmp_path / "empty")


def test_names_that_lead_out_of_the_bundle_are_refused(machine, bundle):
    digests = {"../../secret.png": "0" * 64}
    change(bundle, frame_sha256=digests, expected_sha256=digests)
    with pytest.raises(ModelFileError, match="damaged .*secret"):
        build_bundle(bundle)


def test_a_bundle_on_a_read_only_place_is_refused_before_the_build(machine, bundle, monkeypatch):
    import tempfile

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", read_only)
    with pytest.raises(DataError, match="cannot write .*Read-only file system"):
        build_bundle(bundle)
    assert machine.does.calls == []


@pytest.mark.parametrize("suffix", [".engine", ".json", ".cache"])
def test_a_first_start_on_a_full_disk_drives_with_the_engine_that_it_has_built(
    machine, bundle, frames, capsys, monkeypatch, suffix
):
    with pytest.MonkeyPatch.context() as patch:
        full(patch, suffix)
        with open_model(bundle) as backend:
            assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert (ENGINE in names(bundle)) == (suffix == ".cache")
    if suffix != ".cache":
        assert "the engine is used for this run and built again at the next start" in told
        build_bundle(bundle)
        assert machine.does.calls.count("build") == 2
    open_model(bundle / ENGINE).close()


def test_clst_export_build_on_a_full_disk_is_an_error_for_the_file_is_what_it_is_for(machine, bundle, monkeypatch):
    full(monkeypatch, ".engine")
    done = CliRunner().invoke(export, ["build", str(bundle)])
    assert (done.exit_code, "No space left on device" in done.output) == (3, True), done.output


def test_a_bundle_is_written_whole_or_not_at_all(rgb_model, tmp_path, frames, monkeypatch):
    from clst_export.tensorrt import bundle as module

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_text", full)
    with pytest.raises(DataError, match="No space left on device; nothing of it was left behind"):
        write_bundle(rgb_model, tmp_path / "b", frames)
    assert [path.name for path in tmp_path.iterdir()] == ["rgb.onnx"]


def test_what_makes_no_bundle_is_refused(rgb_model, tmp_path, frames):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    with pytest.raises(DataError, match="exists and is not empty"):
        write_bundle(rgb_model, tmp_path / "full", frames)
    with pytest.raises(DataError, match="is a file"):
        write_bundle(rgb_model, rgb_model, frames)
    with pytest.raises(DataError, match="no frame"):
        write_bundle(rgb_model, tmp_path / "b", [])
    with pytest.raises(DataError, match="verification frame 0"):
        write_bundle(rgb_model, tmp_path / "b", [frames[0][:4]])
    with pytest.raises(ModelFileError, match="no clst manifest"):
        write_bundle(write_rgb_model(tmp_path / "bare.onnx", manifest=None), tmp_path / "b", frames)
    with pytest.raises(DataError, match="cannot write"):
        write_bundle(rgb_model, rgb_model / "below", frames)
    (tmp_path / "empty").mkdir()
    write_bundle(rgb_model, tmp_path / "empty", frames)
    assert (tmp_path / "empty/bundle.json").is_file()


def test_clst_run_on_a_bundle_where_no_tensorrt_is_ends_with_one_line_and_code_5(bundle):
    done = shell("clst-run", bundle, "--source", bundle / "frames")
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert str(bundle / "model.onnx") in done.stderr
    assert shell("clst-run", bundle / "model.onnx", "--source", bundle / "frames").returncode == 0


def test_building_needs_neither_torch_nor_onnx(bundle):
    code = FORBID.format(names=("torch", "onnx", "onnxruntime", "clst_train", "cv2", "tensorrt"))
    code += (
        "from pathlib import Path\nfrom clst_runtime.backends.tensorrt.bundle.device_engine import build_bundle\n"
        "import clst_runtime.backends.tensorrt.build.engine\n"
        "from clst_runtime.errors import MissingDependency\n"
        "try: build_bundle(Path(sys.argv[1]))\n"
        "except MissingDependency as error: print(error.message)"
    )
    done = child(code, bundle)
    assert done.returncode == 0, done.stderr
    assert "tensorrt cannot be imported (forbidden: tensorrt)" in done.stdout


def test_torch_planted_in_the_builder_is_found(bundle, tmp_path):
    from tests.contracts.test_layers import ROOT

    for folder in ("runtime", "export"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "runtime/clst_runtime/backends/tensorrt/build/engine.py").open("a") as stream:
        stream.write("\nimport torch\n")
    code = FORBID.format(names=("torch",)) + "import clst_runtime.backends.tensorrt.build.engine"
    done = child(code, paths=[tmp_path / "runtime", tmp_path / "export"])
    assert "forbidden: torch" in done.stderr


def test_a_bundle_of_int8_and_fp16_holds_both_models_and_both_kinds_of_class_maps(two, pair):
    index = json.loads((two / "bundle.json").read_text())
    assert index["format_version"] == 2
    assert index["rival"]["file"] == "rival.onnx"
    assert (two / "model.onnx").read_bytes() == pair[0].read_bytes()
    assert (two / "rival.onnx").read_bytes() == pair[1].read_bytes()
    for folder in ("frames", "expected", "rival-expected"):
        assert sorted(path.name for path in (two / folder).iterdir()) == ["0000.png", "0001.png", "0002.png"]
    assert "rival.onnx is the same network as fp16" in (two / "README.md").read_text()
    assert read_bundle(two).baseline.sha256 == index["rival"]["model_sha256"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: index["rival"].pop("reference"), "reference is missing"),
        (lambda index: index["rival"].update(file="../rival.onnx"), "expected rival.onnx"),
        (lambda index: index["rival"]["expected_sha256"].pop("0001.png"), "not the same ones as class maps of rival"),
        (lambda index: index.update(rival=None), "damaged"),
        (lambda index: index.pop("rival"), "damaged"),
    ],
)
def test_an_index_with_a_baseline_that_does_not_fit_is_refused(machine, two, change, told):
    index = json.loads((two / "bundle.json").read_text())
    change(index)
    (two / "bundle.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=told):
        build_bundle(two)
    assert machine.does.calls == []


@pytest.mark.parametrize("file", ["rival.onnx", "rival-expected/0002.png"])
def test_a_damaged_baseline_is_a_damaged_bundle(machine, two, file):
    (two / file).write_bytes(b"x")
    with pytest.raises(ModelFileError, match=f"{file} is damaged: SHA-256 .*copy the folder again"):
        build_bundle(two)
    assert not list(two.glob("proof-*"))
    (two / file).unlink()
    with pytest.raises(ModelFileError, match=f"{file} is missing"):
        build_bundle(two)


def test_a_bundle_without_a_baseline_is_of_version_1_and_compares_nothing(machine, pair, tmp_path, frames, capsys):
    write_bundle(pair[0], tmp_path / "b", frames)
    index = json.loads((tmp_path / "b/bundle.json").read_text())
    assert index["format_version"] == 1
    assert "rival" not in index
    assert "rival" not in (tmp_path / "b/README.md").read_text()
    assert build_bundle(tmp_path / "b").name == ENGINE
    assert machine.does.calls.count("build") == 1
    assert "FP16" not in capsys.readouterr().err
    assert "compared with:" not in card(facts_of(tmp_path / "b"))


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ({"precision": "fp16"}, {"precision": "int8"}, "precision int8 beside fp16, expected fp16 beside int8"),
        ({}, {"precision": "fp32"}, "precision fp32 beside int8"),
        ({}, {"source_checkpoint_sha256": "1" * 64}, "checkpoint 111111111111 beside 000000000000"),
        ({}, {"input_hw": (8, 8)}, r"input size \(8, 8\) beside \(8, 16\)"),
        ({}, {"has_confidence": True}, "confidence True beside False"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path, frames, ours, theirs, told):
    first = model(tmp_path / "a.onnx", **({"precision": "int8"} | ours))
    second = model(tmp_path / "b.onnx", **({"precision": "fp16"} | theirs))
    with pytest.raises(ModelFileError, match=told) as error:
        write_bundle(first, tmp_path / "bundle", frames, baseline=second)
    assert "\n" not in error.value.message
    assert not (tmp_path / "bundle").exists()
