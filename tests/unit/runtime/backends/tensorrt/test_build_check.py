"""What TensorRT for RTX says of a file, and that whatever goes wrong with it says nothing of the file."""

from types import SimpleNamespace

import pytest

from clst_runtime.backends.tensorrt import library
from clst_runtime.backends.tensorrt.build import builder as building
from clst_runtime.backends.tensorrt.build import check as build_check
from clst_runtime.backends.tensorrt.build.check import check_build, describe_build_check
from clst_runtime.errors import MissingDependency
from clst_runtime.system.programs import run_program
from tests.unit.runtime.backends.tensorrt.test_real_builder import changed, no_output


def limited(mib):
    """Starts processes that get so much address space."""
    return lambda arguments, seconds: run_program(
        ["sh", "-c", f'ulimit -v {mib << 10}; exec "$@"', "sh", *arguments], seconds=seconds
    )


def test_a_file_is_built_in_another_process_and_its_layers_are_counted(trt, rgb_model):
    told = []
    answer = check_build(rgb_model, report=told.append)
    assert set(answer) == {"builder", "version", "seconds", "layers", "engine_bytes"}
    assert (answer["layers"]["GATHER"], answer["layers"]["TOPK"]) == (1, 1)
    assert told == ["reading and building it with TensorRT for RTX"]
    count = sum(answer["layers"].values())
    line = f"TensorRT for RTX {trt.__version__} reads and builds it: {count} layers in {answer['seconds']:.1f} s"
    assert describe_build_check(answer) == line


def test_a_file_that_the_builder_refuses_is_refused_in_its_words_without_a_name_or_a_cure(trt, tmp_path):
    answer = check_build(changed(tmp_path / "m.onnx", no_output))
    assert answer["refused"].startswith("could not build it: ")
    assert answer["refused"].endswith("network.cpp:3810)")
    assert describe_build_check(answer) == f"TensorRT for RTX {trt.__version__} {answer['refused']}"


@pytest.mark.parametrize("mib", [300, 420])
def test_want_of_memory_is_no_refusal(trt, rgb_model, mib):
    """Less than the libraries need, and less than the build: an error, an abort or a crash, as it comes."""
    answer = check_build(rgb_model, run=limited(mib))
    assert set(answer) == {"builder", "not_checked"}
    assert "\n" not in answer["not_checked"]


def test_a_process_that_crashes_or_prints_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(build_check, "find_rtx", lambda: None)
    for script in ("kill -SEGV $$", "true", "echo rubbish", "echo []"):
        answer = check_build(tmp_path, run=lambda _, seconds, script=script: run_program(["sh", "-c", script]))
        assert describe_build_check(answer).startswith(
            "whether TensorRT for RTX reads and builds it was not checked: its process crashed or was killed, "
        )


def test_what_is_not_installed_is_told_with_its_cure_and_starts_no_process(monkeypatch, tmp_path):
    def missing():
        raise MissingDependency("TensorRT for RTX is not installed; pip install -e '.[rtx]'")

    monkeypatch.setattr(build_check, "find_rtx", missing)
    answer = check_build(tmp_path, report=pytest.fail, run=pytest.fail)
    told = "was not checked: TensorRT for RTX is not installed; pip install -e '.[rtx]'"
    assert describe_build_check(answer) == f"whether TensorRT for RTX reads and builds it {told}"


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (MissingDependency("TensorRT 1.7.1 cannot start its builder"), "TensorRT 1.7.1 cannot start its builder"),
        (RuntimeError("something\nelse"), "RuntimeError: something else"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_whatever_fails_in_that_process_is_no_refusal(monkeypatch, capsys, failure, told):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def built(path):
        raise failure

    monkeypatch.setattr(build_check, "_built", built)
    build_check.main(["m.onnx"])
    assert capsys.readouterr().out == f'\n{{"builder": "TensorRT for RTX", "not_checked": "{told}"}}\n'


def test_a_build_that_fails_for_the_gpus_sake_is_no_refusal(monkeypatch, rgb_model):
    """It ought to need none; should it all the same, the file is not to blame."""

    def serialise_engine(trt, path, options, progress):
        raise building.RefusedByTensorrt(path, "x", "could not build it: Cuda Runtime (cudaError 100: no device)", "x")

    monkeypatch.setattr(library, "load_rtx", lambda: SimpleNamespace(__version__="1.7.1.116"))
    monkeypatch.setattr(building, "serialise_engine", serialise_engine)
    assert "cudaError 100" in build_check._built(rgb_model)["not_checked"]


def test_of_a_file_that_nobody_asked_about_nothing_is_told():
    assert describe_build_check({}) == ""
