"""INT8 beside FP16, on the fake TensorRT with times of our choice: which engine a bundle uses, and what it keeps."""

import fcntl
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from clst_export.card import card
from clst_export.inspection import facts_of
from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends import open_model
from clst_runtime.backends.cuda.device import CudaFailed, GpuOutOfMemory, cuda_failure
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.bundle.device_engine import build_bundle
from clst_runtime.backends.tensorrt.runner import TrtBackend
from clst_runtime.backends.tensorrt.sidecar import read_engine
from clst_runtime.errors import BudgetNotHeld, ClstError, DataError, MissingDependency, ModelFileError
from tests.conftest import rgb_manifest, write_rgb_model
from tests.fakes.cuda import FakeCuda
from tests.unit.runtime.backends.tensorrt.conftest import FP16, HERE, INT8, PROOF, model
from tests.unit.runtime.backends.tensorrt.test_build import full

SLOWER = "INT8 takes 0.80 ms, FP16 0.75 ms on this GPU: INT8 does not save 3 %"


def kept(two):
    """What the proof says, each engine by its precision."""
    value = json.loads((two / PROOF).read_text())
    return value | {each["precision"]: each for each in value["engines"]}


def test_int8_that_is_really_faster_is_used(machine, two, frames, capsys):
    machine.takes(0.6, 0.75)
    with open_model(two) as backend:
        assert backend.manifest.precision == "int8"
        assert backend.warnings == []
        assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))
    assert (
        f"INT8 takes 0.60 ms, FP16 0.75 ms on this GPU: INT8 saves 20.0 %; {INT8} is used\n" in capsys.readouterr().err
    )
    assert kept(two)["used"] == INT8


def test_int8_that_is_slower_is_reported_and_not_used(machine, two, capsys):
    machine.takes(0.8, 0.75)
    with open_model(two) as backend:
        assert backend.manifest.precision == "fp16"
    assert f"{SLOWER}; {FP16} is used\n" in capsys.readouterr().err
    proof = kept(two)
    assert (proof["used"], proof["why"]) == (FP16, SLOWER)
    assert (proof["int8"]["compute_ms"], proof["fp16"]["compute_ms"]) == pytest.approx((0.8, 0.75))
    assert proof["machine"] == {
        "gpu": "Orin",
        "compute_capability": "8.7",
        "multiprocessors": 16,
        "tensorrt": "10.3.0",
        "cuda": "12.6",
        "driver": "Jetson Linux 36.4.3",
        "library": "tensorrt",
    }


def test_each_engine_is_held_to_its_own_class_maps(machine, pair, tmp_path, frames):
    """The FP16 file here sees BGR: its class maps are others, and right for it."""
    swapped = write_rgb_model(tmp_path / "s.onnx", manifest=rgb_manifest(precision="fp16").to_json(), swapped=True)
    write_bundle(pair[0], tmp_path / "b", frames, baseline=swapped)
    machine.takes(2.0, 1.0)
    engine = build_bundle(tmp_path / "b")
    assert engine.name == FP16
    assert read_engine(engine)[1].engine["agreement"]["differing_pixels"] == 0


def test_the_second_start_builds_and_times_nothing(machine, two, capsys):
    machine.takes(0.8, 0.75)
    build_bundle(two)
    assert machine.does.calls.count("build") == 2
    assert (two / f"model-{HERE}.cache").read_bytes() == b"CACHE 10.3.0 ..", "the second build takes the first's times"
    before = {path.name: path.stat().st_mtime_ns for path in two.iterdir()}
    machine.does.calls.clear()
    capsys.readouterr()
    machine.takes(0.1, 0.75)  # would be chosen otherwise now
    assert build_bundle(two) == two / FP16
    assert machine.does.calls == []
    assert {path.name: path.stat().st_mtime_ns for path in two.iterdir()} == before
    assert capsys.readouterr().err == f"{SLOWER}; {FP16} is used\n"


def test_two_devices_that_share_a_folder_keep_a_proof_each_and_inspect_tells_both(machine, two):
    machine.takes(0.8, 0.75)
    assert build_bundle(two).name == FP16
    machine.gpu = ("Thor", "11.0")
    machine.takes(0.5, 0.75)
    thor = "model-thor-11.0-16sm-trt10.3.0-cuda12.6-jetson-linux-36.4.3.engine"
    assert build_bundle(two).name == thor
    machine.gpu = ("Orin", "8.7")
    machine.does.calls.clear()
    assert build_bundle(two).name == FP16
    assert machine.does.calls == []
    told = card(facts_of(two))
    versions = "TensorRT 10.3.0, CUDA 12.6, driver Jetson Linux 36.4.3"
    assert f"Orin (compute capability 8.7, 16 multiprocessors), {versions}: {SLOWER}; {FP16} is used" in told
    assert f"Thor (compute capability 11.0, 16 multiprocessors), {versions}: INT8 takes 0.50 ms" in told
    assert f"{thor} is used" in told
    assert "compared with:" in told
    assert json.loads(json.dumps(facts_of(two)))["proofs"][PROOF]["used"] == FP16


@pytest.mark.parametrize(
    "harm", [lambda text: text[:-20], lambda text: text.replace(f'"used": "{FP16}', f'"used": "{INT8}'), lambda _: "{}"]
)
def test_a_damaged_proof_is_made_again_but_nothing_is_built(machine, two, capsys, harm):
    machine.takes(0.8, 0.75)
    build_bundle(two)
    (two / PROOF).write_text(harm((two / PROOF).read_text()))
    assert "is damaged" in card(facts_of(two))
    machine.does.calls.clear()
    capsys.readouterr()
    machine.takes(0.6, 0.75)
    assert build_bundle(two).name == INT8
    assert machine.does.calls.count("build") == 0
    told = capsys.readouterr().err
    assert f"{PROOF} is damaged" in told
    assert "proving again" in told
    assert kept(two)["used"] == INT8


def test_a_proof_by_another_rule_is_made_again(machine, two, capsys, monkeypatch):
    machine.takes(0.74, 0.75)
    assert build_bundle(two).name == FP16
    machine.does.calls.clear()
    monkeypatch.setattr("clst_runtime.backends.tensorrt.bundle.proof.WORTHWHILE", 0.01)
    assert build_bundle(two).name == INT8
    assert "int8_must_save, used, why does not fit the rest" in capsys.readouterr().err
    assert machine.does.calls.count("build") == 0


def test_a_proof_of_other_options_or_another_model_is_made_again(machine, two, pair, tmp_path, frames, capsys):
    machine.takes(0.8, 0.75)
    build_bundle(two)
    machine.takes(0.6, 0.75)
    index = json.loads((two / "bundle.json").read_text()) | {"options": BuildOptions(workspace_mib=32).to_json()}
    (two / "bundle.json").write_text(json.dumps(index))
    assert build_bundle(two).name == INT8
    assert kept(two)["options"]["workspace_mib"] == 32
    assert "is of other models or options; proving again" in capsys.readouterr().err
    old = (two / PROOF).read_text()
    shutil.rmtree(two)
    other = model(tmp_path / "other.onnx", "fp16", tool_versions={"clst": "9"})
    write_bundle(pair[0], two, frames, baseline=other)
    (two / PROOF).write_text(old)
    machine.takes(0.8, 0.75)
    assert build_bundle(two).name == FP16


@pytest.mark.parametrize(("engine", "builds"), [(INT8, 0), (FP16, 1)])
def test_only_the_engine_that_is_used_has_to_be_whole(machine, two, engine, builds):
    machine.takes(0.8, 0.75)
    build_bundle(two)
    (two / engine).write_bytes(b"damaged")
    machine.does.calls.clear()
    assert build_bundle(two).name == FP16
    assert machine.does.calls.count("build") == builds
    assert ("execute" in machine.does.calls) == bool(builds)
    open_model(two).close()


def test_an_engine_that_was_exchanged_for_another_whole_one_is_not_the_one_that_was_proved(machine, two, capsys):
    machine.takes(0.8, 0.75)
    build_bundle(two)
    for suffix in ("", ".json"):
        shutil.copy(two / (INT8 + suffix), two / (FP16 + suffix))
    assert build_bundle(two).name == FP16
    assert f"{FP16} is another one than was proved; proving again" in capsys.readouterr().err
    assert read_engine(two / FP16)[1].precision == "fp16"


def harmed(two, **facts):
    """The INT8 engine's manifest says something else; there is no proof."""
    value = json.loads((two / f"{INT8}.json").read_text())
    value["engine"] |= facts
    (two / f"{INT8}.json").write_text(json.dumps(value))
    (two / PROOF).unlink()


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"driver": "Jetson Linux 36.3.0"}, "was built from another model, with other options or elsewhere"),
        ({"gpu": "Thor"}, "was built from another model, with other options or elsewhere"),
        (
            {"agreement": {"holds": False, "agreement": 0.5, "device_ms": {"compute": 1.0}}},
            "does not say that it holds",
        ),
    ],
)
def test_an_engine_of_this_name_that_was_not_proved_here_is_built_again(machine, two, capsys, facts, told):
    machine.takes(0.5, 1.0)
    build_bundle(two)
    harmed(two, **facts)
    machine.does.calls.clear()
    capsys.readouterr()
    assert build_bundle(two).name == INT8
    assert machine.does.calls.count("build") == 1
    assert told in capsys.readouterr().err


def test_a_proof_that_holds_only_for_a_moment_is_none(machine, two, capsys):
    machine.does.builds = False
    with pytest.raises(ModelFileError):
        build_bundle(two)
    value = json.loads((two / PROOF).read_text())
    value["engines"] = [each | {"passing": True} for each in value["engines"]]
    value["why"] = value["why"].replace("on this GPU", "now")
    (two / PROOF).write_text(json.dumps(value))
    machine.does.builds = True
    assert build_bundle(two).name == FP16
    assert "is damaged" in capsys.readouterr().err


def test_the_engine_is_opened_as_it_was_when_the_folder_was_locked(machine, two, frames, monkeypatch):
    machine.takes(0.5, 1.0)
    build_bundle(two)
    close = os.close

    def then_others_remove_it(handle):
        close(handle)
        (two / INT8).unlink(missing_ok=True)

    monkeypatch.setattr("clst_runtime.backends.tensorrt.bundle.device_engine.os.close", then_others_remove_it)
    with open_model(two) as backend:
        assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))


@pytest.mark.parametrize(
    ("fails", "works", "behaviour", "reason"),
    [
        ("fp16", INT8, {"wrong_share": 0.5}, "50.000 % of pixels agree"),
        ("fp16", INT8, {"builds": False}, "TensorRT 10.3.0 could not build it"),
        ("int8", FP16, {"builds": False}, "TensorRT 10.3.0 could not build it"),
        ("int8", FP16, {"wrong_share": 0.5}, "50.000 % of pixels agree"),
    ],
)
def test_where_one_of_the_two_fails_the_other_is_used_and_that_is_said(
    machine, two, capsys, fails, works, behaviour, reason
):
    machine.only(fails, **behaviour)
    assert build_bundle(two).name == works
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"{fails.upper()} cannot be used on this GPU (")
    assert reason in told
    assert f"; {works} is used (remove {PROOF} to try again)" in told
    assert kept(two)[fails]["compute_ms"] is None
    assert kept(two)[fails]["agreement"] == (0.5 if "wrong_share" in behaviour else None)
    machine.does.calls.clear()  # what failed is not tried for minutes at every start
    machine.does.on_build = None
    assert build_bundle(two).name == works
    assert machine.does.calls == []
    assert reason in capsys.readouterr().err
    (two / PROOF).unlink()
    machine.does.builds, machine.does.wrong_share, machine.does.logs = True, 0.0, []
    machine.takes(0.5, 1.0)
    assert build_bundle(two).name == INT8


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [({"wrong_share": 0.5}, BudgetNotHeld, "rejected.engine"), ({"builds": False}, ModelFileError, "could not build")],
)
def test_where_both_fail_that_is_found_once_and_the_error_says_how_to_try_again(machine, two, behaviour, kind, reason):
    for name, value in behaviour.items():
        setattr(machine.does, name, value)
    told = []
    for builds in (2, 0):
        machine.does.calls.clear()
        with pytest.raises(kind, match=reason) as error:
            build_bundle(two)
        told.append(error.value.message)
        assert machine.does.calls.count("build") == builds
    assert told[0] == told[1]
    assert told[0].count("\n") == 0
    assert f"; remove {two / PROOF} to try again" in told[0]
    assert "none is used" in card(facts_of(two))
    (two / PROOF).unlink()
    machine.does.builds, machine.does.wrong_share = True, 0.0
    assert build_bundle(two).exists()


def breaks_gpu(machine, precision):
    """From now on such an engine breaks the GPU when it is timed; every later wait fails too."""

    def compute_ms(running):
        if running == precision:
            FakeCuda.opened[-1].fails_with = "an illegal memory access was encountered"
            raise cuda_failure("waiting for the GPU", FakeCuda.opened[-1].fails_with)
        return 1.0

    machine.does.compute_ms = compute_ms


def built(machine, two):
    """Both engines are there, no proof."""
    build_bundle(two)
    (two / PROOF).unlink()
    machine.does.calls.clear()


@pytest.mark.parametrize(("precision", "culprit"), [("int8", INT8), ("fp16", FP16)])
def test_an_engine_that_breaks_the_gpu_while_it_is_timed_is_named_and_nothing_is_decided(
    machine, two, capsys, precision, culprit
):
    built(machine, two)
    breaks_gpu(machine, precision)
    with pytest.raises(ClstError, match=f"{culprit} could not be timed: .*illegal memory access.*restart it") as error:
        build_bundle(two)
    assert "\n" not in error.value.message
    assert error.value.exit_code == 1
    assert (kept(two)["engines"], kept(two)["trying"]) == ([], [culprit])
    assert f"not finished, at {culprit}" in card(facts_of(two))
    assert f"{culprit} broke the GPU: the next start tries again" in capsys.readouterr().err
    machine.takes(0.5, 1.0)  # it was no more than once
    assert build_bundle(two).name == INT8
    assert (kept(two)["used"], kept(two)["trying"]) == (INT8, [])


@pytest.mark.parametrize(("precision", "works"), [("int8", FP16), ("fp16", INT8)])
def test_a_service_that_breaks_at_the_same_engine_twice_drives_with_the_other_one_and_then_tries_again(
    machine, two, capsys, precision, works
):
    built(machine, two)
    breaks_gpu(machine, precision)
    for _ in range(2):
        with pytest.raises(ClstError, match="illegal memory access"):
            build_bundle(two)
    assert "the next start goes without it" in capsys.readouterr().err
    assert build_bundle(two).name == works
    told = capsys.readouterr().err.splitlines()[-1]
    culprit = INT8 if precision == "int8" else FP16
    lost = f"{precision.upper()} cannot be used now (2 starts broke off while {culprit} was tried)"
    assert told == f"{lost}; {works} is used (start again to try again)"
    assert not (two / PROOF).exists()
    with pytest.raises(ClstError, match="illegal memory access"):
        build_bundle(two)
    machine.takes(0.5, 1.0)
    assert build_bundle(two).name == INT8


def dies(precision):
    raise SystemExit(9)


def died(machine, folder):
    """A start that ends where the engine is built, as where TensorRT crashes: no code of ours runs then."""
    machine.does.on_build = dies
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # nothing is cleaned up
        build_bundle(folder)
    machine.does.on_build = None


def test_a_process_that_died_twice_while_it_built_decides_nothing_either(machine, two):
    for number in (1, 2):
        died(machine, two)
        assert kept(two)["trying"] == [INT8] * number
    assert build_bundle(two).name == FP16
    assert machine.does.calls.count("build") == 3
    assert not (two / PROOF).exists()
    machine.takes(0.5, 1.0)
    assert build_bundle(two).name == INT8


def test_two_engines_that_both_kill_the_process_end_after_four_starts(machine, two):
    for _ in range(2):
        died(machine, two)
    for number in (1, 2):
        died(machine, two)
        assert sorted(kept(two)["trying"]) == [INT8, INT8] + [FP16] * number
    with pytest.raises(ClstError, match=f"2 starts broke off while {INT8} was tried"):
        build_bundle(two)
    machine.takes(0.5, 1.0)
    assert build_bundle(two).name == INT8, "the start after that tries again"


def test_a_bundle_of_one_model_that_kills_its_process_twice_ends_with_a_line_once(machine, pair, tmp_path, frames):
    write_bundle(pair[1], tmp_path / "b", frames)
    for _ in range(2):
        died(machine, tmp_path / "b")
    with pytest.raises(ClstError, match=f"2 starts broke off while {INT8} was tried") as error:
        build_bundle(tmp_path / "b")
    assert error.value.exit_code == 1
    assert build_bundle(tmp_path / "b").name == INT8, "the start after that tries again"


def test_a_gpu_that_breaks_during_the_build_ends_the_command_and_the_next_start_builds(machine, two):
    broken = [("ERROR", "Error Code 1: Cuda Runtime (an illegal memory access was encountered)")]
    machine.only("int8", builds=False, logs=broken)
    with pytest.raises(CudaFailed, match="illegal memory access.*restart it"):
        build_bundle(two)
    assert machine.does.calls.count("build") == 1, "the other engine cannot be built in this process either"
    machine.does.on_build, machine.does.builds, machine.does.logs = None, True, []
    machine.takes(0.5, 1.0)
    assert build_bundle(two).name == INT8


@pytest.mark.parametrize(("fails", "works"), [("int8", FP16), ("fp16", INT8)])
@pytest.mark.parametrize(
    "log", ["Error Code 2: OutOfMemory (no further information)", "Cuda Driver (CUDA_ERROR_OUT_OF_MEMORY)"]
)
def test_memory_that_is_used_up_during_a_build_is_of_now_and_the_next_start_tries_again(
    machine, two, capsys, fails, works, log
):
    machine.only(fails, builds=False, logs=[("ERROR", log)])
    assert build_bundle(two).name == works
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"{fails.upper()} cannot be used now (")
    assert "the GPU ran out of memory during the build" in told
    assert told.endswith(f"; {works} is used (start again to try again)")
    assert not (two / PROOF).exists()
    machine.does.on_build, machine.does.builds, machine.does.logs = None, True, []
    machine.takes(0.5, 1.0)
    machine.does.calls.clear()
    assert build_bundle(two).name == INT8
    assert machine.does.calls.count("build") == 1


def opening(monkeypatch, fails):
    """Let opening a stored engine fail: `fails` gets its name and how many are open, and gives an error or None."""
    usual_open, usual_close, names = TrtBackend.__init__, TrtBackend.close, []

    def opens(self, path, **named):
        error = fails(path.name, len(names)) if named.get("built") is None else None
        if error is not None:
            raise error
        usual_open(self, path, **named)
        if named.get("built") is None:
            names.append(path.name)

    def closes(self):
        usual_close(self)
        if self._where.name in names:
            names.remove(self._where.name)

    monkeypatch.setattr(TrtBackend, "__init__", opens)
    monkeypatch.setattr(TrtBackend, "close", closes)


def test_engines_that_do_not_fit_into_memory_together_are_timed_one_after_the_other(machine, two, capsys, monkeypatch):
    machine.takes(0.8, 0.75)
    opening(monkeypatch, lambda name, open_now: GpuOutOfMemory("too little for two") if open_now else None)
    assert build_bundle(two).name == FP16
    assert kept(two)["int8"]["compute_ms"] == pytest.approx(0.8)
    assert "does not hold both engines at once: timing one after the other" in capsys.readouterr().err


@pytest.mark.parametrize(("lost", "works"), [(INT8, FP16), (FP16, INT8)])
def test_an_engine_that_does_not_fit_into_memory_now_leaves_it_to_the_other_until_the_next_start(
    machine, two, capsys, monkeypatch, lost, works
):
    with pytest.MonkeyPatch.context() as patch:
        opening(patch, lambda name, _: GpuOutOfMemory("too little now") if name == lost else None)
        assert build_bundle(two).name == works
    assert "cannot be used now (too little now)" in capsys.readouterr().err
    assert not (two / PROOF).exists()
    machine.takes(0.5, 1.0)
    assert build_bundle(two).name == INT8


@pytest.mark.parametrize(("bad", "works"), [(INT8, FP16), (FP16, INT8)])
def test_an_engine_that_tensorrt_cannot_load_loses_for_good(machine, two, monkeypatch, bad, works):
    opening(monkeypatch, lambda name, _: ModelFileError("TensorRT cannot load it") if name == bad else None)
    assert build_bundle(two).name == works
    assert kept(two)["used"] == works
    assert "TensorRT cannot load it" in kept(two)["why"]


def test_a_proof_that_the_disk_does_not_take_is_followed_and_made_again_at_the_next_start(machine, two, capsys):
    built(machine, two)
    machine.takes(0.8, 0.75)
    with pytest.MonkeyPatch.context() as patch:
        full(patch, ".json")
        assert build_bundle(two).name == FP16
    assert "the proof cannot be kept, the next start makes it again: cannot write " in capsys.readouterr().err
    assert not (two / PROOF).exists()
    assert build_bundle(two).name == FP16
    assert machine.does.calls.count("build") == 0
    assert kept(two)["used"] == FP16


def test_a_second_process_waits_until_the_first_has_built(machine, two, monkeypatch):
    """The lock is the folder's own; another handle on it is what another process has."""
    first = os.open(two, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    told = []

    def echo(text):
        told.append(text)
        if len(told) == 1:
            assert machine.does.calls == []
            os.close(first)

    monkeypatch.setattr("clst_runtime.backends.tensorrt.bundle.device_engine._log", SimpleNamespace(info=echo))
    machine.takes(0.5, 1.0)
    assert build_bundle(two).name == INT8
    assert told[0] == f"another process builds or times the engines of {two}; waiting for it"


def test_faults_of_machine_or_disk_decide_nothing(machine, two, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "clst_runtime.backends.tensorrt.build.engine.write_engine",
            lambda *_: (_ for _ in ()).throw(DataError("full")),
        )
        with pytest.raises(DataError, match="full"):
            build_bundle(two)
    assert machine.does.calls.count("build") == 1
    assert not (two / PROOF).exists()
    machine.does.starts = False
    with pytest.raises(MissingDependency, match="cannot start its builder"):
        build_bundle(two)
    assert not (two / PROOF).exists()
    machine.has_no_gpu()
    with pytest.raises(MissingDependency, match="PyCUDA cannot be imported"):
        build_bundle(two)
