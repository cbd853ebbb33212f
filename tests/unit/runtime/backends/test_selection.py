import zipfile

import onnxruntime
import pytest

from clst_runtime.backends import open_model
from clst_runtime.backends import selection as choice
from clst_runtime.backends.selection import choose_backend
from clst_runtime.errors import ConfigError, MissingDependency


@pytest.fixture
def machine(monkeypatch):
    """A machine with the given ONNX Runtime providers and GPUs."""

    def made(providers, gpus):
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: [f"{p}ExecutionProvider" for p in providers]
        )
        monkeypatch.setattr(choice, "gpu_names", lambda: gpus)

    return made


@pytest.mark.parametrize(
    ("providers", "gpus", "name", "reason"),
    [
        (("CPU",), [], "ort-cpu", "has no CUDA"),
        (("CPU",), ["Orin"], "ort-cpu", "has no CUDA"),
        (("CUDA", "CPU"), [], "ort-cpu", "no GPU answers"),
        (("Tensorrt", "CUDA", "CPU"), ["Orin"], "ort-cuda", "a GPU is here"),
    ],
)
def test_an_onnx_file_is_computed_on_the_best_there_is_and_the_reason_is_told(
    machine, rgb_model, providers, gpus, name, reason
):
    machine(providers, gpus)
    found = choose_backend(rgb_model)
    assert found.name == name
    assert reason in found.reason


def test_engines_and_bundles_are_tensorrt_s_and_never_end_up_elsewhere_unasked(machine, tmp_path):
    machine(("CPU",), [])
    assert choose_backend(tmp_path / "m.engine").name == "tensorrt"
    assert choose_backend(tmp_path).name == "tensorrt"
    assert choose_backend(tmp_path, "ort-cpu").name == "ort-cpu"


@pytest.mark.parametrize(
    ("file", "wanted", "words"),
    [
        ("m.onnx", "ort", "'ort' is not known; did you mean"),
        ("m.onnx", "tensorrt", "computes engines and bundles"),
        ("m.engine", "ort-cpu", "only TensorRT computes an engine"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, file, wanted, words):
    with pytest.raises(ConfigError, match=words):
        choose_backend(tmp_path / file, wanted)


def test_what_is_asked_for_and_lacking_is_an_error_and_not_replaced(rgb_model):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    for wanted in ("ort-cuda", "ort-tensorrt"):
        with pytest.raises(MissingDependency, match="only .*CPU"):
            open_model(rgb_model, backend=wanted)


def test_a_checkpoint_takes_no_backend(tmp_path):
    zipfile.ZipFile(tmp_path / "c.pt", "w").close()  # whole, as a checkpoint has to be
    with pytest.raises(ConfigError, match="leave it out"):
        open_model(tmp_path / "c.pt", backend="ort-cpu")
