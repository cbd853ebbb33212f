"""A float32 graph becomes float16 where the measured ranges allow it; the rest stays float32, with the reason.

Every node computes in one of the two types; a Cast stands wherever a tensor crosses from one to the other, once.
The float16 converter inside ONNX Runtime is not used: between two nodes that stay float32 it rounds to float16 and
back, which turns an outlier into infinity, and it silently clips weights that are out of range.
Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_export.graph.model_file import drop_unread
from clst_export.graph.types import infer_types
from clst_export.quantization.activations import stream_activations
from clst_runtime.backends.base import Frame
from clst_runtime.errors import DataError, ModelFileError
from clst_runtime.system.optional import require

LARGEST = 65504.0
HEADROOM = 4.0  # frames that were not measured may reach further
SMALLEST_NORMAL = 2.0**-14  # subnormals below it lose one bit of precision with every halving
ROUNDING = 2.0**-11  # the largest share of a normal number that is rounded away
MAX_LOSS = 2.0**-9  # of a channel's weights: four times what rounding a normal number can cost
MAX_SHIFT = 2.0**-10  # of a convolution's range: twice what rounding the largest value itself can cost
PREPROCESSING = ("Cast", "Transpose", "Gather", "Sub", "Div", "Mul", "Add")
MOVING = ("Pad", "Slice", "Split", "Concat", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "SpaceToDepth", "Resize")
"""What may stand between the normalised frame and the layer that reads it; values stay what they are, or are mixed."""
LAYERS = ("Conv", "MatMul", "Gemm")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "HardSwish")
MULTIPLIERS = {"Conv": 1, "ConvTranspose": 1, "BatchNormalization": 1, "Gemm": 1, "MatMul": 1, "Mul": 1, "Div": 1}
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Fp16Result:
    """A converted graph and what was not converted."""

    model: Any
    """The ONNX ModelProto."""
    kept_fp32: Mapping[str, str]
    """Names of the nodes that compute in float32, in the graph's order, each with the reason."""


def measure_ranges(model: Any, frames: Iterable[Frame]) -> dict[str, float]:
    """The largest |x| of every float32 tensor that a node of the graph computes, over all frames H,W,3.

    The maxima are taken inside the graph: memory does not grow with the number of frames, and no tensor leaves it.
    NaN and infinity stay what they are.

    Raises:
        DataError: no frames. ClstError: ONNX Runtime cannot open or run the graph, or has too little memory.
    """
    watched, names = _with_maxima(model)
    ranges, count = np.zeros(len(names)), 0
    for found in stream_activations(watched, ("clst_maxima", "clst_sums"), frames):
        count += 1
        # ReduceMax passes over NaN, so the sum shows whether there is one; NaN stays NaN through np.maximum.
        sums = found["clst_sums"]
        ranges = np.maximum(ranges, np.where(np.isfinite(sums), found["clst_maxima"], sums))
    if count == 0:
        raise DataError("no frames to measure ranges on; give at least one, better a hundred of the camera's frames")
    return dict(zip(names, map(float, ranges), strict=True))


def _with_maxima(model: Any) -> tuple[Any, list[str]]:
    """A copy of the graph that gives clst_maxima and clst_sums: max|x| and sum|x| of the float tensors named."""
    onnx = require("onnx")
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    floats = _float_tensors(model)
    names = [name for node in model.graph.node for name in node.output if name in floats]
    one_value = onnx.numpy_helper.from_array(np.array([1], np.int64), "clst_one_value")
    watched.graph.initializer.append(one_value)
    for index, name in enumerate(names):
        size = f"clst_size_{index}"
        watched.graph.node.append(onnx.helper.make_node("Abs", [name], [size]))
        for what, operator in (("max", "ReduceMax"), ("sum", "ReduceSum")):
            scalar, value = f"clst_{what}_{index}", f"clst_{what}_value_{index}"
            watched.graph.node.append(onnx.helper.make_node(operator, [size], [scalar], keepdims=0))
            watched.graph.node.append(onnx.helper.make_node("Reshape", [scalar, one_value.name], [value]))
    for what, output in (("max", "clst_maxima"), ("sum", "clst_sums")):
        values = [f"clst_{what}_value_{index}" for index in range(len(names))]
        watched.graph.node.append(onnx.helper.make_node("Concat", values, [output], axis=0))
    return watched, names


def to_fp16(model: Any, *, ranges: Mapping[str, float]) -> Fp16Result:
    """Convert a float32 graph, or the rest of a graph with QuantizeLinear and DequantizeLinear nodes, to float16.

    Float32 stay: the normalisation of 0–255 and the layer that reads it, the casts of class ids, nodes that read
    or write a tensor whose range leaves no headroom below 65504 or lies below float16's normal numbers, nodes whose
    weights or scales float16 cannot hold, convolutions that their rounded weights would shift, and with a node also
    the DequantizeLinear nodes in front of it.

    Args:
        model: an ONNX ModelProto by the artifact contract; it is not changed.
        ranges: the result of `measure_ranges` for this graph.

    Raises:
        ModelFileError: a range is missing, or the network's result is not finite. Other tensors may hold infinity, as
            the mask of an attention does; they stay float32.
    """
    converted = require("onnx").ModelProto()
    converted.CopyFrom(model)
    graph = converted.graph
    _name_nodes(graph)
    floats = _float_tensors(converted)
    _check_ranges(graph, floats, ranges)
    kept = _nodes_to_keep(graph, floats, ranges)
    _Rewriter(graph, floats, kept).rewrite()
    names = [node.name for node in graph.node if node.name in kept]
    return Fp16Result(model=converted, kept_fp32={name: kept[name] for name in names})


def _float_tensors(model: Any) -> set[str]:
    """Names of all float32 tensors: initialisers and whatever nodes compute."""
    float32 = require("onnx").TensorProto.FLOAT
    return {name for name, tensor in infer_types(model).items() if tensor.kind == float32}


def _name_nodes(graph: Any) -> None:
    """Give every node a name of its own, since the result refers to nodes by name."""
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{index}"
        seen.add(node.name)


def _check_ranges(graph: Any, floats: set[str], ranges: Mapping[str, float]) -> None:
    results = {node.input[0] for node in graph.node if node.op_type == "ArgMax"}
    for node in graph.node:
        for name in node.output:
            if name in floats and name not in ranges:
                raise ModelFileError(f"no range of tensor {name} ({node.name}); measure the ranges on this very graph")
            if name in floats and (math.isnan(ranges[name]) or (name in results and math.isinf(ranges[name]))):
                raise ModelFileError(
                    f"{node.name} gives {ranges[name]} in float32 already; the weights are broken, train again"
                )


def _nodes_to_keep(graph: Any, floats: set[str], ranges: Mapping[str, float]) -> dict[str, str]:
    """Nodes that stay float32, each with its reason."""
    kept = dict.fromkeys(_preprocessing(graph), "normalisation of 0–255 values")
    kept |= dict.fromkeys(_tail(graph), "class ids on their way to uint8")
    constants = {
        entry.name: require("onnx.numpy_helper").to_array(entry) for entry in graph.initializer if entry.name in floats
    }
    for node in graph.node:
        names = [name for name in (*node.input, *node.output) if name in floats]
        reasons = [_range_reason(name, ranges[name]) for name in names if name in ranges]
        reasons += [_type_reason(node, floats), _scale_reason(node, constants), _weight_reason(node, constants, ranges)]
        reason = next(filter(None, reasons), None)
        if reason is not None:
            kept.setdefault(node.name, reason)
    kept = dict.fromkeys(_shifted(graph, constants, ranges), "its weights cancel each other, rounding shifts it") | kept
    first = dict.fromkeys(_first_layers(graph, floats), "reads the normalised frame, whose steps float16 rounds")
    kept = first | kept
    return _with_quantised_inputs(graph, kept)


def _preprocessing(graph: Any) -> Iterator[str]:
    """Names of the element-wise nodes between the frame and the network."""
    reached = {entry.name for entry in graph.input}
    for node in graph.node:
        if node.op_type in PREPROCESSING and node.input[0] in reached:
            reached.update(node.output)
            yield node.name


def _first_layers(graph: Any, floats: set[str]) -> Iterator[str]:
    """Names of the layers that read the normalised frame, of what pads or cuts it for them, and of their activations.

    0–255 are exact in float16, normalised values are not: in a dark image one of the 255 steps is only nine steps of
    float16, and on a flat surface every pixel gets the same rounding error, which does not average out.
    """
    pixels = {entry.name for entry in graph.input}
    normalised: set[str] = set()
    convolved: set[str] = set()
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if node.op_type in PREPROCESSING and source in pixels | normalised:
            rounds = source in normalised or any(name in floats for name in node.input[1:])
            (normalised if rounds else pixels).update(node.output)
        elif node.op_type in MOVING and normalised.intersection(node.input):
            normalised.update(node.output)
            yield node.name
        elif node.op_type in LAYERS and source in normalised:
            convolved.update(node.output)
            yield node.name
        elif node.op_type in ACTIVATIONS and source in convolved:
            yield node.name


def _tail(graph: Any) -> Iterator[str]:
    """Names of the casts behind the arg-max: class ids go to uint8 by way of float32."""
    reached = {node.output[0] for node in graph.node if node.op_type == "ArgMax"}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in reached:
            reached.update(node.output)
            yield node.name


def _range_reason(name: str, largest: float) -> str | None:
    if largest > LARGEST / HEADROOM:
        return f"{name} reaches {largest:.4g}, more than a quarter of float16's {LARGEST:.0f}"
    if 0.0 < largest < SMALLEST_NORMAL:
        return f"{name} reaches only {largest:.3g}, below float16's normal numbers"
    return None


def _type_reason(node: Any, floats: set[str]) -> str | None:
    """Why a node that reads no float32 gives some: its type stands in an attribute, as of ConstantOfShape."""
    makes = any(name in floats for name in node.output) and not any(name in floats for name in node.input)
    return f"{node.op_type} makes float32 of something else" if makes and node.op_type != "Cast" else None


def _scale_reason(node: Any, constants: Mapping[str, Array]) -> str | None:
    """Why the scale of a QuantizeLinear or DequantizeLinear is nothing for float16."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in constants:
        return None
    scale = constants[node.input[1]].astype(np.float64).reshape(-1)
    with np.errstate(over="ignore"):
        loss = np.abs(scale.astype(np.float16).astype(np.float64) - scale)
    lost = scale[loss > MAX_LOSS * np.abs(scale)]
    return f"float16 cannot hold the scale {lost[0]:.3g}" if lost.size else None


def _weight_reason(node: Any, constants: Mapping[str, Array], ranges: Mapping[str, float]) -> str | None:
    """Why the weights of a node are nothing for float16: too large, or channels that it would round away."""
    reach = ranges.get(node.input[0], 1.0) if node.input else 1.0
    for position, name in enumerate(node.input):
        if name not in constants or node.op_type in ("QuantizeLinear", "DequantizeLinear", "Resize"):
            continue
        largest = float(np.abs(constants[name]).max(initial=0.0))
        if largest > LARGEST:
            return f"a weight of {largest:.4g} in {name} exceeds float16's {LARGEST:.0f}"
        if not math.isfinite(largest):
            raise ModelFileError(f"{node.name}: {name} holds {largest}; the weights are broken, train again")
        # What is added may vanish beside what it is added to; what multiplies may not.
        multiplies = MULTIPLIERS.get(node.op_type) == position
        lost = _lost_channels(_channels(node, constants[name]), reach, _offsets(node, constants)) if multiplies else 0
        if lost:
            return f"{lost} channels of {name} are so small that float16 rounds them away"
    return None


def _channels(node: Any, values: Array) -> Array:
    """Weights as channels,rest in float64: the rows that float16 must keep each for itself."""
    exact = values.astype(np.float64)
    if node.op_type == "Conv":
        return exact.reshape(values.shape[0], -1)
    if node.op_type == "MatMul" and values.ndim == 2:
        return np.transpose(exact)
    return exact.reshape(-1, 1) if node.op_type == "BatchNormalization" else exact.reshape(1, -1)


def _offsets(node: Any, constants: Mapping[str, Array]) -> Array | float:
    """Of a convolution what it adds to each channel, as an absolute value; 0 for other nodes."""
    bias = constants.get(node.input[2]) if node.op_type == "Conv" and len(node.input) > 2 else None
    return 0.0 if bias is None else np.abs(bias.astype(np.float64))


def _lost_channels(channels: Array, reach: float, offsets: Array | float) -> int:
    """How many channels lose more than `MAX_LOSS` of themselves.

    A channel whose whole contribution to the output stays below float16's normal numbers does not count, nor one that
    loses less than float16 takes from the result by rounding its offset. Training switches channels off in this way;
    only their bias reaches the output then.
    """
    whole = np.abs(channels).sum(axis=1)
    lost = np.abs(channels.astype(np.float16).astype(np.float64) - channels).sum(axis=1)
    alive = whole * max(reach, 1.0) >= SMALLEST_NORMAL
    matters = lost * max(reach, 1.0) > ROUNDING * offsets
    return int((alive & matters & (lost > MAX_LOSS * whole)).sum())


def _shifted(graph: Any, constants: Mapping[str, Array], ranges: Mapping[str, float]) -> Iterator[str]:
    """Names of convolutions that rounded weights shift by more than `MAX_SHIFT`, and of their activations.

    Depthwise filters of published weights have large weights that cancel each other, in front of a ReLU6 that cuts
    the result to 6. Behind it little is left beside the errors of the weights, and they do not average out.
    """
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in constants or node.input[0] not in ranges:
            continue
        after = [reader for reader in readers.get(node.output[0], ()) if reader.op_type in ACTIVATIONS]
        activations = after if len(after) == len(readers.get(node.output[0], ())) == 1 else []
        result = (activations or [node])[0].output[0]
        if _shift(node, constants, ranges[node.input[0]]) > MAX_SHIFT * ranges[result] > 0.0:
            yield from (each.name for each in (node, *activations))


def _shift(node: Any, constants: Mapping[str, Array], reach: float) -> float:
    """By how much rounding its weights and bias moves a convolution on a flat surface, root mean square over channels.

    There all weights of a filter read one value, at most `reach`: their errors add up. Those of other filters do not.
    """
    total = 0.0
    for position, size in ((1, reach), (2, 1.0)):
        if len(node.input) > position and node.input[position] in constants:
            exact = constants[node.input[position]].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):
                errors = exact.astype(np.float16).astype(np.float64) - exact
                filters = errors.reshape(*errors.shape[:2], -1).sum(axis=-1)
                total += float(np.square(size * filters).sum()) / exact.shape[0]
    return math.sqrt(total)


def _with_quantised_inputs(graph: Any, kept: dict[str, str]) -> dict[str, str]:
    """Also keep what a Cast must not part: a DequantizeLinear and the nodes that read it, to the end of the chain."""
    dequantised = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    grown = True
    while grown:
        grown = False
        for node in graph.node:
            together = {node.name, *(dequantised[name].name for name in node.input if name in dequantised)}
            missing = together - kept.keys()
            if missing and len(missing) < len(together):
                reason = next(kept[name] for name in sorted(together) if name in kept)
                kept |= dict.fromkeys(missing, f"beside a node that stays float32: {reason}")
                grown = True
    return kept


class _Rewriter:
    """Sets every node's type, and casts where a tensor crosses from one to the other."""

    def __init__(self, graph: Any, floats: set[str], kept: Mapping[str, str]) -> None:
        self._onnx = require("onnx")
        self._graph, self._kept = graph, kept
        self._float, self._half = self._onnx.TensorProto.FLOAT, self._onnx.TensorProto.FLOAT16
        self._types = dict.fromkeys(floats, self._float)
        self._constants = {entry.name: entry for entry in graph.initializer if entry.name in floats}
        self._copies: dict[tuple[str, int], str] = {}
        self._nodes: list[Any] = []

    def rewrite(self) -> None:
        """Convert the graph in place."""
        for node in self._graph.node:
            wanted = self._float if node.name in self._kept else self._half
            for position, name in enumerate(node.input):
                if name in self._types and not (node.op_type == "Resize" and position > 0):
                    node.input[position] = self._in_type(name, wanted)
            self._set_outputs(node, wanted)
            copy = self._onnx.NodeProto()
            copy.CopyFrom(node)
            self._nodes.append(copy)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        drop_unread(self._graph)

    def _set_outputs(self, node: Any, wanted: int) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self._float:
                attribute.i = wanted
        for name in node.output:
            if name in self._types:
                self._types[name] = wanted

    def _in_type(self, name: str, wanted: int) -> str:
        """The name under which a tensor is found in the type wanted; made at its first use."""
        if self._types[name] == wanted:
            return name
        key = (name, wanted)
        if key not in self._copies:
            copy = self._copies[key] = f"{name}_{'fp16' if wanted == self._half else 'fp32'}"
            if name in self._constants:
                value = self._onnx.numpy_helper.to_array(self._constants[name]).astype(np.float16)
                self._graph.initializer.append(self._onnx.numpy_helper.from_array(value, copy))
            else:
                self._nodes.append(self._onnx.helper.make_node("Cast", [name], [copy], to=wanted, name=f"{copy}_cast"))
        return self._copies[key]
