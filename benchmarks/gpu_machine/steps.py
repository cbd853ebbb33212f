"""The steps that need a GPU. Each fills its figures as it goes, and raises what keeps it from holding.

Legend: N frames, H rows, W columns of the models' input.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.gpu_machine.inputs import DATA, MODELS
from benchmarks.gpu_machine.packages import install, joined
from clst_runtime.backends.base import Classes, Frame
from clst_runtime.backends.cuda.device import CUDA_PYTHON, LIBRARIES, CudaDevice
from clst_runtime.backends.cuda.open import open_cuda
from clst_runtime.backends.cuda.options import COPY, MAPPED, GpuOptions
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.backends.tensorrt.build import builder as building
from clst_runtime.backends.tensorrt.build import engine as build
from clst_runtime.backends.tensorrt.build.engine import check_can_build
from clst_runtime.backends.tensorrt.build.options import MIN_AGREEMENT, BuildOptions
from clst_runtime.backends.tensorrt.build.verification import Expected
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.backends.tensorrt.rtx.target import CAPABILITIES
from clst_runtime.backends.tensorrt.runner import TrtBackend
from clst_runtime.errors import ClstError, DataError, MissingDependency, message_of
from clst_runtime.evaluation.latency.host_to_host import Effort, measure_rounds
from clst_runtime.live.latency import summarise_ms

ROOT = Path(__file__).parents[2]
COPY_HW = (1080, 1920)
"""The image whose bytes go to the GPU and back."""
WAYS = {"copy": GpuOptions(io=COPY), "mapped": GpuOptions(io=MAPPED), "graph": GpuOptions(io=COPY, graph=True)}
EFFORT = Effort(runs=300, seconds=4.0)
RELEVANT = re.compile(r"(onnx|tensorrt|nvidia|cuda|cupy|pycuda|torch|numpy|opencv|pytest)", re.IGNORECASE)
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Where a step finds what it works with."""

    folder: Path
    """Of `prepare`."""
    work: Path
    """For files of this run; engines of one step are there for the later ones."""
    packages: Path | None = None
    """Parts made by `wheels`."""

    @property
    def site(self) -> Path:
        """Where packages are installed; first on the path of the steps after that."""
        return self.work / "site"

    def model(self, name: str) -> Path:
        """The ONNX file of that precision."""
        return self.folder / f"{name}.onnx"

    def check(self) -> None:
        """Raises: DataError: something that `prepare` writes is missing."""
        for path in (*map(self.model, MODELS), self.folder / DATA):
            if not path.is_file():
                raise DataError(f"{path}: no such file; `prepare {self.folder}` writes it where PyTorch is")

    def arrays(self) -> dict[str, npt.NDArray[np.uint8]]:
        """`frames` N,H,W,3 and for each model the CPU's class maps N,H,W."""
        with np.load(self.folder / DATA) as stored:
            return {name: stored[name] for name in stored.files}


class DoesNotHold(Exception):
    """A step ran and its result is not what it must be."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing to be shown."""

    name: str
    seconds: float
    """Its time limit."""
    work: Callable[[Prepared, Figures], None]
    """Raises: MissingDependency: not possible here. Anything else: it failed."""


def perform(step: Step, prepared: Prepared) -> dict[str, Any]:
    """The record of a step that is run in this process: `step`, `status` and what it measured until its end."""
    figures: Figures = {}
    try:
        step.work(prepared, figures)
        status = "passed"
    except MissingDependency as error:
        status = f"not possible here: {error.message}"
    except DoesNotHold as error:
        status = f"failed: {error}"
    except Exception as error:  # noqa: BLE001  (the other steps are run in any case)
        status = f"failed: {message_of(error)}"
    return {"step": step.name, "status": status, "figures": figures}


def compared(found: Classes, expected: Classes, precision: str) -> Figures:
    """Class maps N,H,W of the GPU beside the CPU's, and whether enough pixels are equal."""
    share, needed = float((found == expected).mean()), MIN_AGREEMENT[precision]
    differing = int((found != expected).sum())
    return {"agreement": share, "needed": needed, "differing_pixels": differing, "holds": share >= needed}


def check_all_hold(figures: Figures) -> None:
    """Raises: DoesNotHold: a model failed, or its class maps differ too much."""
    problems = [f"{name}: {row['error']}" for name, row in figures.items() if "error" in row]
    problems += [
        f"{name}: {100 * row['agreement']:.3f} % of pixels agree with the CPU, {100 * row['needed']:.1f} % needed"
        for name, row in figures.items()
        if row.get("holds") is False
    ]
    if problems:
        raise DoesNotHold("; ".join(problems))


def latency(run: Callable[[Frame], object], frames: npt.NDArray[np.uint8]) -> Figures:
    """Milliseconds of one frame H,W,3 from the host to a class map on the host: percentiles."""

    def step(frame: Frame) -> int:
        before = time.perf_counter_ns()
        run(frame)
        return time.perf_counter_ns() - before

    (samples,), _ = measure_rounds([step], list(frames), EFFORT)
    return summarise_ms(samples)


# --- the machine


def install_wheels(prepared: Prepared, figures: Figures) -> None:
    """Install the wheels that were given; one that cannot be installed is named, the others are there."""
    _install(prepared, figures, lambda file: file.suffix == ".whl")


def install_sources(prepared: Prepared, figures: Figures) -> None:
    """Build and install what has no wheel, which takes minutes: PyCUDA."""
    _install(prepared, figures, lambda file: file.suffix != ".whl")


def _install(prepared: Prepared, figures: Figures, wanted: Callable[[Path], bool]) -> None:
    if prepared.packages is None:
        raise MissingDependency("no packages were given (--packages)")
    files, lacking = joined(prepared.packages, prepared.work / "wheels", wanted)
    if not files and not lacking:
        raise MissingDependency(f"{prepared.packages} holds none of these")
    for file in files:
        figures[file.name] = install(file, prepared.site) or "installed"
        file.unlink()
    failed = [f"{name}: {reason}" for name, reason in figures.items() if reason != "installed"]
    if failed or lacking:
        raise DoesNotHold("; ".join([*failed, *lacking]))


def facts(prepared: Prepared, figures: Figures) -> None:
    """GPU, driver, CUDA, packages, and what clst-doctor finds."""
    from clst_runtime.doctor import examine
    from clst_runtime.system.device_state import device_state

    figures["gpu"] = device_state().get("gpus", [])
    found = {str(each.metadata["Name"]): each.version for each in distributions()}
    figures["packages"] = {name: version for name, version in sorted(found.items()) if RELEVANT.search(name)}
    figures["doctor"] = {each.name.strip(): f"{each.state.value}: {each.text}" for each in examine()}


# --- ONNX Runtime's providers


def ort_cuda(prepared: Prepared, figures: Figures) -> None:
    """Every model by ONNX Runtime on CUDA."""
    arrays = prepared.arrays()
    for name in MODELS:
        try:
            with OrtBackend(prepared.model(name), provider="cuda") as backend:
                found = np.stack([np.array(backend.predict(frame).classes) for frame in arrays["frames"]])
                figures[name] = compared(found, arrays[name], name)
                figures[name] |= {"by": backend.description, "warnings": backend.warnings}
                figures[name]["host_to_host_ms"] = latency(backend.predict, arrays["frames"])
        except MissingDependency:
            raise
        except ClstError as error:
            figures[name] = {"error": error.message}
    check_all_hold(figures)


def rtx_provider(prepared: Prepared, figures: Figures) -> None:
    """Every model by ONNX Runtime's plugin provider of TensorRT for RTX."""
    from clst_runtime.system.optional import require

    ort, plugin = require("onnxruntime"), require("onnxruntime_ep_nv_tensorrt_rtx")
    if not hasattr(ort, "register_execution_provider_library"):
        raise MissingDependency(f"ONNX Runtime {ort.__version__} takes no plugin providers; 1.24 and newer do")
    name = plugin.get_ep_name()
    try:
        ort.register_execution_provider_library(name, plugin.get_library_path())
    except Exception as error:
        raise MissingDependency(
            f"{name} cannot be registered: {message_of(error)}; it needs NVIDIA's driver"
        ) from error
    devices = [each for each in ort.get_ep_devices() if each.ep_name == name]
    if not devices:
        raise MissingDependency(f"{name} is registered and offers no device")
    arrays = prepared.arrays()
    for model in MODELS:
        try:
            figures[model] = _by_plugin(ort, devices[:1], prepared.model(model), arrays, model)
        except Exception as error:  # noqa: BLE001  (what a GPU that is not supported answers is a result)
            figures[model] = {"error": message_of(error)[:500]}
    check_all_hold(figures)


def _by_plugin(ort: Any, devices: list[Any], path: Path, arrays: dict[str, Any], precision: str) -> Figures:
    options = ort.SessionOptions()
    options.add_provider_for_devices(devices, {})
    begun = time.perf_counter()
    session = ort.InferenceSession(str(path), options)
    opened_seconds = time.perf_counter() - begun

    def run(frame: Frame) -> Classes:
        classes: Classes = session.run(["classes"], {"frame": frame[None]})[0][0]
        return classes

    figures = compared(np.stack([run(frame) for frame in arrays["frames"]]), arrays[precision], precision)
    figures |= {"providers": session.get_providers(), "opened_seconds": round(opened_seconds, 2)}
    return figures | {"host_to_host_ms": latency(run, arrays["frames"])}


# --- engines


def trt_engines(prepared: Prepared, figures: Figures) -> None:
    """Engines of TensorRT."""
    check_can_build()
    engines(Library.TENSORRT, MODELS, prepared, figures)


def rtx_engines(prepared: Prepared, figures: Figures) -> None:
    """Engines of TensorRT for RTX; on a GPU that it does not list, what one for another GPU does there."""
    check_can_build(Library.RTX)
    with open_cuda() as device:
        name, capability = device.name, device.compute_capability
    if capability in CAPABILITIES:
        engines(Library.RTX, MODELS, prepared, figures)
        return
    for target in ("SM80", "CURRENT"):
        with aimed_at(target, capability):
            engines(Library.RTX, ("fp16",), prepared, figures.setdefault(target, {}), check=False)
    results = [f"{target} {row['fp16'].get('error', 'runs')}" for target, row in figures.items()]
    raise MissingDependency(
        f"{name} of compute capability {capability} is not among {', '.join(CAPABILITIES)}; {'; '.join(results)}"
    )


@contextmanager
def aimed_at(target: str, capability: str) -> Iterator[None]:
    """Have engines of TensorRT for RTX built for one `target` of its `ComputeCapability`, and tried on this GPU."""

    def aim(trt: ModuleType, config: Any) -> None:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(trt.ComputeCapability, target), 0):
            raise MissingDependency(f"TensorRT for RTX {trt.__version__} builds nothing for {target}")
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)

    with patch.object(building, "aim", aim), patch.object(build, "CAPABILITIES", (capability,)):
        yield


def engines(
    library: Library, models: Sequence[str], prepared: Prepared, figures: Figures, *, check: bool = True
) -> None:
    """Build an engine of each model, compare it with the CPU, and run it in every way.

    Raises:
        DoesNotHold: one cannot be built or run, or gives other classes; only with `check`.
    """
    arrays = prepared.arrays()
    for name in models:
        row: Figures = figures.setdefault(name, {})
        try:
            path = prepared.work / f"{library.value}-{name}.engine"
            options = BuildOptions(library=library, min_agreement=0.0)  # the share that agrees is reported here
            expected = Expected(maps=list(arrays[name]), reference="ONNX Runtime's CPU")
            manifest = build.build_engine(
                prepared.model(name), path, options=options, frames=list(arrays["frames"]), expected=expected
            )
            row |= {key: manifest.engine[key] for key in ("build_seconds", "summary", "agreement", "tensorrt")}
            _run_in_every_way(path, arrays, name, row)
        except ClstError as error:
            row["error"] = error.message
    if check:
        check_all_hold(figures)


def _run_in_every_way(path: Path, arrays: dict[str, Any], precision: str, row: Figures) -> None:
    """The engine's class maps beside the CPU's, and each way's beside the first one's."""
    first: Classes | None = None
    for way, gpu in WAYS.items():
        try:
            with TrtBackend(path, gpu=gpu) as backend:
                found = np.stack([np.array(backend.predict(frame).classes) for frame in arrays["frames"]])
                figures: Figures = {"by": backend.description, "warnings": backend.warnings}
                figures["host_to_host_ms"] = latency(backend.predict, arrays["frames"])
        except MissingDependency as error:  # graphs need cuda-python
            row[way] = {"not possible here": error.message}
            continue
        if first is None:
            first = found
            row |= compared(found, arrays[precision], precision)
        figures["equal"] = bool(np.array_equal(found, first))
        row[way] = figures
        if not figures["equal"]:
            row["error"] = f"by {way} it gives other classes"


# --- CUDA by our device


def cuda_libraries(prepared: Prepared, figures: Figures) -> None:
    """PyCUDA and cuda-python: bytes there and back, mapped memory, events, and what the copies of an image cost."""
    lacking = []
    for library in LIBRARIES:
        try:
            with open_cuda(library) as device:
                figures[library] = round_trip(device)
        except MissingDependency as error:
            figures[library] = {"not possible here": error.message}
            lacking.append(error.message)
    if len(lacking) == len(LIBRARIES):
        raise MissingDependency(lacking[-1])


def round_trip(device: CudaDevice) -> Figures:
    """Raises: DoesNotHold: bytes changed on the way, or the GPU's clock stands."""
    shape = (*COPY_HW, 3)
    frame, result = device.pinned(shape), device.pinned(shape)
    frame[...] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    there, box = device.allocate(frame.size), device.mapped(shape)
    marks = [device.create_event() for _ in range(3)]
    device.record(marks[0])
    device.copy_in(there, frame)
    device.record(marks[1])
    device.copy_out(result, there)
    device.record(marks[2])
    device.synchronise()
    if not np.array_equal(result, frame):
        raise DoesNotHold(f"{device.library}: bytes came back changed")
    times_ms = [device.elapsed_ms(*pair) for pair in (marks[:2], marks[1:])]
    if min(times_ms) <= 0.0:
        raise DoesNotHold(f"{device.library}: copies took {times_ms} ms by the GPU's clock")
    device.copy_in(box.address, frame)  # the GPU writes where the processor reads
    result[...] = 0
    device.copy_out(result, box.address)
    device.synchronise()
    if not (np.array_equal(box.host, frame) and np.array_equal(result, frame)):
        raise DoesNotHold(f"{device.library}: mapped memory is not one memory for both")
    facts: Figures = {"gpu": device.name, "compute_capability": device.compute_capability}
    facts |= {"multiprocessors": device.multiprocessors, "integrated": device.integrated}
    return facts | {"bytes": frame.size, "copy_in_ms": times_ms[0], "copy_out_ms": times_ms[1]}


def cuda_graph(prepared: Prepared, figures: Figures) -> None:
    """A recorded graph gives what the same work gives without one, with new bytes each time."""
    with open_cuda(CUDA_PYTHON, graphs=True) as device:
        figures["copies"] = graph_of_copies(device)


def graph_of_copies(device: CudaDevice) -> Figures:
    """Raises: DoesNotHold: a launch gives other bytes than the plain way."""
    shape = (*COPY_HW, 3)
    frame, result, there = device.pinned(shape), device.pinned(shape), device.allocate(int(np.prod(shape)))

    def queue() -> None:
        device.copy_in(there, frame)
        device.copy_out(result, there)

    queue()
    device.synchronise()
    graph, generator = device.record_graph(queue), np.random.default_rng(1)
    try:
        for number in range(3):
            frame[...] = generator.integers(0, 256, shape, np.uint8)
            result[...] = 0
            device.launch(graph)
            device.synchronise()
            if not np.array_equal(result, frame):
                raise DoesNotHold(f"launch {number + 1} of a graph gave other bytes than were put in")
    finally:
        device.release_graph(graph)
    return {"launches": 3, "equal": True}


# --- this project's own programs


def bench(prepared: Prepared, figures: Figures) -> None:
    """clst-bench of every model that a step before has run on the GPU, beside the CPU."""
    models = [str(path) for path in sorted(prepared.work.glob("*.engine"))]
    try:
        OrtBackend(prepared.model("fp32"), provider="cuda").close()
        models += [f"{prepared.model(name)}@ort-cuda" for name in MODELS]
    except MissingDependency as error:
        if not models:
            raise MissingDependency(f"no engine was built, and {error.message}") from error
    done = _program(
        "-c", "from clst_runtime.cli.bench import main; main()",
        *models, f"{prepared.model('fp32')}@ort-cpu", "--runs", "200", "--seconds", "5",
    )  # fmt: skip
    figures["table"] = done.stdout.splitlines()
    if done.returncode:
        raise DoesNotHold(f"clst-bench ended with {done.returncode}: {_last(done.stderr)}")


def marked_tests(prepared: Prepared, figures: Figures) -> None:
    """The tests marked gpu."""
    if importlib.util.find_spec("pytest") is None:
        raise MissingDependency("pytest is not installed")
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    report = prepared.work / "gpu_tests.xml"
    done = _program("-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", *map(str, files))
    if not report.is_file():
        raise DoesNotHold(f"pytest ended with {done.returncode}: {_last(done.stderr or done.stdout)}")
    figures |= read_report(report)
    if figures["failed"]:
        raise DoesNotHold(", ".join(figures["failed"]))
    if not figures["passed"]:
        raise MissingDependency(f"every test was skipped: {'; '.join(sorted(set(figures['skipped'].values())))}")


def read_report(path: Path) -> Figures:
    """How many tests of a JUnit file passed, which failed, and why which were skipped."""
    passed, failed, skipped = 0, [], {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        why = case.find("skipped")
        if why is not None:
            skipped[name] = str(why.get("message"))
        elif case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


def _program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python; the step's own time limit ends it too."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"


STEPS = (
    Step(name="packages", seconds=90.0, work=install_wheels),
    Step(name="sources", seconds=180.0, work=install_sources),
    Step(name="facts", seconds=60.0, work=facts),
    Step(name="cuda", seconds=30.0, work=cuda_libraries),
    Step(name="graph", seconds=30.0, work=cuda_graph),
    Step(name="ort-cuda", seconds=90.0, work=ort_cuda),
    Step(name="rtx-provider", seconds=120.0, work=rtx_provider),
    Step(name="trt-engines", seconds=200.0, work=trt_engines),
    Step(name="rtx-engines", seconds=150.0, work=rtx_engines),
    Step(name="bench", seconds=90.0, work=bench),
    Step(name="tests", seconds=180.0, work=marked_tests),
)
"""In this order: what others need comes first, what takes long last."""
