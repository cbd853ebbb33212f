"""What a graph must be so that TensorRT 10.3 to 11.4 and ONNX Runtime build it and mean the same by it.

Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from clst_export.graph.types import TensorType, infer_types
from clst_runtime.errors import ModelFileError
from clst_runtime.system.optional import require

OPSETS = (19, 20)
MAX_BYTES = 2**31 - 1  # protobuf's limit, and so that of one ONNX file
_SUPPORTED = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu
    Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Einsum Elu
    Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization Hardmax HardSigmoid HardSwish Identity
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    LpPool LRN MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg Not OneHot Or Pad Pow PRelu
    QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape Shrink Sigmoid
    Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu
    Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
SUPPORTED = frozenset(_SUPPORTED.split())
"""Operators that ONNX-TensorRT's docs/operators.md lists as supported both for TensorRT 9.2 (before the range) and
for 10.15 (in it), so that 10.3 has them; the release notes of 11.0 take none away. Left out although listed: control
flow (If, Loop, Scan and the recurrent layers, no straight graph), random numbers, NonMaxSuppression, NonZero and
RoiAlign (shapes that depend on values or no use here), Dropout (training), Scatter and Upsample (gone from ONNX's own
opset 19)."""
RESIZE = {
    "mode": ("linear", "nearest"),
    "coordinate_transformation_mode": ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
    "keep_aspect_ratio_policy": ("stretch",),
}
"""What that list says of Resize: PyTorch's nearest, and bilinear with either align_corners."""
RESIZE_DEFAULTS = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}
TRAINING_ONLY = ("projection", "auxiliary_head")
"""Parts of a network by the names that `clst_train` gives them. Deeper in a network these words mean something else."""
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def check_compatibility(model: Any) -> None:
    """Refuse a graph that an engine could not build, or would build into something else.

    Where Q/DQ nodes may stand is not checked here, nor whether their zero-points are 0: that depends on the target.

    Args:
        model: an ONNX ModelProto in memory.

    Raises:
        ModelFileError: one line that names the node and what to do.
    """
    _check_size(model)
    _check_operators(model)
    _check_validity(model)
    types = infer_types(model)
    constants = {entry.name: entry for entry in model.graph.initializer}
    for node in model.graph.node:
        _check_restrictions(node, constants)
    _check_shapes(model, types)
    for node in model.graph.node:
        if node.op_type == "Resize":
            _check_resize(node, constants, types)
    _check_input(model)
    _check_outputs(model, types)
    _check_uint8_inside(model, types)
    _check_weights(model)


def _name(node: Any) -> str:
    """How a message names a node."""
    return f"{node.op_type} {node.name or 'that gives ' + node.output[0]}"


def _attributes(node: Any) -> dict[str, Any]:
    helper = require("onnx").helper
    values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _check_size(model: Any) -> None:
    external = [entry.name for entry in model.graph.initializer if entry.data_location == 1]
    if external:
        raise ModelFileError(
            f"{external[0]} and {len(external) - 1} other weights lie in files beside the graph; load the model with "
            "its external data, so that one file holds all"
        )
    # protobuf cannot compute the size of a message above its limit, so the weights are counted first
    itemsize = require("onnx").helper.tensor_dtype_to_np_dtype
    weights = sum(math.prod(entry.dims) * itemsize(entry.data_type).itemsize for entry in model.graph.initializer)
    refuse_too_large(weights if weights > MAX_BYTES else model.ByteSize())


def refuse_too_large(size_bytes: int) -> None:
    """Refuse a graph of so many bytes if one ONNX file cannot hold it.

    Raises:
        ModelFileError: it is above protobuf's limit of 2 GiB.
    """
    if size_bytes > MAX_BYTES:
        raise ModelFileError(
            f"the graph has {size_bytes / 2**30:.2f} GiB, an ONNX file holds at most {MAX_BYTES / 2**30:.2f}; "
            "take a network with fewer weights (float32 needs 4 bytes for each)"
        )


def _check_operators(model: Any) -> None:
    wanted = " or ".join(map(str, OPSETS))
    for entry in model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            raise ModelFileError(f"the graph imports operators of {entry.domain}; export with ONNX's own set {wanted}")
        if entry.version not in OPSETS:
            raise ModelFileError(f"the graph has opset {entry.version}; export it at {wanted}")
    if len(model.functions):
        raise ModelFileError(f"the graph defines the function {model.functions[0].name}; inline it into the graph")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ModelFileError(f"{_name(node)} is of the domain {node.domain}; use ONNX's own operators")
        if node.op_type not in SUPPORTED:
            raise ModelFileError(
                f"{_name(node)}: TensorRT 10.3 to 11.4 does not import {node.op_type}; "
                "rewrite that layer of the network with operators it has"
            )


def _check_validity(model: Any) -> None:
    onnx = require("onnx")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelFileError(f"the graph is not valid ONNX, export it again: {' '.join(str(error).split())}") from error


def _check_shapes(model: Any, types: dict[str, TensorType]) -> None:
    hint = "export with fixed sizes (no dynamic axes)"
    for entry in (*model.graph.input, *model.graph.output):
        if types[entry.name].shape is None:
            raise ModelFileError(f"{entry.name} has no static shape; {hint}")
    for node in model.graph.node:
        for output in filter(None, node.output):
            shape = types[output].shape if output in types else None
            if shape is None or 0 in shape:
                raise ModelFileError(f"{_name(node)}: the shape of {output} is not static or empty; {hint}")


def _check_restrictions(node: Any, constants: dict[str, Any]) -> None:
    """Restrictions of single operators in the same list."""
    attributes = _attributes(node)
    if node.op_type in ("MaxPool", "AveragePool", "LpPool") and set(attributes.get("dilations", [1])) != {1}:
        raise ModelFileError(f"{_name(node)}: TensorRT pools without dilations only; use a strided or plain pooling")
    if node.op_type == "LayerNormalization" and len(node.output) > 1:
        raise ModelFileError(f"{_name(node)}: TensorRT gives no mean and deviation of it; use its first output only")
    if node.op_type == "MaxPool" and len(node.output) > 1:
        raise ModelFileError(f"{_name(node)}: TensorRT gives no indices of a pooling; use its first output only")
    if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] not in constants:
        raise ModelFileError(f"{_name(node)}: its axes must be an initialiser; fold the graph's constants")


def _check_resize(node: Any, constants: dict[str, Any], types: dict[str, TensorType]) -> None:
    attributes = RESIZE_DEFAULTS | _attributes(node)
    for name, allowed in RESIZE.items():
        found = attributes.get(name, allowed[0])
        if found not in allowed:
            raise ModelFileError(
                f"{_name(node)} has {name}={found}, TensorRT takes {' or '.join(allowed)}; use F.interpolate with "
                "mode='bilinear' or 'nearest'"
            )
    if attributes.get("antialias", 0) or attributes.get("exclude_outside", 0) or "axes" in attributes:
        raise ModelFileError(f"{_name(node)} has antialias, exclude_outside or axes; TensorRT takes a plain Resize")
    before, after = types[node.input[0]].shape or (), types[node.output[0]].shape or ()
    to_array = require("onnx.numpy_helper").to_array
    scales, sizes = ([*node.input, "", "", ""][position] for position in (2, 3))
    name = scales or sizes
    if name not in constants:
        raise ModelFileError(f"{_name(node)}: {name} is computed while running; let it follow from shapes alone")
    values = to_array(constants[name]).tolist()
    exact = all(Fraction(factor) * size == result for factor, size, result in zip(values, before, after, strict=True))
    if scales and not exact:
        raise ModelFileError(
            f"{_name(node)}: scales {values} do not give {after} of {before} exactly, so engines may compute another "
            "size or other places; use F.interpolate with size=… or recompute_scale_factor=True"
        )


def _check_input(model: Any) -> None:
    """One frame, uint8 1,H,W,3, that goes through a Cast to a float type before anything else."""
    types = require("onnx").TensorProto
    found = [(entry.name, entry.type.tensor_type.elem_type) for entry in model.graph.input]
    shape = [size.dim_value for entry in model.graph.input for size in entry.type.tensor_type.shape.dim]
    if found != [("frame", types.UINT8)] or len(shape) != 4 or (shape[0], shape[3]) != (1, 3):
        listed = ", ".join(f"{name} {types.DataType.Name(kind).lower()}" for name, kind in found) or "none"
        raise ModelFileError(f"inputs are {listed} {shape}, expected frame uint8 [1,H,W,3]; export it with clst-export")
    for node in model.graph.node:
        is_cast = node.op_type == "Cast" and _attributes(node)["to"] in (types.FLOAT, types.FLOAT16)
        if "frame" in node.input and not is_cast:
            raise ModelFileError(
                f"{_name(node)} reads the uint8 frame; TensorRT has uint8 at the border only, so cast the frame to "
                "float first"
            )


def _check_outputs(model: Any, types: dict[str, TensorType]) -> None:
    """classes ends with ArgMax → Cast(float) → Cast(uint8), confidence with Cast(uint8) of a float tensor."""
    kinds = require("onnx").TensorProto
    names = [entry.name for entry in model.graph.output]
    if names not in (["classes"], ["classes", "confidence"]) or {types[name].kind for name in names} != {kinds.UINT8}:
        raise ModelFileError(f"outputs are {', '.join(names)}, expected classes and maybe confidence, all uint8")
    producers = {output: node for node in model.graph.node for output in node.output}
    for name in names:
        chain = _chain(name, producers, 3)
        path = " ← ".join(map(_name, chain)) or "nothing"
        is_cast = [node.op_type for node in chain[:1]] == ["Cast"]
        if not is_cast or types[chain[0].input[0]].kind not in (kinds.FLOAT, kinds.FLOAT16):
            raise ModelFileError(
                f"{name} comes from {path}, expected a Cast of a float tensor (TensorRT casts to uint8 from nothing "
                "else); an optimiser may have merged two Casts: export without it"
            )
        if name == "classes" and [node.op_type for node in chain[1:]] != ["Cast", "ArgMax"]:
            raise ModelFileError(f"classes comes from {path}, expected Cast ← Cast ← ArgMax; export it again")


def _chain(name: str, producers: dict[str, Any], length: int) -> list[Any]:
    """The nodes behind a tensor, last first, along their first inputs."""
    found: list[Any] = []
    while name in producers and len(found) < length:
        found.append(producers[name])
        name = producers[name].input[0] if producers[name].input else ""
    return found


def _check_uint8_inside(model: Any, types: dict[str, TensorType]) -> None:
    """No uint8 between the borders, but for what quantising nodes give each other."""
    uint8 = require("onnx").TensorProto.UINT8
    border = {entry.name for entry in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        touched = [name for name in (*node.input, *node.output) if name in types and types[name].kind == uint8]
        inside = [name for name in touched if name not in border]
        if inside and node.op_type not in QUANTISERS:
            raise ModelFileError(
                f"{_name(node)}: {inside[0]} is uint8, which TensorRT has at the border only; compute in float"
            )


def _check_weights(model: Any) -> None:
    paths = [entry.name.removeprefix("segmenter.") for entry in model.graph.initializer]
    foreign = [path for path in paths if path.split(".")[0] in TRAINING_ONLY]
    if foreign:
        raise ModelFileError(
            f"training-only weights in the graph: {foreign[0]} ({len(foreign)} in all); export the Deployable network"
        )
