import numpy as np
import pytest
from tests.conftest import SIZE_HW, rgb_manifest, write_rgb_model

from clst_runtime.backends import open_model
from clst_runtime.errors import DataError, MissingDependency, ModelFileError


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
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ModelFileError, match="unknown kind"):
        open_model(tmp_path / "x.bin")


def test_a_provider_this_build_lacks_is_not_replaced_silently(rgb_model):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(MissingDependency, match="has no CUDAExecutionProvider"):
        open_model(rgb_model, provider="cuda")
