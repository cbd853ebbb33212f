"""A checkpoint with random weights and BatchNorm statistics of synthetic scenes, and frames for it."""

import hashlib

import numpy as np
import onnx
import pytest
import torch

from clst_export import pipeline as conversion
from clst_export.graph.trace import trace
from clst_export.verification import gate
from clst_runtime.backends.onnxruntime.session import rounds_float16
from clst_runtime.classes.labels import load_class_list
from clst_train.config import MEAN, STD
from clst_train.method.batchnorm import estimate_statistics
from clst_train.models.checkpoint import Checkpoint, save_checkpoint
from clst_train.models.deployable import normalise
from clst_train.models.networks import build_segmenter
from clst_train.models.normalisation import IMAGENET
from clst_train.synthetic.camera_looks import find_look
from clst_train.synthetic.scenes import draw_scene

SIZE_HW = (64, 96)
needs_rounding = pytest.mark.skipif(not rounds_float16(), reason="this ONNX Runtime cuts off when it quantises float16")


def scene(index, look="new"):
    """A synthetic scene of SIZE_HW and its labels."""
    return draw_scene(np.random.default_rng([3, index]), find_look(look), SIZE_HW)


_graphs = {}


def _trace_once(deployable, size, **options):
    """`trace`, which takes seconds, but only once for each network and its options."""
    forward = type(deployable.segmenter).forward  # a test may give it another
    own = deployable.segmenter
    facts = [forward, own.normalisation, own.temperature, size, sorted(options.items())]
    key = hashlib.sha256(repr(facts).encode())
    for name, value in deployable.state_dict().items():
        key.update(name.encode() + value.numpy().tobytes())
    if key.digest() not in _graphs:
        _graphs[key.digest()] = trace(deployable, size, **options)
    return onnx.ModelProto.FromString(_graphs[key.digest()].SerializeToString())


@pytest.fixture(autouse=True)
def every_graph_is_traced_once(monkeypatch):
    monkeypatch.setattr(conversion, "trace", _trace_once)


@pytest.fixture(autouse=True)
def build_check(request, monkeypatch):
    """What TensorRT for RTX says of each exported file; it is asked only where a test has the fixture `trt`.

    Returns:
        The answer, for a test to change.
    """
    answer = {"builder": "TensorRT for RTX", "not_checked": "the test does not ask"}
    if "trt" not in request.fixturenames:
        monkeypatch.setattr(gate, "check_build", lambda path, report: dict(answer))
    return answer


def write_checkpoint(path):
    """A `.pt` file of DDRNet-23-slim with 10 classes at 64x96."""
    torch.manual_seed(0)
    classes = load_class_list("scenes10")
    network = build_segmenter("ddrnet23_slim", len(classes))
    frames = [torch.from_numpy(scene(index)[0]) for index in range(8)]
    estimate_statistics(network, [normalise(torch.stack(frames), IMAGENET)])
    content = {"network": "ddrnet23_slim", "classes": classes, "input_hw": SIZE_HW, "mean": MEAN, "std": STD}
    save_checkpoint(path, Checkpoint(**content, stage="adapted", iteration=1, segmenter_state=network.state_dict()))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The whole network; in a module whose networks are narrow it cannot be loaded."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "adapted.pt")


@pytest.fixture(scope="module")
def narrow_checkpoint(narrow, tmp_path_factory):
    """The narrow network, for what is the same with few channels."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "adapted.pt")


@pytest.fixture(scope="session")
def frames():
    """Twelve synthetic frames."""
    return [scene(index)[0] for index in range(12)]
