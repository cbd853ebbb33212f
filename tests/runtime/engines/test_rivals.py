"""INT8 beside FP16, on the fake TensorRT with times of our choice: which engine a bundle uses, and what it keeps."""

import dataclasses
import fcntl
import json
import os
import shutil

import numpy as np
import pytest
from tests.conftest import rgb_manifest, write_rgb_model
from tests.fakes.cuda import FakeCuda
from tests.runtime.engines.test_build import full

from clst_export.bundle import build_bundle, read_bundle, write_bundle
from clst_export.inspection import describe, facts_of
from clst_runtime.backends import open_model
from clst_runtime.backends.cuda import CudaFailed, GpuOutOfMemory, cuda_failure
from clst_runtime.backends.trt import TrtBackend
from clst_runtime.engines import rivals
from clst_runtime.engines.options import BuildOptions
from clst_runtime.engines.rivals import Choice, Contender, read_choice, time_alternately
from clst_runtime.engines.sidecar import read_engine
from clst_runtime.errors import BudgetNotHeld, ClstError, DataError, MissingDependency, ModelFileError

HERE = "orin-8.7-16sm-trt10.3.0"
INT8, FP16, CHOICE = f"model-{HERE}.engine", f"rival-{HERE}.engine", f"choice-{HERE}.json"


def model(path, precision, **changes):
    return write_rgb_model(path, manifest=rgb_manifest(precision=precision, **changes).to_json())


@pytest.fixture
def pair(tmp_path):
    """An int8 and an fp16 file of one checkpoint."""
    return model(tmp_path / "m.int8.onnx", "int8"), model(tmp_path / "m.fp16.onnx", "fp16")


@pytest.fixture
def bundle(pair, tmp_path, frames):
    write_bundle(pair[0], tmp_path / "bundle", frames, rival=pair[1])
    return tmp_path / "bundle"


def takes(machine, int8, fp16):
    """From now on the engines need so many milliseconds."""
    machine.does.compute_ms = {"int8": int8, "fp16": fp16}.__getitem__


def kept(bundle):
    return json.loads((bundle / CHOICE).read_text())


def test_a_bundle_with_a_rival_holds_both_models_and_both_kinds_of_class_maps(bundle, pair, frames):
    index = json.loads((bundle / "bundle.json").read_text())
    assert index["format_version"] == 2
    assert index["rival"]["file"] == "rival.onnx"
    assert (bundle / "model.onnx").read_bytes() == pair[0].read_bytes()
    assert (bundle / "rival.onnx").read_bytes() == pair[1].read_bytes()
    for folder in ("frames", "expected", "rival-expected"):
        assert sorted(path.name for path in (bundle / folder).iterdir()) == ["0000.png", "0001.png", "0002.png"]
    assert "rival.onnx is the same network as fp16" in (bundle / "README.txt").read_text()
    assert read_bundle(bundle).rival.sha256 == index["rival"]["model_sha256"]


def test_int8_that_is_really_faster_is_used(machine, bundle, frames, capsys):
    takes(machine, 0.6, 0.75)
    with open_model(bundle) as backend:
        assert backend.manifest.precision == "int8"
        assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))
    assert "INT8 takes 0.60 ms, FP16 0.75 ms on this GPU: INT8 saves 20.0 %, it is used\n" in capsys.readouterr().err
    assert kept(bundle)["preferred"] == INT8


def test_int8_that_is_slower_is_reported_and_not_used(machine, bundle, capsys):
    takes(machine, 0.8, 0.75)
    with open_model(bundle) as backend:
        assert backend.manifest.precision == "fp16"
    told = "INT8 takes 0.80 ms, FP16 0.75 ms on this GPU: FP16 is faster and loses nothing"
    assert f"{told}, it is used\n" in capsys.readouterr().err
    choice = kept(bundle)
    assert (choice["preferred"], choice["why"]) == (FP16, told)
    assert (choice["int8"]["compute_ms"], choice["fp16"]["compute_ms"]) == pytest.approx((0.8, 0.75))
    assert choice["ratio"] == pytest.approx(0.8 / 0.75)
    assert (choice["gpu"], choice["tensorrt"], choice["runs"], choice["worthwhile"]) == ("Orin", "10.3.0", 64, 0.03)


@pytest.mark.parametrize(
    ("int8", "preferred", "told"),
    [
        (96.9, INT8, "INT8 saves 3.1 %"),
        (97.0, FP16, "INT8 saves only 3.0 %, FP16 loses no accuracy"),
        (99.0, FP16, "INT8 saves only 1.0 %, FP16 loses no accuracy"),
        (100.0, FP16, "FP16 is as fast and loses nothing"),
    ],
)
def test_int8_must_save_more_than_three_percent(int8, preferred, told):
    ours = Contender(engine=INT8, onnx_sha256="a", engine_sha256="b", compute_ms=int8)
    other = Contender(engine=FP16, onnx_sha256="c", engine_sha256="d", compute_ms=100.0)
    facts = {"gpu": "Orin", "compute_capability": "8.7", "multiprocessors": 16, "tensorrt": "10.3.0", "options": {}}
    choice = Choice(int8=ours, fp16=other, **facts)
    assert choice.preferred.engine == preferred
    assert choice.why == f"INT8 takes {int8:.2f} ms, FP16 100.00 ms on this GPU: {told}"


def test_a_difference_within_the_margin_is_said_and_fp16_used(machine, bundle, capsys):
    takes(machine, 0.74, 0.75)
    assert build_bundle(bundle) == bundle / FP16
    assert "INT8 saves only 1.3 %, FP16 loses no accuracy, it is used" in capsys.readouterr().err


def test_each_engine_is_held_to_its_own_class_maps(machine, pair, tmp_path, frames):
    """The rival here sees BGR: its class maps are others, and right for it."""
    swapped = write_rgb_model(tmp_path / "s.onnx", manifest=rgb_manifest(precision="fp16").to_json(), swapped=True)
    write_bundle(pair[0], tmp_path / "b", frames, rival=swapped)
    takes(machine, 2.0, 1.0)
    engine = build_bundle(tmp_path / "b")
    assert engine.name == FP16
    assert read_engine(engine)[1].engine["agreement"]["differing_pixels"] == 0


def test_the_second_start_builds_and_times_nothing(machine, bundle, capsys):
    takes(machine, 0.8, 0.75)
    build_bundle(bundle)
    assert machine.does.calls.count("build") == 2
    times = bundle / "model-orin-8.7-16sm-trt10.3.0.cache"
    assert times.read_bytes() == b"CACHE 10.3.0 ..", "the second build takes the layer times of the first"
    before = {path.name: path.stat().st_mtime_ns for path in bundle.iterdir()}
    assert "rival-orin-8.7-16sm-trt10.3.0.cache" not in before
    machine.does.calls.clear()
    capsys.readouterr()
    takes(machine, 0.1, 0.75)  # would be chosen otherwise now
    assert build_bundle(bundle) == bundle / FP16
    assert machine.does.calls == []
    assert {path.name: path.stat().st_mtime_ns for path in bundle.iterdir()} == before
    assert capsys.readouterr().err == (
        "INT8 takes 0.80 ms, FP16 0.75 ms on this GPU: FP16 is faster and loses nothing, it is used\n"
    )


def test_each_gpu_chooses_for_itself(machine, bundle):
    takes(machine, 0.8, 0.75)
    assert build_bundle(bundle).name == FP16
    machine.gpu = ("Thor", "11.0")
    takes(machine, 0.5, 0.75)
    assert build_bundle(bundle).name == "model-thor-11.0-16sm-trt10.3.0.engine"
    told = describe(facts_of(bundle))
    assert f"Orin with 16 multiprocessors, TensorRT 10.3.0: {kept(bundle)['why']}, {FP16} is used" in told
    assert "Thor with 16 multiprocessors, TensorRT 10.3.0: INT8 takes 0.50 ms" in told


def damage(text):
    return text[:-20]


def lie(text):
    return text.replace(f'"preferred": "{FP16}"', f'"preferred": "{INT8}"')


def other_time(text):
    return text.replace('"ratio": 1.0', '"ratio": 2.0')


def no_time(text):
    value = json.loads(text)
    value["int8"]["compute_ms"] = None
    return json.dumps(value)


def word_for_time(text):
    value = json.loads(text)
    value["fp16"]["compute_ms"] = "fast"
    return json.dumps(value)


def both_failed(text):
    value = json.loads(text)
    value["int8"]["failure"] = value["fp16"]["failure"] = "x"
    return json.dumps(value)


@pytest.mark.parametrize(
    "harm", [damage, lie, other_time, no_time, word_for_time, both_failed, lambda _: "", lambda _: "[]", lambda _: "{}"]
)
def test_a_damaged_choice_is_measured_again_but_nothing_is_built(machine, bundle, capsys, harm):
    takes(machine, 0.8, 0.75)
    build_bundle(bundle)
    before = (bundle / CHOICE).read_text()
    assert harm(before) != before
    (bundle / CHOICE).write_text(harm(before))
    assert "is damaged" in describe(facts_of(bundle))
    machine.does.calls.clear()
    capsys.readouterr()
    takes(machine, 0.6, 0.75)
    assert build_bundle(bundle).name == INT8
    assert machine.does.calls.count("build") == 0
    told = capsys.readouterr().err
    assert f"{CHOICE} is damaged" in told
    assert "choosing again" in told
    assert read_choice(bundle / CHOICE).preferred.engine == INT8


def test_a_choice_by_other_rules_is_measured_again(machine, bundle, capsys, monkeypatch):
    takes(machine, 0.74, 0.75)
    assert build_bundle(bundle).name == FP16
    machine.does.calls.clear()
    monkeypatch.setattr("clst_runtime.engines.bundle.WORTHWHILE", 0.01)
    build_bundle(bundle)
    assert "is of other models, options or rules; choosing again" in capsys.readouterr().err
    assert machine.does.calls.count("build") == 0
    assert "execute" in machine.does.calls


def test_a_choice_of_other_options_or_another_model_is_made_again(machine, bundle, pair, tmp_path, frames):
    takes(machine, 0.8, 0.75)
    build_bundle(bundle)
    takes(machine, 0.6, 0.75)
    assert build_bundle(bundle, options=BuildOptions(workspace_mib=32)).name == INT8
    assert kept(bundle)["options"]["workspace_mib"] == 32
    old = (bundle / CHOICE).read_text()
    shutil.rmtree(bundle)
    other = model(tmp_path / "other.onnx", "fp16", tool_versions={"clst": "9"})
    write_bundle(pair[0], bundle, frames, rival=other)
    (bundle / CHOICE).write_text(old)
    takes(machine, 0.8, 0.75)
    assert build_bundle(bundle).name == FP16


@pytest.mark.parametrize("engine", [INT8, FP16])
def test_an_engine_that_was_built_again_is_timed_again(machine, bundle, engine):
    takes(machine, 0.8, 0.75)
    build_bundle(bundle)
    (bundle / engine).write_bytes(b"damaged")
    machine.does.calls.clear()
    takes(machine, 0.6, 0.75)
    assert build_bundle(bundle).name == INT8
    assert machine.does.calls.count("build") == 1
    assert "rival" in read_engine(bundle / engine)[1].engine


def only(machine, precision, **behaviour):
    """Behave so only in builds of that precision, and with the engine until the next build."""
    usual = {name: getattr(machine.does, name) for name in behaviour}

    def on_build(built):
        for name, value in (behaviour if built == precision else usual).items():
            setattr(machine.does, name, value)

    machine.does.on_build = on_build


@pytest.mark.parametrize(
    ("fails", "works", "behaviour", "reason"),
    [
        ("fp16", "int8", {"wrong_share": 0.5}, "50.000 % of pixels agree"),
        ("fp16", "int8", {"builds": False}, "TensorRT could not build it"),
        ("int8", "fp16", {"builds": False}, "TensorRT could not build it"),
        ("int8", "fp16", {"wrong_share": 0.5}, "50.000 % of pixels agree"),
    ],
)
def test_where_one_of_the_two_fails_the_other_is_used_and_that_is_said(
    machine, bundle, capsys, fails, works, behaviour, reason
):
    only(machine, fails, **behaviour)
    engine = build_bundle(bundle)
    assert read_engine(engine)[1].precision == works
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"{fails.upper()} cannot be used on this GPU (")
    assert reason in told
    assert f"{works.upper()} is what works, it is used (remove {CHOICE} to try the other one again)" in told
    assert kept(bundle)[fails]["compute_ms"] is None
    assert reason in read_engine(engine)[1].engine["rival"]["failure"]
    machine.does.calls.clear()  # what failed is not tried for minutes at every start
    machine.does.on_build = None
    assert build_bundle(bundle) == engine
    assert machine.does.calls == []
    assert reason in capsys.readouterr().err
    (bundle / CHOICE).unlink()
    machine.does.builds, machine.does.wrong_share, machine.does.logs = True, 0.0, []
    takes(machine, 0.5, 1.0)
    assert build_bundle(bundle).name == INT8
    assert kept(bundle)["ratio"] == pytest.approx(0.5)


def test_what_failed_of_another_model_is_tried_again(machine, bundle, pair, tmp_path, frames, capsys):
    only(machine, "fp16", builds=False)
    build_bundle(bundle)
    old = (bundle / CHOICE).read_text()
    machine.does.on_build, machine.does.builds = None, True
    write_bundle(
        pair[0], tmp_path / "new", frames, rival=model(tmp_path / "o.onnx", "fp16", tool_versions={"clst": "9"})
    )
    (tmp_path / "new" / CHOICE).write_text(old)
    takes(machine, 0.8, 0.75)
    assert build_bundle(tmp_path / "new").name == FP16
    assert "of other models, options or rules; choosing again" in capsys.readouterr().err


def test_where_both_fail_the_error_is_that_of_the_model_and_nothing_is_kept(machine, bundle):
    machine.does.wrong_share = 0.5
    with pytest.raises(BudgetNotHeld, match=f"kept as .*model-{HERE}.rejected.engine"):
        build_bundle(bundle)
    assert machine.does.calls.count("build") == 2
    assert not (bundle / CHOICE).exists()


def built(machine, bundle):
    """Both engines are there, no choice."""
    build_bundle(bundle)
    (bundle / CHOICE).unlink()
    machine.does.calls.clear()


def breaks_gpu(machine, precision):
    """From now on such an engine breaks the GPU when it runs; every later wait fails too."""

    def compute_ms(running):
        if running == precision:
            FakeCuda.opened[-1].fails_with = "an illegal memory access was encountered"
            raise cuda_failure("waiting for the GPU", FakeCuda.opened[-1].fails_with)
        return 1.0

    machine.does.compute_ms = compute_ms


@pytest.mark.parametrize(("precision", "culprit"), [("int8", INT8), ("fp16", FP16)])
def test_an_engine_that_breaks_the_gpu_while_it_is_timed_is_named_and_nothing_is_kept(
    machine, bundle, capsys, precision, culprit
):
    built(machine, bundle)
    before = {name: (bundle / f"{name}.json").read_text() for name in (INT8, FP16)}
    breaks_gpu(machine, precision)
    with pytest.raises(ClstError, match=f"{culprit} could not be timed: .*illegal memory access.*restart it") as error:
        build_bundle(bundle)
    assert "\n" not in error.value.message
    assert error.value.exit_code == 1
    assert not (bundle / CHOICE).exists()
    assert {name: (bundle / f"{name}.json").read_text() for name in (INT8, FP16)} == before
    assert f"{culprit} broke the GPU: the next start tries again" in capsys.readouterr().err
    takes(machine, 0.5, 1.0)  # it was no more than once
    assert build_bundle(bundle).name == INT8
    assert kept(bundle)["ratio"] == pytest.approx(0.5)
    assert not list(bundle.glob("trying-*"))


@pytest.mark.parametrize(("precision", "works"), [("int8", FP16), ("fp16", INT8)])
def test_a_service_that_breaks_at_the_same_engine_twice_drives_with_the_other_one_and_then_tries_again(
    machine, bundle, capsys, precision, works
):
    built(machine, bundle)
    breaks_gpu(machine, precision)
    for _ in range(2):
        with pytest.raises(ClstError, match="illegal memory access"):
            build_bundle(bundle)
    assert "the next start goes without it, once" in capsys.readouterr().err
    assert build_bundle(bundle).name == works
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"{precision.upper()} cannot be used now (the last 2 starts broke off while it was tried): ")
    assert told.endswith("is what works, it is used (start again to try the other one again)")
    assert not (bundle / CHOICE).exists()
    with pytest.raises(ClstError, match="illegal memory access"):
        build_bundle(bundle)
    takes(machine, 0.5, 1.0)
    assert build_bundle(bundle).name == INT8


def test_a_process_that_died_twice_while_it_built_is_no_verdict_either(machine, bundle):
    """As where TensorRT crashes or the system ends the process: no code of ours runs then."""

    def dies(precision):
        raise SystemExit(9)

    for number in (1, 2):
        machine.does.on_build = dies
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
            patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # nothing is cleaned up
            build_bundle(bundle)
        machine.does.on_build = None
        assert next(bundle.glob("trying-*")).read_text().split() == [INT8] * number
    assert build_bundle(bundle).name == FP16
    assert machine.does.calls.count("build") == 3
    assert not (bundle / CHOICE).exists()
    takes(machine, 0.5, 1.0)
    assert build_bundle(bundle).name == INT8


def test_a_gpu_that_breaks_during_the_build_ends_the_command_and_the_next_start_builds(machine, bundle):
    usual = {"builds": True, "logs": []}
    broken = [("ERROR", "Error Code 1: Cuda Runtime (an illegal memory access was encountered)")]
    only(machine, "int8", builds=False, logs=broken)
    with pytest.raises(CudaFailed, match="illegal memory access.*restart it"):
        build_bundle(bundle)
    assert machine.does.calls.count("build") == 1, "the other engine cannot be built in this process either"
    machine.does.on_build = None
    for name, value in usual.items():
        setattr(machine.does, name, value)
    takes(machine, 0.5, 1.0)
    assert build_bundle(bundle).name == INT8


@pytest.mark.parametrize(("fails", "works"), [("int8", FP16), ("fp16", INT8)])
@pytest.mark.parametrize(
    "log", ["Error Code 2: OutOfMemory (no further information)", "Cuda Driver (CUDA_ERROR_OUT_OF_MEMORY)"]
)
def test_memory_that_is_used_up_during_a_build_is_of_now_and_the_next_start_tries_again(
    machine, bundle, capsys, fails, works, log
):
    only(machine, fails, builds=False, logs=[("ERROR", log)])
    assert build_bundle(bundle).name == works
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"{fails.upper()} cannot be used now (")
    assert "the GPU ran out of memory during the build" in told
    assert told.endswith("is what works, it is used (start again to try the other one again)")
    assert not (bundle / CHOICE).exists()
    assert "rival" not in read_engine(bundle / works)[1].engine
    machine.does.on_build, machine.does.builds, machine.does.logs = None, True, []
    takes(machine, 0.5, 1.0)
    assert build_bundle(bundle).name == INT8
    assert kept(bundle)["ratio"] == pytest.approx(0.5)


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


def test_engines_that_do_not_fit_into_memory_together_are_timed_one_after_the_other(
    machine, bundle, capsys, monkeypatch
):
    takes(machine, 0.8, 0.75)
    opening(monkeypatch, lambda name, open_now: GpuOutOfMemory("too little for two") if open_now else None)
    assert build_bundle(bundle).name == FP16
    assert kept(bundle)["ratio"] == pytest.approx(0.8 / 0.75)
    assert "does not hold both engines at once: timing one after the other" in capsys.readouterr().err


@pytest.mark.parametrize(("full", "works"), [(INT8, FP16), (FP16, INT8)])
def test_an_engine_that_does_not_fit_into_memory_now_leaves_it_to_the_other_until_the_next_start(
    machine, bundle, capsys, monkeypatch, full, works
):
    with pytest.MonkeyPatch.context() as patch:
        opening(patch, lambda name, _: GpuOutOfMemory("too little now") if name == full else None)
        assert build_bundle(bundle).name == works
    assert "(it could not be timed: too little now)" in capsys.readouterr().err
    assert not (bundle / CHOICE).exists()
    takes(machine, 0.5, 1.0)
    assert build_bundle(bundle).name == INT8


@pytest.mark.parametrize(("bad", "works"), [(INT8, FP16), (FP16, INT8)])
def test_an_engine_that_tensorrt_cannot_load_loses_for_good(machine, bundle, monkeypatch, bad, works):
    opening(monkeypatch, lambda name, _: ModelFileError("TensorRT cannot load it") if name == bad else None)
    assert build_bundle(bundle).name == works
    assert kept(bundle)["preferred"] == works
    assert "TensorRT cannot load it" in kept(bundle)["why"]


def test_where_the_two_cannot_be_compared_fp16_is_used_for_now(machine, bundle, capsys):
    """A clock that stands still says nothing of either: INT8 has not earned its place."""
    takes(machine, 0.0, 0.0)
    assert build_bundle(bundle).name == FP16
    assert "INT8 cannot be used now (it could not be timed: the GPU's clock gave" in capsys.readouterr().err
    assert not (bundle / CHOICE).exists()


def test_a_choice_that_was_made_for_one_start_is_not_read_again(machine, bundle, capsys):
    takes(machine, 0.8, 0.75)
    build_bundle(bundle)
    value = kept(bundle)
    value["int8"] |= {"failure": "no memory", "passing": True, "compute_ms": None}
    passing = Choice(
        **{name: value[name] for name in ("gpu", "compute_capability", "multiprocessors", "tensorrt", "options")},
        int8=Contender(**value["int8"]),
        fp16=Contender(**value["fp16"]),
    )
    (bundle / CHOICE).write_text(json.dumps(passing.to_json()))
    assert build_bundle(bundle).name == FP16
    assert "it was made for one start" in capsys.readouterr().err
    assert kept(bundle)["int8"]["failure"] is None


def test_a_choice_that_the_disk_does_not_take_is_followed_and_made_again_at_the_next_start(machine, bundle, capsys):
    built(machine, bundle)
    takes(machine, 0.8, 0.75)
    with pytest.MonkeyPatch.context() as patch:
        full(patch, ".json")
        assert build_bundle(bundle).name == FP16
    told = capsys.readouterr().err
    assert "the choice cannot be kept, the next start makes it again: cannot write " in told
    assert "the engines' manifests do not tell of each other: cannot write " in told
    assert not (bundle / CHOICE).exists()
    assert build_bundle(bundle).name == FP16
    assert machine.does.calls.count("build") == 0
    assert kept(bundle)["preferred"] == FP16


def test_a_second_process_waits_until_the_first_has_built(machine, bundle, monkeypatch):
    """The lock is the folder's own; another handle on it is what another process has."""
    first = os.open(bundle, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    told = []

    def echo(text, **_):
        told.append(text)
        if len(told) == 1:
            assert machine.does.calls == []
            os.close(first)

    monkeypatch.setattr("clst_runtime.engines.bundle.click.echo", echo)
    takes(machine, 0.5, 1.0)
    assert build_bundle(bundle).name == INT8
    assert told[0] == f"another process builds or times the engines of {bundle}; waiting for it"


def test_faults_of_machine_or_disk_are_no_verdict(machine, bundle, monkeypatch):
    monkeypatch.setattr("clst_runtime.engines.build.write_engine", lambda *_: (_ for _ in ()).throw(DataError("full")))
    with pytest.raises(DataError, match="full"):
        build_bundle(bundle)
    assert machine.does.calls.count("build") == 1
    assert not (bundle / CHOICE).exists()
    machine.does.starts = False
    with pytest.raises(MissingDependency, match="cannot start its builder"):
        build_bundle(bundle)
    machine.has_no_gpu()
    with pytest.raises(MissingDependency, match="PyCUDA cannot be imported"):
        build_bundle(bundle)


@pytest.mark.parametrize("file", ["rival.onnx", "rival-expected/0002.png"])
def test_a_damaged_rival_is_a_damaged_bundle_and_no_verdict(machine, bundle, file):
    (bundle / file).write_bytes(b"x")
    with pytest.raises(ModelFileError, match=f"{file} is damaged: SHA-256 .*copy the folder again"):
        build_bundle(bundle)
    assert not (bundle / CHOICE).exists()
    (bundle / file).unlink()
    with pytest.raises(ModelFileError, match=f"{file} is missing"):
        build_bundle(bundle)


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
def test_an_index_with_a_rival_that_does_not_fit_is_refused(machine, bundle, change, told):
    index = json.loads((bundle / "bundle.json").read_text())
    change(index)
    (bundle / "bundle.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=told):
        build_bundle(bundle)
    assert machine.does.calls == []


def test_a_bundle_without_a_rival_is_of_version_1_and_chooses_nothing(machine, pair, tmp_path, frames, capsys):
    write_bundle(pair[0], tmp_path / "b", frames)
    index = json.loads((tmp_path / "b/bundle.json").read_text())
    assert index["format_version"] == 1
    assert "rival" not in index
    assert "rival" not in (tmp_path / "b/README.txt").read_text()
    assert build_bundle(tmp_path / "b").name == INT8
    assert machine.does.calls.count("build") == 1
    assert not list((tmp_path / "b").glob("choice-*"))
    assert "FP16" not in capsys.readouterr().err
    assert "its rival" not in describe(facts_of(tmp_path / "b"))


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
def test_what_is_no_rival_is_refused(tmp_path, frames, ours, theirs, told):
    first = model(tmp_path / "a.onnx", **({"precision": "int8"} | ours))
    second = model(tmp_path / "b.onnx", **({"precision": "fp16"} | theirs))
    with pytest.raises(ModelFileError, match=told) as error:
        write_bundle(first, tmp_path / "bundle", frames, rival=second)
    assert "\n" not in error.value.message
    assert not (tmp_path / "bundle").exists()


def test_both_manifests_say_how_the_other_engine_did_and_inspect_shows_it(machine, bundle):
    takes(machine, 0.8, 0.75)
    build_bundle(bundle)
    ours, theirs = (read_engine(bundle / name)[1].engine["rival"] for name in (INT8, FP16))
    assert (ours["engine"], theirs["engine"]) == (FP16, INT8)
    assert (ours["own_compute_ms"], ours["compute_ms"]) == pytest.approx((0.8, 0.75))
    assert (theirs["own_compute_ms"], theirs["compute_ms"]) == pytest.approx((0.75, 0.8))
    assert ours["preferred"] == theirs["preferred"] == FP16
    rows = [line for line in describe(facts_of(bundle / INT8)).splitlines() if line.startswith("engine rival")]
    assert len(rows) == 1
    assert "compute_ms 0.75, " in rows[0]
    told = describe(facts_of(bundle))
    assert "its rival:" in told
    assert "brightest_channel, fp16" in told
    assert json.loads(json.dumps(facts_of(bundle)))["choices"][CHOICE]["preferred"] == FP16


class TestTiming:
    """How the times come about."""

    @pytest.fixture
    def engines(self, machine, bundle):
        build_bundle(bundle)
        machine.does.calls.clear()
        return [bundle / INT8, bundle / FP16]

    def test_a_clock_that_falls_meanwhile_does_not_decide(self, machine, engines, frames):
        """Each run is 1 % slower than the one before: one engine after the other would differ by far."""
        runs = []

        def slower(precision):
            runs.append(precision)
            return {"int8": 1.0, "fp16": 1.0}[precision] * 1.01 ** len(runs)

        machine.does.compute_ms = slower
        first, second = time_alternately(engines, frames)
        assert first / second == pytest.approx(1.0, abs=0.02)
        assert 1.01 ** (len(runs) / 2) > 2, "the drift is not large enough to tell"

    def test_the_engines_take_turns_and_begin_in_turns(self, machine, engines, frames, monkeypatch):
        monkeypatch.setattr(rivals, "WARM_UP_SECONDS", 0.0)
        order = []
        machine.does.compute_ms = lambda precision: order.append(precision) or 1.0
        time_alternately(engines, frames)
        assert order[:50] == ["int8", "fp16"] * 25  # to warm up
        assert order[50:58] == ["int8"] * 2 + ["fp16"] * 4 + ["int8"] * 2
        assert len(order) == 50 + 64 * 4

    def test_the_first_run_of_a_turn_is_not_counted(self, machine, engines, frames):
        last = [""]

        def cold_first(precision):
            is_cold, last[0] = precision != last[0], precision
            return 9.0 if is_cold else 1.0

        machine.does.compute_ms = cold_first
        # Who begins changes, so a turn may follow one of the same engine: of 64 timed runs none is cold.
        assert time_alternately(engines, frames) == pytest.approx([1.0, 1.0])

    def test_slow_single_runs_do_not_decide(self, machine, engines, frames):
        runs = []

        def hiccup(precision):
            runs.append(precision)
            return 50.0 if len(runs) % 5 == 0 else 1.0

        machine.does.compute_ms = hiccup
        assert time_alternately(engines, frames) == pytest.approx([1.0, 1.0])

    def test_a_clock_that_stands_still_is_an_error(self, machine, engines, frames):
        machine.does.compute_ms = lambda precision: 0.0
        with pytest.raises(ClstError, match="the GPU's clock gave"):
            time_alternately(engines, frames)

    def test_both_run_on_one_gpu_that_is_given_back(self, machine, engines, frames):
        FakeCuda.opened.clear()
        time_alternately(engines, frames[:1])
        assert [device.closed for device in FakeCuda.opened] == [True]


def test_a_choice_between_two_failures_cannot_be_made():
    lost = Contender(engine=INT8, onnx_sha256="a", failure="x")
    facts = {"gpu": "Orin", "compute_capability": "8.7", "multiprocessors": 16, "tensorrt": "10.3.0", "options": {}}
    with pytest.raises(ValueError, match="both engines failed"):
        Choice(int8=lost, fp16=dataclasses.replace(lost, engine=FP16), **facts)
