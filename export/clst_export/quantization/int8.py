"""INT8 by explicit Q/DQ: the float32 graph with the precision written in, for TensorRT or for ONNX Runtime's CPU.

One plan for both: which edges of the graph carry 8 bits. The two targets differ in the type of activations and in how
much beside the convolutions is quantised:

    TENSORRT  int8, symmetric, zero-point 0; only what layers read, and the shortcut of a residual Add.
    CPU       uint8 with zero-point; every tensor between the first and the last convolution, because a float
              operator between two INT8 ones costs two conversions of the whole tensor.

A layer is a Conv, or a MatMul of activations with stored weights, as a linear layer is written. Products of two
activations (attention), normalisations, Softmax and GELU stay in higher precision, and so do ConvTranspose and Gemm.
Weights are int8 in the file, symmetric per output channel, behind a DequantizeLinear. Every scale is an initialiser of
its own whose value float16 holds exactly, so that a later conversion of the rest to FP16 changes no quantised value.

Legend: O output channels, I input channels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_export.graph.model_file import drop_unread
from clst_export.graph.types import infer_types
from clst_export.precision import Target
from clst_export.quantization.calibration import Range
from clst_runtime.errors import ConfigError, ModelFileError, did_you_mean
from clst_runtime.system.optional import require

WEIGHT_LIMIT = {Target.TENSORRT: 127, Target.CPU: 64}
"""Largest stored weight. Without VNNI, ONNX Runtime adds two products uint8 × int8 in 16 bits: 2 × 255 × 64 fits."""
OUTPUT_AXIS = {"Conv": 0, "MatMul": 1}
"""Operators of layers, with the axis of their weights that counts the output channels."""
FLOAT16_LARGEST = 65504.0
BETWEEN = frozenset({"Add", "Concat", "Resize", "AveragePool"})
"""Operators whose results are 8 bits on the CPU when all that they read is 8 bits."""


@dataclass(frozen=True)
class Edge:
    """One input of one node."""

    node: int
    """Position of the node in the graph."""
    position: int
    """Which of its inputs."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """An 8-bit grid: real = scale × (stored − zero-point)."""

    scale: float
    """Distance of two neighbours."""
    zero_point: int
    """The stored number that means 0."""
    kind: type[np.int8] | type[np.uint8]
    """Type of the stored numbers."""


class Network:
    """An ONNX graph with what one needs to walk it."""

    def __init__(self, model: Any) -> None:
        onnx = require("onnx")
        self.model = model
        self.nodes: list[Any] = list(model.graph.node)
        self.producers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[Edge]] = {}
        for index, node in enumerate(self.nodes):
            for position, name in enumerate(node.input):
                self.readers.setdefault(name, []).append(Edge(index, position))
        self._stored = {entry.name: entry for entry in model.graph.initializer}
        self._to_array = onnx.numpy_helper.to_array

    def constant(self, name: str) -> npt.NDArray[np.float32] | None:
        """The value of an initialiser; None for a computed tensor."""
        return np.asarray(self._to_array(self._stored[name])) if name in self._stored else None

    def activations(self, index: int) -> Iterator[tuple[int, str]]:
        """Position and name of the computed tensors that a node reads as values (not sizes or weights)."""
        node = self.nodes[index]
        count = len(node.input) if node.op_type in ("Add", "Concat") else 1
        for position, name in enumerate(node.input[:count]):
            if name and self.constant(name) is None:
                yield position, name

    def layers(self) -> list[int]:
        """Positions of the Conv and MatMul nodes that multiply activations by constant weights."""
        return [index for index, node in enumerate(self.nodes) if node.op_type in OUTPUT_AXIS and self._is_layer(node)]

    def _is_layer(self, node: Any) -> bool:
        weights = self.constant(node.input[1])
        is_read = self.constant(node.input[0]) is None
        return is_read and weights is not None and (node.op_type == "Conv" or weights.ndim == 2)

    def result(self, index: int) -> str:
        """The tensor that a node gives to the rest: behind its ReLU or ReLU6 if that is all that reads it."""
        output: str = self.nodes[index].output[0]
        readers = self.readers.get(output, [])
        if len(readers) == 1 and self.nodes[readers[0].node].op_type in ("Relu", "Clip"):
            return str(self.nodes[readers[0].node].output[0])
        return output

    def upper_bound(self, name: str) -> float | None:
        """The largest value of what a Clip from 0 on gives, such as a ReLU6; None for other tensors."""
        node = self.nodes[self.producers[name]] if name in self.producers else None
        bounds = [self.constant(bound) for bound in node.input[1:]] if node is not None else []
        if node is None or node.op_type != "Clip" or len(bounds) < 2 or bounds[0] is None or bounds[1] is None:
            return None
        return float(bounds[1]) if float(bounds[0]) == 0.0 else None


def quantisable(model: Any) -> tuple[str, ...]:
    """Names of the layers that may become INT8, in the graph's order: all but the first and the last ones.

    First are those with no layer before them, last those with none behind them (DeepLab's head has four).
    A name is the module's path in the network, e.g. `layer3.0.conv1`.
    """
    network = Network(model)
    return tuple(layer_names(network)[index] for index in _inner_layers(network))


def activations(model: Any) -> tuple[str, ...]:
    """Names of the tensors whose ranges `to_int8` needs, for either target and whatever is kept."""
    network = Network(model)
    chosen = _inner_layers(network)
    edges = [*_tensorrt_edges(network, chosen), *_cpu_edges(network, _cpu_nodes(network, chosen))]
    needed = [network.nodes[edge.node].input[edge.position] for edge in edges]
    for inputs, output in _concatenations(network):
        needed.extend((*inputs, output))
    return tuple(dict.fromkeys(needed))


def to_int8(model: Any, ranges: Mapping[str, Range], *, target: Target, keep: frozenset[str] = frozenset()) -> Any:
    """A new ONNX model of the same function with INT8 layers; `model` is not changed.

    For the CPU the weights use 7 of their 8 bits (−64 … 64). On processors without VNNI (AVX2), ONNX Runtime adds pairs
    of products in 16 bits, where 2 × 255 × 127 saturates: a convolution with full-range weights gave 128 for 253 there.
    With 7 bits every processor computes the same numbers. What stays float is also written in a form that is faster
    there: the tail channels-last, a normalisation as a product and a sum.

    A graph for TensorRT that is compared on ONNX Runtime's CPU needs a session with `session.disable_quant_qdq` = 1:
    otherwise a convolution that is read by a Q may be fused into the signed kernel, which saturates in the same way.

    Args:
        model: the float32 graph by the artifact contract, an ONNX ModelProto.
        ranges: one for each tensor that `activations` names (others are not looked at).
        target: what will compute it.
        keep: layers, by the names of `quantisable`, that stay in the higher precision.

    Raises:
        ConfigError: `keep` names a layer that is not quantisable.
        ModelFileError: a tensor has no range, so it was calibrated on another graph.
    """
    onnx = require("onnx")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    network = Network(copy)
    names = layer_names(network)
    inner = _inner_layers(network)
    known = {names[index] for index in inner}
    for name in sorted(keep - known):
        raise ConfigError(f"no quantisable layer {name!r} to keep; {did_you_mean(name, known)}")
    chosen = [index for index in inner if names[index] not in keep]
    if target is Target.TENSORRT:
        edges, shared = _tensorrt_edges(network, chosen), _joined(network, ranges)
    else:
        edges, shared = _cpu_edges(network, _cpu_nodes(network, chosen)), dict(ranges)
    read = dict.fromkeys(network.nodes[edge.node].input[edge.position] for edge in edges)
    for name in read:
        if name not in shared:
            raise ModelFileError(f"tensor {name} has no calibrated range; calibrate this very graph again")
    grids = {name: _grid(shared[name], target, most=network.upper_bound(name)) for name in read}
    editor = _Editor(network)
    for index in chosen:
        editor.quantise_weights(index, names[index], grids[network.nodes[index].input[0]], target)
    for edge in edges:
        editor.read_quantised(edge, grids[network.nodes[edge.node].input[edge.position]])
    if chosen and target is Target.CPU:
        editor.part_biases(chosen)
        editor.finish_channels_last()
        editor.write_out_normalisations()
    return editor.finished()


def layer_names(network: Network) -> dict[int, str]:
    """Position of each layer → its module's path, made unique."""
    found: dict[int, str] = {}
    for index in network.layers():
        node = network.nodes[index]
        name = _stored_path(node) or _scope(node.name) or f"{node.op_type.lower()}{len(found)}"
        name = name.removeprefix("segmenter.").removeprefix("network.")
        taken = set(found.values())
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}~{number}", number + 1
        found[index] = unique
    return found


def _stored_path(node: Any) -> str:
    """The module's path from the name of a node's weights; empty where they are computed from others."""
    name: str = node.input[1]
    return name.removesuffix(".weight") if name.endswith(".weight") else ""


def _scope(node_name: str) -> str:
    """The module's path from an exported node's name: `/segmenter/layer1/layer1.0/conv1/Conv` is layer1.0.conv1's."""
    parts: list[str] = []
    for part in [part for part in node_name.split("/") if part][:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def _inner_layers(network: Network) -> list[int]:
    """Layers that have another one before them and another one behind them."""
    layers = network.layers()
    behind_one = _flood(network, layers, forward=True)
    before_one = _flood(network, layers, forward=False)
    return [index for index in layers if index in behind_one and index in before_one]


def _flood(network: Network, starts: list[int], *, forward: bool) -> set[int]:
    """Nodes that can be reached from any of `starts` by at least one step."""
    reached: set[int] = set()
    waiting = list(starts)
    while waiting:
        node = network.nodes[waiting.pop()]
        if forward:
            steps = {edge.node for name in node.output for edge in network.readers.get(name, [])}
        else:
            steps = {network.producers[name] for name in node.input if name in network.producers}
        waiting.extend(steps - reached)
        reached |= steps
    return reached


def _tensorrt_edges(network: Network, chosen: list[int]) -> list[Edge]:
    """What TensorRT shall read in INT8: inputs of layers, and shortcuts of the Adds fused into convolutions."""
    edges = [Edge(index, 0) for index in chosen]
    fusable = {network.nodes[index].output[0] for index in chosen if network.nodes[index].op_type == "Conv"}
    for index, node in enumerate(network.nodes):
        if node.op_type != "Add":
            continue
        own = [p for p, name in network.activations(index) if name in fusable and len(network.readers[name]) == 1]
        others = [position for position, _ in network.activations(index) if position not in own[:1]]
        if own and len(others) == 1:
            edges.append(Edge(index, others[0]))
    return edges


def _cpu_nodes(network: Network, chosen: list[int]) -> set[int]:
    """Nodes that ONNX Runtime's CPU computes in 8 bits: the chosen layers and what lies between convolutions.

    A MatMul gives float32 there, whatever it reads.
    """
    quantised = set(chosen)
    convolutions = [index for index in chosen if network.nodes[index].op_type == "Conv"]
    given = {name for index in convolutions for name in (network.result(index), network.nodes[index].output[0])}
    for index, node in enumerate(network.nodes):
        if node.op_type not in BETWEEN:
            continue
        read = [name for _, name in network.activations(index)]
        joins = node.op_type in ("Add", "Concat")  # with a constant among its inputs, such a one is computed in float
        if read and all(name in given for name in read) and (not joins or len(read) == len(node.input)):
            quantised.add(index)
            given |= {network.result(index), node.output[0]}
    return quantised


def _cpu_edges(network: Network, nodes: set[int]) -> list[Edge]:
    """What carries 8 bits on the CPU: everything that the quantised nodes read, and whoever reads their results."""
    edges = [Edge(index, position) for index in sorted(nodes) for position, _ in network.activations(index)]
    for index in sorted(nodes):
        if network.nodes[index].op_type != "MatMul":
            edges.extend(network.readers.get(network.result(index), []))
    return list(dict.fromkeys(edges))


def _concatenations(network: Network) -> Iterator[tuple[list[str], str]]:
    """Inputs and output of each Concat of feature maps or tokens, along whatever axis."""
    types = infer_types(network.model)
    for index, node in enumerate(network.nodes):
        if node.op_type == "Concat" and types[node.output[0]].kind == require("onnx").TensorProto.FLOAT:
            yield [name for _, name in network.activations(index)], node.output[0]


def attribute(node: Any, name: str) -> Any:
    """The value of a node's attribute, None without it."""
    onnx = require("onnx")
    found = [onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name]
    return found[0] if found else None


def _joined(network: Network, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges with one for all that a Concat reads and gives, also through a Concat of Concats."""
    joined, groups = dict(ranges), [(*names, output) for names, output in _concatenations(network)]
    before: dict[str, Range] = {}
    while joined != before:
        before = dict(joined)
        for group in groups:
            known = [name for name in group if name in joined]
            whole = functools.reduce(Range.joined, (joined[name] for name in known), Range(low=0.0, high=0.0))
            joined.update(dict.fromkeys(known, whole))
    return joined


def _grid(span: Range, target: Target, *, most: float | None) -> Grid:
    """The grid of an activation; for the CPU one that reaches no further than `most`.

    Then ONNX Runtime leaves out the Clip before it, and the convolution before that is computed in 8 bits.
    """
    if target is Target.TENSORRT:
        return Grid(scale=float(scales(np.array([span.largest]), 127)[0]), zero_point=0, kind=np.int8)
    scale = float(scales(np.array([span.high - span.low]), 255)[0])
    if most is not None and span.low >= 0.0 and 255 * scale > most:
        scale = float(np.nextafter(np.float16(scale), np.float16(0)))
    return Grid(scale=scale, zero_point=int(np.clip(np.rint(-span.low / scale), 0, 255)), kind=np.uint8)


def scales(widths: npt.NDArray[np.floating[Any]], steps: int) -> npt.NDArray[np.float32]:
    """`widths` divided into steps, rounded up to what float16 holds; 1/steps where the width is 0.

    Rounded up, so that the largest value still falls on the grid instead of saturating. Exact in float16, so that
    TensorRT's FP16 engine and ONNX Runtime compute with the same scale.
    """
    exact = np.where(widths > 0.0, widths, 1.0).astype(np.float64) / steps
    near = np.minimum(exact, FLOAT16_LARGEST).astype(np.float16)
    with np.errstate(over="ignore"):  # above the largest there is only infinity, which is not taken
        up = np.where(near.astype(np.float64) < exact, np.nextafter(near, np.float16(np.inf)), near)
    return np.asarray(np.minimum(up, np.float16(FLOAT16_LARGEST)), np.float32)


class _Editor:
    """Writes Q/DQ pairs into a network's model."""

    def __init__(self, network: Network) -> None:
        onnx = require("onnx")
        self._network, self._onnx = network, onnx
        self._added: dict[int, list[Any]] = {}  # nodes to follow the node at a position; −1 = before all
        self._pairs: dict[str, str] = {}

    def _store(self, name: str, value: npt.NDArray[Any]) -> str:
        self._network.model.graph.initializer.append(self._onnx.numpy_helper.from_array(value, name))
        return name

    def read_quantised(self, edge: Edge, grid: Grid) -> None:
        """Let an edge read its tensor through Q and DQ; all edges of one tensor share the pair."""
        node = self._network.nodes[edge.node]
        name = node.input[edge.position]
        if name not in self._pairs:
            self._pairs[name] = self._pair(name, grid)
        node.input[edge.position] = self._pairs[name]

    def _pair(self, name: str, grid: Grid) -> str:
        scale = self._store(f"{name}_scale", np.array(grid.scale, np.float32))
        zero = self._store(f"{name}_zero_point", np.array(grid.zero_point, grid.kind))
        make = self._onnx.helper.make_node
        stored, read = f"{name}_quantized", f"{name}_dequantized"
        self._added.setdefault(self._network.producers.get(name, -1), []).extend(
            (
                make("QuantizeLinear", [name, scale, zero], [stored], name=f"{name}_QuantizeLinear"),
                make("DequantizeLinear", [stored, scale, zero], [read], name=f"{name}_DequantizeLinear"),
            )
        )
        return read

    def quantise_weights(self, index: int, name: str, read: Grid, target: Target) -> None:
        """Weights O,I,… of a Conv or I,O of a MatMul to int8 per output channel.

        For the CPU also a convolution's bias O to int32, on the products' grid.
        """
        node = self._network.nodes[index]
        weights = self._network.constant(node.input[1])
        if weights is None:
            raise AssertionError(f"{name} has no constant weights")
        limit, axis = WEIGHT_LIMIT[target], OUTPUT_AXIS[node.op_type]
        others = tuple(each for each in range(weights.ndim) if each != axis)
        steps = scales(np.abs(weights).max(axis=others), limit)
        bias = self._network.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if bias is not None and target is Target.CPU:
            # The bias is stored in units of input scale × weight scale. A dead channel's tiny weight scale would make
            # that integer overflow int32.
            steps = np.maximum(steps, (np.abs(bias) / (read.scale * 2.0**30)).astype(np.float32))
            products = (steps * np.float32(read.scale)).astype(np.float32)
            node.input[2] = self._dequantised(f"{name}.bias", np.rint(bias / products).astype(np.int32), products)
        stored = np.clip(np.rint(weights / np.expand_dims(steps, others)), -limit, limit).astype(np.int8)
        node.input[1] = self._dequantised(f"{name}.weight", stored, steps, axis)

    def _dequantised(self, name: str, stored: npt.NDArray[Any], steps: npt.NDArray[np.float32], axis: int = 0) -> str:
        inputs = [
            self._store(f"{name}_quantized", stored),
            self._store(f"{name}_scale", steps),
            self._store(f"{name}_zero_point", np.zeros(len(steps), stored.dtype)),
        ]
        node = self._onnx.helper.make_node(
            "DequantizeLinear", inputs, [f"{name}_dequantized"], name=f"{name}_DequantizeLinear", axis=axis
        )
        self._added.setdefault(-1, []).append(node)
        return f"{name}_dequantized"

    def part_biases(self, chosen: list[int]) -> None:
        """The bias of a MatMul as 1,1,O: ONNX Runtime makes a float32 Gemm of the two where it is a vector."""
        network = self._network
        outputs = {network.nodes[index].output[0] for index in chosen if network.nodes[index].op_type == "MatMul"}
        for node in [node for node in network.nodes if node.op_type == "Add" and outputs & set(node.input)]:
            for position, name in enumerate(node.input):
                bias = network.constant(name)
                if bias is not None and bias.ndim == 1:
                    node.input[position] = self._store(f"{node.output[0]}_bias", bias[None, None])

    def finish_channels_last(self) -> None:
        """Resize and ArgMax over the last axis: the same classes but for ties, in half the time on a CPU."""
        network, make = self._network, self._onnx.helper.make_node
        for winner in [node for node in network.nodes if node.op_type == "ArgMax" and attribute(node, "axis") == 1]:
            index = network.producers.get(winner.input[0], -1)
            resize = network.nodes[index]
            alone = len(network.readers[winner.input[0]]) == 1
            if index < 0 or resize.op_type != "Resize" or len(resize.input) < 4 or not alone:
                continue
            sizes = network.constant(resize.input[3])
            if sizes is None:
                continue
            turned = self._store(f"{resize.name}_sizes_channels_last", np.asarray(sizes, np.int64)[[0, 2, 3, 1]])
            logits = f"{resize.input[0]}_channels_last"
            transpose = make("Transpose", [resize.input[0]], [logits], perm=[0, 2, 3, 1], name=f"{logits}_Transpose")
            self._added.setdefault(index - 1, []).append(transpose)
            resize.input[0], resize.input[3] = logits, turned
            next(entry for entry in winner.attribute if entry.name == "axis").i = 3

    def write_out_normalisations(self) -> None:
        """BatchNormalization as Mul and Add: ONNX Runtime moves its transposes through those, and they vanish."""
        for index, node in enumerate(self._network.nodes):
            values = [self._network.constant(name) for name in node.input[1:]]
            scale, bias, mean, variance = values if node.op_type == "BatchNormalization" else [None] * 4
            if scale is None or bias is None or mean is None or variance is None:
                continue
            factor = scale / np.sqrt(variance + np.float32(attribute(node, "epsilon") or 1e-5))
            output = node.output[0]
            by = self._store(f"{output}_factor", factor.astype(np.float32)[:, None, None])
            plus = self._store(f"{output}_offset", (bias - mean * factor).astype(np.float32)[:, None, None])
            make, product = self._onnx.helper.make_node, f"{output}_product"
            node.CopyFrom(make("Mul", [node.input[0], by], [product], name=f"{output}_Mul"))
            add = make("Add", [product, plus], [output], name=f"{output}_Add")
            self._added.setdefault(index, []).insert(0, add)

    def finished(self) -> Any:
        """The model with the new nodes in their places and without what nothing reads any more."""
        graph = self._network.model.graph
        ordered = list(self._added.get(-1, []))
        for index, node in enumerate(self._network.nodes):
            ordered.extend((node, *self._added.get(index, [])))
        kept = [self._onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del graph.node[:]
        graph.node.extend(kept)
        drop_unread(graph)
        return self._network.model
