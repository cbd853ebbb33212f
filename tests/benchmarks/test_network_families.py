"""Narrow networks of the usual families, none made for this project, in every precision."""

import numpy as np
import onnx
import pytest
import torch

from benchmarks.export.families import ConvNext, GroupSilu, MobileLraspp, UNet
from clst_export.graph.compatibility import check_compatibility
from clst_export.graph.trace import trace
from clst_export.precision import Target
from clst_export.quantization.calibration import Method, calibrate
from clst_export.quantization.fp16 import measure_ranges, to_fp16
from clst_export.quantization.int8 import activations, quantisable, to_int8
from clst_export.quantization.placement import check_placement
from clst_runtime.backends.tensorrt.build.builder import serialise_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BuildProgress
from clst_train.method.batchnorm import estimate_statistics
from clst_train.models.deployable import Deployable, normalise
from clst_train.models.normalisation import IMAGENET
from tests.support.graphs import frames, run

SIZE_HW = (32, 64)
FAMILIES = {
    "unet": (lambda: UNet(3, 4), 13),  # of 15 convolutions; three more are transposed ones
    "unet resized": (lambda: UNet(3, 4, transposed=False), 16),
    "mobile": (lambda: MobileLraspp(3, 4), 27),
    "convnext": (lambda: ConvNext(3, 4), 13),  # five convolutions, eight linear layers
    "groupnorm": (lambda: GroupSilu(3, 4), 6),
}


def logits_of(model, frame):
    """As ONNX Runtime computes them."""
    name = next(node.input[0] for node in model.graph.node if node.op_type == "ArgMax")
    (found,) = run(model, frame, [name], disable_quant_qdq="1")
    found = found.astype(np.float32)
    return found.transpose(0, 3, 1, 2) if found.shape[3] == 3 else found  # on the CPU channels lie last


@pytest.mark.parametrize("family", FAMILIES)
def test_every_precision_says_what_pytorch_says_and_tensorrt_builds_it(trt, family, tmp_path):
    build, layers = FAMILIES[family]
    torch.manual_seed(0)
    network = build().eval()
    images = frames(2, SIZE_HW)
    estimate_statistics(network, [normalise(torch.from_numpy(np.stack(images)), IMAGENET)])
    network.normalisation = IMAGENET
    deployable = Deployable(network, SIZE_HW)
    model = trace(deployable, SIZE_HW, opset=19, with_confidence=False)
    assert len(quantisable(model)) == layers
    ranges = calibrate(model, images, activations(model), [Method.MAX])[Method.MAX]
    quantised = to_int8(model, ranges, target=Target.TENSORRT)
    check_placement(quantised)
    graphs = {
        "fp32": model,
        "fp16": to_fp16(model, ranges=measure_ranges(model, images)).model,
        "int8": to_fp16(quantised, ranges=measure_ranges(quantised, images)).model,
        "int8-cpu": to_int8(model, ranges, target=Target.CPU),
    }
    with torch.inference_mode():
        expected = deployable.logits(torch.from_numpy(images[0])[None]).numpy()
    spread = (expected - expected.mean(axis=(2, 3), keepdims=True)).std()
    allowed = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.3, "int8-cpu": 0.3}
    for name, graph in graphs.items():
        check_compatibility(graph)
        assert np.sqrt(np.mean((logits_of(graph, images[0]) - expected) ** 2)) / spread < allowed[name], name
    onnx.save(graphs["int8"], str(tmp_path / "int8.onnx"))
    assert serialise_engine(trt, tmp_path / "int8.onnx", BuildOptions(), BuildProgress()).plan
