"""From a checkpoint to a float32 ONNX graph.

Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import logging
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch._decomp import get_decompositions

from clst_export.graph.compatibility import refuse_too_large
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.errors import ModelFileError
from clst_train.models.checkpoint import Checkpoint, build_from_checkpoint
from clst_train.models.deployable import Deployable

IR_VERSION = 9
"""Of the file format: the one that came with these opsets, so that no older reader refuses the file."""
CONVOLUTIONS = ("Conv", "ConvTranspose")
WRITTEN_OUT = (torch.ops.aten.mish.default, torch.ops.aten.gelu.default)
"""What opset 19 or 20 has an operator for that TensorRT 10.3 may lack: written by simpler ones instead."""


def deployable_of(
    checkpoint: Checkpoint, input_hw: tuple[int, int] | None = None, *, with_confidence: bool = False
) -> tuple[Deployable, Manifest]:
    """The network of a checkpoint as it is deployed, and the manifest of its float32 file.

    Args:
        checkpoint: of clst-train, read from a file.
        input_hw: another input size than the checkpoint's.
        with_confidence: add the second output.

    Raises:
        ModelFileError: the weights do not fit the network.
    """
    manifest = dataclasses.replace(
        checkpoint.manifest(input_hw),
        has_confidence=with_confidence,
        tool_versions={name: version(name) for name in ("clst", "torch", "onnxscript", "onnx", "onnxruntime")},
    )
    deployable = Deployable(build_from_checkpoint(checkpoint), manifest.input_hw, with_confidence=with_confidence)
    return deployable, manifest


def trace(deployable: Deployable, size: tuple[int, int], *, opset: int, with_confidence: bool) -> Any:
    """The network as an ONNX model of static shapes: BatchNorm and constants folded, nodes named after their modules.

    Raises:
        ModelFileError: it is too large for one ONNX file, or cannot be written as one graph for all frames.
    """
    refuse_too_large(sum(value.numel() * value.element_size() for value in deployable.parameters()))
    with _quietly(), torch.no_grad():
        program = _captured(deployable, size)
        try:
            exported: Any = torch.onnx.export(
                program,
                input_names=["frame"],
                output_names=["classes", "confidence"] if with_confidence else ["classes"],
                opset_version=opset,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelFileError(
                f"the network cannot be written in ONNX: {_first_cause(error)}; rewrite that layer with operators that "
                "ONNX has"
            ) from error
    _name_after_modules(exported.model.graph)
    return _bare(exported.model_proto)


@contextmanager
def _quietly() -> Iterator[None]:
    """PyTorch and onnxscript print, log and warn of their own work; what goes wrong is in the error that they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _captured(deployable: Deployable, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The operators that PyTorch runs on a frame of this size."""
    # The example lies channels-first in memory, as the network's images do. With channels last, PyTorch would export
    # the normalisation's mean as a Gather.
    frame = torch.zeros(1, 3, *size, dtype=torch.uint8).permute(0, 2, 3, 1)
    try:
        program = torch.export.export(deployable, (frame,), strict=False)
        if any(node.target in WRITTEN_OUT for node in program.graph.nodes):
            program = program.run_decompositions(get_decompositions(WRITTEN_OUT))
        return program
    except RuntimeError as error:
        where = f"the network cannot be exported: {_place(error)}"
        if "data-dependent" in str(error):
            raise ModelFileError(
                f"{where} depends on pixel values, but a graph must be the same for all frames; take torch.where, or "
                "sizes that follow from shapes"
            ) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelFileError(f"{where}: {reason}; write it with operators of PyTorch on tensors") from error


def _place(error: BaseException) -> str:
    """Where in a network's own code an error arose: the innermost line that is not PyTorch's or this module's."""
    strangers = (str(Path(torch.__file__).parent), __file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(strangers)]
    return f"`{frames[-1].line}` ({frames[-1].filename}, line {frames[-1].lineno})" if frames else "its forward pass"


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), type(error).__name__).removesuffix(".")


def _name_after_modules(graph: Any) -> None:
    """Give nodes and tensors of an onnx_ir graph names that show where they come from.

    `/segmenter/layer1/layer1.0/conv1/Conv` is of the module `segmenter.layer1.0.conv1`; what follows the first of that
    name ends with `_1` and so on. A tensor is called after the node that gives it.
    """
    seen: Counter[str] = Counter()
    outputs = set(graph.outputs)
    for node in graph:
        parts: list[str] = []
        for part in filter(None, _module(node).split(".")):
            parts.append(f"{parts[-1]}.{part}" if part.isdigit() and parts else part)
        name = "/".join(["", *parts, node.op_type])
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
        for index, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = f"{node.name}_output_{index}"


def _module(node: Any) -> str:
    """Path of the module that a node was made in; of a convolution the one that holds its weights.

    PyTorch's own record names the BatchNorm that was folded into a convolution, not the convolution.
    """
    weights = node.inputs[1].name if node.op_type in CONVOLUTIONS and node.inputs[1] is not None else ""
    if weights.endswith(".weight"):
        return str(weights.removesuffix(".weight"))
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    return str(scopes[-2]) if len(scopes) > 1 else ""


def _bare(model: Any) -> Any:
    """The model without annotations: PyTorch's contain folders of this machine, and types that FP16 and INT8 change."""
    graph = model.graph
    del graph.value_info[:]
    for entry in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del entry.metadata_props[:]
        entry.doc_string = ""
    model.ir_version = IR_VERSION
    return model
