"""An ONNX graph as a file with its manifest inside. Needs no PyTorch."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from clst_runtime.artifact.manifest import METADATA_KEY, Manifest
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.errors import DataError
from clst_runtime.system.optional import require


def save_model(model: Any, manifest: Manifest, path: Path) -> Manifest:
    """Write the graph with its manifest inside; returns the manifest as written, with the graph's hash."""
    onnx = require("onnx")
    written = dataclasses.replace(manifest, model_sha256=model_sha256(model))
    onnx.helper.set_model_props(model, {METADATA_KEY: written.to_json()})
    path.write_bytes(model.SerializeToString())
    return written


@contextmanager
def opened(model: Any, manifest: Manifest) -> Iterator[OrtBackend]:
    """The graph in ONNX Runtime, from a temporary file that is gone afterwards.

    Raises:
        DataError: it cannot be written. ClstError: as `OrtBackend`.
    """
    with ExitStack() as closing:
        try:
            path = Path(closing.enter_context(tempfile.TemporaryDirectory())) / "trial.onnx"
            save_model(model, manifest, path)
        except OSError as error:
            place = tempfile.tempdir or "any folder"
            reason = error.strerror or error
            raise DataError(
                f"cannot write a temporary file into {place}: {reason}; set TMPDIR to a folder with room"
            ) from error
        yield closing.enter_context(OrtBackend(path))


def drop_unread(graph: Any) -> None:
    """Remove the initialisers of a graph that no node reads."""
    read = {name for node in graph.node for name in node.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]


def model_sha256(model: Any) -> str:
    """SHA-256 of an ONNX model without its metadata, so that a manifest can name the graph it lies in."""
    bare = require("onnx").ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()
