"""The FP16 graph: hand-made networks whose every type can be told beforehand, and the real ones."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from clst_export.graph.compatibility import check_compatibility
from clst_export.graph.trace import trace
from clst_export.quantization.fp16 import measure_ranges, to_fp16
from clst_runtime.errors import DataError, ModelFileError
from clst_train.method.batchnorm import estimate_statistics
from clst_train.models.deployable import Deployable, normalise
from clst_train.models.networks import build_segmenter
from clst_train.models.normalisation import IMAGENET
from clst_train.synthetic.camera_looks import find_look
from clst_train.synthetic.scenes import draw_scene

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
DIAGONAL = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
RED_GREEN_BLUE = np.array([[[200, 10, 10], [10, 200, 10], [10, 10, 200]]], np.uint8)  # H 1, W 3
BORDER_NODES = {"cast", "turn", "to_real", "to_uint8"}


def graph_of(body, weights, *, size_hw=(1, 3), opset=20, logits="logits"):
    """An artifact-contract graph: frame → Cast → Transpose → `body` (from `image` to `logits`) → class ids."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["real"], name="cast", to=FLOAT),
        helper.make_node("Transpose", ["real"], ["image"], name="turn", perm=[0, 3, 1, 2]),
        *body,
        helper.make_node("ArgMax", [logits], ["winner"], name="winner", axis=1, keepdims=0),
        helper.make_node("Cast", ["winner"], ["winner_real"], name="to_real", to=FLOAT),
        helper.make_node("Cast", ["winner_real"], ["classes"], name="to_uint8", to=TensorProto.UINT8),
    ]
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *size_hw, 3])
    classes = helper.make_tensor_value_info("classes", TensorProto.UINT8, [1, *size_hw])
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "hand_made", [frame], [classes], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def convolution(name, source, weight, bias=None):
    inputs = [source, weight] if bias is None else [source, weight, bias]
    return helper.make_node("Conv", inputs, [name], name=name)


def classes_of(model, frame):
    """By a plain evaluator that rounds after every node, which ONNX Runtime's CPU does not."""
    return ReferenceEvaluator(model).run(None, {"frame": frame[None]})[0][0]


def types_of(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {entry.name: entry.type.tensor_type.elem_type for entry in inferred.value_info} | {
        entry.name: entry.data_type for entry in inferred.initializer
    }


def node(model, name):
    return next(each for each in model.graph.node if each.name == name)


def test_ranges_are_the_largest_sizes_over_all_frames_and_the_model_stays_as_it_was():
    body = [helper.make_node("Sub", ["image", "hundred"], ["logits"], name="sub")]
    model = graph_of(body, {"hundred": np.float32(100)})
    before = model.SerializeToString()
    frames = (np.full((1, 3, 3), value, np.uint8) for value in (30, 7, 110))  # a generator is enough
    assert measure_ranges(model, frames) == {"real": 110, "image": 110, "logits": 93, "winner_real": 0}
    assert model.SerializeToString() == before


def test_no_frames_are_refused():
    model = graph_of([convolution("logits", "image", "w")], {"w": DIAGONAL})
    with pytest.raises(DataError, match="no frames to measure ranges on"):
        measure_ranges(model, [])


def test_a_harmless_network_becomes_float16_between_the_borders():
    body = [convolution("inner", "image", "w", "b"), helper.make_node("Relu", ["inner"], ["logits"], name="relu")]
    model = graph_of(body, {"w": DIAGONAL, "b": np.array([0, 1, 0], np.float32)})
    before = model.SerializeToString()
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert set(result.kept_fp32) == BORDER_NODES
    types = types_of(result.model)
    assert [types[name] for name in ("image", "inner", "logits", "winner_real")] == [FLOAT, HALF, HALF, FLOAT]
    assert {entry.name: entry.data_type for entry in result.model.graph.initializer} == {"w_fp16": HALF, "b_fp16": HALF}
    check_compatibility(result.model)
    assert classes_of(result.model, RED_GREEN_BLUE).tolist() == [[0, 1, 2]]
    assert model.SerializeToString() == before


def normalised_network():
    body = [
        helper.make_node("Sub", ["image", "mean"], ["centred"], name="sub"),
        convolution("first", "centred", "w"),
        helper.make_node("Relu", ["first"], ["active"], name="relu"),
        convolution("second", "active", "w"),
        convolution("beside", "centred", "w"),
        helper.make_node("Add", ["second", "beside"], ["logits"], name="add"),
    ]
    return graph_of(body, {"mean": np.float32(100.1), "w": DIAGONAL})


def test_what_reads_the_normalised_frame_stays_float32_with_its_relu_and_no_more():
    model = normalised_network()
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert set(result.kept_fp32) == BORDER_NODES | {"sub", "first", "relu", "beside"}
    assert result.kept_fp32["first"] == "reads the normalised frame, whose steps float16 rounds"


def test_two_dark_surfaces_one_grey_level_apart_stay_apart():
    """Class 0 says red − 1000.3 + 998.4, class 1 says 0: level 2 gives +0.1. Float16 knows half steps at 1000, so the
    normalised level 2 would be −998.5 there and give −0.1."""
    weight = np.zeros((2, 3, 1, 1), np.float32)
    weight[0, 0] = 1.0
    body = [
        helper.make_node("Sub", ["image", "mean"], ["centred"], name="sub"),
        convolution("logits", "centred", "w", "b"),
    ]
    bias = np.array([998.4, 0.0], np.float32)
    model = graph_of(body, {"mean": np.float32(1000.3), "w": weight, "b": bias}, size_hw=(1, 2))
    frame = np.array([[[2, 0, 0], [1, 0, 0]]], np.uint8)
    result = to_fp16(model, ranges=measure_ranges(model, [frame]))
    assert classes_of(model, frame).tolist() == classes_of(result.model, frame).tolist() == [[0, 1]]


def test_a_single_pixel_is_enough():
    model = graph_of([convolution("logits", "image", "w")], {"w": DIAGONAL}, size_hw=(1, 1))
    pixel = RED_GREEN_BLUE[:, 1:2]
    result = to_fp16(model, ranges=measure_ranges(model, [pixel]))
    assert classes_of(result.model, pixel).tolist() == [[1]]


def outlier_network():
    """200 · 400 = 80000 is no float16; what follows brings it back to 200."""
    body = [
        convolution("large", "image", "up"),
        helper.make_node("Relu", ["large"], ["still_large"], name="relu"),
        convolution("small", "still_large", "down"),
        convolution("logits", "small", "w"),
    ]
    weights = {"up": 400 * DIAGONAL, "down": DIAGONAL / 400, "w": DIAGONAL}
    return graph_of(body, weights)


def test_what_writes_or_reads_an_outlier_stays_float32_and_nothing_is_rounded_between():
    model = outlier_network()
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert set(result.kept_fp32) == BORDER_NODES | {"large", "relu", "small"}
    assert result.kept_fp32["large"] == "large reaches 8e+04, more than a quarter of float16's 65504"
    assert [each.op_type for each in result.model.graph.node] == [
        *("Cast", "Transpose", "Conv", "Relu", "Conv", "Cast", "Conv", "ArgMax", "Cast", "Cast"),
    ]
    assert types_of(result.model)["logits"] == HALF
    assert classes_of(result.model, RED_GREEN_BLUE).tolist() == [[0, 1, 2]]


def test_planted_ranges_that_hide_the_outlier_are_seen_in_the_classes():
    model = outlier_network()
    ranges = measure_ranges(model, [RED_GREEN_BLUE]) | {"large": 1.0, "still_large": 1.0}
    broken = to_fp16(model, ranges=ranges)
    assert set(broken.kept_fp32) == BORDER_NODES
    with np.errstate(all="ignore"):
        assert classes_of(broken.model, RED_GREEN_BLUE).tolist() != [[0, 1, 2]]


@pytest.mark.parametrize(("factor", "stays"), [(81, False), (82, True)])
def test_a_quarter_of_the_largest_float16_is_the_limit(factor, stays):
    model = graph_of([convolution("logits", "image", "w")], {"w": factor * DIAGONAL})  # 16376 = 65504 / 4
    ranges = measure_ranges(model, [RED_GREEN_BLUE])
    assert ranges["logits"] == 200 * factor
    assert ("logits" in to_fp16(model, ranges=ranges).kept_fp32) == stays


def test_a_tensor_below_float16s_normal_numbers_stays_float32():
    model = graph_of([convolution("tiny", "image", "w"), convolution("logits", "tiny", "v")],
                     {"w": DIAGONAL * 2.0**-22, "v": DIAGONAL * 1000})  # fmt: skip
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert "below float16's normal numbers" in result.kept_fp32["logits"]
    assert {"tiny", "logits"} <= set(result.kept_fp32)


def test_weights_that_float16_rounds_away_stay_float32_unless_their_channel_is_dead():
    small = DIAGONAL * np.array([1, 3.3e-7, 1], np.float32).reshape(3, 1, 1, 1)
    model = graph_of([convolution("logits", "image", "w")], {"w": small})
    alive = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))  # 200 · 3.3e-7 = 6.6e-5 > 2^-14 = 6.1e-5
    assert alive.kept_fp32["logits"] == "1 channels of w are so small that float16 rounds them away"
    dead = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE // 2]))  # 100 · 3.3e-7 < 2^-14
    assert set(dead.kept_fp32) == BORDER_NODES


@pytest.mark.parametrize(("bias", "stays"), [(-1.0, False), (1e-3, True)])
def test_small_weights_beside_a_bias_that_float16_rounds_by_more_do_not_count(bias, stays):
    small = DIAGONAL * np.array([1, 3.3e-7, 1], np.float32).reshape(3, 1, 1, 1)
    values = {"w": small, "b": np.array([0, bias, 0], np.float32)}
    model = graph_of([helper.make_node("Conv", ["image", "w", "b"], ["logits"], name="logits")], values)
    # 3.3e-7 becomes 6 · 2^-24 = 3.58e-7, times 200 that is 5.5e-6 too much; 1 is rounded by up to 2^-11 = 4.9e-4
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert ("logits" in result.kept_fp32) == stays


def cancelling_filters(*, cut):
    """A flat image of 100 gives 100 · 0.014 = 1.4 inside and 0 at the border; the classes are 1.4 against 1."""
    row = np.array([20.007, -40.0, 20.007], np.float32)  # float16 holds 20, −40, 20: a sum of 0
    last = np.zeros((3, 3, 1, 1), np.float32)
    last[0, 0] = 1.0
    weights = {"w": np.tile(row, (3, 1)).reshape(3, 1, 1, 3), "last": last, "bias": np.float32([0, 1, -1])}
    filters = helper.make_node("Conv", ["image", "w"], ["filters"], name="filters", group=3, pads=[0, 1, 0, 1])
    cutting = helper.make_node("Clip", ["filters", "zero", "six"], ["cutting"], name="cutting")
    body = [
        filters,
        *([cutting] if cut else []),
        convolution("logits", "cutting" if cut else "filters", "last", "bias"),
    ]
    return graph_of(body, weights | ({"zero": np.float32(0), "six": np.float32(6)} if cut else {}), size_hw=(1, 5))


def test_a_convolution_whose_large_weights_cancel_stays_float32_with_the_activation_that_cuts_it():
    model, frame = cancelling_filters(cut=True), np.full((1, 5, 3), 100, np.uint8)
    converted = to_fp16(model, ranges=measure_ranges(model, [frame]))
    assert classes_of(model, frame).tolist() == [[1, 0, 0, 0, 1]]
    assert classes_of(converted.model, frame).tolist() == [[1, 0, 0, 0, 1]]
    assert converted.kept_fp32.keys() - BORDER_NODES == {"filters", "cutting"}
    assert "rounding" in converted.kept_fp32["filters"]


def test_where_nothing_cuts_the_result_the_same_shift_is_small_beside_its_range():
    model, frame = cancelling_filters(cut=False), np.full((1, 5, 3), 100, np.uint8)
    ranges = measure_ranges(model, [frame])  # at the border −20 · 100 stays; 1.4 is less than 2000 / 1024
    assert ranges["filters"] == pytest.approx(1999.3)
    assert to_fp16(model, ranges=ranges).kept_fp32.keys() == BORDER_NODES


def test_a_weight_beyond_65504_stays_float32():
    frame = RED_GREEN_BLUE // 200  # ones and zeros
    body = [helper.make_node("Mul", ["image", "less"], ["low"], name="less"), convolution("logits", "low", "w")]
    model = graph_of(body, {"less": np.float32(1e-3), "w": 70000 * DIAGONAL})
    result = to_fp16(model, ranges=measure_ranges(model, [frame]))
    assert result.kept_fp32["logits"] == "a weight of 7e+04 in w exceeds float16's 65504"


def test_a_weight_read_in_both_types_is_held_twice():
    body = [convolution("large", "image", "w"), helper.make_node("Div", ["large", "k"], ["small"], name="div"),
            convolution("logits", "small", "w")]  # fmt: skip
    model = graph_of(body, {"w": 400 * DIAGONAL, "k": np.float32(4000)})
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))  # 80000, 20, 8000
    held = {entry.name: entry.data_type for entry in result.model.graph.initializer}
    assert held == {"w": FLOAT, "k": FLOAT, "w_fp16": HALF}
    check_compatibility(result.model)


def quantised(*, weight_scale=(0.01, 0.01, 0.01), opset=20):
    """frame/200 → Q/DQ → Conv with per-channel DQ weights → Relu: red 1.0 gives 100 · 0.01 · 1.0 in its channel."""
    linear = [
        helper.make_node("Mul", ["image", "unit"], ["scaled"], name="scale"),
        helper.make_node("Conv", ["scaled", "first"], ["entry"], name="entry"),
        helper.make_node("QuantizeLinear", ["entry", "x_scale", "x_zero"], ["x_int"], name="q"),
        helper.make_node("DequantizeLinear", ["x_int", "x_scale", "x_zero"], ["x"], name="dq"),
        helper.make_node("DequantizeLinear", ["w_int", "w_scale", "w_zero"], ["w"], name="dq_weight", axis=0),
        helper.make_node("Conv", ["x", "w"], ["conv"], name="conv"),
        helper.make_node("Relu", ["conv"], ["logits"], name="relu"),
    ]
    weights = {
        "unit": np.float32(1 / 200),
        "first": DIAGONAL,
        "x_scale": np.float32(1 / 127),
        "x_zero": np.int8(0),
        "w_int": (100 * DIAGONAL).astype(np.int8),
        "w_scale": np.array(weight_scale, np.float32),
        "w_zero": np.zeros(3, np.int8),
    }
    return graph_of(linear, weights, opset=opset)


@pytest.mark.parametrize("opset", [19, 20])
def test_the_rest_of_an_int8_graph_becomes_float16_with_its_scales(opset, tmp_path):
    model = quantised(opset=opset)
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert set(result.kept_fp32) == BORDER_NODES | {"scale", "entry"}
    types = types_of(result.model)
    assert [types[name] for name in ("x", "w", "conv", "x_scale_fp16", "w_scale_fp16")] == [HALF] * 5
    assert types["x_int"] == types["w_int"] == TensorProto.INT8
    assert node(result.model, "conv").input[:] == ["x", "w"]  # no Cast between DequantizeLinear and Conv
    check_compatibility(result.model)
    assert classes_of(result.model, RED_GREEN_BLUE).tolist() == [[0, 1, 2]]
    import onnxruntime

    session = onnxruntime.InferenceSession(result.model.SerializeToString())
    assert session.run(None, {"frame": RED_GREEN_BLUE[None]})[0][0].tolist() == [[0, 1, 2]]


def test_a_scale_too_small_for_float16_keeps_its_convolution_and_all_that_feeds_it():
    model = quantised(weight_scale=(0.01, 1e-6, 0.01))
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert result.kept_fp32["dq_weight"] == "float16 cannot hold the scale 1e-06"
    assert set(result.kept_fp32) == BORDER_NODES | {"scale", "entry", "dq_weight", "conv", "dq"}
    assert result.kept_fp32["dq"].startswith("beside a node that stays float32")
    assert node(result.model, "conv").input[:] == ["x", "w"]
    assert types_of(result.model)["logits"] == HALF
    check_compatibility(result.model)


def test_ranges_of_another_graph_and_broken_weights_are_refused():
    model = graph_of([convolution("logits", "image", "w")], {"w": DIAGONAL})
    ranges = measure_ranges(model, [RED_GREEN_BLUE])
    with pytest.raises(ModelFileError, match=r"no range of tensor logits \(logits\); measure"):
        to_fp16(model, ranges={name: value for name, value in ranges.items() if name != "logits"})
    for value in (float("inf"), float("nan")):
        with pytest.raises(ModelFileError, match=f"logits gives {value} in float32 already"):
            to_fp16(model, ranges=ranges | {"logits": value})


def test_a_mask_of_minus_infinity_stays_float32_and_the_rest_does_not():
    """As attention hides places: what is infinite on the way need not be in the result."""
    body = [
        helper.make_node("Less", ["image", "limit"], ["hidden"], name="less"),
        helper.make_node("Where", ["hidden", "mask", "image"], ["masked"], name="where"),
        helper.make_node("Softmax", ["masked"], ["shares"], name="softmax", axis=1),
        convolution("logits", "shares", "w"),
    ]
    weights = {"limit": np.float32(100), "mask": np.float32(-np.inf), "w": DIAGONAL}
    model = graph_of(body, weights)
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert set(result.kept_fp32) == BORDER_NODES | {"where", "softmax"}
    assert "masked reaches inf" in result.kept_fp32["softmax"]
    assert classes_of(result.model, RED_GREEN_BLUE).tolist() == [[0, 1, 2]]


def test_a_node_whose_type_stands_in_an_attribute_stays_float32():
    zero = helper.make_tensor("zero", FLOAT, [1], [0.5])
    body = [
        helper.make_node("ConstantOfShape", ["shape"], ["halves"], name="fill", value=zero),
        helper.make_node("Mul", ["image", "halves"], ["logits"], name="mul"),
    ]
    model = graph_of(body, {"shape": np.array([1, 3, 1, 3])})
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert result.kept_fp32["fill"] == "ConstantOfShape makes float32 of something else"
    assert classes_of(result.model, RED_GREEN_BLUE).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("activation", ["Relu", "HardSwish"])
def test_the_first_layer_stays_float32_also_where_the_frame_is_padded_for_it(activation):
    body = [
        helper.make_node("Sub", ["image", "mean"], ["centred"], name="sub"),
        helper.make_node("Pad", ["centred", "pads"], ["padded"], name="pad"),
        convolution("first", "padded", "w"),
        helper.make_node(activation, ["first"], ["active"], name="activation"),
        helper.make_node("Slice", ["active", "one", "four", "last"], ["cut"], name="slice"),
        convolution("logits", "cut", "w"),
    ]
    weights = {"mean": np.float32(100), "pads": np.array([0, 0, 0, 1, 0, 0, 0, 0]), "w": DIAGONAL}
    weights |= {"one": np.array([1]), "four": np.array([4]), "last": np.array([3])}
    model = graph_of(body, weights)
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert set(result.kept_fp32) == BORDER_NODES | {"sub", "pad", "first", "activation"}
    assert classes_of(result.model, RED_GREEN_BLUE).tolist() == [[0, 1, 2]]


def test_a_column_of_a_linear_layer_that_float16_would_round_away_keeps_it_float32():
    body = [
        helper.make_node("Transpose", ["image"], ["pixels"], name="last", perm=[0, 2, 3, 1]),
        helper.make_node("Relu", ["pixels"], ["active"], name="relu"),
        helper.make_node("MatMul", ["active", "w"], ["product"], name="linear"),
        helper.make_node("Transpose", ["product"], ["logits"], name="first", perm=[0, 3, 1, 2]),
    ]
    weights = np.eye(3, dtype=np.float32)
    weights[1, 1] = 1.34e-6  # 22.5 steps of float16
    model = graph_of(body, {"w": weights})
    kept = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE * 0 + 255])).kept_fp32
    assert kept["linear"] == "1 channels of w are so small that float16 rounds them away"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_single_value_that_is_no_number_is_seen_in_the_ranges_wherever_it_stands(value):
    # x · 1 + 0 for red and green, x · 1 + value for blue: the last of the three channels only
    broken = graph_of([convolution("logits", "image", "w", "b")], {"w": DIAGONAL, "b": np.float32([0, 0, value])})
    ranges = measure_ranges(broken, [RED_GREEN_BLUE])
    assert not np.isfinite(ranges["logits"])
    with pytest.raises(ModelFileError, match="logits gives (nan|inf) in float32 already"):
        to_fp16(broken, ranges=ranges)


def test_the_scales_of_a_resize_stay_float32_beside_float16_features():
    body = [
        convolution("small", "image", "w"),
        helper.make_node("Resize", ["small", "", "scales"], ["logits"], name="resize", mode="linear"),
    ]
    model = graph_of(body, {"w": DIAGONAL, "scales": np.ones(4, np.float32)})
    result = to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE]))
    assert set(result.kept_fp32) == BORDER_NODES
    types = types_of(result.model)
    assert (types["logits"], types["scales"]) == (HALF, FLOAT)
    check_compatibility(result.model)
    assert classes_of(result.model, RED_GREEN_BLUE).tolist() == [[0, 1, 2]]


def test_nodes_without_a_name_get_one():
    body = [helper.make_node("Conv", ["image", "w"], ["logits"])]
    model = graph_of(body, {"w": 400 * DIAGONAL})
    assert "Conv_2" in to_fp16(model, ranges=measure_ranges(model, [RED_GREEN_BLUE])).kept_fp32


@pytest.fixture(scope="module")
def ddrnet():
    """DDRNet with BatchNorm statistics of synthetic scenes: network, graph, their scenes, four others.

    Twelve scenes: of four, a pooled channel has four values, and by chance one more layer stays in float32.
    """
    size, rng = (64, 96), np.random.default_rng(0)
    frames = [draw_scene(rng, find_look("new"), size)[0] for _ in range(16)]
    torch.manual_seed(0)
    segmenter = build_segmenter("ddrnet23_slim", 10)
    estimate_statistics(segmenter, [normalise(torch.from_numpy(np.stack(frames[:12])), IMAGENET)])
    deployable = Deployable(segmenter, size)
    return deployable, trace(deployable, size, opset=19, with_confidence=False), frames[:12], frames[12:]


def test_ddrnet_in_float16_is_half_the_size_and_differs_at_ties_only(ddrnet, tmp_path):
    deployable, model, known, others = ddrnet
    result = to_fp16(model, ranges=measure_ranges(model, known))
    first = {"/segmenter/conv1/conv1.0/Conv", "/segmenter/conv1/conv1.2/Relu"}
    assert set(result.kept_fp32) == {"/Cast", "/Transpose", "/Sub", "/Div", "/Cast_1", "/Cast_2"} | first
    check_compatibility(result.model)
    assert 0.49 < result.model.ByteSize() / model.ByteSize() < 0.52
    assert differing_margin(deployable, result.model, others) < 0.02


def test_a_planted_error_in_one_weight_tensor_is_no_tie(ddrnet):
    deployable, model, known, others = ddrnet
    broken = to_fp16(model, ranges=measure_ranges(model, known)).model
    first = next(entry for entry in broken.graph.initializer if entry.data_type == HALF and len(entry.dims) == 4)
    first.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(first), first.name))
    assert differing_margin(deployable, broken, others) > 0.1


@torch.inference_mode()
def differing_margin(deployable, model, frames):
    """The largest gap between the two logits in question over all differing pixels, as a share of the largest logit."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    worst = largest = 0.0
    for frame in frames:
        logits = deployable.logits(torch.from_numpy(frame)[None])[0]
        other = torch.from_numpy(session.run(None, {"frame": frame[None]})[0]).long()
        gap = logits.amax(dim=0) - logits.gather(0, other)[0]
        worst, largest = max(worst, float(gap.max())), max(largest, float(logits.abs().max()))
    return worst / largest
