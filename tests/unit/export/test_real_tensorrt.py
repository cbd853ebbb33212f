"""Every network in every precision, and every rule about graphs, put to NVIDIA's own parser and builder (no GPU)."""

import dataclasses
import functools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from clst_export.card import card
from clst_export.cli.conversion import report
from clst_export.graph.compatibility import RESIZE, SUPPORTED, check_compatibility
from clst_export.graph.trace import deployable_of
from clst_export.inspection import facts_of, layer_types
from clst_export.pipeline import Inputs, Request, convert
from clst_export.precision import Precision, Target
from clst_export.quantization.calibration import Method, calibrate
from clst_export.quantization.fp16 import measure_ranges, to_fp16
from clst_export.quantization.int8 import activations, quantisable, to_int8
from clst_export.quantization.placement import check_placement, placement_problems
from clst_export.verification.gate import Bounds
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.tensorrt.build import builder as building
from clst_runtime.backends.tensorrt.build.builder import serialise_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BuildProgress
from clst_runtime.errors import ModelFileError
from clst_train.models.checkpoint import load_checkpoint, save_checkpoint
from tests.support.graphs import frames as random_frames
from tests.support.graphs import kinds, network, node_of, residual
from tests.unit.export.conftest import needs_rounding

SLIM, DEEP, LITE = "ddrnet23_slim", "deeplabv2_resnet101", "efficientnet_lite0"
SIZES_HW = {SLIM: (64, 128), DEEP: (32, 64), LITE: (64, 128)}
FLAVOURS = ("fp32", "fp16", "int8", "int8, some kept")
KEPT = {SLIM: {"conv1.3", "final_layer.conv1"}}
CASES = [(SLIM, flavour, False) for flavour in FLAVOURS] + [(SLIM, flavour, True) for flavour in FLAVOURS[:3]]
CASES += [(name, flavour, False) for name in (DEEP, LITE) for flavour in FLAVOURS[:3]]  # each takes seconds


def traced(name, confidence):
    return network(name, SIZES_HW[name], with_confidence=confidence, whole=True)


@functools.cache
def ranges(name, confidence):
    base = traced(name, confidence)
    return calibrate(base, random_frames(1, SIZES_HW[name]), activations(base), [Method.MAX])[Method.MAX]


@functools.cache
def rest_ranges(name, confidence):
    """Of the graph with all in INT8: those with some kept have no other float tensors."""
    model = to_int8(traced(name, confidence), ranges(name, confidence), target=Target.TENSORRT)
    return measure_ranges(model, random_frames(1, SIZES_HW[name]))


def graph(name, flavour, confidence):
    """The graph as the exporter makes it, step by step; weights are random."""
    base = traced(name, confidence)
    if flavour == "fp32":
        return base
    if flavour == "fp16":
        return to_fp16(base, ranges=measure_ranges(base, random_frames(1, SIZES_HW[name]))).model
    keep = frozenset(KEPT[name] if "kept" in flavour else ())
    model = to_int8(base, ranges(name, confidence), target=Target.TENSORRT, keep=keep)
    check_placement(model)
    return to_fp16(model, ranges=rest_ranges(name, confidence)).model


def saved(model, path):
    onnx.save(model, str(path))
    return path


def built(trt, path):
    return serialise_engine(trt, path, BuildOptions(), BuildProgress()).plan


@pytest.fixture
def parsed(monkeypatch):
    """What the parser made of a file: ports, layers by type, convolutions by the type that they give."""
    usual, facts = building.parse_onnx, SimpleNamespace()

    def parse_onnx(trt, net, logger, path):
        parser = usual(trt, net, logger, path)
        ports = [net.get_input(index) for index in range(net.num_inputs)]
        ports += [net.get_output(index) for index in range(net.num_outputs)]
        layers = [net.get_layer(index) for index in range(net.num_layers)]
        convolutions = [each for each in layers if each.type == trt.LayerType.CONVOLUTION]
        facts.ports = [(each.name, each.dtype.name, tuple(each.shape)) for each in ports]
        facts.layers = Counter(each.type.name for each in layers)
        facts.convolutions = Counter(each.get_output(0).dtype.name for each in convolutions)
        return parser

    monkeypatch.setattr(building, "parse_onnx", parse_onnx)
    return facts


@pytest.mark.parametrize(("name", "flavour", "confidence"), CASES)
def test_every_network_in_every_precision_is_parsed_and_built(trt, parsed, tmp_path, name, flavour, confidence):
    model = graph(name, flavour, confidence)
    check_compatibility(model)
    plan = built(trt, saved(model, tmp_path / "m.onnx"))
    size_hw = SIZES_HW[name]
    classes = [(each, "UINT8", (1, *size_hw)) for each in ("classes", "confidence")[: 1 + confidence]]
    assert parsed.ports == [("frame", "UINT8", (1, *size_hw, 3)), *classes]
    # Strongly typed: as many convolutions of each type, and as many Q and DQ, as the graph says.
    types = Counter(layer_types(model, "Conv"))
    assert parsed.convolutions == +Counter(FLOAT=types["fp32"], HALF=types["fp16"] + types["int8"])
    inner = len(quantisable(traced(name, confidence)))
    assert types["int8"] == {"int8": inner, "int8, some kept": inner - 2}.get(flavour, 0)
    assert parsed.layers["QUANTIZE"] == kinds(model)["QuantizeLinear"]
    assert parsed.layers["DEQUANTIZE"] == kinds(model)["DequantizeLinear"]
    weights = sum(numpy_helper.to_array(entry).nbytes for entry in model.graph.initializer)
    assert 0.9 * weights < len(plan) < 4 * weights + 2_000_000  # it may hold INT8 weights as float32


def test_every_operator_that_the_graph_check_lets_pass_is_one_that_the_parser_reads(trt):
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    parser = trt.OnnxParser(builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)), logger)
    assert [name for name in sorted(SUPPORTED) if not parser.supports_operator(name)] == []


@pytest.mark.parametrize("coordinates", RESIZE["coordinate_transformation_mode"])
@pytest.mark.parametrize("mode", RESIZE["mode"])
def test_every_kind_of_resize_that_the_graph_check_lets_pass_is_built(trt, tmp_path, mode, coordinates):
    plant = resize(mode=mode, coordinate_transformation_mode=coordinates)
    model, path = planted(tmp_path, plant, small("fp32"))
    assert refused_by_us(model) is None
    assert len(built(trt, path)) > 0


@needs_rounding
def test_what_the_exporter_writes_is_built(trt, checkpoint, frames, tmp_path):
    """By the exporter's own entry, gate included: with everything quantised."""
    request = Request(
        precision=Precision.INT8, methods=(Method.MAX,), bounds=Bounds(min_agreement=0.0, max_miou_drop=1.0)
    )
    told = []
    inputs = Inputs(frames=frames[:1], calibration=frames[1:2])
    done = convert(checkpoint, tmp_path / "m.onnx", request, inputs, log=told.append)
    answer = read_onnx_manifest(tmp_path / "m.onnx").build_check
    assert answer == done.manifest.build_check
    count = kinds(onnx.load(tmp_path / "m.onnx"))
    assert answer["layers"]["CONVOLUTION"] == count["Conv"] == 55
    assert answer["layers"]["QUANTIZE"] == count["QuantizeLinear"]
    assert answer["version"] == trt.__version__
    assert answer["engine_bytes"] > 1_000_000
    assert told[-1] == "reading and building it with TensorRT for RTX"
    line = f"TensorRT for RTX {trt.__version__} reads and builds it: {sum(answer['layers'].values())} layers in "
    assert report(done, tmp_path / "m.onnx", None).splitlines()[-1].startswith(line)
    shown = card(facts_of(tmp_path / "m.onnx"))
    assert f"- build check: {line}" in shown
    assert "convolution 55" in shown


def test_letterbox_and_stretch_are_exported_from_one_network(checkpoint, tmp_path):
    """How pictures are fitted is a word in the manifest: TensorRT sees nothing of it."""
    other = tmp_path / "letterbox.pt"
    save_checkpoint(other, dataclasses.replace(load_checkpoint(checkpoint), config={"model": {"fit": "letterbox"}}))
    (first, one), (second, two) = (deployable_of(load_checkpoint(path), (32, 64)) for path in (checkpoint, other))
    assert (one.fit.value, two.fit.value) == ("stretch", "letterbox")
    settings = [{n: v for n, v in vars(each).items() if not n.startswith("_")} for each in (first, second)]
    assert settings[0] == settings[1]
    assert settings[0]["input_hw"] == (32, 64)
    weights = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    assert all(name == other_name and value.equal(other_value) for (name, value), (other_name, other_value) in weights)


def test_int8_for_the_cpu_is_nothing_for_tensorrt(trt, tmp_path):
    """Why `--for cpu` goes with neither `--trt` nor `--bundle`."""
    path = saved(to_int8(traced(SLIM, True), ranges(SLIM, True), target=Target.CPU), tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="input has type Int32 but must have type"):
        built(trt, path)


# --- rules of ours: what TensorRT refuses too, and where it is less strict


def before(model, node, *added):
    """Put nodes in front of one."""
    for position, each in enumerate(added, list(model.graph.node).index(node)):
        model.graph.node.insert(position, each)


def constant(model, name, value):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def initialiser(model, name):
    return next(entry for entry in model.graph.initializer if entry.name == name)


def uint8(kind, **attributes):
    """Arithmetic on the frame before its Cast."""

    def plant(model):
        inputs = ["frame"] * (2 if kind == "Add" else 1)
        cast = model.graph.node[0]
        cast.input[0] = "planted"
        before(model, cast, helper.make_node(kind, inputs, ["planted"], name="plant", **attributes))

    return plant


def resize_by(*nodes):
    """A size that is computed, twice what the last of these nodes gives; they read the logits."""

    def plant(model):
        node, make = node_of(model, "large"), helper.make_node
        factors, given, added = constant(model, "factors", np.array([1, 1, 2, 2], np.int64)), node.input[0], []
        for kind, attributes in nodes:
            added.append(make(kind, [given], [f"by_{kind}"], **attributes))
            given = f"by_{kind}"
        before(model, node, *added, make("Mul", [given, factors], ["computed"]))
        node.input[3] = "computed"

    return plant


BY_PIXELS = resize_by(("ReduceMax", {"keepdims": 0}), ("Cast", {"to": TensorProto.INT64}))
BY_SHAPE = resize_by(("Shape", {}))  # constants that nobody folded


def resize(**attributes):
    def plant(model):
        node = node_of(model, "large")
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(*each) for each in attributes.items())

    return plant


def operator(kind, domain=""):
    """Another operator in the place of the first ReLU."""

    def plant(model):
        node = node_of(model, "stem_relu")
        node.op_type, node.domain = kind, domain
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return plant


def merged_casts(model):
    """As an optimiser leaves them: INT64 straight to UINT8."""
    last, between = node_of(model, "classes"), node_of(model, "winner_real")
    last.input[0] = between.input[0]
    model.graph.node.remove(between)


def first_quantiser(model):
    return next(node for node in model.graph.node if node.op_type == "QuantizeLinear")


def zero_point(value):
    def plant(model):
        name = first_quantiser(model).input[2]
        for node in model.graph.node:  # of the pair
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[2] == name:
                node.input[2] = "planted"
        constant(model, "planted", value)

    return plant


def scale(value):
    def plant(model):
        entry = initialiser(model, first_quantiser(model).input[1])
        entry.CopyFrom(numpy_helper.from_array(np.array(value, numpy_helper.to_array(entry).dtype), entry.name))

    return plant


def lone_quantiser(model):
    """A Q whose result is convolved as it is."""
    stored = first_quantiser(model).output[0]
    pair = next(node for node in model.graph.node if stored in node.input)
    for node in model.graph.node:
        node.input[:] = [stored if name == pair.output[0] else name for name in node.input]
    model.graph.node.remove(pair)


def short_scales(model):
    """One scale too few for the weights' channels."""
    entry = initialiser(model, "block.conv2.weight_scale")
    entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry)[:-1], entry.name))


def pair_before(output):
    """A Q and a DQ in front of the node that gives `output`."""

    def plant(model):
        node = node_of(model, output)
        grid = [constant(model, "planted_scale", np.float32(0.5)), constant(model, "planted_zero", np.int8(0))]
        make = helper.make_node
        before(
            model,
            node,
            make("QuantizeLinear", [node.input[0], *grid], ["planted_q"], name="planted_Q"),
            make("DequantizeLinear", ["planted_q", *grid], ["planted_dq"], name="planted_DQ"),
        )
        node.input[0] = "planted_dq"

    return plant


def planted(tmp_path, plant, base):
    model = onnx.ModelProto()
    model.CopyFrom(base)
    plant(model)
    return model, saved(model, tmp_path / "planted.onnx")


@functools.cache
def small(precision):
    """A block with a shortcut, a down-sampling block, a Concat: what both networks are made of."""
    if precision == "fp32":
        return residual()
    calibrated = calibrate(residual(), random_frames(), activations(residual()), [Method.MAX])[Method.MAX]
    return to_int8(residual(), calibrated, target=Target.TENSORRT)


def refused_by_us(model):
    """The first rule of ours that a graph breaks; None if it breaks none."""
    try:
        check_compatibility(model)
    except ModelFileError as error:
        return error.message
    problems = placement_problems(model) if kinds(model)["QuantizeLinear"] else []
    return problems[0] if problems else None


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_that_violations_are_planted_in_is_a_good_one(trt, tmp_path, precision):
    model, path = planted(tmp_path, lambda model: None, small(precision))
    assert refused_by_us(model) is None
    assert len(built(trt, path)) > 0


@pytest.mark.parametrize(
    ("precision", "plant", "told"),
    [
        ("fp32", uint8("Transpose", perm=[0, 1, 2, 3]), "Transpose plant: .*has type UInt8 but must have type Float"),
        ("fp32", uint8("Add"), "Add plant: .*But type is UInt8"),
        ("fp32", uint8("Flatten", axis=1), "Flatten plant: .*UInt8"),
        ("fp32", BY_PIXELS, "could not build it: .*shape"),
        ("fp32", resize(mode="cubic", antialias=1), "Resize .*Antialiasing is not supported"),
        ("fp32", resize(mode="linear", coordinate_transformation_mode="tf_crop_and_resize"), "Resize .*half_pixel"),
        ("fp32", operator("Det"), "Det stem_relu_node: not supported;"),
        ("fp32", operator("Bernoulli"), "Bernoulli stem_relu_node: not supported;"),
        ("fp32", operator("Swizzle", "our.own"), "Swizzle stem_relu_node: .*Plugin not found"),
        ("int8", zero_point(np.int8(3)), "QuantizeLinear .*Non-zero zero point is not supported"),
        ("int8", zero_point(np.uint8(128)), "QuantizeLinear .*Non-zero zero point is not supported"),
        ("int8", scale(0.0), "QuantizeLinear .*must all be positive"),
        ("int8", scale(-1.0), "QuantizeLinear .*must all be positive"),
        ("int8", lone_quantiser, "Conv .*`input` type is Int8"),
        ("int8", short_scales, "DequantizeLinear .*must have the same volume"),
    ],
)
def test_a_planted_violation_is_refused_by_tensorrt_as_by_us(trt, tmp_path, precision, plant, told):
    model, path = planted(tmp_path, plant, small(precision))
    assert refused_by_us(model) is not None
    with pytest.raises(ModelFileError, match=told) as error:
        built(trt, path)
    assert "\n" not in error.value.message
    assert "cuda" not in error.value.message.lower(), "that there is no GPU is not why"


@pytest.mark.parametrize(
    ("precision", "plant", "ours"),
    [
        ("fp32", merged_casts, "expected a Cast of a float tensor"),
        ("fp32", BY_SHAPE, "computed while running"),
        ("fp32", operator("Mish"), "does not import Mish"),
        ("int8", pair_before("block"), "Q/DQ between"),
        ("int8", pair_before("winner"), "must stay in higher precision"),
    ],
)
def test_where_our_rules_are_stricter_than_this_tensorrt(trt, tmp_path, precision, plant, ours):
    """They stand for older versions, or for speed; that they are needed is not shown here."""
    model, path = planted(tmp_path, plant, small(precision))
    assert ours in (refused_by_us(model) or "")
    assert len(built(trt, path)) > 0
