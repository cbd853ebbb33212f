"""INT8 graphs: hand-counted grids, the arithmetic against NumPy, and what each target wants."""

import numpy as np
import onnx
import pytest

from clst_export.precision import Target
from clst_export.quantization.calibration import Method, Range, calibrate
from clst_export.quantization.int8 import Network, activations, attribute, quantisable, scales, to_int8
from clst_export.quantization.placement import placement_problems
from clst_runtime.errors import ConfigError, ModelFileError
from tests.support.graphs import (
    IDENTITY,
    SIZE_HW,
    Builder,
    chain,
    frames,
    kinds,
    network,
    node_of,
    residual,
    run,
    stored,
)

NETWORKS = ("ddrnet23_slim", "deeplabv2_resnet101")
UNFUSED = {"disable_quant_qdq": "1"}


def ranges_of(model, count=2):
    height, width = (dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:])
    return calibrate(model, frames(count, (height, width)), activations(model), [Method.MAX])[Method.MAX]


def reads_quantised(model, output):
    """Which inputs of the node that gives `output` come out of a DequantizeLinear."""
    given = {name: node.op_type for node in model.graph.node for name in node.output}
    return [given.get(name) == "DequantizeLinear" for name in node_of(model, output).input]


def chain_ranges(high=255.0, middle=255.0):
    return {"first_relu": Range(low=0.0, high=high), "middle_relu": Range(low=0.0, high=middle)}


# --- which convolutions, and how they are called


def test_all_but_the_first_and_the_last_convolution_are_quantisable_by_their_modules_names():
    assert quantisable(residual()) == (
        *("block.conv1", "block.conv2", "down.conv", "down.shortcut"),
        *("side", "mix"),
    )


def test_both_networks_name_their_convolutions_after_their_modules():
    slim, deep = (quantisable(network(name)) for name in NETWORKS)
    assert len(slim) == len(set(slim)) == 55 - 2  # all but the first of the stem and the classifier
    assert len(deep) == len(set(deep)) == 8 * 3 + 4  # of 8 blocks and 4 shortcuts: not the stem and the head
    assert {"conv1.3", "layer1.0.conv1", "layer5_.0.downsample.0", "spp.process4.2", "compression3.0"} <= set(slim)
    assert {"layer1.0.conv1", "layer4.1.conv3", "layer3.0.downsample.0"} <= set(deep)
    assert "final_layer.conv1" in slim  # though its module is entered by one of its methods
    assert not {"conv1", "conv1.0", "final_layer.conv2"} & set(slim)
    assert not [name for name in deep if name.startswith(("conv1", "classifier"))]


def test_equal_names_are_told_apart():
    model = residual()
    for node in model.graph.node:
        if node.op_type == "Conv":
            weights = next(entry for entry in model.graph.initializer if entry.name == node.input[1])
            weights.name = node.input[1] = f"onnx::Conv_{node.name}"
            node.name = "/segmenter/layer1/layer1.0/conv/Conv"
    assert quantisable(model)[:2] == ("layer1.0.conv~2", "layer1.0.conv~3")  # the stem took the plain name


def test_a_graph_of_one_convolution_has_none_to_quantise():
    model = chain(np.eye(3))
    del model.graph.node[2:6]  # all between the frame and the last convolution
    model.graph.node[2].input[0] = "real"
    assert kinds(model)["Conv"] == 1
    assert quantisable(model) == ()
    assert not kinds(to_int8(model, {}, target=Target.CPU))["QuantizeLinear"]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_batch_normalisation_is_left_behind_a_convolution(name):
    model = Network(network(name))
    for node in model.nodes:
        if node.op_type == "BatchNormalization":
            assert model.nodes[model.producers[node.input[0]]].op_type != "Conv"


# --- grids, counted by hand


@pytest.mark.parametrize(("high", "steps"), [(6.0, 1542), (3.0, 771.5)])
def test_the_grid_of_a_relu6_for_the_cpu_ends_at_6_at_most(high, steps):
    ranges = chain_ranges(middle=2.0) | {"first_relu": Range(low=0.0, high=high)}
    model = to_int8(chain(np.eye(3), most=6.0), ranges, target=Target.CPU)
    # In units of 2^-16, the distance of float16's numbers there: 6 / 255 is 1542.02, rounded up 255 steps end at 6.004;
    # 3 / 255 is 771.01, and in units of half that size rounded up to 771.5
    assert stored(model, "first_relu_scale") == np.float32(steps / 2**16)
    tensorrt = to_int8(chain(np.eye(3), most=6.0), ranges, target=Target.TENSORRT)
    assert 127 * stored(tensorrt, "first_relu_scale") >= high


def test_the_grid_of_a_tensor_for_tensorrt_is_signed_and_centred():
    model = to_int8(chain(np.eye(3)), {"first_relu": Range(low=-10.0, high=63.5)}, target=Target.TENSORRT)
    assert stored(model, "first_relu_scale") == np.float32(0.5)  # 63.5 / 127
    zero = stored(model, "first_relu_zero_point")
    assert (zero, zero.dtype) == (0, np.int8)


def test_the_grid_of_a_tensor_for_the_cpu_is_unsigned_and_covers_both_ends():
    ranges = {"first_relu": Range(low=-2.0, high=125.5), "middle_relu": Range(low=0.0, high=255.0)}
    model = to_int8(chain(np.eye(3)), ranges, target=Target.CPU)
    assert stored(model, "first_relu_scale") == np.float32(0.5)  # 127.5 / 255
    zero = stored(model, "first_relu_zero_point")
    assert (zero, zero.dtype) == (4, np.uint8)  # −2 is stored as 0
    assert stored(model, "middle_relu_zero_point") == 0


def test_weights_of_a_1x1_convolution_for_tensorrt_by_hand():
    weights = [[127 / 64, -1.0, 0.0], [0.25, -127 / 256, 1 / 512], [0.0, 0.0, 0.0]]
    model = to_int8(chain(weights), chain_ranges(), target=Target.TENSORRT)
    assert stored(model, "middle.weight_scale").tolist()[:2] == [1 / 64, 1 / 256]  # one per output channel
    found = stored(model, "middle.weight_quantized")
    assert found.dtype == np.int8
    # 0.5 of a step goes to the even neighbour; a channel without weights stays 0 whatever its scale
    assert found[:, :, 0, 0].tolist() == [[127, -64, 0], [64, -127, 0], [0, 0, 0]]
    assert (stored(model, "middle.weight_scale") > 0).all()


def test_weights_and_bias_for_the_cpu_by_hand():
    weights = [[2.0, -1.0, 0.0], [0.5, 0.25, 0.0], [1.0, 1.0, 1.0]]
    model = to_int8(chain(weights, bias=[1.0, -3.0, 0.0]), chain_ranges(), target=Target.CPU)
    assert stored(model, "middle.weight_scale").tolist() == [1 / 32, 1 / 128, 1 / 64]  # largest weight = 64 steps
    assert stored(model, "middle.weight_quantized")[:, :, 0, 0].tolist() == [[64, -32, 0], [64, 32, 0], [64, 64, 64]]
    bias = stored(model, "middle.bias_quantized")
    assert bias.dtype == np.int32
    assert bias.tolist() == [32, -384, 0]  # on the grid activation × weight: 1 × 1/32, 1 × 1/128


def test_the_bias_of_a_dead_channel_fits_into_int32():
    weights = np.diag([1.0, 1e-9, 1.0])
    model = to_int8(chain(weights, bias=[0.0, 5.0, 0.0]), chain_ranges(high=2.55), target=Target.CPU)
    bias, scale = stored(model, "middle.bias_quantized"), stored(model, "middle.bias_scale")
    assert bias[1] * scale[1] == pytest.approx(5.0, rel=1e-6)
    assert abs(int(bias[1])) <= 2**30


def test_the_bias_stays_float_for_tensorrt():
    model = to_int8(chain(np.eye(3), bias=[1.0, -3.0, 0.0]), chain_ranges(), target=Target.TENSORRT)
    assert node_of(model, "middle").input[2] == "segmenter.middle.bias"
    assert stored(model, "segmenter.middle.bias").tolist() == [1.0, -3.0, 0.0]


def test_scales_are_rounded_up_to_what_float16_holds():
    widths = np.array([1.0, 0.3, 1e-5, 1e9, 0.0])
    found = scales(widths, 127)
    assert np.array_equal(found, found.astype(np.float16).astype(np.float32))
    assert (found[:3] >= widths[:3] / 127).all()  # the largest value does not fall off the grid
    assert found[0] == pytest.approx(1 / 127, rel=1e-3)
    assert found[3] == 65504.0
    assert found[4] > 0  # a tensor that was always 0


LINEAR = np.array([[1.27, 0.0, 0.1], [-0.5, 2.54, 0.1], [0.0, -1.0, -0.1]], np.float32)  # inputs, outputs
ATTENDED = ("one", "two")


def linear(weights=LINEAR):
    """frame → first → attention of the pixels to each other → linear layer with bias → last → classes."""
    b = Builder()
    first = b.add("Relu", [b.conv(b.start(), "first", IDENTITY / 64)], "first_relu")
    tokens = b.add("Reshape", [first, b.store("flat", np.array([1, 3, 128]))], "tokens")
    turned = b.add("Transpose", [tokens], "turned", perm=[0, 2, 1])
    shares = b.add("Softmax", [b.add("MatMul", [turned, tokens], "one")], "shares", axis=-1)
    mixed = b.add("MatMul", [shares, turned], "two")
    product = b.add("MatMul", [mixed, b.store("stored", weights)], "product")
    b.nodes[-1].name = "/segmenter/block/block.0/mlp/MatMul"
    summed = b.add("Add", [product, b.store("bias", np.array([0.5, 0.0, -0.5], np.float32))], "summed")
    columns = b.add("Transpose", [summed], "columns", perm=[0, 2, 1])
    back = b.add("Reshape", [columns, b.store("square", np.array([1, 3, *SIZE_HW]))], "back")
    return b.finish(b.conv(back, "last", IDENTITY))


def test_a_linear_layer_is_quantised_by_its_columns_and_attention_is_not():
    model = linear()
    assert quantisable(model) == ("block.0.mlp",)
    quantised = to_int8(model, {"two": Range(low=-63.5, high=10.0)}, target=Target.TENSORRT)
    assert stored(quantised, "two_scale") == np.float32(0.5)
    name = "block.0.mlp.weight"
    np.testing.assert_allclose(stored(quantised, f"{name}_scale"), [0.01, 0.02, 0.1 / 127], rtol=1e-3)
    found = stored(quantised, f"{name}_quantized")
    assert found[:, 0].tolist() == [127, -50, 0]
    assert found[:, 2].tolist() == [127, 127, -127]
    assert attribute(node_of(quantised, f"{name}_dequantized"), "axis") == 1
    assert all(reads_quantised(quantised, each) == [False, False] for each in ATTENDED)
    assert placement_problems(quantised) == []


@pytest.mark.parametrize("target", Target)
def test_an_int8_linear_layer_says_nearly_the_same(target):
    model = linear()
    quantised = to_int8(model, ranges_of(model), target=target)
    onnx.checker.check_model(quantised, full_check=True)
    for frame in frames(2):
        (found,), (expected,) = (run(each, frame, ["summed"], **UNFUSED) for each in (quantised, model))
        assert 0 < np.abs(found - expected).max() < 0.1


def test_on_the_cpu_onnx_runtime_multiplies_a_linear_layer_in_int8(tmp_path):
    import onnxruntime as ort

    quantised = to_int8(linear(), ranges_of(linear()), target=Target.CPU)
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / "optimised.onnx")
    ort.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = kinds(onnx.load(str(tmp_path / "optimised.onnx")))
    assert (found["MatMulIntegerToFloat"], found["Gemm"]) == (1, 0)


def test_weights_of_a_convolution_over_one_axis_keep_their_shape():
    b = Builder()
    first = b.conv(b.start(), "first", IDENTITY)
    rows = b.add("Reshape", [first, b.store("line", np.array([1, 3, 128]))], "rows")
    b.add("Conv", [rows, b.store("segmenter.middle.weight", np.eye(3, dtype=np.float32)[:, :, None])], "middle")
    square = b.add("Reshape", ["middle", b.store("square", np.array([1, 3, *SIZE_HW]))], "square_again")
    model = to_int8(
        b.finish(b.conv(square, "last", IDENTITY)), {"rows": Range(low=0, high=127)}, target=Target.TENSORRT
    )
    assert stored(model, "middle.weight_quantized").tolist() == (127 * np.eye(3))[:, :, None].tolist()


# --- arithmetic


def requantised(values, scale):
    """uint8 as QLinearConv stores it: rounded half to even, saturated."""
    return np.clip(np.rint(values / np.float32(scale)), 0, 255)


def test_onnx_runtime_computes_the_cpu_graph_as_numpy_does_also_where_16_bits_would_saturate():
    weights = np.array([[1.0, 1.0, 1.0], [0.3, -0.7, 0.2], [-1.0, 0.4, 0.9]], np.float32)
    bias = np.array([0.0, 20.0, 5.0], np.float32)
    model = to_int8(chain(weights, bias), chain_ranges(middle=765.0), target=Target.CPU)
    frame = frames(1)[0]
    frame[0] = 255  # 255 × 64 + 255 × 64 is just below 2¹⁵
    steps = stored(model, "middle.weight_scale")
    sums = np.einsum("oi,hwi->hwo", stored(model, "middle.weight_quantized")[:, :, 0, 0].astype(int), frame.astype(int))
    real = (sums + stored(model, "middle.bias_quantized")) * steps
    expected = requantised(np.maximum(real, 0), stored(model, "middle_relu_scale")) * stored(model, "middle_relu_scale")
    (found,) = run(model, frame, ["middle_relu_dequantized"])
    assert found[0, 0, 0, 0] == 765.0  # 3 × 255, by hand
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), expected, atol=1e-4)


def test_onnx_runtime_computes_the_tensorrt_graph_as_numpy_does():
    weights = np.array([[1.0, 1.0, 1.0], [0.3, -0.7, 0.2], [-1.0, 0.4, 0.9]], np.float32)
    bias = np.array([0.0, 20.0, 5.0], np.float32)
    model = to_int8(chain(weights, bias), chain_ranges(high=254.0), target=Target.TENSORRT)
    frame = frames(1)[0]
    frame[0] = 255
    read = np.clip(np.rint(frame / np.float32(2.0)), -128, 127).astype(int)  # 254 / 127 = 2
    sums = np.einsum("oi,hwi->hwo", stored(model, "middle.weight_quantized")[:, :, 0, 0].astype(int), read)
    expected = np.maximum(sums * stored(model, "middle.weight_scale") * 2.0 + bias, 0)
    (found,) = run(model, frame, ["middle_relu"], **UNFUSED)
    assert found[0, 0, 0, 0] == pytest.approx(3 * 254.0, rel=1e-3)  # 255 saturates at 127 steps of 2
    np.testing.assert_allclose(found[0].transpose(1, 2, 0), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("target", Target)
def test_an_int8_graph_is_valid_says_nearly_the_same_and_leaves_the_original_alone(target):
    model = residual()
    before = model.SerializeToString()
    quantised = to_int8(model, ranges_of(model), target=target)
    assert model.SerializeToString() == before
    onnx.checker.check_model(quantised, full_check=True)
    for frame in frames(2):
        (logits,), (reference,) = (run(each, frame, ["head"], **UNFUSED) for each in (quantised, model))
        noise = np.sqrt(np.mean((logits - reference) ** 2) / np.mean(reference**2))
        assert 0.001 < noise < 0.1  # six layers of about 1/127 each


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("build", [residual, lambda: network("ddrnet23_slim")])
def test_everything_kept_gives_the_float_results_to_the_bit(target, build):
    model = build()
    kept = to_int8(model, ranges_of(model, 1), target=target, keep=frozenset(quantisable(model)))
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(kinds(kept))
    logits = next(node for node in model.graph.node if node.op_type == "ArgMax").input[0]
    frame = frames(1, tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:]))[0]
    for found, expected in zip(
        run(kept, frame, ["classes", logits]), run(model, frame, ["classes", logits]), strict=True
    ):
        assert np.array_equal(found, expected)


# --- what is kept


@pytest.mark.parametrize("target", Target)
def test_a_kept_convolution_keeps_its_weights_and_the_others_do_not(target):
    model = residual()
    kept = to_int8(model, ranges_of(model), target=target, keep=frozenset({"block.conv1", "down.shortcut"}))
    names = {entry.name for entry in kept.graph.initializer}
    assert {"segmenter.block.conv1.weight", "segmenter.down.shortcut.weight"} <= names
    assert {"block.conv2.weight_quantized", "down.conv.weight_quantized"} <= names
    assert not {"block.conv1.weight_quantized", "segmenter.block.conv2.weight"} & names


def test_on_the_cpu_an_add_with_a_kept_convolution_is_computed_in_float():
    model = residual()
    whole, part = (
        to_int8(model, ranges_of(model), target=Target.CPU, keep=frozenset(keep)) for keep in ((), ("down.shortcut",))
    )
    assert reads_quantised(whole, "down_sum") == [True, True]
    assert reads_quantised(part, "down_sum") == [True, False]


def test_a_misspelt_convolution_to_keep_is_refused_with_the_nearest_name():
    model = residual()
    with pytest.raises(ConfigError, match="'block.conv9'.*did you mean 'block.conv"):
        to_int8(model, ranges_of(model), target=Target.CPU, keep=frozenset({"block.conv9"}))
    with pytest.raises(ConfigError, match="'stem'"):  # the first one is not quantisable in the first place
        to_int8(model, ranges_of(model), target=Target.CPU, keep=frozenset({"stem"}))


def test_a_tensor_without_range_is_named():
    with pytest.raises(ModelFileError, match="tensor first_relu has no calibrated range"):
        to_int8(chain(np.eye(3)), {}, target=Target.TENSORRT)


# --- what each target wants


def test_for_tensorrt_only_convolutions_and_the_shortcuts_of_adds_read_int8():
    model = to_int8(residual(), ranges_of(residual()), target=Target.TENSORRT)
    assert reads_quantised(model, "sum") == [False, True]  # the block's input
    assert reads_quantised(model, "down_sum") == [False, True]  # the down-sampling convolution
    assert reads_quantised(model, "block.conv1") == [True, True, False]
    assert reads_quantised(model, "stem") == [False, False]
    assert reads_quantised(model, "head") == [False, False, False]
    assert reads_quantised(model, "both") == [False, False]
    assert node_of(model, "sum").input[1] == node_of(model, "block.conv1").input[0]  # one pair for both readers


def test_for_tensorrt_an_add_that_cannot_be_fused_with_a_convolution_stays_float():
    model = network("ddrnet23_slim")
    quantised = to_int8(model, ranges_of(model, 1), target=Target.TENSORRT)
    for name in ("Add_output_0", "Add_3_output_0"):  # their convolutions are also read by the Concat
        assert reads_quantised(quantised, f"/segmenter/spp/{name}") == [False, False]
    assert reads_quantised(quantised, "/segmenter/spp/Add_4_output_0") == [False, True]
    assert reads_quantised(quantised, "/segmenter/Add_4_output_0") == [False, False]  # a Resize and a sum


def test_for_tensorrt_all_that_a_concat_joins_has_one_scale():
    ranges = ranges_of(residual()) | {"down": Range(low=0.0, high=12.7), "both": Range(low=0.0, high=25.4)}
    model = to_int8(residual(), ranges, target=Target.TENSORRT)
    assert stored(model, "down_scale") == stored(model, "both_scale") == scales(np.array([25.4]), 127)[0]
    model = to_int8(residual(), ranges, target=Target.CPU)
    assert stored(model, "down_scale") == scales(np.array([12.7]), 255)[0]


def test_for_tensorrt_a_concat_of_concats_also_has_one_scale():
    b = Builder()
    first = b.add("Relu", [b.conv(b.start(), "first", IDENTITY)], "first_relu")
    inner = b.add("Concat", [first, b.conv(first, "one", IDENTITY)], "inner", axis=1)
    outer = b.add("Concat", [inner, b.conv(first, "two", IDENTITY)], "outer", axis=1)
    model = b.finish(b.conv(b.conv(outer, "three", np.eye(3, 9)), "last", IDENTITY))
    highs = {"first_relu": 1.0, "one": 2.0, "inner": 2.0, "two": 254.0, "outer": 254.0, "three": 1.0}
    ranges = {name: Range(low=0.0, high=high) for name, high in highs.items()}
    quantised = to_int8(model, ranges, target=Target.TENSORRT)
    assert stored(quantised, "first_relu_scale") == stored(quantised, "outer_scale") == 2.0
    assert placement_problems(quantised) == []


def test_for_tensorrt_tokens_that_are_joined_have_one_scale():
    b = Builder()
    first = b.add("Relu", [b.conv(b.start(), "first", IDENTITY)], "first_relu")
    tokens = b.add("Reshape", [first, b.store("flat", np.array([1, 128, 3]))], "tokens")
    one = b.add("MatMul", [tokens, b.store("w1", IDENTITY)], "one")
    both = b.add("Concat", [tokens, one], "both", axis=-1)
    two = b.add("MatMul", [both, b.store("w2", np.eye(6, 3, dtype=np.float32))], "two")
    back = b.add("Reshape", [two, b.store("square", np.array([1, 3, *SIZE_HW]))], "back")
    model = b.finish(b.conv(back, "last", IDENTITY))
    ranges = {"tokens": 1.0, "one": 254.0, "both": 254.0}
    ranges = {name: Range(low=0.0, high=high) for name, high in ranges.items()}
    quantised = to_int8(model, ranges, target=Target.TENSORRT)
    assert stored(quantised, "tokens_scale") == stored(quantised, "both_scale") == 2.0
    assert placement_problems(quantised) == []


def test_on_the_cpu_onnx_runtime_computes_every_inner_convolution_and_add_in_int8(tmp_path):
    import onnxruntime as ort

    model = network("ddrnet23_slim")
    quantised = to_int8(model, ranges_of(model, 1), target=Target.CPU)
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / "optimised.onnx")
    ort.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = kinds(onnx.load(str(tmp_path / "optimised.onnx")))
    assert (found["QLinearConv"], found["Conv"] + found["FusedConv"]) == (53, 2)  # the first and the classifier
    assert (found["QLinearAdd"], found["Add"], found["Mul"]) == (24, 12, 12)  # the float ones are normalisations
    assert found["QLinearConcat"] == 1
    assert found["Relu"] == 0  # each is part of the convolution, sum or quantisation before it
    assert found["Transpose"] <= 4  # NHWC from the first convolution to the last


def test_on_the_cpu_a_relu6_is_part_of_its_int8_convolution(tmp_path):
    import onnxruntime as ort

    model = network("efficientnet_lite0")
    ranges = {name: Range(low=min(span.low, 0.0), high=6.0) for name, span in ranges_of(model, 1).items()}
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(tmp_path / "optimised.onnx")
    quantised = to_int8(model, ranges, target=Target.CPU)
    ort.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = kinds(onnx.load(str(tmp_path / "optimised.onnx")))
    assert found["QLinearConv"] == len(quantisable(model))
    assert (found["Clip"], found["Relu"], found["Pad"]) == (0, 0, 0)


@pytest.mark.parametrize("with_confidence", [False, True])
def test_the_tail_stays_argmax_and_two_casts_and_the_classes_are_those_of_the_logits(with_confidence):
    model = network("ddrnet23_slim", with_confidence=with_confidence)
    frame = frames(1, (64, 128))[0]
    for target in Target:
        quantised = to_int8(model, ranges_of(model, 1), target=target)
        onnx.checker.check_model(quantised, full_check=True)
        tail = ["classes"]
        for _ in range(3):
            tail.insert(0, node_of(quantised, tail[0]).input[0])
        assert [node_of(quantised, name).op_type for name in tail[1:]] == ["ArgMax", "Cast", "Cast"]
        winner = node_of(quantised, tail[1])
        last = target is Target.CPU and not with_confidence
        assert attribute(winner, "axis") == (3 if last else 1)
        logits, classes = run(quantised, frame, [winner.input[0], "classes"], **UNFUSED)
        assert logits.shape == ((1, 64, 128, 3) if last else (1, 3, 64, 128))
        assert np.array_equal(logits.argmax(axis=3 if last else 1), classes)


def test_normalisations_written_out_for_the_cpu_give_the_same_values():
    model = network("ddrnet23_slim")
    quantised = to_int8(model, ranges_of(model, 1), target=Target.CPU)
    assert (kinds(model)["BatchNormalization"], kinds(quantised)["BatchNormalization"]) == (12, 0)
    name = [node.output[0] for node in model.graph.node if node.op_type == "BatchNormalization"][-1]
    before = node_of(quantised, node_of(quantised, name).input[0]).input[0]
    given, found = run(quantised, frames(1, (64, 128))[0], [before, name])
    values = [Network(model).constant(entry) for entry in node_of(model, name).input[1:]]
    scale, bias, mean, variance = (value[:, None, None] for value in values)
    np.testing.assert_allclose(found, scale * (given - mean) / np.sqrt(variance + 1e-5) + bias, rtol=1e-4, atol=1e-4)


def test_channels_last_gives_the_same_logits():
    model = network("ddrnet23_slim")
    frame = frames(1, (64, 128))[0]
    quantised = to_int8(model, ranges_of(model, 1), target=Target.CPU)
    logits = node_of(quantised, "classes")
    for _ in range(2):
        logits = node_of(quantised, logits.input[0])
    small = node_of(model, node_of(model, logits.input[0]).output[0]).input[0]
    last, first = run(quantised, frame, [logits.input[0], small])
    expected = run_resize(first, (64, 128))
    np.testing.assert_allclose(last.transpose(0, 3, 1, 2), expected, rtol=1e-4, atol=1e-5)


def run_resize(values, size_hw):
    """Bilinear with half-pixel centres, by PyTorch."""
    import torch

    given = torch.from_numpy(values)
    return torch.nn.functional.interpolate(given, size=size_hw, mode="bilinear", align_corners=False).numpy()
