"""Every network in every form passes the graph check, and each of its rules can fail."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from clst_export.graph import compatibility
from clst_export.graph.compatibility import SUPPORTED, check_compatibility
from clst_export.graph.trace import trace
from clst_export.quantization.fp16 import measure_ranges, to_fp16
from clst_runtime.errors import ModelFileError
from clst_train.models.deployable import Deployable
from clst_train.models.networks import build_segmenter
from tests.conftest import write_rgb_model
from tests.support.narrow import narrow_networks

SIZE_HW = (64, 96)
FRAME = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3)).astype(np.uint8)
FLOAT, HALF, UINT8, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.INT64


def outputs_of(model, frame):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [each[0] for each in session.run(None, {"frame": frame[None]})]


def built(network):
    torch.manual_seed(0)
    return build_segmenter(network, 5)


@pytest.mark.parametrize(
    ("network", "with_confidence"),
    [
        ("ddrnet23_slim", False),
        ("ddrnet23_slim", True),
        ("deeplabv2_resnet101", False),  # the largest; with a confidence it says nothing new
        ("efficientnet_lite0", False),
        ("efficientnet_lite0", True),
    ],
)
def test_every_network_passes_in_float32_and_in_float16(network, with_confidence):
    with narrow_networks():
        deployable = Deployable(built(network), SIZE_HW, with_confidence=with_confidence)
    model = trace(deployable, SIZE_HW, opset=19 if with_confidence else 20, with_confidence=with_confidence)
    check_compatibility(model)
    converted = to_fp16(model, ranges=measure_ranges(model, [FRAME])).model
    check_compatibility(converted)
    classes, *confidence = outputs_of(converted, FRAME)
    if not with_confidence:
        assert (classes == outputs_of(model, FRAME)[0]).mean() > 0.99  # random weights: many near ties
    assert [each.dtype for each in (classes, *confidence)] == [np.uint8] * (1 + with_confidence)


def hand_made(*body, weights=None, opset=20, outputs=("classes",), logits="logits", output_kind=UINT8):
    """frame 1,4,6,3 → Cast → Transpose → `body` (from `image`, 1,3,4,6, to `logits`) → uint8 tail; not checked."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["real"], name="cast", to=FLOAT),
        helper.make_node("Transpose", ["real"], ["image"], name="turn", perm=[0, 3, 1, 2]),
        *body,
        helper.make_node("ArgMax", [logits], ["winner"], name="winner", axis=1, keepdims=0),
        helper.make_node("Cast", ["winner"], ["winner_real"], name="to_real", to=FLOAT),
        helper.make_node("Cast", ["winner_real"], [outputs[0]], name="to_uint8", to=UINT8),
    ]
    frame = helper.make_tensor_value_info("frame", UINT8, [1, 4, 6, 3])
    given = [helper.make_tensor_value_info(name, output_kind, None) for name in outputs]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "hand_made", [frame], given, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    for output in model.graph.output:
        output.type.tensor_type.shape.CopyFrom(frame.type.tensor_type.shape)
        del output.type.tensor_type.shape.dim[3]
    return model


RELU = helper.make_node("Relu", ["image"], ["logits"], name="relu")


def node(model, name):
    return next(each for each in model.graph.node if each.name == name)


def refused(model, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        check_compatibility(model)
    assert "\n" not in caught.value.format_message()


def test_the_hand_made_graphs_are_good_before_anything_is_planted(tmp_path):
    check_compatibility(hand_made(RELU))
    check_compatibility(hand_made(RELU, opset=19))
    check_compatibility(onnx.load(str(write_rgb_model(tmp_path / "m.onnx"))))


def test_an_empty_graph_is_refused():
    refused(onnx.ModelProto(), "the graph is not valid ONNX")


@pytest.mark.parametrize("opset", [19, 20])
def test_both_opsets_are_accepted(opset):
    check_compatibility(hand_made(RELU, opset=opset))


@pytest.mark.parametrize("opset", [18, 21])
def test_another_opset_is_refused(opset):
    refused(hand_made(RELU, opset=opset), f"the graph has opset {opset}; export it at 19 or 20")


def test_a_graph_that_is_not_valid_is_refused_with_the_node():
    refused(hand_made(helper.make_node("Relu", ["nowhere"], ["logits"], name="lost")), "not valid ONNX.*nowhere.*lost")
    refused(hand_made(helper.make_node("Relu", ["image"], ["logits"], name="odd", colour=1)), "not valid ONNX.*odd")


def test_operators_of_other_domains_are_refused():
    model = hand_made(helper.make_node("FusedConv", ["image"], ["logits"], name="fused", domain="com.microsoft"))
    refused(model, "FusedConv fused is of the domain com.microsoft")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refused(model, "the graph imports operators of com.microsoft")


def test_a_local_function_is_refused():
    model = hand_made(RELU)
    model.functions.append(onnx.FunctionProto(name="mine", domain="mine"))
    refused(model, "the graph defines the function mine")


def test_operators_that_some_tensorrt_lacks_are_refused():
    refused(hand_made(helper.make_node("Mish", ["image"], ["logits"], name="mish")), "Mish mish: TensorRT 10.3")
    refused(hand_made(helper.make_node("Det", ["image"], ["logits"])), "Det that gives logits: TensorRT 10.3")


def test_the_table_holds_what_our_networks_use_and_nothing_onnx_does_not_know():
    assert {"Conv", "BatchNormalization", "AveragePool", "GlobalAveragePool", "MaxPool", "Resize"} <= SUPPORTED
    assert not {"Gelu", "If", "Loop", "NonZero", "BitShift", "Unique", "QLinearConv", "Col2Im", "FusedConv"} & SUPPORTED
    for name in SUPPORTED:
        assert onnx.defs.has(name, domain="", max_inclusive_version=20), name


def test_dynamic_sizes_are_refused():
    model = hand_made(RELU)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "rows"
    refused(model, "frame has no static shape; export with fixed sizes")
    reshape = helper.make_node("Reshape", ["image", "shape"], ["logits"], name="reshape")
    shape = helper.make_node("Relu", ["shape_before"], ["shape"], name="unknowable")
    refused(
        hand_made(shape, reshape, weights={"shape_before": np.array([1, 3, 4, 6])}), "reshape.*logits is not static"
    )


def test_an_empty_tensor_is_refused():
    cut = helper.make_node("Slice", ["image", "one", "one", "channels"], ["none"], name="cut")
    join = helper.make_node("Concat", ["image", "none"], ["logits"], name="join", axis=1)
    model = hand_made(cut, join, weights={"one": np.array([1]), "channels": np.array([1])})
    refused(model, "cut: the shape of none is not static or empty")


def resizing(sizes=None, scales=None, **attributes):
    """image 1,3,4,6 → twice as large → strided back to 4,6, so that only the Resize differs."""
    settings = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"} | attributes
    inputs = ["image", "", "scales"] if scales is not None else ["image", "", "", "sizes"]
    up = helper.make_node("Resize", inputs, ["large"], name="up", **settings)
    down = helper.make_node("MaxPool", ["large"], ["logits"], name="down", kernel_shape=[1, 1], strides=[2, 2])
    weights = {"sizes": np.array(sizes or [1, 3, 8, 12])}
    if scales is not None:
        weights = {"scales": np.array(scales, np.float32)}
    return hand_made(up, down, weights=weights)


def test_a_resize_with_half_pixels_and_exact_scales_or_sizes_passes():
    check_compatibility(resizing())
    check_compatibility(resizing(scales=[1, 1, 2, 2]))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"coordinate_transformation_mode": "half_pixel_symmetric"}, "TensorRT takes half_pixel or "),
        ({"mode": "cubic"}, "mode=cubic, TensorRT takes linear or nearest"),
        (
            {"keep_aspect_ratio_policy": "not_larger", "axes": [2, 3], "sizes": [8, 12]},
            "keep_aspect_ratio_policy=not_larger",
        ),
        ({"axes": [2, 3], "sizes": [8, 12]}, "axes"),
        ({"antialias": 1}, "antialias"),
        ({"exclude_outside": 1}, "exclude_outside"),
    ],
)
def test_another_kind_of_resize_is_refused(attributes, message):
    refused(resizing(**attributes), f"Resize up has .*{message}")


@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_the_kinds_of_resize_that_tensorrt_lists_pass(mode, coordinates):
    check_compatibility(resizing(mode=mode, coordinate_transformation_mode=coordinates))


def test_scales_that_only_round_to_the_size_are_refused():
    refused(resizing(scales=[1, 1, 2.1, 2]), "Resize up: scales .* do not give .*; use F.interpolate with size=… or ")


def test_sizes_computed_while_running_are_refused():
    model = resizing()
    doubled = helper.make_node("Mul", ["shape", "factors"], ["sizes"], name="doubled")
    model.graph.node.insert(2, doubled)
    model.graph.node.insert(2, helper.make_node("Shape", ["image"], ["shape"], name="shape"))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([1, 1, 2, 2]), "factors"))
    refused(model, "Resize up: sizes is computed while running; let it follow from shapes alone")


def test_a_frame_that_is_transposed_before_its_cast_is_refused():
    model = hand_made(RELU)
    cast, turn = node(model, "cast"), node(model, "turn")
    cast.input[0], cast.output[0], turn.input[0], turn.output[0] = "turned", "image", "frame", "turned"
    first, second = turn.SerializeToString(), cast.SerializeToString()
    for position, each in enumerate((first, second)):
        model.graph.node[position].CopyFrom(onnx.NodeProto.FromString(each))
    refused(model, "Transpose turn reads the uint8 frame; TensorRT has uint8 at the border only")


def test_pooling_as_tensorrt_cannot_is_refused():
    pool = {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "name": "pool"}
    dilated = helper.make_node("MaxPool", ["image"], ["logits"], dilations=[2, 2], **pool)
    refused(hand_made(dilated), "MaxPool pool: TensorRT pools without dilations only")
    indexed = helper.make_node("MaxPool", ["image"], ["logits", "where"], kernel_shape=[1, 1], name="pool")
    refused(hand_made(indexed), "MaxPool pool: TensorRT gives no indices")


def test_a_layer_normalisation_that_also_gives_its_mean_is_refused():
    ones = np.ones(4, np.float32)
    node = helper.make_node("LayerNormalization", ["image", "ones"], ["logits", "mean"], name="norm")
    refused(hand_made(node, weights={"ones": ones}), "LayerNormalization norm: .*use its first output only")
    only = helper.make_node("LayerNormalization", ["image", "ones"], ["logits"], name="norm")
    check_compatibility(hand_made(only, weights={"ones": ones}))


def test_axes_computed_while_running_are_refused():
    body = [helper.make_node("Identity", ["axis"], ["axes"], name="copy"),
            helper.make_node("ReduceMax", ["image", "axes"], ["top"], name="reduce", keepdims=1),
            helper.make_node("Add", ["image", "top"], ["logits"], name="add")]  # fmt: skip
    model = hand_made(*body, weights={"axis": np.array([1])})
    refused(model, "ReduceMax reduce: its axes must be an initialiser")


def test_other_inputs_are_refused():
    model = hand_made(RELU)
    model.graph.input[0].type.tensor_type.elem_type = FLOAT
    refused(model, r"inputs are frame float \[1, 4, 6, 3\], expected frame uint8")
    model = hand_made(RELU)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    refused(model, r"inputs are frame uint8 \[2, 4, 6, 3\]")
    model = hand_made(RELU)
    model.graph.input.append(helper.make_tensor_value_info("second", FLOAT, [1]))
    refused(model, "inputs are frame uint8, second float")


def test_a_frame_that_is_cast_to_an_integer_first_is_refused():
    model = hand_made(RELU)
    node(model, "cast").attribute[0].i = TensorProto.INT32
    node(model, "turn").input[0] = "again"
    model.graph.node.insert(1, helper.make_node("Cast", ["real"], ["again"], to=FLOAT))
    refused(model, "Cast cast reads the uint8 frame")


def test_a_frame_cast_to_float16_passes():
    model = hand_made(RELU)
    node(model, "cast").attribute[0].i = HALF
    check_compatibility(model)


def test_casts_that_an_optimiser_merged_are_refused():
    model = hand_made(RELU)
    node(model, "to_uint8").input[0] = "winner"
    model.graph.node.remove(node(model, "to_real"))
    refused(model, "classes comes from Cast to_uint8 ← ArgMax winner.*, expected a Cast of a float tensor")


def test_a_tail_without_arg_max_is_refused():
    model = hand_made(RELU)
    node(model, "winner").CopyFrom(
        helper.make_node("ReduceMax", ["logits", "axes"], ["winner"], name="winner", keepdims=0)
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    refused(model, "classes comes from Cast to_uint8 ← Cast to_real ← ReduceMax winner, expected Cast ← Cast ← ArgMax")


def test_a_class_map_that_no_cast_gives_is_refused():
    model = hand_made(RELU)
    node(model, "to_uint8").output[0] = "almost"
    model.graph.node.append(helper.make_node("Identity", ["almost"], ["classes"], name="last"))
    refused(model, "classes comes from Identity last")


def test_other_outputs_are_refused():
    refused(hand_made(RELU, outputs=("mask",)), "outputs are mask, expected classes")
    model = hand_made(RELU)
    node(model, "to_uint8").attribute[0].i = TensorProto.INT32
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    refused(model, "outputs are classes, expected classes and maybe confidence, all uint8")


def with_confidence(*nodes):
    body = [RELU, helper.make_node("ReduceMax", ["logits", "axes"], ["top"], name="top", keepdims=0), *nodes]
    return hand_made(*body, weights={"axes": np.array([1])}, outputs=("classes", "confidence"))


def test_the_confidence_comes_from_a_float_too():
    check_compatibility(with_confidence(helper.make_node("Cast", ["top"], ["confidence"], name="conf", to=UINT8)))
    whole = helper.make_node("Cast", ["top"], ["whole"], name="whole", to=INT64)
    merged = helper.make_node("Cast", ["whole"], ["confidence"], name="conf", to=UINT8)
    refused(with_confidence(whole, merged), "confidence comes from Cast conf ← Cast whole")


def test_uint8_inside_the_graph_is_refused_but_for_quantised_values():
    there = helper.make_node("Cast", ["image"], ["bytes"], name="there", to=UINT8)
    back = helper.make_node("Cast", ["bytes"], ["logits"], name="back", to=FLOAT)
    refused(hand_made(there, back), "Cast there: bytes is uint8, which TensorRT has at the border only")
    weights = {"s": np.float32(1), "z": np.uint8(3)}
    quantise = helper.make_node("QuantizeLinear", ["image", "s", "z"], ["bytes"], name="q")
    again = helper.make_node("DequantizeLinear", ["bytes", "s", "z"], ["logits"], name="dq")
    check_compatibility(hand_made(quantise, again, weights=weights))


@pytest.mark.parametrize("name", ["auxiliary_head.conv1.weight", "projection.0.weight"])
def test_weights_of_training_only_heads_are_refused(name):
    model = hand_made(RELU)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), f"segmenter.{name}"))
    refused(model, f"training-only weights in the graph: {name}")


@pytest.mark.parametrize("name", ["decode_head.linear_projections.0.proj.bias", "patch_embeddings.projection.weight"])
def test_layers_of_other_networks_that_are_called_alike_pass(name):
    """As in SegFormer and in vision transformers."""
    model = hand_made(RELU)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), f"segmenter.network.{name}"))
    check_compatibility(model)


def test_a_graph_above_the_size_limit_is_refused(monkeypatch):
    model = hand_made(RELU, weights={"ballast": np.zeros(3 * 2**20, np.uint8)})
    monkeypatch.setattr(compatibility, "MAX_BYTES", 2**22)
    check_compatibility(model)
    for limit in (2**21, 3 * 2**20):  # at the second, the weights alone would just do
        monkeypatch.setattr(compatibility, "MAX_BYTES", limit)
        refused(model, r"the graph has 0\.00 GiB, an ONNX file holds at most 0\.00; take a network with fewer weights")


def test_weights_beyond_what_protobuf_can_count_are_refused():
    """Only the shape is declared, as that is what is counted; with its 2 GiB, protobuf fails before it can answer."""
    model = hand_made(RELU)
    model.graph.initializer.add(name="huge", data_type=FLOAT, dims=[3, 2**28])
    refused(model, r"the graph has 3\.00 GiB, an ONNX file holds at most 2\.00")


def test_a_network_that_no_onnx_file_can_hold_is_refused_before_it_is_traced(monkeypatch):
    deployable = Deployable(built("ddrnet23_slim"), SIZE_HW)
    monkeypatch.setattr(compatibility, "MAX_BYTES", 2**24)
    monkeypatch.setattr(torch.onnx, "export", None)
    with pytest.raises(ModelFileError, match=r"the graph has 0\.02 GiB"):
        trace(deployable, SIZE_HW, opset=20, with_confidence=False)


def test_weights_in_other_files_are_refused():
    model = hand_made(RELU, weights={"w": np.zeros(4, np.float32)})
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    refused(model, "w and 0 other weights lie in files beside the graph")
