"""What TensorRT made of a network, by its engine inspector.

TensorRT 10 and 11 write the same facts under other keys: `Bindings` became `I/O Tensors`, and each tensor's
`Format/Datatype` was split into a format and a data type.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clst_runtime.errors import ModelFileError
from clst_runtime.system.machine import UNKNOWN

if TYPE_CHECKING:
    import tensorrt as trt

LARGEST = 5

_PRECISIONS = (
    ("int8", r"\bint8\b"),
    ("uint8", r"\buint8\b"),
    ("int4", r"\bint4\b"),
    ("fp8", r"\bfp8\b|\bfloat8"),
    ("fp4", r"\bfp4\b|\bfloat4"),
    ("bf16", r"\bbf16\b|\bbfloat16\b"),
    ("fp16", r"\bfp16\b|\bhalf\b|\bfloat16\b"),
    ("fp32", r"\bfp32\b|\bfloat(32)?\b"),
    ("int32", r"\bint32\b"),
    ("int64", r"\bint64\b"),
    ("bool", r"\bbool(ean)?\b"),
)


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """A layer and how much it holds."""

    name: str
    """TensorRT's name for it, often of several fused nodes."""
    kind: str
    """TensorRT's type, e.g. `CaskConvolution`."""
    precision: str
    """Of its first output."""
    weights: int
    """Values of its weights; 0 where the inspector gives none."""
    outputs: int
    """Values of all its outputs."""


@dataclass(frozen=True, kw_only=True)
class EngineSummary:
    """An engine's layers, counted."""

    layers: int
    """Layers after fusion."""
    per_precision: Mapping[str, int]
    """How many layers give each data type, most first; `unknown` where the inspector does not report it."""
    largest: tuple[LayerSize, ...]
    """The layers with the most weights and outputs together, largest first."""
    io_tensors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "per_precision": dict(self.per_precision),
            "largest": [vars(layer) for layer in self.largest],
            "io_tensors": list(self.io_tensors),
        }


def inspect_engine(trt: ModuleType, engine: trt.ICudaEngine) -> EngineSummary:
    """Ask the engine's inspector; the engine must have been built with detailed profiling verbosity."""
    inspector = engine.create_engine_inspector()
    return summarise(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def summarise(information: str) -> EngineSummary:
    """Count the layers in the inspector's JSON.

    Raises:
        ModelFileError: it is not JSON, so TensorRT changed its form.
    """
    try:
        value = json.loads(information)
        entries = list(value["Layers"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"TensorRT's engine inspector gave no layers ({error}); report its version") from error
    layers = [_layer(entry) for entry in entries]
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer.precision] = counts.get(layer.precision, 0) + 1
    names = value.get("I/O Tensors", value.get("Bindings", []))
    return EngineSummary(
        layers=len(layers),
        per_precision=dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))),
        largest=tuple(sorted(layers, key=lambda layer: -(layer.weights + layer.outputs))[:LARGEST]),
        io_tensors=tuple(str(entry["Name"]) if isinstance(entry, dict) else str(entry) for entry in names),
    )


def _layer(entry: Any) -> LayerSize:
    """One entry: an object, or only a name where the engine was built without details."""
    if not isinstance(entry, dict):
        return LayerSize(name=str(entry), kind=UNKNOWN, precision=UNKNOWN, weights=0, outputs=0)
    outputs = [tensor for tensor in entry.get("Outputs", []) if isinstance(tensor, dict)]
    weights = entry.get("Weights")
    return LayerSize(
        name=str(entry.get("Name", "")),
        kind=str(entry.get("LayerType", UNKNOWN)),
        precision=_precision(outputs[0]) if outputs else UNKNOWN,
        weights=int(weights.get("Count", 0)) if isinstance(weights, dict) else 0,
        outputs=sum(math.prod(tensor.get("Dimensions", [0])) for tensor in outputs),
    )


def _precision(tensor: Mapping[str, Any]) -> str:
    """Data type of a tensor: from its own field where there is one, else from its format's text."""
    fields = {key.lower(): str(value) for key, value in tensor.items()}
    for key in ("datatype", "format/datatype", "format"):
        for name, pattern in _PRECISIONS:
            if re.search(pattern, fields.get(key, ""), re.IGNORECASE):
                return name
    return UNKNOWN
