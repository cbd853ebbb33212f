"""Small graphs by the artifact contract, and the project's networks, for the tests of precision."""

import functools
from contextlib import nullcontext

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.support.narrow import narrow_networks

SIZE_HW = (8, 16)
IDENTITY = np.eye(3, dtype=np.float32)


class Builder:
    """Collects nodes; each method adds one and gives its output's name."""

    def __init__(self):
        self.nodes, self.stored = [], []

    def store(self, name, value):
        self.stored.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"{name}_node", **attributes))
        return name

    def conv(self, given, name, weights, bias=None, **attributes):
        """A convolution 1×1 of weights O,I, or of weights O,I,h,w."""
        weights = np.asarray(weights, np.float32)
        weights = weights[:, :, None, None] if weights.ndim == 2 else weights
        inputs = [given, self.store(f"segmenter.{name}.weight", weights)]
        if bias is not None:
            inputs.append(self.store(f"segmenter.{name}.bias", np.asarray(bias, np.float32)))
        return self.add("Conv", inputs, name, **attributes)

    def start(self):
        """The frame as float 1,3,H,W."""
        self.add("Cast", ["frame"], "pixels", to=TensorProto.FLOAT)
        return self.add("Transpose", ["pixels"], "real", perm=[0, 3, 1, 2])

    def finish(self, logits, size_hw=SIZE_HW):
        """Resize, ArgMax, the two Casts; the whole model."""
        sizes = self.store("sizes", np.array([1, 3, *size_hw], np.int64))
        mode = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        self.add("Resize", [logits, "", "", sizes], "large", **mode)
        self.add("ArgMax", ["large"], "winner", axis=1, keepdims=0)
        self.add("Cast", ["winner"], "winner_real", to=TensorProto.FLOAT)
        self.add("Cast", ["winner_real"], "classes", to=TensorProto.UINT8)
        frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *size_hw, 3])
        classes = helper.make_tensor_value_info("classes", TensorProto.UINT8, [1, *size_hw])
        graph = helper.make_graph(self.nodes, "small", [frame], [classes], self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def chain(weights, bias=None, *, most=None):
    """frame → first (copies the channels) → ReLU → middle (`weights` 3,3) → ReLU → last (copies) → classes.

    With `most` the first ReLU ends there, as a ReLU6 does at 6.
    """
    b = Builder()
    first = b.conv(b.start(), "first", IDENTITY)
    if most is None:
        first = b.add("Relu", [first], "first_relu")
    else:
        bounds = [b.store(name, np.float32(value)) for name, value in (("least", 0), ("most", most))]
        first = b.add("Clip", [first, *bounds], "first_relu")
    middle = b.add("Relu", [b.conv(first, "middle", weights, bias)], "middle_relu")
    return b.finish(b.conv(middle, "last", IDENTITY))


def residual(seed=0):
    """A block with an identity shortcut, a down-sampling block, and a Concat read by a convolution."""
    random = np.random.default_rng(seed)

    def weights(outputs, inputs, size=1):
        return random.normal(size=(outputs, inputs, size, size)).astype(np.float32) / np.sqrt(inputs * size * size)

    b = Builder()
    same = {"pads": [1, 1, 1, 1]}
    stem = b.add("Relu", [b.conv(b.start(), "stem", weights(4, 3) / 64)], "stem_relu")
    one = b.add("Relu", [b.conv(stem, "block.conv1", weights(4, 4, 3), np.ones(4), **same)], "one")
    two = b.conv(one, "block.conv2", weights(4, 4, 3), np.zeros(4), **same)
    block = b.add("Relu", [b.add("Add", [two, stem], "sum")], "block")
    left = b.conv(block, "down.conv", weights(4, 4, 3), strides=[2, 2], **same)
    right = b.conv(block, "down.shortcut", weights(4, 4), strides=[2, 2])
    down = b.add("Relu", [b.add("Add", [left, right], "down_sum")], "down")
    wide = b.add("Concat", [down, b.add("Relu", [b.conv(down, "side", weights(4, 4))], "side_relu")], "both", axis=1)
    mixed = b.add("Relu", [b.conv(wide, "mix", weights(4, 8))], "mix_relu")
    return b.finish(b.conv(mixed, "head", weights(3, 4), np.zeros(3)))


def frames(count=3, size_hw=SIZE_HW, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*size_hw, 3), dtype=np.uint8) for _ in range(count)]


def network(name, size_hw=(64, 128), *, with_confidence=False, whole=False):
    """The traced float32 graph of a network of the project, normalised by what random pictures give.

    It has few channels unless asked for whole: weights take most of the time of what is done with them.
    """
    return _network(name, size_hw, with_confidence, whole)


@functools.cache
def _network(name, size_hw, with_confidence, whole):
    from clst_export.graph.trace import trace
    from clst_train.method.batchnorm import estimate_statistics
    from clst_train.models.deployable import Deployable, normalise
    from clst_train.models.networks import build_segmenter
    from clst_train.models.normalisation import IMAGENET

    torch.manual_seed(0)
    with nullcontext() if whole else narrow_networks():
        segmenter = build_segmenter(name, 3)
    for module in segmenter.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    estimate_statistics(segmenter, [normalise(torch.from_numpy(np.stack(frames(2, size_hw))), IMAGENET)])
    deployable = Deployable(segmenter.eval(), size_hw, with_confidence=with_confidence)
    return trace(deployable, size_hw, opset=19, with_confidence=with_confidence)


def run(model, frame, names=("classes",), **entries):
    """Tensors of a model on a frame, by ONNX Runtime; `entries` are session settings."""
    import onnx
    import onnxruntime as ort

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {output.name for output in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(names), {"frame": frame[None]})


def stored(model, name):
    """The value of an initialiser."""
    return next(numpy_helper.to_array(entry) for entry in model.graph.initializer if entry.name == name)


def node_of(model, output):
    """The node that gives a tensor."""
    return next(node for node in model.graph.node if output in node.output)


def kinds(model):
    """How often each operator occurs."""
    import collections

    return collections.Counter(node.op_type for node in model.graph.node)
