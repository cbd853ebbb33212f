"""`--cuda` and `--io` hold for every GPU that a command opens: to build, to prove, to time and to drive."""

import pytest
from click.testing import CliRunner

from clst_export.cli.export import main as export
from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.engine import build_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.cli.bench import main as bench
from clst_runtime.cli.doctor import main as doctor
from clst_runtime.cli.run import main as run
from clst_runtime.evaluation.acceptance import run as acceptance
from clst_runtime.imaging.image_files import write_png
from tests.conftest import rgb_manifest, write_rgb_model
from tests.fakes.cuda import FakeCuda

BUILT_AND_TIMED = 4
"""GPUs opened for a bundle of INT8 and FP16: looked at, two builds, one comparison."""


@pytest.fixture
def bundle(tmp_path, frames):
    int8, fp16 = (
        write_rgb_model(tmp_path / f"{precision}.onnx", manifest=rgb_manifest(precision=precision).to_json())
        for precision in ("int8", "fp16")
    )
    write_bundle(int8, tmp_path / "front", frames, baseline=fp16)
    return tmp_path / "front"


@pytest.fixture
def engine(machine, rgb_model, tmp_path, frames):
    build_engine(rgb_model, tmp_path / "rgb.engine", options=BuildOptions(), frames=frames)
    for index, frame in enumerate(frames):
        write_png(tmp_path / "pictures" / f"{index}.png", frame)
    machine.asked.clear()
    return tmp_path / "rgb.engine"


def on(command, *arguments):
    done = CliRunner().invoke(command, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize(
    ("options", "library", "driven"),
    [
        (("--cuda", "cuda-python"), "cuda-python", ("cuda-python", False)),
        (("--cuda", "pycuda"), "pycuda", ("pycuda", False)),
        (("--cuda-graph",), "cuda-python", ("auto", True)),  # what will drive is what proves
        ((), "auto", ("auto", False)),
    ],
)
def test_clst_run_on_a_bundle_builds_proves_times_and_drives_by_the_library_it_was_told(
    machine, bundle, options, library, driven
):
    on(run, bundle, "--source", bundle / "frames", *options)
    assert machine.asked == [(library, False)] * BUILT_AND_TIMED + [driven]


def test_clst_export_build_takes_the_library_for_a_bundle_and_for_a_lone_engine(machine, bundle, engine, tmp_path):
    on(export, "build", bundle, "--cuda", "pycuda")
    assert machine.asked == [("pycuda", False)] * BUILT_AND_TIMED
    machine.asked.clear()
    on(export, "build", engine, "--frames", tmp_path / "pictures", "--cuda", "cuda-python")
    assert machine.asked == [("cuda-python", False)]


def test_clst_run_rebuild_takes_it_too(machine, engine, tmp_path):
    engine.write_bytes(b"damaged")
    on(run, engine, "--source", tmp_path / "pictures", "--rebuild", "--cuda", "pycuda")
    assert machine.asked == [("pycuda", False)] * 2  # built, then driven


def test_clst_bench_and_the_acceptance_take_it_too(machine, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(acceptance, "examine", list)
    on(bench, bundle, "--runs", "2", "--warm-up", "0", "--cuda", "pycuda")
    assert {library for library, _ in machine.asked} == {"pycuda"}
    machine.asked.clear()
    report = tmp_path / "report.md"
    CliRunner().invoke(
        doctor, ["--verify", str(bundle), "--seconds", "0.2", "--report", str(report), "--cuda", "pycuda"]
    )
    assert {library for library, _ in machine.asked} == {"pycuda"}


def test_an_unknown_library_is_told_before_anything_is_built(machine, bundle):
    done = CliRunner().invoke(export, ["build", str(bundle), "--cuda", "pycud"])
    assert (done.exit_code, "did you mean 'pycuda'" in done.output) == (3, True), done.output
    assert machine.asked == []


def test_engines_are_proven_and_timed_by_the_io_they_will_run_by(machine, bundle, monkeypatch):
    def refuse(*_):
        raise AssertionError("copied")

    monkeypatch.setattr(FakeCuda, "copy_in", refuse)
    monkeypatch.setattr(FakeCuda, "copy_out", refuse)
    on(run, bundle, "--source", bundle / "frames", "--io", "mapped")


def test_what_builds_is_what_will_drive():
    assert GpuOptions(io="mapped", graph=True).without_graph() == GpuOptions(io="mapped", cuda="cuda-python")
    assert GpuOptions(cuda="pycuda").without_graph() == GpuOptions(cuda="pycuda")
