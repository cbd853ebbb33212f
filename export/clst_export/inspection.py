"""The facts in a model file as plain values. Needs no PyTorch, since it also runs on devices."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.tensorrt.bundle.format import INDEX, MODEL, read_bundle
from clst_runtime.backends.tensorrt.bundle.proof import read_proof
from clst_runtime.backends.tensorrt.sidecar import check_hash, library_of, read_engine
from clst_runtime.errors import ModelFileError
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.paths import check_file
from clst_runtime.system.optional import require


def facts_of(path: Path) -> dict[str, Any]:
    """The facts of an ONNX file, an engine or a bundle; its hashes are checked.

    Raises:
        ModelFileError: missing, damaged, of another kind, or changed since it was made.
    """
    if path.is_dir() and (path / INDEX).is_file():
        bundle = read_bundle(path)
        engines = sorted(engine.name for engine in path.glob("*.engine"))
        return {"kind": "bundle", "path": str(path), "engines": engines, "frames": len(bundle.frame_sha256),
                "options": bundle.options.to_json(), "model": facts_of(path / MODEL),
                "baseline": None if bundle.baseline is None else facts_of(path / bundle.baseline.file),
                "proofs": {proof.name: _proof(proof) for proof in sorted(path.glob("proof-*.json"))}}  # fmt: skip
    check_file(path, "model file; give an .onnx or .engine file, or a bundle", ModelFileError)
    match path.suffix.lower():
        case ".onnx":
            manifest = read_onnx_manifest(path)
            return {"kind": "ONNX", **_file(path), **_graph(path), "manifest": _plain(manifest)}
        case ".engine":
            plan, manifest = read_engine(path)
            check_hash(plan, manifest, where=path)
            return {
                "kind": f"{library_of(manifest, where=path).label} engine",
                **_file(path),
                "manifest": _plain(manifest),
            }
    raise ModelFileError(f"{path}: unknown kind of model file; give an .onnx or .engine file, or a bundle")


def _proof(path: Path) -> dict[str, Any]:
    """A device's measurements. A damaged file is reported as such, since the device makes it again."""
    try:
        return read_proof(path).to_json()
    except ModelFileError as error:
        return {"damaged": error.message}


def _file(path: Path) -> dict[str, Any]:
    return {"path": str(path), "sha256": file_sha256(path), "bytes": path.stat().st_size}


def _plain(manifest: Manifest) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(manifest.to_json())
    return value


def _graph(path: Path) -> dict[str, Any]:
    """Operators, and how many layers compute in which type; nothing where the package onnx is missing."""
    if importlib.util.find_spec("onnx") is None:
        return {}
    onnx = require("onnx")
    model = onnx.load(str(path))
    return {
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "convolutions": dict(Counter(layer_types(model, "Conv"))),
        "linear_layers": dict(Counter(layer_types(model, "MatMul"))),
        "opset": max(entry.version for entry in model.opset_import),
    }


def layer_types(model: Any, kind: str) -> list[str]:
    """`int8`, `fp16` or `fp32` for each Conv or MatMul with stored weights, by what these are."""
    float16 = require("onnx").TensorProto.FLOAT16
    kinds = {entry.name: entry.data_type for entry in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type != kind:
            continue
        weights = node.input[1]
        while weights in makers and makers[weights].op_type == "Cast":
            weights = makers[weights].input[0]
        maker = makers.get(weights)
        if maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in kinds:
            found.append("int8")
        elif maker is None or kind == "Conv":  # a Conv may compute its weights, a MatMul of two activations is no layer
            found.append("fp16" if kinds.get(node.input[1]) == float16 else "fp32")
    return found
