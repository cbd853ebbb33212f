"""`clst-run --fallback`: a bundle's ONNX file in ONNX Runtime, where that is allowed and no engine can be used."""

import json
import sys

import pytest
from click.testing import CliRunner

from clst_runtime import backends
from clst_runtime.backends.cuda.device import CudaFailed
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.cli.run import main as run
from clst_runtime.errors import ClstError, MissingDependency, ModelFileError


def on(folder, *options):
    arguments = [str(each) for each in (folder, "--source", folder / "frames", *options)]
    return CliRunner().invoke(run, arguments)


@pytest.mark.parametrize(
    ("behaviour", "code", "why"),
    [
        ({"builds": False}, 4, "TensorRT 10.3.0 could not build it"),
        ({"wrong_share": 0.5}, 6, "50.000 % of pixels agree"),
    ],
)
def test_without_the_option_the_error_names_it_and_with_it_the_fp16_file_is_run_and_the_report_says_so(
    machine, two, tmp_path, behaviour, code, why
):
    for name, value in behaviour.items():
        setattr(machine.does, name, value)
    done = on(two)
    assert (done.exit_code, done.stdout) == (code, "")
    error = done.stderr.splitlines()[-1]
    assert why in error
    assert error.endswith("to try again, or allow its ONNX file: clst-run --fallback")
    done = on(two, "--fallback", "--out", tmp_path / "out", "--no-video")
    assert done.exit_code == 0, done.output
    told = next(line for line in done.stderr.splitlines() if line.startswith("model: "))
    assert f"{two / 'rival.onnx'} is run by ONNX Runtime" in told
    assert why in told
    report = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert report["warnings"] == [told.removeprefix("model: ")]
    assert report["backend"].endswith(" CPU")
    assert report["frames"] == 3


def test_an_engine_that_can_be_used_is_used(machine, two):
    done = on(two, "--fallback")
    assert done.exit_code == 0, done.output
    assert "ready: TensorRT 10.3.0 on Orin" in done.stderr
    assert "--fallback" not in done.stderr


def test_where_there_is_no_tensorrt_the_onnx_file_is_run_too(machine, two):
    machine.has_tensorrt(None)
    done = on(two, "--fallback")
    assert done.exit_code == 0, done.output
    assert "as no engine is used" in done.stderr
    assert "--fallback" not in done.stderr


def test_a_gpu_that_broke_ends_the_command_for_nothing_else_can_use_it_either(machine, two):
    machine.does.logs = [("ERROR", "Error Code 1: Cuda Runtime (an illegal memory access was encountered)")]
    machine.does.builds = False
    done = on(two, "--fallback")
    assert done.exit_code == 1
    assert "restart it" in done.stderr.splitlines()[-1]


def test_a_damaged_bundle_is_not_run(machine, two):
    (two / "rival.onnx").write_bytes(b"x")
    done = on(two, "--fallback")
    assert done.exit_code == 4
    assert "rival.onnx is damaged" in done.stderr


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (None, ["cuda"]),
        (MissingDependency("does not start"), ["cuda", "cpu"]),
        (ClstError("too little memory"), ["cuda", "cpu"]),
        (CudaFailed("restart it"), ["cuda"]),
    ],
)
def test_cuda_is_tried_before_the_cpu(monkeypatch, two, error, wanted):
    tried = []

    class Opened(OrtBackend):
        def __init__(self, path, *, threads=None, provider="cpu"):
            tried.append((path, threads, provider))
            if error and provider == "cuda":
                raise error
            super().__init__(path, threads=threads)

    monkeypatch.setattr("clst_runtime.backends.onnxruntime.session.OrtBackend", Opened)
    if isinstance(error, CudaFailed):
        with pytest.raises(CudaFailed, match="restart it"):
            backends.open_without_engine(two, ModelFileError("why"), threads=1)
    else:
        with backends.open_without_engine(two, ModelFileError("why"), threads=1) as backend:
            assert backend.warnings[0].endswith("as no engine is used: why")
    assert tried == [(two / "rival.onnx", 1, provider) for provider in wanted]


def test_without_onnx_runtime_the_error_tells_both_reasons(machine, two, monkeypatch):
    machine.does.builds = False
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = on(two, "--fallback")
    assert done.exit_code == 5
    error = done.stderr.splitlines()[-1]
    assert "onnxruntime" in error
    assert "TensorRT 10.3.0 could not build it" in error


def test_it_is_refused_where_there_is_nothing_to_fall_back_from(two):
    (two / "x.pt").touch()
    for arguments in ((two / "model.onnx",), (two / "x.pt",), (two, "--backend", "ort-cpu")):
        done = CliRunner().invoke(run, [str(each) for each in (*arguments, "--source", two / "frames", "--fallback")])
        assert (done.exit_code, "--fallback is for a bundle" in done.output) == (2, True)
