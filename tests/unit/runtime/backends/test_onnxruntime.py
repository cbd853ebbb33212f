import os
from pathlib import Path

import numpy as np
import pytest

from clst_runtime.backends import open_model
from clst_runtime.backends.onnxruntime import session as ort_module
from clst_runtime.backends.onnxruntime.session import OrtBackend, rounds_float16
from clst_runtime.errors import DataError, MissingDependency, ModelFileError
from tests.conftest import SIZE_HW, rgb_manifest, write_rgb_model


def test_a_red_frame_is_red(rgb_model):
    frame = np.zeros((*SIZE_HW, 3), np.uint8)
    frame[..., 0] = 200
    with open_model(rgb_model) as backend:
        assert np.unique(backend.predict(frame).classes).tolist() == [0]


@pytest.mark.parametrize(
    "frame", [np.zeros((8, 15, 3), np.uint8), np.zeros((8, 16, 3), np.float32), np.zeros((8, 16), np.uint8)]
)
def test_a_frame_of_another_shape_or_type_is_refused(rgb_model, frame):
    with open_model(rgb_model) as backend, pytest.raises(DataError, match="expected uint8"):
        backend.predict(frame)


def test_no_manifest_another_version_a_lie_and_damage_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="no clst manifest"):
        open_model(write_rgb_model(tmp_path / "a.onnx", manifest=None))
    with pytest.raises(ModelFileError, match="its manifest says"):
        open_model(write_rgb_model(tmp_path / "b.onnx", manifest=rgb_manifest(input_hw=(9, 9)).to_json()))
    whole = write_rgb_model(tmp_path / "c.onnx")
    whole.write_bytes(whole.read_bytes()[:100])
    with pytest.raises(ModelFileError, match="damaged"):
        open_model(whole)
    with pytest.raises(ModelFileError, match="no such model"):
        open_model(tmp_path / "none.onnx")
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/k\xfcche"))
    folder.mkdir()
    with pytest.raises(ModelFileError, match="opens no path that is not in UTF-8"):
        open_model(write_rgb_model(folder / "d.onnx"))
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ModelFileError, match="unknown kind"):
        open_model(tmp_path / "x.bin")


def test_a_provider_this_build_lacks_is_not_replaced_silently(rgb_model):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(MissingDependency, match="has no CUDAExecutionProvider"):
        open_model(rgb_model, backend="ort-cuda")


def test_a_float16_graph_with_qdq_is_refused_where_onnx_runtime_cuts_off(tmp_path, monkeypatch):
    quantised = rgb_manifest(precision="int8", calibration={"target": "tensorrt", "rest": "fp16"}).to_json()
    model = write_rgb_model(tmp_path / "m.onnx", manifest=quantised)
    monkeypatch.setattr(ort_module, "rounds_float16", lambda: False)
    with pytest.raises(MissingDependency, match="cuts off instead of rounding"):
        OrtBackend(model)
    monkeypatch.setattr(ort_module, "rounds_float16", lambda: True)
    with OrtBackend(model) as backend:
        assert backend.manifest.calibration["rest"] == "fp16"


def test_the_probe_of_rounding_agrees_with_a_graph_of_our_own():
    """0.75 is 1 when it is rounded and 0 when it is cut off."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])
    ports = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1])],
        [helper.make_tensor_value_info("q", TensorProto.INT8, [1])],
    )
    stored = [numpy_helper.from_array(np.float16(1), "scale"), numpy_helper.from_array(np.int8(0), "zero")]
    graph = helper.make_graph([node], "g", *ports, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert (int(session.run(None, {"x": np.array([0.75], np.float16)})[0][0]) == 1) is rounds_float16()
