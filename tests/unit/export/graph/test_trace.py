"""Networks of any making become one graph, or one line that says which of their lines stands in the way."""

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clst_export.graph.compatibility import check_compatibility
from clst_export.graph.trace import trace
from clst_export.precision import Target
from clst_export.quantization.calibration import Method, calibrate
from clst_export.quantization.fp16 import measure_ranges, to_fp16
from clst_export.quantization.int8 import activations, attribute, quantisable, to_int8
from clst_export.quantization.placement import check_placement
from clst_runtime.backends.tensorrt.build.builder import serialise_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BuildProgress
from clst_runtime.errors import ModelFileError
from clst_train.models.deployable import Deployable
from clst_train.models.networks import build_segmenter
from clst_train.models.normalisation import IMAGENET
from tests.support.graphs import kinds, node_of, run
from tests.support.narrow import narrow_networks

SIZE_HW = (32, 48)
FRAME = np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)


class Decoder(nn.Module):
    """Written as networks are elsewhere: sizes are taken from tensors, pooling adapts, shapes are read and reshaped."""

    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.stages = nn.Sequential(nn.Sequential(block, nn.Conv2d(8, 8, 1)), nn.ReLU())
        self.gate = nn.Linear(8, 8)
        self.head = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 3, 1))

    def forward(self, images):
        early = self.stem(images)
        late = self.stages(early)
        squares = F.adaptive_avg_pool2d(late, (2, 3))  # of 8,12: windows of 4,4
        whole = F.adaptive_avg_pool2d(late, 1)
        gate = self.gate(whole.flatten(1)).sigmoid().reshape(images.shape[0], -1, 1, 1)
        late = F.interpolate(squares, size=early.shape[-2:], mode="bilinear", align_corners=False) + gate * late
        return self.head(F.interpolate(late, size=images.shape[-2:], mode="bilinear", align_corners=False))


def deployed(segmenter):
    torch.manual_seed(0)
    network = segmenter() if isinstance(segmenter, type) else segmenter
    network.normalisation = IMAGENET
    return Deployable(network, SIZE_HW)


def exported(deployable, opset=19):
    return trace(deployable, SIZE_HW, opset=opset, with_confidence=False)


@pytest.fixture(scope="module")
def decoder():
    deployable = deployed(Decoder)
    return deployable, exported(deployable)


def test_a_network_whose_sizes_follow_from_shapes_is_one_static_graph_that_says_the_same(decoder):
    deployable, model = decoder
    check_compatibility(model)
    assert kinds(model)["AveragePool"] == kinds(model)["ReduceMean"] == 1
    assert not kinds(model).keys() & {"Shape", "Gather", "Constant", "Identity", "BatchNormalization"}
    with torch.inference_mode():
        expected = deployable(torch.from_numpy(FRAME)[None]).numpy()
    assert len(np.unique(expected)) > 1
    assert (run(model, FRAME)[0] == expected).mean() > 0.999


class SharesAConvolution(nn.Module):
    """One convolution on two scales, each with a normalisation of its own: folded, these are two convolutions."""

    def __init__(self):
        super().__init__()
        self.shared, self.norms = nn.Conv2d(3, 4, 3, padding=1), nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, images):
        large, small = (norm(self.shared(each)) for norm, each in zip(self.norms, self.scales(images), strict=True))
        return self.head(large + F.interpolate(small, scale_factor=2))

    def scales(self, images):
        return images, F.max_pool2d(images, 2)


def test_a_convolution_may_be_shared_and_sizes_may_be_doubled_by_the_nearest_pixel():
    model = exported(deployed(SharesAConvolution))
    check_compatibility(model)
    assert kinds(model)["Conv"] == 3


@pytest.mark.parametrize("opset", [19, 20])
@pytest.mark.parametrize("activation", [nn.Mish, nn.GELU])
def test_an_activation_that_some_tensorrt_lacks_is_written_by_operators_that_all_have(activation, opset):
    deployable = deployed(nn.Sequential(nn.Conv2d(3, 4, 1), activation(), nn.Conv2d(4, 3, 1)))
    model = exported(deployable, opset)
    check_compatibility(model)
    assert not {"Mish", "Gelu"} & kinds(model).keys()
    (written,) = (node for node in model.graph.node if node.op_type in ("Softplus", "Erf"))
    assert written.name.startswith("/segmenter/segmenter.1/")
    expected = deployable.logits(torch.from_numpy(FRAME)[None]).detach().numpy()
    np.testing.assert_allclose(run(model, FRAME, [last_float(model)])[0], expected, rtol=1e-3, atol=1e-5)


def test_logits_that_have_the_input_s_size_are_not_resized():
    assert kinds(exported(deployed(nn.Conv2d(3, 3, 1))))["Resize"] == 0


def last_float(model):
    """The tensor that the winner is taken of."""
    return next(node.input[0] for node in model.graph.node if node.op_type == "ArgMax")


class Attends(nn.Module):
    """What transformers are made of: normalisation by layer and by group, GELU, attention over all places."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.GroupNorm(2, 8), nn.GELU())
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, images):
        maps = self.stem(images)
        count, channels, rows, columns = maps.shape
        tokens = self.norm(maps.flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens.transpose(1, 2).reshape(count, channels, rows, columns))


def test_a_transformer_is_exported_in_every_precision_and_built_by_tensorrt(trt, tmp_path):
    deployable = deployed(Attends)
    model = exported(deployable)
    check_compatibility(model)
    assert kinds(model)["LayerNormalization"] == kinds(model)["InstanceNormalization"] == 1
    with torch.inference_mode():
        expected = deployable(torch.from_numpy(FRAME)[None]).numpy()
    assert len(np.unique(expected)) > 1
    assert (run(model, FRAME)[0] == expected).mean() > 0.999
    half = to_fp16(model, ranges=measure_ranges(model, [FRAME])).model
    check_compatibility(half)
    assert (run(half, FRAME)[0] == expected).mean() > 0.98
    assert quantisable(model) == ("attention",)  # what makes queries, keys and values; what follows it is a Gemm
    ranges = calibrate(model, [FRAME], activations(model), [Method.MAX])[Method.MAX]
    whole = to_int8(model, ranges, target=Target.TENSORRT)
    check_placement(whole)
    whole = to_fp16(whole, ranges=measure_ranges(whole, [FRAME])).model
    check_compatibility(whole)
    assert (run(whole, FRAME, disable_quant_qdq="1")[0] == expected).mean() > 0.95
    for index, graph in enumerate((model, half, whole)):
        onnx.save(graph, str(tmp_path / f"{index}.onnx"))
        assert serialise_engine(trt, tmp_path / f"{index}.onnx", BuildOptions(), BuildProgress()).plan


def test_nodes_and_tensors_are_named_after_the_modules_that_they_come_from(decoder):
    _, model = decoder
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))
    assert names[:5] == ["/Cast", "/Transpose", "/Sub", "/Div", "/segmenter/stem/Conv"]
    assert {"/segmenter/AveragePool", "/segmenter/Resize", "/segmenter/Resize_1", "/ArgMax", "/Cast_2"} <= set(names)
    # the first with BatchNorm folded into it, the last with computed weights, which have no name of a module
    inner = "/segmenter/stages/stages.0/stages.0.0/stages.0.0.0/Conv", "/segmenter/stages/stages.0/stages.0.1/Conv"
    assert [name for name in names if name.endswith("Conv")] == ["/segmenter/stem/Conv", *inner, "/segmenter/head/Conv"]
    assert quantisable(model) == ("stages.0.0.0", "stages.0.1")
    assert node_of(model, "/segmenter/Resize_output_0").name == "/segmenter/Resize"


def test_nothing_in_the_file_tells_of_the_machine_that_made_it(decoder):
    _, model = decoder
    graph = model.graph
    entries = [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    assert [entry for entry in entries if entry.doc_string or len(entry.metadata_props)] == []
    assert (len(graph.value_info), model.ir_version) == (0, 9)
    stored = model.SerializeToString()
    for told in (Path(torch.__file__).parent, Path(__file__).parent, "pkg.torch", ".py"):
        assert str(told).encode() not in stored


@pytest.mark.parametrize("opset", [19, 20])
def test_nothing_is_printed_and_nothing_is_left(opset, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = exported(deployed(nn.Conv2d(3, 3, 1)), opset)
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == []
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)


class Chooses(nn.Module):
    def forward(self, images):
        if images.mean() > 0:
            return images
        return -images


class Counts(nn.Module):
    def forward(self, images):
        return images.repeat(1, int(images.max()), 1, 1)


class Leaves(nn.Module):
    def forward(self, images):
        return torch.from_numpy(images.numpy() * 2)


class Decomposes(nn.Module):
    def forward(self, images):
        return torch.linalg.svd(images)[0][..., : images.shape[-1]]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Chooses, ("`if images.mean() > 0:`", __file__, "depends on pixel values", "torch.where")),
        (Counts, ("`return images.repeat(1, int(images.max()), 1, 1)`", "sizes that follow from shapes")),
        (Leaves, ("`return torch.from_numpy(images.numpy() * 2)`", ".numpy()", "with operators of PyTorch")),
        (Decomposes, ("cannot be written in ONNX", "aten._linalg_svd", "rewrite that layer")),
    ],
)
def test_a_network_that_is_no_one_graph_ends_in_one_line_that_names_the_place_and_the_cure(network, words, capfd):
    with pytest.raises(ModelFileError) as caught:
        exported(deployed(network))
    told = caught.value.format_message()
    assert [word for word in words if word not in told] == []
    assert "\n" not in told
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("size_hw", "stem_pads"),
    [((64, 96), [0, 0, 1, 1]), ((75, 96), [1, 0, 1, 1]), ((75, 101), [1, 1, 1, 1])],  # above, left, below, right
)
def test_same_padding_is_a_convolutions_own_at_any_size(size_hw, stem_pads):
    torch.manual_seed(0)
    with narrow_networks():
        segmenter = build_segmenter("efficientnet_lite0", 3)
    deployable = Deployable(segmenter, size_hw)
    model = trace(deployable, size_hw, opset=19, with_confidence=False)
    check_compatibility(model)
    assert kinds(model)["Pad"] == 0
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    assert attribute(stem, "pads") == stem_pads
    frame = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = deployable(torch.from_numpy(frame[None]))
    assert (run(model, frame)[0] == expected.numpy()).mean() > 0.999
