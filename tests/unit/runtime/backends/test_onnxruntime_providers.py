"""ONNX Runtime's errors in one line, and its TensorRT provider: a stand-in for the provider around the real CPU."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as state

from clst_export.quantization.activations import stream_activations
from clst_export.quantization.fp16 import measure_ranges
from clst_runtime.backends import open_model
from clst_runtime.backends.cuda.device import CudaFailed, GpuOutOfMemory
from clst_runtime.backends.onnxruntime import errors as ort_errors
from clst_runtime.backends.onnxruntime import session as ort_module
from clst_runtime.backends.onnxruntime import tensorrt_provider as ort_tensorrt
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.backends.onnxruntime.tensorrt_provider import cache_folder
from clst_runtime.errors import ClstError, ConfigError, MissingDependency, ModelFileError
from clst_runtime.system.files.caches import KEPT, cache_root
from clst_runtime.system.platforms import Platform
from tests.conftest import SIZE_HW, rgb_manifest, write_rgb_model
from tests.support.shell import shell

TRT, CUDA, CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU"))
FRAME = np.zeros((*SIZE_HW, 3), np.uint8)


class Machine:
    """ONNX Runtime with TensorRT: what sessions were opened with, and what they raise."""

    def __init__(self):
        self.opened, self.raises, self.running, self.parts = [], [], None, {TRT: 5}

    def session(self, path, options, providers, enable_fallback):
        assert enable_fallback == 0, "would print on standard output and go on with other providers"
        self.opened.append(providers)
        if self.raises:
            error = self.raises.pop(0)
            if error is not None:
                raise error
        place = providers[0][1].get("trt_engine_cache_path") if isinstance(providers[0], tuple) else None
        if place:
            (Path(place) / "kernel_sm87.engine").write_bytes(b"engine")
        return Session(
            usual(path, options, providers=[CPU]), self, [n if isinstance(n, str) else n[0] for n in providers]
        )

    @property
    def options(self):
        return self.opened[-1][0][1]


class Session:
    def __init__(self, session, machine, names):
        self._real, self._machine, self._names = session, machine, names

    def __getattr__(self, name):
        return getattr(self._real, name)

    def get_providers(self):
        return self._names

    def get_provider_graph_assignment_info(self):
        parts = self._machine.parts.items()
        return [SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count) for name, count in parts]

    def run_with_iobinding(self, binding):
        if self._machine.running is not None:
            raise self._machine.running
        self._real.run_with_iobinding(binding)


usual = onnxruntime.InferenceSession


OVERRIDE = "NVIDIA_TF32_OVERRIDE"
CUDA_IN_FLOAT32 = (CUDA, {"use_tf32": "0"})


@pytest.fixture
def machine(monkeypatch, tmp_path):
    made = Machine()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", made.session)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.delenv(OVERRIDE, raising=False)
    return made


def model(path, **manifest):
    return write_rgb_model(path, manifest=rgb_manifest(**manifest).to_json())


def one_line(error):
    assert "\n" not in error.value.message
    return error.value.message


@pytest.mark.parametrize(
    ("raised", "kind", "code", "words"),
    [
        (
            state.InvalidProtobuf("Load model failed:\nProtobuf parsing failed."),
            ModelFileError,
            4,
            "damaged or no ONNX",
        ),
        (state.InvalidGraph("This is an invalid model.\nError"), ModelFileError, 4, "damaged or no ONNX"),
        (
            state.NotImplemented("Could not find an implementation"),
            ModelFileError,
            4,
            "install a newer one",
        ),
        (
            state.Fail("Unsupported model IR version: 12, at most 11"),
            ModelFileError,
            4,
            "IR version: 12",
        ),
        (state.EPFail("TensorRT EP could not build engine"), MissingDependency, 5, "could not start Tensorrt"),
        (RuntimeError("libcudnn.so.9: cannot open"), MissingDependency, 5, "libcudnn.so.9"),
        (MemoryError(), ClstError, 1, "ran out of memory while opening"),
        (
            state.RuntimeException("Failed to allocate memory for a buffer of 99"),
            ClstError,
            1,
            "out of memory",
        ),
        (state.EPFail("CUDA failure 2: out of memory"), GpuOutOfMemory, 1, "the GPU ran out of memory"),
        (state.EPFail("CUDA failure 700: an illegal memory access was encountered"), CudaFailed, 1, "restart it"),
    ],
)
def test_what_a_session_raises_is_one_line_with_the_code_that_fits(machine, tmp_path, raised, kind, code, words):
    path = model(tmp_path / "m.onnx")
    machine.raises = [raised]
    with pytest.raises(ClstError, match=words) as error:
        open_model(path, backend="ort-tensorrt")
    assert (type(error.value), error.value.exit_code) == (kind, code)
    one_line(error)


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (state.EPFail("CUDA failure 719: unspecified launch failure\nmore"), CudaFailed, "restart it"),
        (state.EPFail("CUBLAS_STATUS_ALLOC_FAILED"), ClstError, "ran out of memory while running .*m.onnx"),
        (
            state.RuntimeException("Non-zero status code\nwhile running Conv"),
            ClstError,
            "failed while running",
        ),
        (MemoryError(), ClstError, "ran out of memory"),
    ],
)
def test_a_run_that_fails_midway_is_one_line(machine, tmp_path, raised, kind, words):
    with open_model(model(tmp_path / "m.onnx"), backend="ort-cuda") as backend:
        backend.predict(FRAME)
        machine.running = raised
        with pytest.raises(kind, match=words) as error:
            backend.predict(FRAME)
        assert (error.value.exit_code, "\n" in error.value.message) == (1, False)
        machine.running = KeyError("ours")
        with pytest.raises(KeyError):
            backend.predict(FRAME)  # a defect of our own is none of ONNX Runtime's errors


def test_a_closed_model_says_so(rgb_model):
    backend = open_model(rgb_model)
    backend.close()
    backend.close()
    with pytest.raises(ClstError, match="was closed; open it again"):
        backend.predict(FRAME)


def test_a_graph_that_onnx_runtime_cannot_read_is_one_line_and_code_4(rgb_model, tmp_path):
    import onnx

    broken = onnx.load(str(rgb_model))
    broken.ir_version = 99
    onnx.save(broken, str(tmp_path / "new.onnx"))
    done = shell("clst-run", tmp_path / "new.onnx", "--source", tmp_path)
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("measure", [lambda made, frame: list(stream_activations(made, ["real"], [frame])),
                                     lambda made, frame: measure_ranges(made, [frame])])  # fmt: skip
def test_measuring_a_graph_tells_what_is_wrong_in_one_line(rgb_model, measure):
    import onnx

    made = onnx.load(str(rgb_model))
    with pytest.raises(ClstError, match="ONNX Runtime failed while measuring .*invalid dimensions") as error:
        measure(made, FRAME[:3])
    one_line(error)
    made.graph.node[0].op_type = "Nonsense"
    with pytest.raises(ClstError, match="ONNX Runtime failed while measuring") as error:
        measure(made, FRAME)
    one_line(error)


@pytest.mark.parametrize(
    ("manifest", "half", "int8"),
    [
        ({"precision": "fp32"}, False, False),
        ({"precision": "fp16"}, True, False),
        ({"precision": "int8", "calibration": {"target": "tensorrt", "rest": "fp16"}}, True, True),
        ({"precision": "int8", "calibration": {"target": "tensorrt"}}, False, True),
    ],
)
def test_tensorrt_is_told_the_precision_of_the_graph_and_where_to_keep_its_engine(
    machine, tmp_path, capsys, manifest, half, int8
):
    path = model(tmp_path / "m.onnx", **manifest)
    with open_model(path, backend="ort-tensorrt") as backend:
        assert backend.predict(FRAME).classes.shape == SIZE_HW
        assert [line for line in backend.warnings if "TF32" not in line] == []
    assert (machine.options["trt_fp16_enable"], machine.options["trt_int8_enable"]) == (half, int8)
    folder = cache_folder(path, onnxruntime.__version__)
    assert folder.parent == tmp_path / "cache" / "clst" / "ort-tensorrt"
    assert machine.options["trt_engine_cache_path"] == machine.options["trt_timing_cache_path"] == str(folder)
    assert machine.opened[-1][1:] == [CUDA_IN_FLOAT32, CPU]
    assert f"takes minutes, and keeps it in {folder}" in capsys.readouterr().err
    open_model(path, backend="ort-tensorrt").close()
    assert capsys.readouterr().err == ""


def test_an_int8_file_for_the_cpu_is_refused_by_tensorrt(machine, tmp_path):
    path = model(tmp_path / "m.onnx", precision="int8", calibration={"target": "cpu"})
    with pytest.raises(ConfigError, match="was made for ONNX Runtime's CPU.*--for tensorrt, or use --backend ort-cpu"):
        open_model(path, backend="ort-tensorrt")
    assert machine.opened == []


def test_nodes_that_must_stay_float32_cannot_be_told_to_it_and_that_is_said(machine, tmp_path):
    path = model(tmp_path / "m.onnx", precision="fp16", calibration={"kept_fp32": {"conv1": "a", "conv2": "b"}})
    with open_model(path, backend="ort-tensorrt") as backend:
        assert len(backend.warnings) == 1
        assert (
            "2 of its nodes are to compute in float32, but ONNX Runtime's TensorRT chooses by itself"
            in backend.warnings[0]
        )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_computes_float32_and_not_tf32(machine, tmp_path, precision):
    with open_model(model(tmp_path / "m.onnx", precision=precision), backend="ort-cuda") as backend:
        assert backend.description.endswith(" CUDA")
        assert machine.opened == [[CUDA_IN_FLOAT32, CPU]]


@pytest.mark.parametrize(
    ("manifest", "override", "warned"),
    [
        ({"precision": "fp32"}, None, True),
        ({"precision": "fp32"}, "1", True),
        ({"precision": "fp32"}, "0", False),
        ({"precision": "int8", "calibration": {"target": "tensorrt"}}, None, True),
        ({"precision": "int8", "calibration": {"target": "tensorrt", "rest": "fp16"}}, None, False),
        ({"precision": "fp16"}, None, False),
    ],
)
def test_tensorrt_has_no_option_against_tf32_and_that_is_said(
    machine, tmp_path, monkeypatch, manifest, override, warned
):
    if override is not None:
        monkeypatch.setenv(OVERRIDE, override)
    with open_model(model(tmp_path / "m.onnx", **manifest), backend="ort-tensorrt") as backend:
        assert len(backend.warnings) == warned
        assert all(f"in TF32, with 10 bits of mantissa, and has no option against it; {OVERRIDE}=0" in line
                   for line in backend.warnings)  # fmt: skip


def test_an_engine_with_tf32_is_not_taken_for_one_without(machine, tmp_path, monkeypatch):
    path = model(tmp_path / "m.onnx")
    with_tf32 = cache_folder(path, "1.31.1")
    monkeypatch.setenv(OVERRIDE, "0")
    assert cache_folder(path, "1.31.1") != with_tf32


@pytest.mark.parametrize(("backend", "wanted"), [("ort-tensorrt", TRT), ("ort-cuda", CUDA)])
def test_nodes_that_another_provider_computes_are_told(machine, tmp_path, backend, wanted):
    machine.parts = {wanted: 3, CPU: 2}
    with open_model(model(tmp_path / "m.onnx"), backend=backend) as opened:
        assert opened.warnings[-1].endswith(f"{wanted} does not compute all of its 5 nodes; 2 by {CPU}")


def test_an_onnx_runtime_that_does_not_tell_is_said(machine, tmp_path, monkeypatch):
    monkeypatch.delattr(Session, "get_provider_graph_assignment_info")
    monkeypatch.setattr(Session, "__getattr__", lambda self, name: getattr(vars(self)["_real"], name)
                        if "assignment" not in name else object.__getattribute__(self, name))  # fmt: skip
    with open_model(model(tmp_path / "m.onnx"), backend="ort-cuda") as opened:
        assert "does not report whether CUDAExecutionProvider computes all of it" in opened.warnings[0]


def test_the_real_onnx_runtime_tells_who_computes_its_nodes(rgb_model):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(str(rgb_model), options, providers=[CPU], enable_fallback=0)
    if not hasattr(session, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime is older than 1.24")
    assert ort_module.nodes_elsewhere(session, CPU, rgb_model) == []
    assert "5 by CPUExecutionProvider" in ort_module.nodes_elsewhere(session, CUDA, rgb_model)[0]


def test_two_models_of_one_architecture_two_boards_and_two_versions_never_share_an_engine(machine, tmp_path):
    first = model(tmp_path / "a.onnx")
    other = model(tmp_path / "b.onnx", source_checkpoint_sha256="1" * 64)
    nano, agx = (tmp_path / name for name in ("nano", "agx"))
    for root, module in ((nano, "nvidia,p3767-0004"), (agx, "nvidia,p3701-0005")):
        (root / "proc/device-tree").mkdir(parents=True)
        (root / "proc/device-tree/compatible").write_text(f"{module}\0nvidia,tegra234\0")

    def gpu(name):
        return lambda *_, **__: f"{name}, 580.1\n"

    folders = [
        cache_folder(first, "1.31.1", gpu("A"), nano),
        cache_folder(first, "1.31.1", gpu("A"), agx),
        cache_folder(first, "1.31.1", gpu("B"), nano),
        cache_folder(first, "1.32.0", gpu("A"), nano),
        cache_folder(other, "1.31.1", gpu("A"), nano),
    ]
    assert len(set(folders)) == 5
    assert cache_folder(first, "1.31.1", gpu("A"), nano) == folders[0]


def test_a_kept_engine_that_cannot_be_used_is_removed_and_built_again(machine, tmp_path, capsys):
    path = model(tmp_path / "m.onnx")
    open_model(path, backend="ort-tensorrt").close()
    kept = Path(machine.options["trt_engine_cache_path"])
    (kept / "old.engine").write_bytes(b"cut short by a power failure")
    machine.raises = [state.EPFail("TensorRT EP could not deserialize engine from cache: old.engine")]
    open_model(path, backend="ort-tensorrt").close()
    assert "removing the engines kept in" in capsys.readouterr().err
    assert [each.name for each in kept.iterdir()] == ["kernel_sm87.engine"]
    machine.raises = [state.EPFail("no"), state.EPFail("still no")]
    with pytest.raises(MissingDependency, match="still no"):
        open_model(path, backend="ort-tensorrt")


def test_without_a_place_to_keep_it_the_run_goes_on(machine, tmp_path, capsys, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    with open_model(model(tmp_path / "m.onnx"), backend="ort-tensorrt") as backend:
        assert backend.predict(FRAME).classes.shape == SIZE_HW
    assert "trt_engine_cache_enable" not in machine.options
    told = capsys.readouterr().err
    assert told.startswith("no engine is kept for ONNX Runtime's TensorRT, each start builds it again: ")
    assert told.count("\n") == 1


def test_the_engines_of_a_few_models_are_kept(machine, tmp_path):
    for number in range(KEPT + 3):
        path = model(tmp_path / f"{number}.onnx", source_checkpoint_sha256=f"{number:064}")
        open_model(path, backend="ort-tensorrt").close()
    assert len(list(cache_root("ort-tensorrt").iterdir())) == KEPT
    assert Path(machine.options["trt_engine_cache_path"]).is_dir(), "the newest one stays"


def test_every_option_is_a_name_that_onnx_runtime_s_wheels_know(machine, tmp_path):
    """An unknown name fails when the session is opened. These are in the wheels 1.23.2 and 1.31.1."""
    known = {f"trt_{name}" for name in ("fp16_enable", "int8_enable", "engine_cache_enable", "engine_cache_path",
                                        "timing_cache_enable", "timing_cache_path")}  # fmt: skip
    open_model(model(tmp_path / "m.onnx"), backend="ort-tensorrt").close()
    assert machine.options.keys() <= known
    json.dumps(machine.options)


def test_a_provider_whose_library_does_not_load_is_told_with_what_it_lacks(machine, tmp_path, monkeypatch):
    """ONNX Runtime writes why to the terminal, and goes on with the CPU."""
    path = model(tmp_path / "m.onnx")
    monkeypatch.setattr(Session, "get_providers", lambda self: [CPU])
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    severities, preloads = [], []
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", severities.append)
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: (preloads.append(1), print("Failed to load libcublas")), raising=False
    )
    with pytest.raises(MissingDependency, match=r"CUDAEx.*\(.*providers_cuda.so: .*built for CUDA 13.0\)") as error:
        open_model(path, backend="ort-cuda")
    one_line(error)
    assert (severities, preloads) == ([4, 2], [1])  # quiet while it starts, and as usual after


def test_nothing_is_printed_and_nothing_preloaded_for_the_cpu(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("looking for CUDA"), raising=False)
    path = model(tmp_path / "m.onnx")
    open_model(path, backend="ort-cuda").close()
    assert capsys.readouterr().out == ""
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", lambda level: pytest.fail("not for the CPU"))
    open_model(path, backend="ort-cpu").close()


def test_a_missing_provider_is_told_with_the_cure_for_what_is_installed(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(
        "clst_runtime.system.platforms.detect_machine", lambda: SimpleNamespace(platform=Platform.X86_CUDA)
    )
    path = model(tmp_path / "m.onnx")
    with pytest.raises(
        MissingDependency, match=r"only CPUEx.*; pip uninstall onnxruntime; pip install -e '\.\[ort-gpu\]"
    ):
        open_model(path, backend="ort-cuda")
    monkeypatch.setattr(ort_errors, "rivals", list)
    with pytest.raises(MissingDependency, match="own the same module, and the last one of them is used; pip uninstall"):
        open_model(path, backend="ort-tensorrt")


def test_int8_on_cuda_is_computed_in_float_and_that_is_said(machine, tmp_path):
    machine.parts = {CUDA: 5}
    path = model(tmp_path / "m.onnx", precision="int8", calibration={"target": "tensorrt"})
    with open_model(path, backend="ort-cuda") as backend:
        assert len(backend.warnings) == 1
        assert "has no INT8 convolutions and computes them in float" in backend.warnings[0]


def test_the_cpu_is_opened_without_a_second_try_by_other_providers(monkeypatch, rgb_model):
    asked = []

    def session(*arguments, **named):
        asked.append(named)
        return usual(*arguments, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OrtBackend(rgb_model).close()
    assert asked == [{"providers": [CPU], "enable_fallback": 0}]


def read_only(folder):
    """No file can be written into it, not even by root."""
    (folder / ".probe").mkdir()


def test_engines_kept_in_a_read_only_folder_are_used(machine, tmp_path, capsys):
    path = model(tmp_path / "m.onnx")
    open_model(path, backend="ort-tensorrt").close()
    kept = machine.options["trt_engine_cache_path"]
    read_only(Path(kept))
    capsys.readouterr()
    open_model(path, backend="ort-tensorrt").close()
    assert machine.options["trt_engine_cache_path"] == machine.options["trt_timing_cache_path"] == kept
    assert machine.options["trt_engine_cache_enable"]
    assert capsys.readouterr().err == ""


def test_a_read_only_folder_without_engines_costs_a_build_at_each_start_and_that_is_said(machine, tmp_path, capsys):
    path = model(tmp_path / "m.onnx")
    folder = cache_folder(path, onnxruntime.__version__)
    folder.mkdir(parents=True)
    read_only(folder)
    open_model(path, backend="ort-tensorrt").close()
    assert "trt_engine_cache_path" not in machine.options
    assert capsys.readouterr().err.startswith(
        "no engine is kept for ONNX Runtime's TensorRT, each start builds it again"
    )


def test_a_kept_engine_that_cannot_be_used_nor_removed_is_passed_over(machine, tmp_path, capsys, monkeypatch):
    path = model(tmp_path / "m.onnx")
    open_model(path, backend="ort-tensorrt").close()
    read_only(Path(machine.options["trt_engine_cache_path"]))
    monkeypatch.setattr(ort_tensorrt.shutil, "rmtree", lambda *_, **__: None)  # a read-only file system
    machine.raises = [state.EPFail("TensorRT EP could not deserialize engine from cache: old.engine")]
    capsys.readouterr()
    open_model(path, backend="ort-tensorrt").close()
    assert "trt_engine_cache_path" not in machine.options
    told = capsys.readouterr().err
    assert "removing the engines kept in" in told
    assert "each start builds it again: the engines kept in" in told
