import numpy as np

from clst_export.quantization.activations import stream_activations
from tests.conftest import SIZE_HW, write_rgb_model


def load(path):
    import onnx

    return onnx.load(str(path))


def test_each_frame_gives_the_tensors_asked_for_and_the_model_stays_as_it_was(tmp_path):
    model = load(write_rgb_model(tmp_path / "m.onnx"))
    before = model.SerializeToString()
    frames = [np.full((*SIZE_HW, 3), value, np.uint8) for value in (0, 7)]
    found = list(stream_activations(model, ["real", "ordered", "real"], frames))
    assert [sorted(each) for each in found] == [["ordered", "real"]] * 2
    assert [float(each["real"].max()) for each in found] == [0.0, 7.0]
    assert found[0]["real"].shape == (1, *SIZE_HW, 3)
    assert model.SerializeToString() == before


def test_no_frames_give_nothing(tmp_path):
    assert list(stream_activations(load(write_rgb_model(tmp_path / "m.onnx")), ["real"], [])) == []
