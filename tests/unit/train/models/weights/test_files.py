"""Files of weights are read as people save them; nothing in them runs unless it is asked for."""

import importlib
import json
import os
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from clst_runtime.errors import DataError, MissingDependency, ModelFileError
from clst_train.models.weights.files import read_weights

STATE = {"conv.weight": torch.arange(3.0), "conv.bias": torch.ones(1)}


class Conv(nn.Module):
    """A module that a pickle names by its import path."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, images):
        return self.conv(images)


def saved(path, content, **how):
    torch.save(content, path, **how)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read_in_both_of_pytorch_s_formats(tmp_path, zipped):
    weights = read_weights(saved(tmp_path / "w.pth", STATE, _use_new_zipfile_serialization=zipped))
    assert weights.tensors.keys() == STATE.keys()
    assert weights.tensors["conv.weight"].tolist() == [0, 1, 2]
    assert weights.classes is None


def test_nested_dictionaries_give_joined_names_and_what_is_no_tensor_is_left_out(tmp_path):
    content = {
        "epoch": 3, "best_miou": np.float64(0.5), "state_dict": STATE,
        "optimizer": {"state": {}, "param_groups": [STATE]}, "model": {"module": {"a": torch.zeros(1)}},
    }  # fmt: skip
    found = read_weights(saved(tmp_path / "w.pth.tar", content)).tensors
    assert sorted(found) == ["model.module.a", "state_dict.conv.bias", "state_dict.conv.weight"]


def test_what_torch_compile_puts_into_names_is_taken_out(tmp_path):
    state = {"_orig_mod.a": torch.zeros(1), "backbone._orig_mod.b": torch.zeros(1)}
    assert sorted(read_weights(saved(tmp_path / "w.pth", {"model": state})).tensors) == ["model.a", "model.backbone.b"]


@pytest.mark.parametrize(
    "entry",
    [
        {"meta": {"CLASSES": ("road", "sky")}},  # as mmsegmentation up to 0.x writes
        {"meta": {"dataset_meta": {"classes": ["road", "sky"]}}},  # from 1.0 on
        {"classes": ["road", "sky"]},
        {"class_names": ["road", "sky"]},
        {"config": {"id2label": {"1": "sky", "0": "road"}}},
        {"config": {"id2label": {1: "sky", 0: "road"}}},
    ],
)
def test_the_names_of_classes_are_found_where_projects_write_them(tmp_path, entry):
    assert read_weights(saved(tmp_path / "w.pth", {"state_dict": STATE, **entry})).classes == ("road", "sky")


@pytest.mark.parametrize(
    "value", [19, "cityscapes", "19", [1, 2], [], {}, {"name": "road19"}, {"0": "road", "2": "sky"}]
)
def test_what_is_no_list_of_names_names_no_classes(tmp_path, value):
    assert read_weights(saved(tmp_path / "w.pth", {"state_dict": STATE, "classes": value})).classes is None


def test_a_config_beside_the_file_names_the_classes_and_placeholders_are_no_names(tmp_path):
    path, config = saved(tmp_path / "w.bin", STATE), tmp_path / "config.json"
    config.write_text(json.dumps({"id2label": {"0": "road", "1": "sky"}}))
    assert read_weights(path).classes == ("road", "sky")
    config.write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert read_weights(path).classes is None
    config.write_text("{")
    with pytest.raises(DataError, match="config.json is not readable JSON"):
        read_weights(path)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_damaged_files_are_refused_in_one_line(tmp_path):
    whole, old = (
        saved(tmp_path / "zip.pth", STATE),
        saved(tmp_path / "old.pth", STATE, _use_new_zipfile_serialization=False),
    )
    cut(whole)
    cut(old)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "noise.pth").write_bytes(np.random.default_rng(0).bytes(100))
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    cases = {
        "zip.pth": "is damaged or no PyTorch checkpoint",
        "old.pth": "is damaged or no readable state dict",
        "empty.pth": "is empty (0 bytes)",
        "noise.pth": "is damaged or no readable state dict",
        "pointer.pth": "it begins with 'version https://git-lfs",
        "none.pth": "no such file of weights",
        ".": "a folder, where a file is needed",
    }
    for name, words in cases.items():
        with pytest.raises(ModelFileError) as caught:
            read_weights(tmp_path / name)
        assert words in caught.value.message, name
        assert "\n" not in caught.value.line()
        assert "weights_only" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "args": {}}, "holds only epoch, args, expected a state dict"),
        ([torch.zeros(1)], "holds a list, expected a state dict"),
        ({}, "holds only an empty dictionary"),
    ],
)
def test_a_file_without_named_tensors_is_refused(tmp_path, content, words):
    with pytest.raises(ModelFileError, match=words):
        read_weights(saved(tmp_path / "w.pth", content))


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_refused(tmp_path):
    quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    with pytest.raises(ModelFileError, match=r"'conv.weight' is quantised \(qint8\); give the float weights"):
        read_weights(saved(tmp_path / "w.pth", {**STATE, "conv.weight": quantised}))


def test_a_pickle_with_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    saved(tmp_path / "evil.pt", {"state_dict": STATE, "more": Evil()})
    for name in ("evil.pth", "evil.pt"):
        with pytest.raises(ModelFileError, match=r"holds Python objects \(.*\), which could run any program"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_pickled_module_is_read_on_demand_alone(tmp_path):
    path = saved(tmp_path / "m.pt", {"model": Conv(), "epoch": 1})
    with pytest.raises(
        ModelFileError, match=r"m.pt holds Python objects \(.*Conv\), .* add --trust-pickle if you trust"
    ):
        read_weights(path)
    assert sorted(read_weights(path, trust_pickle=True).tensors) == ["model.conv.bias", "model.conv.weight"]


def test_a_pickled_module_whose_package_is_not_here_is_refused(tmp_path):
    content = pickle.dumps(nn.Identity()).replace(b"torch.nn.modules.linear", b"torch.nn.modules.lineal")
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"m.pth cannot be unpickled \(.*\); run where its Python packages can be"):
        read_weights(tmp_path / "m.pth", trust_pickle=True)


def test_a_module_s_package_is_looked_for_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "their_network.py").write_text("from torch.nn import Conv2d\n\nclass Theirs(Conv2d):\n    pass\n")
    monkeypatch.setitem(sys.modules, "their_network", None)
    monkeypatch.delitem(sys.modules, "their_network")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        theirs = importlib.import_module("their_network").Theirs(1, 1, 1)
    saved(tmp_path / "m.pt", theirs)
    monkeypatch.delitem(sys.modules, "their_network")
    monkeypatch.chdir(tmp_path)
    assert sorted(read_weights(tmp_path / "m.pt", trust_pickle=True).tensors) == ["bias", "weight"]


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_read_on_demand_alone(tmp_path):
    torch.jit.trace(Conv(), torch.zeros(1, 1, 2, 2)).save(str(tmp_path / "m.pt"))
    with pytest.raises(ModelFileError, match=r"m.pt is a TorchScript program; .* add --trust-pickle if you trust"):
        read_weights(tmp_path / "m.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_weights(tmp_path / "m.pt", trust_pickle=True).tensors
    assert sorted(found) == ["conv.bias", "conv.weight"]


def test_safetensors_with_the_names_of_classes_in_their_metadata(tmp_path):
    numpy = pytest.importorskip("safetensors.torch")
    for text in ('["road", "sky"]', "road, sky", '{"0": "road", "1": "sky"}'):
        numpy.save_file(STATE, tmp_path / "w.safetensors", metadata={"format": "pt", "classes": text})
        weights = read_weights(tmp_path / "w.safetensors")
        assert weights.tensors["conv.weight"].tolist() == [0, 1, 2]
        assert weights.classes == ("road", "sky")
    cut(tmp_path / "w.safetensors")
    with pytest.raises(ModelFileError, match="w.safetensors is damaged or no safetensors file"):
        read_weights(tmp_path / "w.safetensors")


def test_without_its_package_a_safetensors_file_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "w").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(MissingDependency, match=r"safetensors cannot be imported .*; pip install safetensors"):
        read_weights(tmp_path / "w")
