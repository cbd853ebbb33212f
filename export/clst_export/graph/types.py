"""Type and static shape of every tensor of a graph, before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from clst_runtime.system.optional import require

LARGEST_READ = 64  # elements: sizes, axes and the like, whose values decide shapes


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
