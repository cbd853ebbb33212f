"""An ONNX graph as a file with its manifest inside. Needs no PyTorch."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from clst_runtime.manifest import METADATA_KEY, Manifest
from clst_runtime.optional import require


def save_model(model: Any, manifest: Manifest, path: Path) -> Manifest:
    """Write the graph with its manifest inside; returns the manifest as written, with the graph's hash."""
    onnx = require("onnx")
    written = dataclasses.replace(manifest, model_sha256=model_sha256(model))
    onnx.helper.set_model_props(model, {METADATA_KEY: written.to_json()})
    path.write_bytes(model.SerializeToString())
    return written


def model_sha256(model: Any) -> str:
    """SHA-256 of an ONNX model without its metadata, so that a manifest can name the graph it lies in."""
    bare = require("onnx").ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()
