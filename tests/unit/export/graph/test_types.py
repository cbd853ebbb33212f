"""Types and shapes of a graph's tensors, without a copy of its weights."""

import numpy as np
import onnx
from onnx import TensorProto

from clst_export.graph.types import infer_types
from tests.support.graphs import Builder


def test_shapes_are_inferred_without_copying_large_weights(monkeypatch):
    b = Builder()
    model = b.finish(b.conv(b.start(), "c", np.zeros((3, 3, 5, 5)), pads=[2] * 4))  # 225 values
    sizes, infer = [], onnx.shape_inference.infer_shapes

    def watched(given, **options):
        sizes.append(given.ByteSize())
        return infer(given, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", watched)
    types = infer_types(model)
    assert sizes[0] < model.ByteSize() - 800  # 225 · 4 bytes less
    weights = types["segmenter.c.weight"]
    assert (weights.kind, weights.shape) == (TensorProto.FLOAT, (3, 3, 5, 5))
    assert (types["c"].kind, types["c"].shape) == (TensorProto.FLOAT, (1, 3, 8, 16))
    assert (types["frame"].kind, types["frame"].shape) == (TensorProto.UINT8, (1, 8, 16, 3))
