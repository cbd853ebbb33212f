"""Every TensorRT name that our code and our fakes use exists in the real TensorRT 10.3.0, 10.16.1 and 11.4.0, and in
TensorRT for RTX 1.7.1.

The real Python bindings import without a GPU once TensorRT's native libraries exist by name; here a few lines of C
stand in for them. Nothing of TensorRT runs: what is tested is that names, members, parameters and types are there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

TENSORRT = ROOT / "runtime/clst_runtime/backends/tensorrt"
FOR_RTX = [TENSORRT / "rtx/target.py", TENSORRT / "rtx/kernels.py"]
"""What TensorRT itself has not."""
SOURCES = sorted(set(TENSORRT.rglob("*.py")) - set(FOR_RTX))
RTX = "1.7.1.116"
BINDINGS = {
    "10.3.0": "tensorrt_cu12_bindings",
    "10.16.1.11": "tensorrt_cu12_bindings",
    "11.4.0.106": "tensorrt_cu13_bindings",
    RTX: "tensorrt_rtx_cu13_bindings",
}
TENSORRTS = [version for version in BINDINGS if version != RTX]
STAND_IN = """
void *createInferBuilder_INTERNAL(void *logger, int version) { return 0; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
void *getPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int getInferLibVersion(void) { return 0; }
int initLibNvInferPlugins(void *logger, const char *space) { return 1; }
"""


def lacking(reason):
    """Skip, but never where the tests decide: an unmade check must not look like a passed one."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """A folder with libraries that carry TensorRT's names."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        lacking("no C compiler (gcc) for the stand-in libraries")
    folder = tmp_path_factory.mktemp("stand_ins")
    (folder / "stand_in.c").write_text(STAND_IN)
    names = [f"lib{each}.so.{major}" for each in ("nvinfer", "nvinfer_plugin", "nvonnxparser") for major in (10, 11)]
    for name in (*names, "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"):
        call = [compiler, "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", name, "stand_in.c"]
        subprocess.run(call, cwd=folder, check=True, capture_output=True)
    return folder


class Bindings(dict):
    """Version → folder with the unpacked bindings, when it is asked for; the wheels are kept between runs."""

    def __init__(self, folders):
        self._folders = folders
        default = Path.home() / ".cache" / "clst-tests"
        self._kept = Path(os.environ.get("CLST_TEST_CACHE", default)) / f"tensorrt-{sys.implementation.cache_tag}"

    def __missing__(self, version):
        name = BINDINGS[version]
        wheels = list(self._kept.glob(f"{name}-{version}-*.whl"))
        if not wheels:
            call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            call += ["--dest", str(self._kept), f"{name}=={version}"]
            done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)
            wheels = list(self._kept.glob(f"{name}-{version}-*.whl"))
            if done.returncode or not wheels:
                lacking(f"{name} {version} cannot be downloaded for this Python: {done.stderr.strip()[-200:]}")
        self[version] = self._folders.mktemp(f"bindings-{version}")
        with zipfile.ZipFile(wheels[0]) as archive:
            archive.extractall(self[version])
        return self[version]


@pytest.fixture(scope="session")
def bindings(tmp_path_factory):
    return Bindings(tmp_path_factory)


def truth(stand_ins, folder, *, sources=SOURCES, fake="tests.fakes.tensorrt", paths=()):
    """What `truth.py` says about `sources` beside the bindings in `folder`."""
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(stand_ins),
        "PYTHONPATH": os.pathsep.join([*map(str, paths), str(ROOT), *sys.path]),
    }
    call = [sys.executable, str(Path(__file__).with_name("truth.py")), str(folder), fake, *map(str, sources)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", BINDINGS)
def test_every_name_we_use_is_in_the_real_tensorrt(stand_ins, bindings, version):
    told = truth(stand_ins, bindings[version])
    assert told["version"] == version
    assert told["failures"] == []
    used = {
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "Builder.build_serialized_network",
        "OnnxParser.parse_from_file",
        "ParserError.desc",
        "IBuilderConfig.progress_monitor",
        "IProgressMonitor.step_complete",
        "ITimingCache.serialize",
        "BuilderFlag.GPU_FALLBACK",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.get_tensor_shape",
        "IExecutionContext.execute_async_v3",
        "EngineInspector.get_engine_information",
    }
    assert used <= set(told["checked"]), "the walk no longer reaches what we use"
    assert len(told["checked"]) >= 70


def test_every_name_that_only_tensorrt_for_rtx_has_is_there(stand_ins, bindings):
    told = truth(stand_ins, bindings[RTX], sources=FOR_RTX, fake="tests.fakes.tensorrt_rtx")
    assert told["failures"] == []
    assert {
        "IBuilderConfig.num_compute_capabilities",
        "IBuilderConfig.set_compute_capability",
        "BuilderFlag.REQUIRE_USER_ALLOCATION",
        "ICudaEngine.create_runtime_config",
        "ICudaEngine.create_execution_context",
        "IRuntimeConfig.create_runtime_cache",
        "IRuntimeConfig.set_runtime_cache",
        "IRuntimeCache.deserialize",
        "IRuntimeCache.serialize",
    } <= set(told["checked"])
    assert told["fake_failures"] == []
    assert told["fake_names"] >= 60


@pytest.mark.parametrize("version", BINDINGS)
def test_the_fake_has_nothing_that_the_real_tensorrt_lacks(stand_ins, bindings, version):
    told = truth(stand_ins, bindings[version])
    assert told["fake_failures"] == []
    assert told["fake_names"] >= 70


PLANTS = [
    ("build/builder.py", "builder.create_builder_config()", "builder.create_config()", "no Builder.create_config"),
    ("build/builder.py", "trt.BuilderFlag.TF32", "trt.BuilderFlag.TF33", "no BuilderFlag.TF33"),
    ("build/builder.py", "config.builder_optimization_level", "config.optimisation_level", "no IBuilderConfig.opt"),
    ("build/builder.py", "ignore_mismatch=False", "ignore_mismatches=False", "IBuilderConfig.set_timing_cache takes"),
    ("build/builder.py", "(network, config)", "(network)", "Builder.build_serialized_network takes"),
    ("build/builder.py", "error.desc()", "error.description()", "no ParserError.description"),
    (
        "build/progress.py",
        "def step_complete(self, phase_name: str, step: int)",
        "def step_done(self, step: int)",
        "step_done",
    ),
    ("build/progress.py", "parent_phase: str | None, num_steps: int", "num_steps: int", "IProgressMonitor.phase_start"),
    ("library.py", "trt.ILogger.Severity.INTERNAL_ERROR", "trt.ILogger.Severity.FATAL", "no Severity.FATAL"),
    ("runner.py", "self._context.execute_async_v3", "self._context.execute_v2_async", "no IExecutionContext.execute_v"),
    ("runner.py", "trt.DataType.UINT8", "trt.DataType.UINT9", "no DataType.UINT9"),
    ("runner.py", "engine.num_io_tensors", "engine.num_bindings", "no ICudaEngine.num_bindings"),
    ("inspector.py", "get_engine_information(", "get_engine_info(", "no EngineInspector.get_engine_info"),
]


FOR_RTX_PLANTS = [
    ("rtx/target.py", "config.set_compute_capability(", "config.set_capability(", "no IBuilderConfig.set_capability"),
    ("rtx/target.py", "REQUIRE_USER_ALLOCATION", "USER_ALLOCATION", "no BuilderFlag.USER_ALLOCATION"),
    ("rtx/kernels.py", "create_runtime_cache()", "create_cache()", "no IRuntimeConfig.create_cache"),
    ("rtx/kernels.py", "(runtime_config=", "(config=", "ICudaEngine.create_execution_context takes"),
    ("rtx/kernels.py", "self._cache.deserialize(", "self._cache.load(", "no IRuntimeCache.load"),
]


def planted(tmp_path, file, old, new, sources=SOURCES):
    """A copy of our sources with one text replaced."""
    copies = []
    for source in sources:
        copy = tmp_path / source.relative_to(TENSORRT)
        text = source.read_text()
        if copy == tmp_path / file:
            assert old in text, f"{file} no longer has {old!r}"
            text = text.replace(old, new)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(text)
        copies.append(copy)
    return copies


@pytest.mark.parametrize(("file", "old", "new", "told"), PLANTS)
def test_a_planted_wrong_name_is_found(stand_ins, bindings, tmp_path, file, old, new, told):
    failures = truth(stand_ins, bindings["11.4.0.106"], sources=planted(tmp_path, file, old, new), fake="")["failures"]
    assert any(told in failure for failure in failures), failures


@pytest.mark.parametrize(("file", "old", "new", "told"), FOR_RTX_PLANTS)
def test_a_planted_wrong_name_of_tensorrt_for_rtx_is_found(stand_ins, bindings, tmp_path, file, old, new, told):
    sources = planted(tmp_path, file, old, new, FOR_RTX)
    failures = truth(stand_ins, bindings[RTX], sources=sources, fake="")["failures"]
    assert any(told in failure for failure in failures), failures


def test_an_object_whose_type_is_lost_is_a_failure_not_a_gap(stand_ins, bindings, tmp_path):
    sources = planted(tmp_path, "build/builder.py", "config: trt.IBuilderConfig, options", "config, options")
    failures = truth(stand_ins, bindings["10.3.0"], sources=sources, fake="")["failures"]
    assert any("config.set_memory_pool_limit looks like TensorRT's" in failure for failure in failures), failures


def test_what_tensorrt_11_removed_is_found_there_and_not_in_10(stand_ins, bindings, tmp_path):
    sources = planted(tmp_path, "build/builder.py", "trt.BuilderFlag.TF32", "trt.BuilderFlag.FP16")
    found = {
        version: [f for f in truth(stand_ins, bindings[version], sources=sources, fake="")["failures"] if "FP16" in f]
        for version in TENSORRTS
    }
    assert (found["10.3.0"], found["10.16.1.11"]) == ([], [])
    assert len(found["11.4.0.106"]) == 1


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("def create_builder_config", "def create_config", "the fake has Builder.create_config"),
        ("def set_flag(self, flag)", "def set_flag(self, the_flag)", "IBuilderConfig.set_flag['the_flag']"),
        ("class DeviceType:", "class Device:", "the fake has Device,"),
        ("    @property\n    def num_io", "    def num_io", "ICudaEngine.num_io_tensors is a property in one"),
    ],
)
def test_a_name_planted_in_the_fake_is_found(stand_ins, bindings, tmp_path, old, new, told):
    text = (ROOT / "tests/fakes/tensorrt.py").read_text()
    assert old in text
    (tmp_path / "planted_fake.py").write_text(text.replace(old, new))
    wrong = truth(stand_ins, bindings["10.3.0"], sources=[], fake="planted_fake", paths=[tmp_path])["fake_failures"]
    assert any(told in failure for failure in wrong), wrong


@pytest.mark.parametrize(("ci", "kind"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_what_cannot_be_checked_is_skipped_at_home_and_fails_in_ci(monkeypatch, ci, kind):
    monkeypatch.setenv("CI", ci)
    with pytest.raises(kind, match="no wheels"):
        lacking("no wheels")


def test_tensorrt_and_the_cuda_libraries_are_imported_in_one_file_each():
    found = {"tensorrt": [], "pycuda": [], "cuda.bindings": []}
    for path in sorted((ROOT / "runtime").rglob("*.py")) + sorted((ROOT / "export").rglob("*.py")):
        text = path.read_text()
        for module, files in found.items():
            if re.search(rf'\b(require|import_library)\("{module}', text):
                files.append(path.name)
            lines = [line for line in text.splitlines() if line.startswith((f"import {module}", f"from {module}"))]
            assert lines == [], path
    assert found == {"tensorrt": ["library.py"], "pycuda": ["pycuda.py"], "cuda.bindings": ["cuda_python.py"]}
