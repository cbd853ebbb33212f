"""A traced graph without the tracer's leftovers: constants are constants, the frame is cast before anything else.

The tracer leaves chains that compute a Resize's sizes from shapes that are known, copies of equal weights, and a
transposition of uint8, which TensorRT cannot do (it has uint8 at the network's inputs and outputs only).
Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from clst_runtime.optional import require

LARGEST_READ = 64  # elements: sizes, axes and the like, whose values decide shapes


def tidy(model: Any) -> Any:
    """A copy of the graph that computes the same, with fewer nodes; names of the nodes that stay do not change.

    Args:
        model: an ONNX ModelProto of static shapes by the artifact contract.

    Returns:
        the copy: shape arithmetic and Constant nodes are initialisers, Identity nodes are gone, the frame goes
        through its Cast before its Transpose, initialisers that nothing reads are dropped, and no value_info is kept.
    """
    onnx = require("onnx")
    tidied = onnx.ModelProto()
    tidied.CopyFrom(model)
    _fold(tidied)
    _cast_frame_first(tidied.graph)
    read = {name for node in tidied.graph.node for name in node.input}
    read |= {output.name for output in tidied.graph.output}
    kept = [entry for entry in tidied.graph.initializer if entry.name in read]
    _replace(tidied.graph.initializer, kept)
    del tidied.graph.value_info[:]
    return tidied


def _fold(model: Any) -> None:
    """One pass in topological order: Identity nodes become other names, constant nodes initialisers."""
    onnx = require("onnx")
    types = infer_types(model)
    outputs = {output.name for output in model.graph.output}
    constants = {entry.name: entry for entry in model.graph.initializer}
    renamed: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            renamed[node.output[0]] = node.input[0]
            continue
        values = [] if outputs & set(node.output) else _constant_outputs(node, constants, types)
        for name, value in zip(node.output, values, strict=False):
            constants[name] = onnx.numpy_helper.from_array(value, name)
            model.graph.initializer.append(constants[name])
        if not values:
            kept.append(node)
    _replace(model.graph.node, kept)


def _constant_outputs(node: Any, constants: dict[str, Any], types: dict[str, TensorType]) -> list[Any]:
    """The values of a node that does not depend on the frame, or nothing.

    Only integers are computed with: weights stay what they are, and so do the Q/DQ nodes behind them.
    """
    kinds = require("onnx").TensorProto
    if node.op_type == "Constant":
        return _evaluated(node, [])
    if node.op_type == "Shape" and not node.attribute:
        known = types.get(node.input[0])
        return [np.array(known.shape, np.int64)] if known and known.shape is not None else []
    names = [name for name in node.input if name]
    if not names or any(name not in constants for name in names):
        return []
    inputs = [constants[name] for name in names]
    if any(entry.data_type not in (kinds.INT64, kinds.INT32) for entry in inputs):
        return []
    return _evaluated(node, inputs)


def _evaluated(node: Any, inputs: list[Any]) -> list[Any]:
    """The outputs of one node with constant inputs."""
    reference = require("onnx.reference")
    names = [entry.name for entry in inputs]
    to_array = require("onnx.numpy_helper").to_array
    return list(reference.ReferenceEvaluator(node).run(None, dict(zip(names, map(to_array, inputs), strict=True))))


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """What is known of a tensor before anything runs."""

    kind: int
    """Element type, a value of onnx.TensorProto.DataType."""
    shape: tuple[int, ...] | None
    """Sizes, or None where one of them is unknown."""


def infer_types(model: Any) -> dict[str, TensorType]:
    """Type and static shape of every tensor by its name: inputs, initialisers and what nodes give.

    Raises:
        onnx.shape_inference.InferenceError: the graph contradicts itself.
    """
    onnx = require("onnx")
    inferred = onnx.shape_inference.infer_shapes(_without_weights(model), strict_mode=True, data_prop=True).graph
    found = {e.name: TensorType(kind=e.data_type, shape=tuple(e.dims)) for e in inferred.initializer}
    for entry in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = entry.type.tensor_type
        known = tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim)
        shape = tuple(size.dim_value for size in tensor.shape.dim) if known else None
        found[entry.name] = TensorType(kind=tensor.elem_type, shape=shape)
    return found


def _without_weights(model: Any) -> Any:
    """The graph with its large initialisers declared as inputs: inference needs their types, not a copy of them."""
    onnx = require("onnx")
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = model.graph
    light.graph.CopyFrom(onnx.GraphProto(name=graph.name, node=graph.node, input=graph.input, output=graph.output))
    for entry in graph.initializer:
        if math.prod(entry.dims) <= LARGEST_READ:
            light.graph.initializer.append(entry)
        elif entry.name not in {given.name for given in graph.input}:
            light.graph.input.append(onnx.helper.make_tensor_value_info(entry.name, entry.data_type, entry.dims))
    return light


def _cast_frame_first(graph: Any) -> None:
    """frame → Transpose → Cast becomes frame → Cast → Transpose: the same values, and uint8 stays at the border."""
    for transpose in graph.node:
        readers = [node for node in graph.node if transpose.output[0] in node.input]
        is_first = transpose.op_type == "Transpose" and transpose.input[0] == graph.input[0].name
        if not is_first or [node.op_type for node in readers] != ["Cast"]:
            continue
        cast = readers[0]
        moved = type(cast)()
        moved.CopyFrom(cast)
        moved.input[0], moved.output[0] = transpose.input[0], transpose.output[0]
        transpose.input[0], transpose.output[0] = moved.output[0], cast.output[0]
        nodes = [node for node in graph.node if node is not cast and node.name != cast.name]
        nodes.insert(nodes.index(transpose), moved)
        _replace(graph.node, nodes)
        return


def _replace(field: Any, entries: list[Any]) -> None:
    """Set a repeated field to messages that may be its own."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del field[:]
    field.extend(copies)
