"""A bundle after an update of TensorRT, CUDA or the driver: proved again, and what is used where that fails."""

import json
import os
import re
import shutil
import tempfile

import pytest

from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends import open_model
from clst_runtime.backends.cuda.device import cuda_failure
from clst_runtime.backends.tensorrt.bundle.device_engine import build_bundle
from clst_runtime.backends.tensorrt.sidecar import read_engine
from clst_runtime.errors import BudgetNotHeld, ClstError, DataError, ModelFileError
from tests.conftest import rgb_manifest, write_rgb_model
from tests.fakes.cuda import FakeCuda
from tests.unit.runtime.backends.tensorrt.conftest import FP16, HERE, INT8, PROOF

NEW_DRIVER = "Jetson Linux 36.4.4"
NEW = HERE.replace("36.4.3", "36.4.4")
UPDATE = "driver Jetson Linux 36.4.3 → Jetson Linux 36.4.4"


@pytest.fixture
def proved(machine, bundle, capsys):
    """… whose engine was built and proved; what that did is forgotten."""
    build_bundle(bundle)
    machine.does.calls.clear()
    capsys.readouterr()
    return bundle


def engine(device):
    return f"model-{device}.engine"


def names(folder, suffix=".engine"):
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(suffix))


@pytest.mark.parametrize(
    ("update", "device", "told"),
    [
        (lambda machine: machine.has_driver(NEW_DRIVER), NEW, UPDATE),
        (
            lambda machine: machine.has_tensorrt("11.4.0.106"),
            HERE.replace("10.3.0", "11.4.0.106"),
            "TensorRT 10.3.0 → 11.4.0.106",
        ),
        (
            lambda machine: setattr(machine.does, "cuda", "12.9"),
            HERE.replace("cuda12.6", "cuda12.9"),
            "CUDA 12.6 → 12.9",
        ),
        (
            lambda machine: machine.has_driver("unknown"),
            HERE.replace("jetson-linux-36.4.3", "unknown"),
            "driver Jetson Linux 36.4.3 → unknown",
        ),
    ],
)
def test_after_an_update_the_engine_is_built_and_compared_again_and_one_line_says_what_that_cost(
    machine, proved, capsys, update, device, told
):
    update(machine)
    assert build_bundle(proved).name == engine(device)
    assert machine.does.calls.count("build") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "→" in line]
    cost = rf"new proof in \d+ s: {re.escape(engine(device))} holds, 100.000 % of the pixels agree"
    assert len(lines) == 1
    assert re.fullmatch(f"{re.escape(told)}: {cost}", lines[0])
    facts = read_engine(proved / engine(device))[1].engine
    proof = json.loads((proved / f"proof-{device}.json").read_text())
    assert {**facts, "library": "tensorrt"} | proof["machine"] == {**facts, "library": "tensorrt"}
    assert names(proved) == sorted([engine(HERE), engine(device)]), "the engine before stays"
    machine.does.calls.clear()
    build_bundle(proved)
    assert machine.does.calls == []


def test_a_copy_of_the_engine_under_another_name_is_none_from_before_an_update(machine, proved, capsys):
    for suffix in ("", ".json"):
        shutil.copy(proved / (engine(HERE) + suffix), proved / f"model-copy.engine{suffix}")
    (proved / PROOF).unlink()
    build_bundle(proved)
    assert "new proof" not in capsys.readouterr().err


def test_a_driver_that_nothing_tells_is_no_update_from_one_that_nothing_told(machine, bundle, capsys):
    machine.has_driver("unknown")
    build_bundle(bundle)
    machine.does.calls.clear()
    build_bundle(bundle)
    assert machine.does.calls == []
    assert "→" not in capsys.readouterr().err


def test_an_update_that_is_taken_back_finds_the_proof_of_before(machine, proved):
    machine.has_driver(NEW_DRIVER)
    build_bundle(proved)
    machine.has_driver("Jetson Linux 36.4.3")
    machine.does.calls.clear()
    assert build_bundle(proved).name == engine(HERE)
    assert machine.does.calls == []


def test_what_is_older_than_the_engine_before_is_removed_and_that_is_said(machine, proved, capsys):
    machine.gpu = ("Orin", "8.7", 8)
    another = build_bundle(proved).name
    machine.gpu = ("Orin", "8.7", 16)
    os.utime(proved / f"{engine(HERE)}.json", (1, 1))
    machine.has_driver(NEW_DRIVER)
    build_bundle(proved)
    os.utime(proved / f"{engine(NEW)}.json", (2, 2))
    assert "removed" not in capsys.readouterr().err
    machine.has_driver("Jetson Linux 36.5.0")
    last = build_bundle(proved).name
    assert names(proved) == sorted([another, engine(NEW), last]), "another device's engine is not ours to remove"
    gone = [PROOF, f"model-{HERE}.cache", engine(HERE), f"{engine(HERE)}.json"]
    assert not [name for name in gone if (proved / name).exists()]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("removed")]
    assert len(lines) == 1
    assert all(name in lines[0] for name in gone)


def test_an_engine_of_a_former_version_is_proved_again(machine, two, capsys):
    machine.takes(0.5, 1.0)
    build_bundle(two)
    old, older = "orin-8.7-16sm-trt10.3.0", "orin-8.7-16sm-trt10.2.0"
    for name in (INT8, FP16):
        value = json.loads((two / f"{name}.json").read_text())
        del value["engine"]["driver"], value["engine"]["cuda"], value["engine"]["options"]["library"]
        (two / f"{name}.json").unlink()
        (two / f"{name.replace(HERE, old)}.json").write_text(json.dumps(value))
        (two / name).rename(two / name.replace(HERE, old))
    (two / PROOF).unlink()
    (two / f"rival-{older}.engine").write_text("{}")
    machine.takes(1.0, 1.0)
    assert build_bundle(two).name == FP16
    assert "CUDA unknown → 12.6, driver unknown → Jetson Linux 36.4.3: new proof" in capsys.readouterr().err
    kept = [f"{kind}-{device}.engine" for kind in ("model", "rival") for device in (HERE, old)]
    assert names(two) == sorted(kept)
    assert not [name for name in os.listdir(two) if older in name]


REPROOF_FAILS = [
    ({"builds": False}, ModelFileError, "could not build"),
    ({"logs": [("ERROR", "Error Code 2: OutOfMemory")], "builds": False}, ClstError, "ran out of memory"),
]


@pytest.mark.parametrize(("behaviour", "kind", "why"), REPROOF_FAILS)
def test_where_the_build_fails_the_engine_before_is_compared_again_and_used(
    machine, proved, frames, capsys, behaviour, kind, why
):
    machine.has_driver(NEW_DRIVER)
    for name, value in behaviour.items():
        setattr(machine.does, name, value)
    with open_model(proved) as backend:
        assert (backend.predict(frames[0]).classes == frames[0].argmax(axis=2)).all()
        assert len(backend.warnings) == 1
        assert why in backend.warnings[0]
        assert f"; {engine(HERE)} is used (" in backend.warnings[0]
        told = capsys.readouterr().err
        assert "is used" not in told, "who opens it tells its warnings"
        assert backend.manifest.engine["driver"] == NEW_DRIVER, "it was compared with this one"
    lines = told.splitlines()
    assert [line for line in lines if "→" in line and UPDATE in line and f"{engine(HERE)} holds, 100.000 %" in line]
    assert names(proved) == [engine(HERE)]
    assert read_engine(proved / engine(HERE))[1].engine["driver"] == "Jetson Linux 36.4.3", "its file is as it was"
    machine.does.calls.clear()
    lasts = kind is ModelFileError  # else it is tried again
    with open_model(proved) as backend:
        assert backend.warnings[0].endswith(f"({f'remove proof-{NEW}.json' if lasts else 'start again'} to try again)")
    assert machine.does.calls.count("build") == (0 if lasts else 1)


def test_where_the_engine_before_does_not_hold_either_nothing_is_used(machine, proved, capsys):
    machine.has_driver(NEW_DRIVER)
    machine.does.wrong_share = 0.25
    with pytest.raises(BudgetNotHeld, match=r"75.000 % of pixels agree .*; remove .*proof-.* to try again") as error:
        open_model(proved)
    assert "\n" not in error.value.message
    told = capsys.readouterr().err
    assert f"{UPDATE}: new proof in 0 s: no engine holds" in told
    assert engine(HERE) in names(proved)
    second = json.loads((proved / f"proof-{NEW}.json").read_text())["engines"][1]
    failure = f"{engine(HERE)} from before: 75.000 % of the pixels agree, 99.900 % needed"
    assert (second["engine"], second["agreement"], second["failure"]) == (engine(HERE), 0.75, failure)
    machine.does.calls.clear()
    with pytest.raises(BudgetNotHeld, match="75.000 % of pixels agree"):
        open_model(proved)
    assert machine.does.calls == []


def test_an_engine_of_another_tensorrt_cannot_be_gone_back_to(machine, proved, capsys):
    machine.has_tensorrt("11.4.0.106")
    machine.does.builds = False
    with pytest.raises(ModelFileError, match="could not build"):
        open_model(proved)
    device = HERE.replace("10.3.0", "11.4.0.106")
    found = json.loads((proved / f"proof-{device}.json").read_text())["engines"]
    assert [each["engine"] for each in found] == [engine(device), engine(HERE)]
    assert "was built by TensorRT 10.3.0, found TensorRT 11.4.0.106" in found[1]["failure"]
    machine.has_tensorrt("10.3.0")
    assert build_bundle(proved).name == engine(HERE)


def test_an_engine_of_another_model_is_not_gone_back_to(machine, proved, tmp_path, frames):
    other = write_rgb_model(tmp_path / "o.onnx", manifest=rgb_manifest(tool_versions={"clst": "9"}).to_json())
    write_bundle(other, tmp_path / "new", frames)
    for name in (engine(HERE), f"{engine(HERE)}.json", PROOF):
        shutil.copy(proved / name, tmp_path / "new" / name)
    machine.has_driver(NEW_DRIVER)
    machine.does.builds = False
    with pytest.raises(ModelFileError, match="could not build"):
        build_bundle(tmp_path / "new")
    assert "execute" not in machine.does.calls


@pytest.mark.parametrize(("int8", "used"), [(0.5, INT8), (1.0, FP16)])
def test_of_two_engines_before_the_one_that_was_used_is_gone_back_to(machine, two, int8, used):
    machine.takes(int8, 1.0)
    assert build_bundle(two).name == used
    machine.has_driver(NEW_DRIVER)
    machine.does.builds = False
    assert build_bundle(two).name == used


def test_on_a_read_only_place_the_engine_before_is_compared_at_each_start(machine, proved, capsys):
    machine.has_driver(NEW_DRIVER)
    before = sorted(os.listdir(proved))
    with pytest.MonkeyPatch.context() as patch:

        def read_only(**_):
            raise OSError(30, "Read-only file system")

        patch.setattr(tempfile, "NamedTemporaryFile", read_only)
        patch.setattr(tempfile, "mkstemp", read_only)
        for _ in range(2):
            machine.does.calls.clear()
            with open_model(proved) as backend:
                assert "cannot be used now (cannot write " in backend.warnings[0]
            assert "build" not in machine.does.calls
            assert "execute" in machine.does.calls
        assert sorted(os.listdir(proved)) == before
        machine.does.wrong_share = 0.5
        with pytest.raises(DataError, match="Read-only file system"):
            open_model(proved)
    machine.does.wrong_share = 0.0
    assert build_bundle(proved).name == engine(NEW)


def test_an_engine_before_that_breaks_the_gpu_twice_is_left_out_once(machine, proved, capsys):
    machine.has_driver(NEW_DRIVER)
    machine.does.builds = False

    def breaks(_):
        FakeCuda.opened[-1].fails_with = "an illegal memory access was encountered"
        raise cuda_failure("waiting for the GPU", FakeCuda.opened[-1].fails_with)

    machine.does.compute_ms = breaks
    for _ in range(2):
        with pytest.raises(ClstError, match="illegal memory access"):
            build_bundle(proved)
    assert f"{engine(HERE)} broke the GPU: the next start goes without it" in capsys.readouterr().err
    with pytest.raises(ModelFileError, match="could not build"):
        build_bundle(proved)
    assert not (proved / f"proof-{NEW}.json").exists(), "the start after that tries again"
