"""NVIDIA's own builder: settings, progress, interrupts, refusals and a full disk. No engine is run."""

import io
import os
import resource
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import onnx
import pytest
from onnx import helper

from clst_runtime.backends.tensorrt.build import builder as building
from clst_runtime.backends.tensorrt.build import engine as build_module
from clst_runtime.backends.tensorrt.build.builder import configure, keep_timing_cache, serialise_engine
from clst_runtime.backends.tensorrt.build.engine import build_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BarProgress, BuildProgress, LineProgress
from clst_runtime.backends.tensorrt.library import Messages, make_logger, start_builder
from clst_runtime.backends.tensorrt.sidecar import engine_manifest, read_engine, write_engine
from clst_runtime.errors import ClstError, ConfigError, DataError, ModelFileError
from tests.conftest import rgb_manifest, write_rgb_model


@pytest.fixture
def real(machine, trt, monkeypatch):
    """A machine whose builder is NVIDIA's; its GPU is a stand-in that no test here gets as far as."""
    monkeypatch.setattr(build_module, "library_for_building", lambda library: trt)
    return trt


@pytest.fixture
def asked(trt):
    """A builder and its configuration, TensorRT's own."""
    messages = Messages()
    logger = make_logger(trt, messages)
    builder = start_builder(trt, logger, messages)
    return SimpleNamespace(builder=builder, config=builder.create_builder_config(), logger=logger)


class Watch(BuildProgress):
    """Keeps what TensorRT told, and does something at a step."""

    def __init__(self, at=None, act=None):
        self.told, self._at, self._act = [], at, act
        self._lock = threading.Lock()

    def start(self, phase, parent, steps):
        with self._lock:
            self.told.append(("start", phase, parent, steps))

    def step(self, phase, done):
        with self._lock:
            self.told.append(("step", phase, done))
            count = sum(each[0] == "step" for each in self.told)
        if count == self._at:
            self._act()

    def finish(self, phase):
        with self._lock:
            self.told.append(("finish", phase))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def built(trt, model, progress=None, **options):
    return serialise_engine(trt, model, BuildOptions(**options), progress or BuildProgress())


def test_settings_are_what_tensorrt_holds_afterwards(trt, asked):
    configure(trt, asked.builder, asked.config, BuildOptions(workspace_mib=64, optimisation_level=5))
    assert asked.config.builder_optimization_level == 5
    assert asked.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 67_108_864
    assert asked.config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert asked.config.get_flag(trt.BuilderFlag.TF32) is False
    assert asked.config.default_device_type == trt.DeviceType.GPU


def test_settings_that_are_left_out_are_tensorrts_own(trt, asked):
    before = asked.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
    assert asked.config.get_flag(trt.BuilderFlag.TF32) is True, "clearing it is worth something"
    configure(trt, asked.builder, asked.config, BuildOptions())
    assert asked.config.builder_optimization_level == 3
    assert asked.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == before


def test_a_dla_core_is_refused_by_tensorrts_own_count_of_them(trt, asked):
    with pytest.raises(ConfigError, match="DLA core 0 asked, this device has 0 of them"):
        configure(trt, asked.builder, asked.config, BuildOptions(dla_core=0))
    configure(trt, SimpleNamespace(num_DLA_cores=2), asked.config, BuildOptions(dla_core=1))  # as if there were two
    assert asked.config.default_device_type == trt.DeviceType.DLA
    assert asked.config.get_flag(trt.BuilderFlag.GPU_FALLBACK) is True


def test_a_network_is_strongly_typed(trt, asked):
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert asked.builder.create_network(1 << int(flag)).get_flag(flag) is True


@pytest.mark.parametrize("options", [{"optimisation_level": level} for level in range(6)] + [{"workspace_mib": 1}])
def test_every_level_and_the_smallest_workspace_build(trt, rgb_model, options):
    assert built(trt, rgb_model, **options).plan[:4] != b""


def test_progress_is_told_phase_in_phase_and_every_step_of_it(trt, rgb_model):
    watch = Watch()
    built(trt, rgb_model, watch)
    steps, done, parents = {}, {}, []
    for kind, phase, *rest in watch.told:
        if kind == "start":
            parent, steps[phase] = rest
            done[phase] = 0
            parents.append(parent)
            assert parent is None or parent in steps
        elif kind == "step":
            assert rest[0] <= steps[phase]
            done[phase] = max(done[phase], rest[0])
    assert parents[0] is None
    assert parents.count(None) == 1
    started = [each[1] for each in watch.told if each[0] == "start"]
    assert sorted(started) == sorted(each[1] for each in watch.told if each[0] == "finish")
    assert len(set(started)) >= 5
    assert all(done[phase] >= steps[phase] - 1 for phase in started)


def test_lines_and_bars_show_tensorrts_own_phases(trt, rgb_model, capsys):
    built(trt, rgb_model, LineProgress())
    assert "building: Building engine" in capsys.readouterr().err.splitlines()
    bars = io.StringIO()
    built(trt, rgb_model, BarProgress(bars))
    assert "  Cloning network graph" in bars.getvalue()


@pytest.fixture
def sent(request):
    """A signal that counts, even where the tests run in the background of a shell, which ignores Ctrl-C."""
    usual = signal.default_int_handler if request.param is signal.SIGINT else signal.SIG_DFL
    before = signal.signal(request.param, usual)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], indirect=True)
@pytest.mark.parametrize("at", [1, 20, 45])
def test_a_signal_stops_the_build_at_that_step_and_leaves_nothing(
    real, rgb_model, tmp_path, frames, monkeypatch, at, sent
):
    """Sent three times, as by someone who does not wait."""

    noticed = threading.Event()
    monkeypatch.setattr(building, "_log", SimpleNamespace(info=lambda _: noticed.set()))

    def interrupt():
        for _ in range(3):
            os.kill(os.getpid(), sent)
        assert noticed.wait(60.0)

    watch, handler = Watch(at, interrupt), signal.getsignal(sent)
    with pytest.raises(KeyboardInterrupt):
        build_engine(rgb_model, tmp_path / "a.engine", options=BuildOptions(), frames=frames, progress=watch)
    assert at <= sum(each[0] == "step" for each in watch.told) < at + 8, "the build went on"
    assert signal.getsignal(sent) is handler
    assert "tensorrt-build" not in [thread.name for thread in threading.enumerate()]
    assert names(tmp_path) == ["rgb.onnx"]
    assert built(real, rgb_model).plan, "the next build is not disturbed"


def changed(path, change):
    """The little model with its graph changed."""
    model = onnx.load(str(write_rgb_model(path)))
    change(model.graph)
    onnx.save(model, str(path))
    return path


def two_lotteries(graph):
    """Operators that ONNX Runtime has and TensorRT has not."""
    for name in ("one", "two"):
        graph.node.append(helper.make_node("Bernoulli", ["real"], [name], name=f"{name}_node"))


def no_output(graph):
    """The parser does not mind, the builder does."""
    del graph.output[:]
    del graph.node[-1:]


def test_every_complaint_of_the_parser_stands_in_one_line(real, tmp_path, frames):
    model = changed(tmp_path / "m.onnx", two_lotteries)
    told = r"cannot parse it: Bernoulli one_node: not supported; Bernoulli two_node: not supported; export it again"
    with pytest.raises(ModelFileError, match=told) as error:
        build_engine(model, tmp_path / "a.engine", options=BuildOptions(), frames=frames)
    assert "\n" not in error.value.message
    assert names(tmp_path) == ["m.onnx"]


COLLECTS = """
import gc
from clst_runtime.backends.tensorrt.library import Library, Messages, start_builder
trt = Library.RTX.load()
class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, msg):
        [[] for _ in range(5000)]  # enough for the garbage collector to run
class Owner: pass
def leave_a_builder():
    owner = Owner()
    owner.itself, owner.logger = owner, Logger()
    owner.builder = start_builder(trt, owner.logger, Messages())
gc.disable()
leave_a_builder()
gc.enable()
logger = Logger()
start_builder(trt, logger, Messages())
print("started", gc.isenabled())
"""


def test_a_builder_that_is_garbage_does_not_hang_the_next_one(trt):
    done = subprocess.run([sys.executable, "-c", COLLECTS], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "started True\n", done.stderr


@pytest.mark.parametrize("content", [b"rubbish" * 9, None])
def test_a_file_that_is_damaged_or_gone_is_no_parsed_one(trt, tmp_path, content):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match="cannot parse it: .*(Failed to parse the ONNX model|cannot be found)"):
        built(trt, path)


def test_a_network_that_cannot_be_built_is_refused_with_tensorrts_words(trt, tmp_path):
    with pytest.raises(ModelFileError, match="could not build it: .*must have at least one output") as error:
        built(trt, changed(tmp_path / "m.onnx", no_output))
    assert "\n" not in error.value.message
    assert "workspace" not in error.value.message


def test_a_file_of_no_bytes_is_parsed_as_an_empty_graph_and_not_built(trt, tmp_path):
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelFileError, match="could not build it: .*one output.*; export it again"):
        built(trt, tmp_path / "m.onnx")


def test_a_parser_that_finds_no_memory_does_not_blame_the_file(tmp_path):
    complaint = SimpleNamespace(node_operator=str, node_name=str, desc=lambda: "std::bad_alloc")
    parser = SimpleNamespace(parse_from_file=lambda path: False, num_errors=1, get_error=lambda index: complaint)
    stand_in = SimpleNamespace(__version__="1", OnnxParser=lambda network, logger: parser)
    with pytest.raises(
        ClstError, match=r"this machine ran out of memory while TensorRT read or built .*\(std::bad_alloc\)"
    ) as error:
        building.parse_onnx(stand_in, None, None, tmp_path / "m.onnx")
    assert error.value.exit_code == 1


@pytest.mark.filterwarnings("ignore:Use Deprecated")
def test_a_damaged_timing_cache_is_replaced_and_said(trt, rgb_model, tmp_path, capsys):
    """TensorRT gives an empty cache for it, not none; only its log tells."""
    cache = tmp_path / "times.cache"
    cache.write_bytes(b"rubbish" * 9)
    times = built(trt, rgb_model, timing_cache=cache).timing_cache
    told = capsys.readouterr().err
    assert told == f"timing cache {cache} is of another GPU or TensorRT, or damaged; starting a new one\n"
    keep_timing_cache(cache, times)
    assert cache.read_bytes() == times != b"rubbish" * 9


@pytest.mark.filterwarnings("ignore:Use Deprecated")
def test_what_was_logged_of_the_cache_is_not_why_a_build_fails(trt, tmp_path, capsys):
    (tmp_path / "times.cache").write_bytes(b"rubbish")
    model = changed(tmp_path / "m.onnx", no_output)
    with pytest.raises(ModelFileError, match=r"could not build it: IBuilder::buildSerializedNetwork: .*one output"):
        built(trt, model, timing_cache=tmp_path / "times.cache")


@pytest.fixture
def little_room():
    """The kernel takes so many bytes into a file and no more, as a disk that fills up."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))

    yield set_limit
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_build_needs_no_disk_and_an_engine_that_has_no_room_leaves_the_old_one(
    trt, rgb_model, tmp_path, little_room, capsys
):
    def written(plan):
        facts = {"gpu": "none", "compute_capability": "0.0", "multiprocessors": 0, "tensorrt": trt.__version__}
        write_engine(
            tmp_path / "a.engine", plan, engine_manifest(rgb_manifest(), plan=plan, onnx_sha256="0" * 64, facts=facts)
        )

    written(b"old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    little_room(0)
    plan = built(trt, rgb_model).plan
    little_room(len(plan) // 2)
    with pytest.raises(DataError, match=r"cannot write .*File too large"):
        written(plan)
    little_room(1)
    keep_timing_cache(tmp_path / "times.cache", b"layer times")
    assert capsys.readouterr().err.count("the timing cache is not kept, later builds take as long: ") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    little_room(2 * len(plan))
    written(plan)
    assert read_engine(tmp_path / "a.engine")[0] == plan
