"""TensorRT's rules for Q/DQ nodes, checked on a graph before it costs minutes on a device.

Where a pair may stand decides which kernels TensorRT can choose: a pair between a convolution and its ReLU, or on both
inputs of a residual Add, breaks a fusion; unequal scales at a Concat cost a reformat; some forms do not parse at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from clst_export.quantization.int8 import OUTPUT_AXIS, Network, attribute
from clst_runtime.errors import ModelFileError
from clst_runtime.system.optional import require

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
TAIL = (("ArgMax", None), ("Cast", 1), ("Cast", 2))  # to FLOAT, to UINT8


def check_placement(model: Any) -> None:
    """Refuse a Q/DQ graph that breaks one of TensorRT's rules.

    Raises:
        ModelFileError: it does; the first problem and their number.
    """
    problems = placement_problems(model)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ModelFileError(f"the graph breaks TensorRT's Q/DQ rules: {problems[0]}{more}; export it with --trt int8")


def placement_problems(model: Any) -> list[str]:
    """A message for every rule that an ONNX ModelProto breaks."""
    network = Network(model)
    rules = (_grids, _pairs, _layers, _fusions, _adds, _concatenations, _other_readers, _tail)
    return [problem for rule in rules for problem in rule(network)]


def _grids(network: Network) -> Iterator[str]:
    """Signed 8 bits, zero-points 0, positive constant scales; one for an activation, one per channel of weights."""
    int8 = require("onnx").TensorProto.INT8
    for node in network.nodes:
        if node.op_type not in (QUANTISE, DEQUANTISE):
            continue
        scale = network.constant(node.input[1])
        if scale is None or not (np.isfinite(scale).all() and (scale > 0).all()):
            yield f"{node.name}: its scale is not a positive constant"
        zero = network.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        stored = network.constant(node.input[0]) if node.op_type == DEQUANTISE else None
        kinds = {value.dtype.name for value in (zero, stored) if value is not None}
        kinds |= {"int8"} if attribute(node, "output_dtype") == int8 else set()
        if kinds != {"int8"}:
            yield f"{node.name}: 8-bit type is {', '.join(sorted(kinds)) or 'uint8 by default'}, must be int8"
        if zero is not None and zero.any():
            yield f"{node.name}: zero-point {int(zero.flat[np.argmax(zero != 0)])}, must be 0"
        if scale is not None and scale.size > 1 and network.constant(_source(network, node)) is None:
            yield f"{node.name}: {scale.size} scales for an activation, must be one"


def _source(network: Network, node: Any) -> str:
    """The tensor behind a Q or DQ and, for a DQ, behind its Q."""
    name: str = node.input[0]
    before = _producer(network, name)
    return str(before.input[0]) if before is not None and before.op_type == QUANTISE else name


def _producer(network: Network, name: str) -> Any:
    return network.nodes[network.producers[name]] if name in network.producers else None


def _readers(network: Network, name: str) -> list[Any]:
    return [network.nodes[edge.node] for edge in network.readers.get(name, [])]


def _pairs(network: Network) -> Iterator[str]:
    """Every Q is followed by its DQ with the same scale, and every DQ follows a Q or stored weights."""
    for node in network.nodes:
        if node.op_type == QUANTISE:
            readers = _readers(network, node.output[0])
            if not readers or any(reader.op_type != DEQUANTISE for reader in readers):
                yield f"{node.name}: not followed by its DequantizeLinear"
            elif any(not _same(network, node.input[1], reader.input[1]) for reader in readers):
                yield f"{node.name}: its DequantizeLinear has another scale"
        elif node.op_type == DEQUANTISE:
            before = _producer(network, node.input[0])
            if (before is None or before.op_type != QUANTISE) and network.constant(node.input[0]) is None:
                yield f"{node.name}: follows neither a QuantizeLinear nor stored weights"


def _same(network: Network, first: str, second: str) -> bool:
    one, other = network.constant(first), network.constant(second)
    return one is not None and other is not None and np.array_equal(one, other)


def _dequantised(network: Network, name: str) -> Any:
    """The DQ that gives a tensor, else None."""
    node = _producer(network, name)
    return node if node is not None and node.op_type == DEQUANTISE else None


def _layers(network: Network) -> Iterator[str]:
    """A layer reads INT8 on both its inputs or on none; weights per output channel; a convolution's bias is float."""
    for node in network.nodes:
        if node.op_type not in OUTPUT_AXIS:
            continue
        values, weights = (_dequantised(network, name) for name in node.input[:2])
        if (values is None) != (weights is None):
            only = "weights" if values is None else "input"
            yield f"{node.name}: only its {only} is quantised, must be both or neither"
        if weights is not None and not _per_channel(network, weights, OUTPUT_AXIS[node.op_type]):
            yield f"{node.name}: weight scales are not per output channel on axis {OUTPUT_AXIS[node.op_type]}"
        if len(node.input) > 2 and _dequantised(network, node.input[2]) is not None:
            yield f"{node.name}: Q/DQ on its bias, must be float"


def _per_channel(network: Network, weights: Any, axis: int) -> bool:
    """Whether a DQ of stored weights has one scale for each place of an axis."""
    scale, stored = network.constant(weights.input[1]), network.constant(_source(network, weights))
    return (
        attribute(weights, "axis") == axis
        and scale is not None
        and stored is not None
        and (scale.shape == stored.shape[axis : axis + 1])
    )


def _fusions(network: Network) -> Iterator[str]:
    """Nothing stands between Conv and ReLU, nor between Conv, Add and ReLU."""
    for node in network.nodes:
        if node.op_type not in ("Relu", "Clip"):
            continue
        pair = _dequantised(network, node.input[0])
        before = _producer(network, _source(network, pair)) if pair is not None else None
        if before is not None and before.op_type in ("Conv", "Add", "BatchNormalization"):
            yield f"{pair.name}: Q/DQ between {before.op_type} {before.name} and {node.op_type} {node.name}"


def _adds(network: Network) -> Iterator[str]:
    """Of a residual Add only the shortcut is quantised; the convolution that is fused with it gives float."""
    for node in network.nodes:
        if node.op_type != "Add":
            continue
        pairs = [_dequantised(network, name) for name in node.input]
        if all(pair is not None for pair in pairs):
            yield f"{node.name}: both inputs are quantised, only the shortcut may be"
        elif any(pairs) and not any(
            before is not None and before.op_type == "Conv" and len(network.readers[name]) == 1
            for name, before in ((name, _producer(network, name)) for name in node.input)
        ):
            yield f"{node.name}: an input is quantised, but there is no convolution to fuse with"


def _concatenations(network: Network) -> Iterator[str]:
    """All quantised readings of what a Concat joins or gives have one scale, and none or all of its inputs are INT8."""
    for node in network.nodes:
        if node.op_type != "Concat":
            continue
        pairs = [_dequantised(network, name) for name in node.input]
        if any(pairs) and not all(pairs):
            yield f"{node.name}: only some of its inputs are quantised"
        sources = [
            _source(network, pair) if pair is not None else name for pair, name in zip(pairs, node.input, strict=True)
        ]
        found = {
            float(scale.flat[0])
            for name in (*sources, node.output[0])
            for reader in _readers(network, name)
            if reader.op_type == QUANTISE and (scale := network.constant(reader.input[1])) is not None
        }
        if len(found) > 1:
            yield f"{node.name}: scales {', '.join(f'{value:.6g}' for value in sorted(found))} meet in it, must be one"


def _other_readers(network: Network) -> Iterator[str]:
    """Only layers, Adds and Concats read INT8; not Resize (linear has no INT8 form), ArgMax, normalisations."""
    for name in network.readers:
        pair = _dequantised(network, name)
        if pair is None:
            continue
        for reader in _readers(network, name):
            if reader.op_type not in (*OUTPUT_AXIS, "Add", "Concat", "Relu", "Clip"):
                yield f"{pair.name}: read by {reader.op_type} {reader.name}, which must stay in higher precision"


def _tail(network: Network) -> Iterator[str]:
    """The classes leave as ArgMax → Cast to FLOAT → Cast to UINT8: TensorRT casts to uint8 from float only."""
    name, found = "classes", list[tuple[str, Any]]()
    for _ in TAIL:
        node = _producer(network, name)
        if node is None:
            break
        found.insert(0, (node.op_type, attribute(node, "to") if node.op_type == "Cast" else None))
        name = node.input[0]
    if tuple(found) != TAIL:
        ending = " → ".join(kind if to is None else f"{kind}({to})" for kind, to in found)
        yield f"the graph ends with {ending or 'nothing that gives classes'}, must be ArgMax → Cast(1) → Cast(2)"
