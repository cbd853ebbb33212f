"""Small drawn things that many tests share."""

from __future__ import annotations

import gc
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from clst_runtime.artifact.manifest import METADATA_KEY, Manifest
from clst_runtime.backends.tensorrt.rtx.library import find_rtx, load_rtx
from clst_runtime.classes.labels import ClassList
from clst_runtime.cli.messages import shown_messages
from clst_runtime.errors import MissingDependency
from clst_runtime.imaging.image_files import write_png
from clst_runtime.system.optional import NO_TELEMETRY
from tests.support.narrow import narrow_networks
from tests.support.rtx import LACKING, must_be_there

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and what tests start would inherit that

os.environ[NO_TELEMETRY] = "1"  # tests import ONNX Runtime by themselves too
RGB_CLASSES = ClassList(name="rgb", names=("red", "green", "blue"), colours=((255, 0, 0), (0, 255, 0), (0, 0, 255)))
SIZE_HW = (8, 16)


def rgb_manifest(**changes: object) -> Manifest:
    """The manifest of a model that names each pixel's strongest channel."""
    values = {
        "network": "brightest_channel",
        "input_hw": SIZE_HW,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "classes": RGB_CLASSES,
        "source_checkpoint_sha256": "0" * 64,
    }
    return Manifest(**(values | changes))


def write_rgb_model(path: Path, *, manifest: str | None = "", swapped: bool = False) -> Path:
    """An ONNX file by the artifact contract: class = strongest channel; `swapped` makes it see BGR."""
    from onnx import TensorProto, helper, save

    rows, columns = SIZE_HW
    order = helper.make_tensor("order", TensorProto.INT64, [3], [2, 1, 0] if swapped else [0, 1, 2])
    nodes = [
        helper.make_node("Cast", ["frame"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["real", "order"], ["ordered"], axis=3),
        helper.make_node("ArgMax", ["ordered"], ["winner"], axis=3, keepdims=0),
        helper.make_node("Cast", ["winner"], ["winner_real"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["winner_real"], ["classes"], to=TensorProto.UINT8),
    ]
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, rows, columns, 3])
    classes = helper.make_tensor_value_info("classes", TensorProto.UINT8, [1, rows, columns])
    graph = helper.make_graph(nodes, "brightest_channel", [frame], [classes], [order])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    if manifest is not None:
        helper.set_model_props(model, {METADATA_KEY: manifest or rgb_manifest().to_json()})
    save(model, str(path))
    return path


@pytest.fixture
def rgb_model(tmp_path: Path) -> Path:
    """An ONNX file that names each pixel's strongest channel."""
    return write_rgb_model(tmp_path / "rgb.onnx")


def write_labelled(root: Path, *, count: int = 3, split: str = "val", size_hw: tuple[int, int] = SIZE_HW) -> Path:
    """A data set in the folder layout: left half red, right half blue, the first pixel ignored."""
    (root / "labels" / split).mkdir(parents=True, exist_ok=True)
    (root / "classes.json").write_text(json.dumps(RGB_CLASSES.to_json()))
    for index in range(count):
        image = np.zeros((*size_hw, 3), np.uint8)
        image[:, : size_hw[1] // 2, 0] = 200
        image[:, size_hw[1] // 2 :, 2] = 200
        labels = np.zeros(size_hw, np.uint8)
        labels[:, size_hw[1] // 2 :] = 2
        labels[0, 0] = 255
        write_png(root / "images" / split / f"{index}.png", image)
        write_png(root / "labels" / split / f"{index}.png", labels)
    return root


@pytest.fixture(scope="session", autouse=True)
def compiler_cache(tmp_path_factory):
    """PyTorch's first training step makes a folder for what it might compile: here, not in the temporary folder."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def driver_is_there(monkeypatch):
    """Stand-ins for CUDA's Python packages have no driver's library below them; what they lack is not that."""
    monkeypatch.setattr("clst_runtime.backends.cuda.device.has_driver", lambda: True)


@pytest.fixture(autouse=True)
def messages():
    """What is logged goes to standard error, as in a command."""
    with shown_messages():
        yield


@pytest.fixture(scope="session")
def cameras(tmp_path_factory):
    """The folders `old` and `new`, two small labelled data sets of 4 + 2 scenes; nobody writes there."""
    from tests.support.miniature import drawn_cameras

    return drawn_cameras(tmp_path_factory.mktemp("cameras"), train=4, val=2)


@pytest.fixture(scope="module")
def narrow():
    """The networks are narrow for all tests of a module."""
    with narrow_networks():
        yield


@pytest.fixture(scope="session")
def trt():
    """The module of TensorRT for RTX; without it the test is skipped, and the run's last lines say so once."""
    try:
        find_rtx()
    except MissingDependency as error:
        (pytest.fail if must_be_there() else pytest.skip)(f"{LACKING}: {error.message}")
    return load_rtx()


def pytest_collection_modifyitems(items):
    """The runtime's many short files come last: then no process waits at the end for another one's long file."""
    short = Path(__file__).parent / "unit" / "runtime"
    items.sort(key=lambda item: short in item.path.parents)


def pytest_collection_finish():
    """What is imported by now stays: looking through it for garbage took a tenth of a traced network's time."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    reasons = {each.longrepr[2].removeprefix("Skipped: ") for each in terminalreporter.stats.get("skipped", [])}
    for reason in sorted(reasons):
        if reason.startswith(LACKING):
            terminalreporter.write_line(reason)
