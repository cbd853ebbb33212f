"""The facts in a model file, as text and as plain values. Needs no PyTorch, since it also runs on devices."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.tensorrt.build.check import describe_build_check
from clst_runtime.backends.tensorrt.bundle.format import INDEX, MODEL, read_bundle
from clst_runtime.backends.tensorrt.bundle.proof import read_proof
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.backends.tensorrt.sidecar import check_hash, describe_gpu, library_of, read_engine
from clst_runtime.errors import ModelFileError
from clst_runtime.evaluation.export_digest import KEY as FINGERPRINT
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


def describe(facts: dict[str, Any]) -> str:
    """The facts for people."""
    if facts["kind"] == "bundle":
        engines = ", ".join(facts["engines"]) or "none built yet"
        head = f"{facts['path']}: a bundle with {facts['frames']} frames to verify on; engines: {engines}"
        proofs = [_proof_text(proof) for proof in facts["proofs"].values()]
        baseline = [] if facts["baseline"] is None else ["", "compared with:", describe(facts["baseline"])]
        return "\n".join([head, *proofs, describe(facts["model"]), *baseline])
    manifest = facts["manifest"]
    rows = [["file", facts["path"]], ["kind", f"{facts['kind']}, {facts['bytes'] / 2**20:.1f} MiB"],
            ["SHA-256", facts["sha256"]]]  # fmt: skip
    rows.append(["network", f"{manifest['network']}, {manifest['precision']}"])
    rows.append(["input", f"{manifest['input_hw'][0]}x{manifest['input_hw'][1]} {manifest['colour_order']} uint8, "
                 f"frames of another size: {manifest['fit']}"])  # fmt: skip
    numbers = (", ".join(f"{value:g}" for value in manifest[name]) for name in ("mean", "std"))
    rows.append(["normalisation", "mean {}; std {}; network in {}".format(*numbers, manifest["channels"].upper())])
    rows.append(["classes", ", ".join(manifest["classes"]["names"])])
    rows.append(["confidence", "second output" if manifest["has_confidence"] else "no"])
    rows.append(["checkpoint", manifest["source_checkpoint_sha256"]])
    rows.append(["made with", ", ".join(f"{name} {version}" for name, version in manifest["tool_versions"].items())])
    for name in ("convolutions", "linear_layers"):
        if facts.get(name):
            counts = ", ".join(f"{count} {kind}" for kind, count in facts[name].items())
            rows.append([name.replace("_", " "), counts])
    for name in ("provenance", "parity", "calibration", "engine"):
        rows.extend([f"{name} {key}", _short(value)] for key, value in _selected(name, manifest[name]).items())
    rows.extend(_build_check(manifest["build_check"]))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _selected(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that are printed; `--json` has all."""
    shown = {key: value for key, value in facts.items() if key != FINGERPRINT}
    if name == "parity" and "iou" in shown:
        shown["iou"] = {each: _percent(iou["model"]) for each, iou in shown["iou"].items() if iou["model"] is not None}
        if shown["labelled"]:
            shown["mIoU"] = f"{_percent(shown['miou'])} %, of the reference {_percent(shown['reference_miou'])} %"
        del shown["miou"], shown["reference_miou"]
    if name == "calibration" and "methods" in shown:
        shown["methods"] = {method: _method_text(comparison) for method, comparison in shown["methods"].items()}
    return shown


def _method_text(comparison: dict[str, Any]) -> str:
    agreement = f"{100 * comparison['agreement']:.3f} % of pixels equal"
    return f"{agreement} and mIoU {_percent(comparison['miou'])} %" if comparison["labelled"] else agreement


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f}"


def _build_check(answer: dict[str, Any]) -> list[list[str]]:
    rows = [["build check", describe_build_check(answer)]] if answer else []
    if "layers" in answer:
        rows.append(["build check layers", _short({kind.lower(): count for kind, count in answer["layers"].items()})])
    return rows


def _proof_text(proof: dict[str, Any]) -> str:
    if "damaged" in proof:
        return f"{proof['damaged']}; the device makes it again"
    machine = proof["machine"]
    library = Library(machine["library"]).label
    device = (
        f"{describe_gpu(machine)}, {library} {machine['tensorrt']}, CUDA {machine['cuda']}, driver {machine['driver']}"
    )
    if not proof["engines"]:
        return f"{device}: not finished, at {proof['trying'][-1]}"
    return f"{device}: {proof['why']}; {proof['used'] or 'none'} is used"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_short, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
