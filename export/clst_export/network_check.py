"""Whether a network can be exported, asked by training before it begins (entry point `clst.checks`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from clst_export import PACKAGES
from clst_runtime.errors import ModelFileError
from clst_runtime.system.optional import check_installed, require
from clst_train.models.deployable import Deployable
from clst_train.models.segmenter import Segmenter


def check_network(segmenter: Segmenter, input_hw: tuple[int, int]) -> None:
    """Trace the network, check its graph, and have TensorRT for RTX read and build it, where that is installed.

    Args:
        segmenter: with any weights; it is copied.
        input_hw: H,W of its input.

    Raises:
        ModelFileError: it cannot be exported; the message names the layer. MissingDependency: an export cannot be here.
    """
    check_installed(*PACKAGES)
    for module in PACKAGES:
        require(module)
    from clst_export.graph.compatibility import OPSETS, check_compatibility
    from clst_export.graph.trace import trace
    from clst_runtime.backends.tensorrt.build.check import check_build, describe_build_check

    deployable = Deployable(segmenter, input_hw)
    deployable = deployable.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    graph = trace(deployable, input_hw, opset=OPSETS[0], with_confidence=False)
    check_compatibility(graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untrained.onnx"
        path.write_bytes(graph.SerializeToString())
        answer = check_build(path)
    if "refused" in answer:
        raise ModelFileError(describe_build_check(answer))
