"""What the inspector says, in the words of TensorRT 10 and of 11."""

import json

import pytest

from clst_runtime.backends.tensorrt.inspector import summarise
from clst_runtime.errors import ModelFileError

CONV = {"Name": "conv1 + relu", "LayerType": "CaskConvolution", "Weights": {"Type": "Half", "Count": 864}}
TEN = {
    "Layers": [
        CONV | {"Outputs": [{"Dimensions": [1, 32, 4, 8], "Format/Datatype": "Channel major FP16 format"}]},
        {"Name": "quantised", "LayerType": "CaskConvolution", "Weights": {"Type": "Int8", "Count": 10},
         "Outputs": [{"Dimensions": [1, 2, 2, 2], "Format/Datatype": "Thirty-two wide channel vectorized Int8"}]},
        {"Name": "cast", "LayerType": "Cast", "Outputs": [{"Dimensions": [8], "Format/Datatype": "UInt8"}]},
        {"Name": "copy", "LayerType": "Reformat", "Outputs": []},
    ],
    "Bindings": ["frame", "classes"],
}  # fmt: skip
ELEVEN = {
    "Layers": [
        CONV | {"Outputs": [{"Dimensions": [1, 32, 4, 8], "Format": "Row major linear (kLINEAR)", "DataType": "Half"}]},
        {
            "Name": "sum",
            "LayerType": "kgen",
            "Outputs": [{"Dimensions": [4], "Format": "kLINEAR", "DataType": "Float"}],
        },
    ],
    "I/O Tensors": [{"Name": "frame", "IOMode": "Input"}, {"Name": "classes", "IOMode": "Output"}],
}


def test_layers_of_tensorrt_10_are_counted_by_precision():
    summary = summarise(json.dumps(TEN))
    assert summary.layers == 4
    assert summary.per_precision == {"fp16": 1, "int8": 1, "uint8": 1, "unknown": 1}
    assert summary.io_tensors == ("frame", "classes")
    largest = summary.largest[0]
    assert (largest.name, largest.precision, largest.weights, largest.outputs) == ("conv1 + relu", "fp16", 864, 1024)
    assert [layer.name for layer in summary.largest] == ["conv1 + relu", "quantised", "cast", "copy"]
    assert json.loads(json.dumps(summary.to_json()))["largest"][1]["outputs"] == 8


def test_layers_of_tensorrt_11_are_counted_by_precision():
    summary = summarise(json.dumps(ELEVEN))
    assert summary.per_precision == {"fp16": 1, "fp32": 1}
    assert summary.io_tensors == ("frame", "classes")


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Row major linear FP32 format (kLINEAR)", "fp32"),
        ("Float", "fp32"),
        ("Row major linear BFloat16", "bf16"),
        ("Half", "fp16"),
        ("Row major Int8 format, 4 wide", "int8"),
        ("UINT8", "uint8"),
        ("FP8", "fp8"),
        ("Int4", "int4"),
        ("INT64", "int64"),
        ("N/A due to dynamic shapes", "unknown"),
    ],
)
def test_each_data_type_is_known_by_its_word(words, precision):
    layer = {"Name": "x", "Outputs": [{"Dimensions": [1], "Format/Datatype": words}]}
    assert summarise(json.dumps({"Layers": [layer]})).per_precision == {precision: 1}


def test_names_only_are_counted_as_unknown_and_no_layer_is_none():
    summary = summarise('{"Layers": ["conv1", "conv2"], "Bindings": []}')
    assert (summary.layers, summary.per_precision, summary.io_tensors) == (2, {"unknown": 2}, ())
    assert summarise('{"Layers": []}').largest == ()


@pytest.mark.parametrize("text", ["", "nothing", "[]", "{}", '{"Layers": 3}'])
def test_another_form_is_an_error(text):
    with pytest.raises(ModelFileError, match="engine inspector gave no layers"):
        summarise(text)
