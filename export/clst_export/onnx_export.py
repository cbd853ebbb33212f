"""From a checkpoint to a verified ONNX file with its manifest inside.

Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clst_export.hygiene import check_hygiene, refuse_too_large
from clst_export.tidying import tidy
from clst_export.verify import Agreement, verify
from clst_runtime.atomic import written_whole
from clst_runtime.backends.base import Frame
from clst_runtime.backends.ort import OrtBackend
from clst_runtime.errors import BudgetNotHeld, ModelFileError
from clst_runtime.manifest import METADATA_KEY, Manifest
from clst_runtime.optional import require
from clst_train.checkpoint import build_from_checkpoint, checkpoint_sha256, load_checkpoint
from clst_train.models.deployable import Deployable

OPSETS = (19, 20)
MIN_AGREEMENT = 0.999
WEIGHTED = ("Conv", "BatchNormalization")  # the operators that our networks have weights in


def export_onnx(
    checkpoint_path: Path,
    out: Path,
    *,
    frames: Sequence[Frame],
    input_hw: tuple[int, int] | None = None,
    opset: int = 20,
    with_confidence: bool = False,
) -> Manifest:
    """Write the deployable network as ONNX: checked, compared with PyTorch on `frames`, whole or not at all.

    Args:
        checkpoint_path: a checkpoint of clst-train.
        out: the file to write.
        frames: pictures H,W,3 of the input size that both must agree on.
        input_hw: another input size than the checkpoint's.
        opset: 19 or 20.
        with_confidence: add the second output.

    Raises:
        ModelFileError: the checkpoint cannot be used. BudgetNotHeld: ONNX Runtime and PyTorch differ; the file is
            kept as `<name>.rejected.onnx`.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    size = input_hw or checkpoint.input_hw
    deployable = Deployable(
        build_from_checkpoint(checkpoint), checkpoint.mean, checkpoint.std, size, with_confidence=with_confidence
    )
    manifest = Manifest(
        network=checkpoint.network,
        input_hw=size,
        mean=checkpoint.mean,
        std=checkpoint.std,
        classes=checkpoint.classes,
        has_confidence=with_confidence,
        source_checkpoint_sha256=checkpoint_sha256(checkpoint_path),
        tool_versions={name: version(name) for name in ("clst", "torch", "onnx", "onnxruntime")},
    )
    with written_whole(out) as temporary:
        model = trace(deployable, size, opset=opset, with_confidence=with_confidence)
        check_graph(model, deployable)
        manifest = dataclasses.replace(manifest, model_sha256=hashlib.sha256(model.SerializeToString()).hexdigest())
        _save(model, manifest, temporary)
        with OrtBackend(temporary) as backend:
            agreement = verify(deployable, backend, frames)
        manifest = dataclasses.replace(manifest, parity=agreement.to_json())
        _save(model, manifest, temporary)
        _refuse_if_different(agreement, temporary, out)
    return manifest


def _refuse_if_different(agreement: Agreement, temporary: Path, out: Path) -> None:
    if agreement.agreement >= MIN_AGREEMENT and agreement.worst_margin <= agreement.tie_margin:
        return
    rejected = out.with_suffix(".rejected.onnx")
    os.replace(temporary, rejected)
    raise BudgetNotHeld(
        f"ONNX Runtime and PyTorch differ: {100 * agreement.agreement:.3f} % of pixels agree (99.9 % needed), "
        f"largest logit margin of a differing pixel {agreement.worst_margin:.4f} (a tie is below "
        f"{agreement.tie_margin:.4f}); kept as {rejected}"
    )


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


def _save(model: Any, manifest: Manifest, path: Path) -> None:
    onnx = require("onnx")
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    path.write_bytes(model.SerializeToString())
