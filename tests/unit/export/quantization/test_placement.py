"""The checker of TensorRT's Q/DQ rules: our graphs pass, and every rule fails where it is broken on purpose."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from clst_export.precision import Target
from clst_export.quantization.calibration import Method, calibrate
from clst_export.quantization.int8 import activations, quantisable, to_int8
from clst_export.quantization.placement import check_placement, placement_problems
from clst_runtime.errors import ModelFileError
from tests.support.graphs import Builder, chain, frames, network, node_of, residual


def quantised(model=None, target=Target.TENSORRT, keep=()):
    model = residual() if model is None else model
    size_hw = tuple(dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim[1:])
    ranges = calibrate(model, frames(1, size_hw), activations(model), [Method.MAX])[Method.MAX]
    return to_int8(model, ranges, target=target, keep=frozenset(keep))


def problems(model):
    return "\n".join(placement_problems(model))


def replace(model, name, value):
    """Give an initialiser another value."""
    entry = next(entry for entry in model.graph.initializer if entry.name == name)
    entry.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def insert_pair(model, reader, position, scale=0.5):
    """Put a Q/DQ pair of its own in front of one input of the node that gives `reader`."""
    node = node_of(model, reader)
    name = node.input[position]
    for suffix, value in (("s", np.float32(scale)), ("z", np.int8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"planted_{name}_{suffix}"))
    grid = [f"planted_{name}_s", f"planted_{name}_z"]
    place = next(index for index, other in enumerate(model.graph.node) if other.output[0] == reader)
    pair = [
        helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_pq"], name="planted_q"),
        helper.make_node("DequantizeLinear", [f"{name}_pq", *grid], [f"{name}_pdq"], name="planted_dq"),
    ]
    node.input[position] = f"{name}_pdq"
    for new in reversed(pair):
        model.graph.node.insert(place, new)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("ddrnet23_slim", 0), ("ddrnet23_slim", 3), ("deeplabv2_resnet101", 3), ("efficientnet_lite0", 3)],
)
def test_the_graphs_of_the_networks_keep_every_rule_whatever_is_kept(name, kept):
    """All quantised, or every `kept`-th convolution left as it is."""
    model = network(name)
    check_placement(quantised(model, keep=quantisable(model)[::kept] if kept else ()))


def test_small_graphs_and_float_graphs_keep_every_rule():
    for model in (quantised(), quantised(keep=("block.conv2", "side")), residual(), chain(np.eye(3))):
        assert placement_problems(model) == []


def test_the_error_names_the_first_problem_and_their_number_in_one_line():
    model = quantised()
    replace(model, "stem_relu_zero_point", np.int8(3))
    with pytest.raises(ModelFileError, match=r"zero-point 3, must be 0 \(and 1 more\)") as caught:  # Q and DQ share it
        check_placement(model)
    assert "\n" not in caught.value.format_message()


def test_the_cpu_flavour_is_not_for_tensorrt():
    found = problems(quantised(target=Target.CPU))
    for words in ("8-bit type is uint8", "Q/DQ on its bias", "both inputs are quantised", "meet in it"):
        assert words in found


def test_a_pair_between_conv_and_relu_is_found():
    model = quantised()
    insert_pair(model, "mix_relu", 0)
    assert problems(model) == "planted_dq: Q/DQ between Conv mix_node and Relu mix_relu_node"


def test_a_pair_between_add_and_relu_is_found():
    model = quantised()
    insert_pair(model, "block", 0)
    assert problems(model) == "planted_dq: Q/DQ between Add sum_node and Relu block_node"


def test_a_pair_on_both_inputs_of_an_add_is_found():
    model = quantised()
    insert_pair(model, "sum", 0)
    assert problems(model) == "sum_node: both inputs are quantised, only the shortcut may be"


def test_a_pair_on_the_convolution_s_side_of_an_add_is_found():
    model = quantised()
    add = node_of(model, "sum")
    add.input[1] = "stem_relu"  # the shortcut in float
    insert_pair(model, "sum", 0)
    assert "sum_node: an input is quantised, but there is no convolution to fuse with" in problems(model)


def test_unequal_scales_at_a_concat_are_found():
    model = quantised()
    replace(model, "both_scale", np.float32(0.125))
    replace(model, "down_scale", np.float32(0.25))
    assert problems(model) == "both_node: scales 0.125, 0.25 meet in it, must be one"


def test_a_concat_that_reads_int8_only_partly_is_found():
    model = quantised()
    node_of(model, "both").input[0] = node_of(model, "side").input[0]
    assert problems(model) == "both_node: only some of its inputs are quantised"


def test_a_quantised_bias_is_found():
    model = quantised()
    grid = {"b": np.zeros(4, np.int32), "s": np.full(4, 0.1, np.float32)}
    for suffix, value in grid.items():
        model.graph.initializer.append(numpy_helper.from_array(value, f"planted_{suffix}"))
    bias = helper.make_node("DequantizeLinear", ["planted_b", "planted_s"], ["bias_dq"], name="bias", axis=0)
    model.graph.node.insert(0, bias)
    node_of(model, "block.conv1").input[2] = "bias_dq"
    assert "block.conv1_node: Q/DQ on its bias, must be float" in problems(model)
    assert "bias: 8-bit type is int32, must be int8" in problems(model)


def test_unsigned_activations_are_found():
    model = quantised()
    replace(model, "stem_relu_zero_point", np.uint8(0))
    assert "stem_relu_QuantizeLinear: 8-bit type is uint8, must be int8" in problems(model)


def test_a_missing_zero_point_which_means_unsigned_is_found():
    model = quantised()
    for output in ("stem_relu_quantized", "stem_relu_dequantized"):
        del node_of(model, output).input[2]
    assert "stem_relu_QuantizeLinear: 8-bit type is uint8 by default, must be int8" in problems(model)


@pytest.mark.parametrize("value", [0.0, -0.5, np.nan, np.inf])
def test_a_scale_that_is_not_positive_is_found(value):
    model = quantised()
    replace(model, "stem_relu_scale", np.float32(value))
    assert "stem_relu_QuantizeLinear: its scale is not a positive constant" in problems(model)


def test_weights_with_one_scale_or_another_axis_are_found():
    words = "mix_node: weight scales are not per output channel on axis 0"
    model = quantised()
    replace(model, "mix.weight_scale", np.float32(0.1))
    assert words in problems(model)
    model = quantised()
    node_of(model, "mix.weight_dequantized").attribute[0].i = 1
    assert words in problems(model)


def test_rows_of_a_linear_layer_s_weights_with_scales_of_their_own_are_found():
    b = Builder()
    pixels = b.add("Transpose", [b.conv(b.start(), "first", np.eye(3))], "tokens", perm=[0, 2, 3, 1])
    product = b.add("MatMul", [pixels, b.store("w", np.eye(3, dtype=np.float32))], "product")
    turned = b.add("Transpose", [product], "turned", perm=[0, 3, 1, 2])
    model = quantised(b.finish(b.conv(turned, "last", np.eye(3))))
    assert placement_problems(model) == []
    node_of(model, node_of(model, "product").input[1]).attribute[0].i = 0
    assert "product_node: weight scales are not per output channel on axis 1" in problems(model)


def test_activations_with_several_scales_are_found():
    model = quantised()
    replace(model, "stem_relu_scale", np.full(4, 0.1, np.float32))
    assert "stem_relu_QuantizeLinear: 4 scales for an activation, must be one" in problems(model)


def test_a_q_without_its_dq_is_found():
    model = quantised()
    for name in ("block.conv1", "sum"):
        node = node_of(model, name)
        for position, given in enumerate(node.input):
            if given == "stem_relu_dequantized":
                node.input[position] = "stem_relu"
    model.graph.node.remove(node_of(model, "stem_relu_dequantized"))
    assert "stem_relu_QuantizeLinear: not followed by its DequantizeLinear" in problems(model)
    assert "block.conv1_node: only its weights is quantised" in problems(model)


def test_a_dq_with_another_scale_than_its_q_is_found():
    model = quantised()
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(9.0)), "other"))
    node_of(model, "stem_relu_dequantized").input[1] = "other"
    assert "stem_relu_QuantizeLinear: its DequantizeLinear has another scale" in problems(model)


def test_a_dq_that_follows_nothing_is_found():
    model = quantised()
    cast = helper.make_node("Cast", ["stem_relu"], ["loose"], to=TensorProto.INT8, name="loose")
    place = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "stem_relu_dequantized")
    node_of(model, "stem_relu_dequantized").input[0] = "loose"
    model.graph.node.insert(place, cast)
    assert "stem_relu_DequantizeLinear: follows neither a QuantizeLinear nor stored weights" in problems(model)


def test_a_convolution_of_which_only_the_input_is_quantised_is_found():
    model = quantised()
    insert_pair(model, "head", 0)
    assert problems(model) == "head_node: only its input is quantised, must be both or neither"


def test_a_quantised_resize_is_found():
    model = quantised()
    insert_pair(model, "large", 0)
    assert problems(model) == "planted_dq: read by Resize large_node, which must stay in higher precision"


def test_a_quantised_argmax_is_found():
    model = quantised()
    insert_pair(model, "winner", 0)
    assert "planted_dq: read by ArgMax winner_node" in problems(model)


def test_merged_casts_at_the_end_are_found():
    model = quantised()
    node_of(model, "classes").input[0] = "winner"  # INT64 → UINT8, as an optimiser may leave it
    assert "must be ArgMax → Cast(1) → Cast(2)" in problems(model)


def test_a_tail_of_other_types_is_found():
    model = quantised()
    node_of(model, "winner_real").attribute[0].i = TensorProto.FLOAT16
    assert problems(model) == "the graph ends with ArgMax → Cast(10) → Cast(2), must be ArgMax → Cast(1) → Cast(2)"


def test_a_graph_without_classes_is_found():
    model = quantised()
    node_of(model, "classes").output[0] = "other"
    assert problems(model) == "the graph ends with nothing that gives classes, must be ArgMax → Cast(1) → Cast(2)"
