"""From ONNX file to proven engine, on the fake TensorRT: what is called, what is written, and every way it fails."""

import hashlib
import json
import tempfile

import numpy as np
import pytest

from clst_runtime.backends import open_model
from clst_runtime.backends.cuda.device import CudaFailed, GpuOutOfMemory
from clst_runtime.backends.tensorrt.build.engine import build_engine, built_engine_note
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.verification import Expected
from clst_runtime.backends.tensorrt.library import KEPT_MESSAGES, Messages, gpu_failure
from clst_runtime.errors import BudgetNotHeld, ClstError, ConfigError, DataError, MissingDependency, ModelFileError
from tests.conftest import SIZE_HW, rgb_manifest, write_rgb_model
from tests.fakes import tensorrt as fake_tensorrt
from tests.unit.runtime.backends.tensorrt.conftest import VERSIONS


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def build(model, out, frames, **options):
    return build_engine(model, out, options=BuildOptions(**options), frames=frames)


def one_line(error):
    assert "\n" not in error.value.message
    return error.value.message


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_is_built_proven_and_written_with_its_manifest(machine, rgb_model, tmp_path, frames, version):
    machine.has_tensorrt(version)
    manifest = build(rgb_model, tmp_path / "rgb.engine", frames)
    run = ["execute", "synchronise"]
    wanted = [
        "builder",
        "network",
        "parse",
        "build",
        "deserialise",
        "address frame",
        "address classes",
        *run * 6,
        "synchronise",
    ]
    assert machine.does.calls == wanted  # 3 to warm up, 3 frames, and before it is closed
    assert machine.does.strongly_typed
    assert names(tmp_path) == ["rgb.engine", "rgb.engine.json", "rgb.onnx"]
    plan = (tmp_path / "rgb.engine").read_bytes()
    facts = json.loads((tmp_path / "rgb.engine.json").read_text())["engine"]
    assert facts == manifest.engine
    assert facts["gpu"] == "Orin"
    assert (facts["compute_capability"], facts["multiprocessors"]) == ("8.7", 16)
    assert facts["tensorrt"] == version
    assert facts["engine_bytes"] == len(plan)
    assert facts["engine_sha256"] == hashlib.sha256(plan).hexdigest()
    assert facts["onnx_sha256"] == hashlib.sha256(rgb_model.read_bytes()).hexdigest()
    assert facts["agreement"]["agreement"] == 1.0
    assert facts["agreement"]["frames"] == 3
    assert facts["agreement"]["reference"].startswith("ONNX Runtime")
    # Between two events lies one operation and the recording of the second: 2 ms of the fake clock.
    assert facts["agreement"]["device_ms"] == {"copy_in": 2.0, "compute": 2.0, "copy_out": 2.0}
    assert facts["summary"]["io_tensors"] == ["frame", "classes"]
    assert facts["summary"]["per_precision"] == {"fp32": 3, "int64": 1, "uint8": 1}
    assert "100.000 % of pixels agree" in built_engine_note(manifest)


def test_a_build_that_gives_nothing_quotes_tensorrts_last_errors(machine, rgb_model, tmp_path, frames):
    machine.does.builds = False
    machine.does.logs = [("INFO", "fine"), ("WARNING", "hm"), ("ERROR", "Error Code 9:\n  no kernel"), ("ERROR", "end")]
    with pytest.raises(ModelFileError, match="could not build it: Error Code 9: no kernel; end; export it") as error:
        build(rgb_model, tmp_path / "a.engine", frames)
    one_line(error)
    assert names(tmp_path) == ["rgb.onnx"]


def test_a_build_that_gives_nothing_and_logs_nothing_says_that(machine, rgb_model, tmp_path, frames):
    machine.does.builds = False
    with pytest.raises(ModelFileError, match="TensorRT logged no error"):
        build(rgb_model, tmp_path / "a.engine", frames)


NOTHING_LEFT = ("ERROR", "Error Code 10: Could not find any implementation for node conv1")
SKIPPED = ("WARNING", "Skipping tactic 3 due to insufficient memory on requested size of 4294967296")


def test_a_larger_workspace_is_advised_only_where_it_can_help(machine, rgb_model, tmp_path, frames):
    machine.does.builds = False
    for logs, helps in (([("ERROR", "Error Code 4: API Usage Error")], False), ([NOTHING_LEFT], True)):
        machine.does.logs = logs
        with pytest.raises(ModelFileError) as error:
            build(rgb_model, tmp_path / "a.engine", frames)
        assert ("try a larger workspace" in one_line(error)) is helps


def test_a_text_that_comes_again_and_again_leaves_room_for_the_others():
    messages = Messages()
    for index in range(KEPT_MESSAGES):
        messages.add_warning(f"warning {index}")
    for _ in range(100):
        messages.add_warning("scales are converted")
        messages.add_error("the same")
    assert [*messages.warnings] == [*(f"warning {index}" for index in range(1, KEPT_MESSAGES)), "scales are converted"]
    messages.add_warning("warning 5")
    assert [*messages.warnings][-2:] == ["scales are converted", "warning 5"], "the order is that of the last time"
    assert len(messages.warnings) == KEPT_MESSAGES
    assert [*messages.errors] == ["the same"]


def test_memory_of_the_computer_that_is_used_up_is_no_fault_of_the_file(machine, rgb_model, tmp_path, frames):
    machine.does.builds, machine.does.logs = False, [("ERROR", "Unexpected exception std::bad_alloc")]
    with pytest.raises(ClstError, match=r"this machine ran out of memory .*std::bad_alloc\); end other") as error:
        build(rgb_model, tmp_path / "a.engine", frames)
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    "logs", [[("ERROR", "Error Code 2: OutOfMemory (no further information)")], [SKIPPED, NOTHING_LEFT]]
)
def test_out_of_memory_is_recognised_and_has_its_own_cure(machine, rgb_model, tmp_path, frames, logs):
    machine.does.builds, machine.does.logs = False, logs
    with pytest.raises(ClstError, match=r"ran out of memory .*lower the workspace \(now 512 MiB\)") as error:
        build(rgb_model, tmp_path / "a.engine", frames, workspace_mib=512)
    assert error.value.exit_code == 1


def test_the_error_that_names_memory_is_quoted_before_a_warning(machine, rgb_model, tmp_path, frames):
    machine.does.builds = False
    machine.does.logs = [("ERROR", "Error Code 2: OutOfMemory (4 GiB)"), SKIPPED, NOTHING_LEFT]
    with pytest.raises(ClstError, match=r"during the build \(Error Code 2: OutOfMemory \(4 GiB\)\)"):
        build(rgb_model, tmp_path / "a.engine", frames)


def test_chatter_about_memory_is_no_reason(machine, rgb_model, tmp_path, frames):
    machine.does.builds, machine.does.logs = False, [("INFO", SKIPPED[1]), NOTHING_LEFT]
    with pytest.raises(ModelFileError, match="could not build it: Error Code 10"):
        build(rgb_model, tmp_path / "a.engine", frames)


def test_a_skipped_tactic_alone_is_not_out_of_memory(machine, rgb_model, tmp_path, frames):
    machine.does.logs = [SKIPPED]
    build(rgb_model, tmp_path / "a.engine", frames)
    machine.does.builds, machine.does.logs = False, [SKIPPED, ("ERROR", "something else")]
    with pytest.raises(ModelFileError, match="something else"):
        build(rgb_model, tmp_path / "b.engine", frames)


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        (
            "1: [genericReformat.cuh::copyVectorizedRunKernel::1579] Error Code 1: Cuda Runtime (misaligned address)",
            CudaFailed,
        ),
        ("Error Code 1: Cuda Runtime (an illegal memory access was encountered)", CudaFailed),
        ("Error Code 1: Cuda Driver (CUDA_ERROR_ILLEGAL_ADDRESS)", CudaFailed),
        ("Error Code 1: Cuda Runtime (unspecified launch failure)", CudaFailed),
        ("CUDA_ERROR_LAUNCH_TIMEOUT: the launch timed out and was terminated", CudaFailed),
        ("Error Code 1: Cuda Runtime (out of memory)", GpuOutOfMemory),
        ("CUDA_ERROR_OUT_OF_MEMORY", GpuOutOfMemory),
        ("Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)", GpuOutOfMemory),
        ("Error Code 1: Serialization (magicTag does not match)", type(None)),
        ("Error Code 4: Internal Error (node_of_y: illegal dimensions)", type(None)),
    ],
)
def test_what_tensorrt_logs_tells_a_broken_gpu_and_a_full_one_from_a_bad_engine(log, kind):
    messages = Messages()
    messages.add_error(log)
    assert type(gpu_failure(messages, "loading it")) is kind


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "10.2.0", "12.0.1", "unknown"])
def test_a_tensorrt_outside_the_known_versions_is_refused(machine, rgb_model, tmp_path, frames, version):
    machine.has_tensorrt(version)
    with pytest.raises(MissingDependency, match=f"TensorRT {version} is too .*supported is 10.3 to 11.x") as error:
        build(rgb_model, tmp_path / "a.engine", frames)
    assert "ONNX" in one_line(error)
    assert machine.does.calls == []


@pytest.mark.parametrize("version", ["10.3.0", "10.7.0.23", "11.0.0", "11.4.1"])
def test_a_known_tensorrt_is_taken(machine, rgb_model, tmp_path, frames, version):
    machine.has_tensorrt(version)
    assert build(rgb_model, tmp_path / "a.engine", frames).engine["tensorrt"] == version


def test_without_tensorrt_or_gpu_the_error_names_the_bundle(machine, rgb_model, tmp_path, frames):
    machine.does.starts = False
    with pytest.raises(MissingDependency, match="cannot start its builder .CUDA initialization failure"):
        build(rgb_model, tmp_path / "a.engine", frames)
    machine.has_no_gpu()
    with pytest.raises(MissingDependency, match="PyCUDA cannot be imported .*--onnx fp16 --bundle"):
        build(rgb_model, tmp_path / "a.engine", frames)
    machine.has_tensorrt(None)
    with pytest.raises(MissingDependency, match="tensorrt cannot be imported .*--onnx fp16 --bundle") as error:
        build(rgb_model, tmp_path / "a.engine", frames)
    one_line(error)
    assert names(tmp_path) == ["rgb.onnx"]


def test_an_engine_that_differs_is_kept_as_rejected_and_not_under_its_name(machine, rgb_model, tmp_path, frames):
    machine.does.wrong_share = 0.01  # of 128 pixels: 1
    with pytest.raises(BudgetNotHeld, match=r"99.219 % of pixels agree on 3 frames .*99.900 % needed") as error:
        build(rgb_model, tmp_path / "a.engine", frames)
    assert error.value.exit_code == 6
    assert names(tmp_path) == ["a.rejected.engine", "a.rejected.engine.json", "rgb.onnx"]
    report = json.loads((tmp_path / "a.rejected.engine.json").read_text())["engine"]["agreement"]
    assert report["agreement"] == 127 / 128
    assert report["differing_pixels"] == 3
    assert report["holds"] is False
    with open_model(tmp_path / "a.rejected.engine") as backend:
        told = "it differs from its ONNX file (0.9921875 of the pixels agree, 0.999 needed)"
        assert told in backend.warnings[0], "nobody drives by it unknowing"
    machine.does.wrong_share = 0.0
    build(rgb_model, tmp_path / "a.engine", frames)
    assert names(tmp_path) == ["a.engine", "a.engine.json", "rgb.onnx"]


def test_an_engine_that_differs_does_not_replace_a_good_one(machine, rgb_model, tmp_path, frames):
    build(rgb_model, tmp_path / "a.engine", frames)
    before = (tmp_path / "a.engine").read_bytes(), (tmp_path / "a.engine.json").read_bytes()
    machine.does.wrong_share = 0.5
    with pytest.raises(BudgetNotHeld, match="50.000 %"):
        build(rgb_model, tmp_path / "a.engine", frames)
    assert ((tmp_path / "a.engine").read_bytes(), (tmp_path / "a.engine.json").read_bytes()) == before


@pytest.mark.parametrize(("precision", "holds"), [("fp32", False), ("fp16", False), ("int8", True)])
def test_the_bound_follows_the_precision(machine, tmp_path, frames, precision, holds):
    model = write_rgb_model(tmp_path / "m.onnx", manifest=rgb_manifest(precision=precision).to_json())
    machine.does.wrong_share = 0.01  # 99.219 % agree: above 99 %, below 99.9 %
    if holds:
        build(model, tmp_path / "a.engine", frames)
    else:
        with pytest.raises(BudgetNotHeld):
            build(model, tmp_path / "a.engine", frames)
    build(model, tmp_path / "b.engine", frames, min_agreement=127 / 128)  # exactly what it has


def test_a_precision_without_a_bound_needs_one_that_is_given():
    with pytest.raises(ConfigError, match="no bound is known for precision 'bf16'"):
        BuildOptions().check_device(version=(10, 3), precision="bf16")
    assert BuildOptions(min_agreement=0.5).agreement_needed("bf16") == 0.5


def test_the_second_build_takes_its_times_from_the_cache(machine, rgb_model, tmp_path, frames, capsys):
    cache = tmp_path / "kept" / "times.cache"
    build(rgb_model, tmp_path / "a.engine", frames, timing_cache=cache)
    assert cache.read_bytes() == b"CACHE 10.3.0 ."
    assert names(cache.parent) == ["times.cache"]
    build(rgb_model, tmp_path / "b.engine", frames, timing_cache=cache)
    assert cache.read_bytes() == b"CACHE 10.3.0 .."
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [b"CACHE 10.9.0 .", b"rubbish"])
def test_a_cache_of_another_version_or_damaged_is_replaced_and_said(
    machine, rgb_model, tmp_path, frames, capsys, content
):
    cache = tmp_path / "times.cache"
    cache.write_bytes(content)
    build(rgb_model, tmp_path / "a.engine", frames, timing_cache=cache)
    told = f"timing cache {cache} is of another GPU or TensorRT, or damaged; starting a new one\n"
    assert capsys.readouterr().err == told
    assert cache.read_bytes() == b"CACHE 10.3.0 ."


def test_a_cache_that_is_a_folder_is_refused(machine, rgb_model, tmp_path, frames):
    (tmp_path / "times").mkdir()
    with pytest.raises(ConfigError, match="timing cache .*times: Is a directory"):
        build(rgb_model, tmp_path / "a.engine", frames, timing_cache=tmp_path / "times")


def full(monkeypatch, *suffixes):
    """From now on the disk takes no file of such a name."""
    usual = tempfile.mkstemp

    def mkstemp(*, suffix, **named):
        if suffix in suffixes:
            raise OSError(28, "No space left on device")
        return usual(suffix=suffix, **named)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)


def test_a_disk_that_does_not_take_the_timing_cache_does_not_cost_the_engine(
    machine, rgb_model, tmp_path, frames, capsys, monkeypatch
):
    full(monkeypatch, ".cache")
    build(rgb_model, tmp_path / "a.engine", frames, timing_cache=tmp_path / "times.cache")
    assert names(tmp_path) == ["a.engine", "a.engine.json", "rgb.onnx"]
    told = capsys.readouterr().err
    assert told.startswith("the timing cache is not kept, later builds take as long: cannot write ")
    assert told.count("\n") == 1
    open_model(tmp_path / "a.engine").close()


def test_a_timing_cache_in_a_place_that_cannot_be_read_or_written_is_a_line(
    machine, rgb_model, tmp_path, frames, capsys
):
    (tmp_path / "file").write_text("")
    build(rgb_model, tmp_path / "a.engine", frames, timing_cache=tmp_path / "file" / "times.cache")
    told = capsys.readouterr().err
    assert "times.cache cannot be read (Not a directory); starting a new one\n" in told
    assert "the timing cache is not kept" in told


def test_a_tensorrt_that_takes_no_timing_cache_builds_without(
    machine, rgb_model, tmp_path, frames, capsys, monkeypatch
):
    monkeypatch.setattr(fake_tensorrt.IBuilderConfig, "set_timing_cache", lambda *_, **__: False)
    build(rgb_model, tmp_path / "a.engine", frames, timing_cache=tmp_path / "times.cache")
    assert capsys.readouterr().err.endswith("times.cache: TensorRT takes not even an empty one; building without\n")
    assert names(tmp_path) == ["a.engine", "a.engine.json", "rgb.onnx"]


@pytest.mark.parametrize("suffix", [".engine", ".json"])
def test_an_engine_that_the_disk_does_not_take_leaves_the_old_one_whole(
    machine, rgb_model, tmp_path, frames, monkeypatch, suffix
):
    build(rgb_model, tmp_path / "a.engine", frames)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    full(monkeypatch, suffix)
    with pytest.raises(DataError, match="No space left on device"):
        build(rgb_model, tmp_path / "a.engine", frames, workspace_mib=64)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_engine_that_differs_is_no_full_disk(machine, rgb_model, tmp_path, frames, monkeypatch):
    machine.does.wrong_share = 0.5
    full(monkeypatch, ".engine")
    with pytest.raises(BudgetNotHeld, match=r"50.000 % of pixels agree .*it was not kept: .*No space left on device"):
        build(rgb_model, tmp_path / "a.engine", frames)


@pytest.mark.parametrize("version", ["10.3.0", "10.7.0.23", "11.4.1"])
def test_dla_runs_what_it_can_and_the_gpu_the_rest(machine, tmp_path, frames, version):
    machine.has_tensorrt(version)
    machine.does.dla_cores = 2
    model = write_rgb_model(tmp_path / "m.onnx", manifest=rgb_manifest(precision="fp16").to_json())
    build(model, tmp_path / "a.engine", frames, dla_core=1)
    with open_model(tmp_path / "a.engine") as backend:  # the fake loads it only on the same core
        assert backend.predict(frames[0]).classes.shape == SIZE_HW
    with pytest.raises(ConfigError, match="DLA core 2 asked, this device has 2"):
        build(model, tmp_path / "b.engine", frames, dla_core=2)


@pytest.mark.parametrize("version", ["10.8.0", "10.16.1.11", "11.0.0", "11.4.0.106"])
def test_dla_is_refused_where_tensorrt_lacks_it(machine, tmp_path, frames, version):
    machine.has_tensorrt(version)
    model = write_rgb_model(tmp_path / "m.onnx", manifest=rgb_manifest(precision="fp16").to_json())
    with pytest.raises(ConfigError, match=f"TensorRT {version} has no DLA: it is in 10.3 … 10.7 .* 11.4.1"):
        build(model, tmp_path / "a.engine", frames, dla_core=0)
    assert machine.does.calls == []


def test_dla_does_not_compute_fp32(machine, rgb_model, tmp_path, frames):
    with pytest.raises(ConfigError, match="fp32 model, but DLA computes fp16 and int8"):
        build(rgb_model, tmp_path / "a.engine", frames, dla_core=0)


def test_a_folder_that_cannot_be_written_is_found_before_the_build(machine, rgb_model, tmp_path, frames):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "a.engine", "/proc/self/a.engine"):
        with pytest.raises(DataError, match="cannot write .*/a.engine: /"):
            build(rgb_model, type(tmp_path)(out), frames)
    assert machine.does.calls == []


def test_frames_that_prove_nothing_are_refused(machine, rgb_model, tmp_path, frames):
    out = tmp_path / "a.engine"
    with pytest.raises(DataError, match="no frame to verify"):
        build(rgb_model, out, [])
    for wrong in (frames[0][:-1], frames[0].astype(np.float32), frames[0][..., 0]):
        with pytest.raises(DataError, match="verification frame 1 is .*expected uint8"):
            build(rgb_model, out, [frames[0], wrong])
    for maps in ([], [np.zeros((8, 15), np.uint8)] * 3):
        expected = Expected(maps=maps, reference="nobody")
        with pytest.raises(DataError, match="expected class map"):
            build_engine(rgb_model, out, options=BuildOptions(), frames=frames, expected=expected)
    assert names(tmp_path) == ["rgb.onnx"]


def test_expected_class_maps_that_came_along_are_compared_with(machine, rgb_model, tmp_path, frames):
    maps = [frame.argmax(axis=2).astype(np.uint8) for frame in frames]
    maps[1][0, :4] = 9  # 4 of 384 pixels
    expected = Expected(maps=maps, reference="counted by hand")
    with pytest.raises(BudgetNotHeld, match="98.958 % .*counted by hand"):
        build_engine(rgb_model, tmp_path / "a.engine", options=BuildOptions(), frames=frames, expected=expected)
    report = json.loads((tmp_path / "a.rejected.engine.json").read_text())["engine"]["agreement"]
    assert (report["differing_pixels"], report["worst_frame"]) == (4, 124 / 128)


def test_what_is_no_onnx_file_of_ours_is_refused(machine, tmp_path, frames):
    out = tmp_path / "a.engine"
    with pytest.raises(ModelFileError, match="No such file"):
        build(tmp_path / "none.onnx", out, frames)
    with pytest.raises(ModelFileError, match="no clst manifest"):
        build(write_rgb_model(tmp_path / "bare.onnx", manifest=None), out, frames)
    with pytest.raises(DataError, match=r"ends in \.engine"):
        build(write_rgb_model(tmp_path / "m.onnx"), tmp_path / "a.trt", frames)


def test_options_out_of_range_are_refused():
    for options in (
        {"workspace_mib": 0},
        {"optimisation_level": 6},
        {"optimisation_level": -1},
        {"dla_core": -1},
        {"min_agreement": 1.1},
    ):
        with pytest.raises(ConfigError, match=next(iter(options))):
            BuildOptions(**options)
    assert BuildOptions.from_json(BuildOptions(dla_core=1).to_json(), where="x") == BuildOptions(dla_core=1)
    with pytest.raises(ConfigError, match=r"x: build option 'workspace' is unknown; did you mean 'workspace_mib'"):
        BuildOptions.from_json({"workspace": 3}, where="x")
    with pytest.raises(ConfigError, match="x: a build option has a wrong type"):
        BuildOptions.from_json({"optimisation_level": "high"}, where="x")
