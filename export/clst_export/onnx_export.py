"""From a checkpoint to a float32 ONNX graph.

Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clst_export.hygiene import check_hygiene, refuse_too_large
from clst_export.tidying import tidy
from clst_runtime.errors import ModelFileError
from clst_runtime.hashing import file_sha256
from clst_runtime.manifest import Manifest
from clst_runtime.optional import require
from clst_train.checkpoint import build_from_checkpoint, load_checkpoint
from clst_train.models.deployable import Deployable

OPSETS = (19, 20)
WEIGHTED = ("Conv", "BatchNormalization")  # the operators that our networks have weights in


def load_deployable(
    checkpoint_path: Path, input_hw: tuple[int, int] | None = None, *, with_confidence: bool = False
) -> tuple[Deployable, Manifest]:
    """The network of a checkpoint as it is deployed, and what its file will say of itself.

    Args:
        checkpoint_path: a checkpoint of clst-train.
        input_hw: another input size than the checkpoint's.
        with_confidence: add the second output.

    Raises:
        ModelFileError: the checkpoint cannot be used.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    size = input_hw or checkpoint.input_hw
    deployable = Deployable(
        build_from_checkpoint(checkpoint), checkpoint.mean, checkpoint.std, size, with_confidence=with_confidence
    )
    manifest = Manifest(
        network=checkpoint.network,
        input_hw=size,
        fit=checkpoint.fit,
        mean=checkpoint.mean,
        std=checkpoint.std,
        classes=checkpoint.classes,
        has_confidence=with_confidence,
        source_checkpoint_sha256=file_sha256(checkpoint_path),
        tool_versions={name: version(name) for name in ("clst", "torch", "onnx", "onnxruntime")},
    )
    return deployable, manifest


def trace(deployable: Deployable, size: tuple[int, int], *, opset: int, with_confidence: bool) -> Any:
    """The network as an ONNX model of static shapes, tidied.

    Raises:
        ModelFileError: it is too large for one ONNX file.
    """
    onnx = require("onnx")
    refuse_too_large(sum(value.numel() * value.element_size() for value in deployable.parameters()))
    frame = torch.zeros(1, *size, 3, dtype=torch.uint8)
    names = ["classes", "confidence"] if with_confidence else ["classes"]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns that sizes become constants, which is what is wanted
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            deployable,
            (frame,),
            str(path),
            input_names=["frame"],
            output_names=names,
            opset_version=opset,
            dynamo=False,
            do_constant_folding=True,
        )
        return tidy(onnx.load(str(path)))


def check_graph(model: Any, deployable: Deployable) -> None:
    """The graph is one that engines can build, and holds no weight beyond the deployable network's.

    Raises:
        ModelFileError: it is not so.
    """
    check_hygiene(model, opsets=OPSETS)
    known = dict(deployable.segmenter.named_parameters()) | dict(deployable.segmenter.named_buffers())
    elements = sum(value.numel() for value in known.values())
    weights = {name for node in model.graph.node if node.op_type in WEIGHTED for name in node.input[1:]}
    stored = sum(int(np.prod(entry.dims)) for entry in model.graph.initializer if entry.name in weights)
    # Folding BatchNorm leaves one bias per convolution, so an exported graph never holds more than the network.
    if stored > elements:
        raise ModelFileError(
            f"the graph holds {stored} weights, the network {elements}; export the Deployable network alone"
        )
