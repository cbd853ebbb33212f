"""Known pictures through the gates users rely on: swapped colours, shifted pixels, mixed-up mean and std are seen.

The class of every pixel is counted by hand; a fault is planted in the graph, and `count_ties` (the gate of an export)
and `parity` (clst-parity) must both tell it, with the bounds that they have for users.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from clst_export import pipeline as conversion
from clst_export.graph.compatibility import check_compatibility
from clst_export.graph.trace import trace
from clst_export.pipeline import Inputs, Request, convert
from clst_export.precision import Precision
from clst_export.quantization.fp16 import measure_ranges, to_fp16
from clst_export.verification.gate import BOUNDS
from clst_export.verification.ties import count_ties
from clst_runtime.artifact.manifest import METADATA_KEY
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import BudgetNotHeld
from clst_runtime.evaluation.parity import compare
from clst_runtime.imaging.image_files import write_png
from clst_train.method.batchnorm import estimate_statistics
from clst_train.models.checkpoint import Checkpoint, save_checkpoint
from clst_train.models.checkpoint_backend import TorchBackend
from clst_train.models.deployable import Deployable, normalise
from clst_train.models.networks import build_segmenter
from clst_train.models.normalisation import Normalisation
from clst_train.models.segmenter import Segmenter, TrainingOutputs
from tests.conftest import RGB_CLASSES, rgb_manifest

RED, GREEN, BLUE = range(3)
STRIDE = 4
SIZE_HW = (8, 24)
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


class Colours(Segmenter):
    """The logits of classes red, green and blue are the picture's channels 0–255, averaged over 4x4 pixels."""

    feature_channels, output_stride, class_count = 3, STRIDE, 3
    normalisation = Normalisation(MEAN, STD)

    def __init__(self):
        super().__init__()
        self.undo = nn.Conv2d(3, 3, 1)  # takes the normalisation back
        with torch.no_grad():
            self.undo.weight.copy_(torch.diag(torch.tensor(STD))[:, :, None, None])
            self.undo.bias.copy_(torch.tensor(MEAN))

    def training_outputs(self, images):
        features = F.avg_pool2d(images, STRIDE)
        return TrainingOutputs(features=features, logits=self.undo(features), auxiliary=None)


def picture(*stripes):
    """A picture 8,24,3 of vertical stripes, each (number of columns, colour)."""
    return np.repeat([[colour for columns, colour in stripes for _ in range(columns)]], SIZE_HW[0], 0).astype(np.uint8)


ALL_RED = picture((24, (255, 0, 0)))
STRIPES = picture((4, (255, 0, 0)), (20, (0, 0, 255)))
GREENISH = picture((24, (100, 112, 100)))


def swap_channels(model):
    """The graph reads RGB frames as BGR."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
    turn = next(node for node in model.graph.node if node.op_type == "Transpose")
    position = list(model.graph.node).index(turn)
    model.graph.node.insert(position, helper.make_node("Gather", [turn.input[0], "bgr"], ["swapped"], axis=3))
    model.graph.node[position + 1].input[0] = "swapped"


def swap_mean_and_std(model):
    """The graph subtracts the standard deviation and divides by the mean."""
    subtract = next(node for node in model.graph.node if node.op_type == "Sub")
    divide = next(node for node in model.graph.node if node.op_type == "Div")
    subtract.input[1], divide.input[1] = divide.input[1], subtract.input[1]


def shift(mode, *, which):
    """The `which`-th Resize reads its input at other places than half-pixel centres."""

    def plant(model):
        resizes = [node for node in model.graph.node if node.op_type == "Resize"]
        for attribute in resizes[which].attribute:
            if attribute.name == "coordinate_transformation_mode":
                attribute.s = mode

    return plant


FAULTS = {
    "colours": (swap_channels, ALL_RED),
    "mean and std": (swap_mean_and_std, GREENISH),
    "align_corners": (shift(b"align_corners", which=-1), STRIPES),
    "asymmetric": (shift(b"asymmetric", which=-1), STRIPES),
}


def nothing(model):
    """No fault."""


def deployable():
    return Deployable(Colours(), SIZE_HW)


def colour_graph(fault=nothing, *, half=False):
    """The graph of the colour network with a fault; `half`: in float16."""
    network = deployable()
    model = trace(network, SIZE_HW, opset=19, with_confidence=False)
    check_compatibility(model)
    fault(model)
    return to_fp16(model, ranges=measure_ranges(model, [ALL_RED, STRIPES])).model if half else model


def backend_of(model, path):
    manifest = rgb_manifest(input_hw=SIZE_HW, mean=MEAN, std=STD)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, str(path))
    return OrtBackend(path)


def holds_at_export(agreement):
    """The bounds of clst-export."""
    return agreement.agreement >= BOUNDS[Precision.FP32].min_agreement and agreement.untied_pixels == 0


def parity_failures(backend, frame, labels, root):
    """What clst-parity says with its usual bounds, on a data set of this one picture."""
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps(RGB_CLASSES.to_json()))
    write_png(root / "images" / "val" / "0.png", frame)
    write_png(root / "labels" / "val" / "0.png", labels)
    reference = TorchBackend(deployable(), backend.manifest, torch.device("cpu"))
    result = compare(reference, backend, open_dataset(root, split="val"))
    assert result.reference.miou == 1.0
    return result.failures(max_miou_drop=0.0005, min_agreement=0.999)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("frame", "columns"),
    [
        (ALL_RED, [RED] * 24),
        (picture((24, (0, 255, 0))), [GREEN] * 24),
        (picture((24, (0, 0, 255))), [BLUE] * 24),
        (STRIPES, [RED] * 4 + [BLUE] * 20),  # red ends where source column (x + 0.5) / 4 - 0.5 passes 0.5: x = 3.5
        (GREENISH, [GREEN] * 24),
    ],
)
def test_the_classes_counted_by_hand_come_from_the_right_graph(frame, columns, half, tmp_path):
    expected = np.array([columns] * SIZE_HW[0], np.uint8)
    with backend_of(colour_graph(half=half), tmp_path / "m.onnx") as backend:
        assert backend.predict(frame).classes.tolist() == expected.tolist()
        found = count_ties(deployable(), backend, [frame])
        assert (found.agreement, holds_at_export(found)) == (1.0, True)
        assert parity_failures(backend, frame, expected, tmp_path / "data") == []


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("fault", "columns", "margin"),
    [
        ("colours", [BLUE] * 24, 255),
        # (100 − 60) · 60 / 120 + 120 = 140 beats green's (112 − 50) · 50 / 110 + 110 = 138.2 and blue's 124
        ("mean and std", [RED] * 24, 112 - 100),
        # source column x · 5 / 23 passes 0.5 at x = 2.3; rightly, column 3 is (3.5 / 4 − 0.5) = 3/8 of the way to blue
        ("align_corners", [RED] * 3 + [BLUE] * 21, 255 * (5 / 8 - 3 / 8)),
        ("asymmetric", [RED] * 3 + [BLUE] * 21, 255 * (5 / 8 - 3 / 8)),  # x / 4 = 0.5 at x = 2: the first class wins
    ],
)
def test_a_planted_fault_gives_the_wrong_classes_and_both_gates_tell_it(fault, columns, margin, half, tmp_path):
    plant, frame = FAULTS[fault]
    right = counted_columns(frame)
    with backend_of(colour_graph(plant, half=half), tmp_path / "m.onnx") as backend:
        assert backend.predict(frame).classes.tolist() == [columns] * SIZE_HW[0]
        found = count_ties(deployable(), backend, [frame])
        assert not holds_at_export(found)
        assert found.worst_margin == pytest.approx(margin, abs=1e-3)  # of PyTorch's logits
        assert found.differing_pixels == SIZE_HW[0] * sum(a != b for a, b in zip(columns, right, strict=True))
        expected = np.array([right] * SIZE_HW[0], np.uint8)
        told = parity_failures(backend, frame, expected, tmp_path / "data")
    assert len(told) == 2
    assert "mIoU differs by" in told[0]
    assert "% of pixels agree" in told[1]


@pytest.mark.parametrize("half", [False, True])
def test_a_network_that_takes_bgr_turns_the_channels_in_its_graph(half, tmp_path, monkeypatch):
    """Its first channel, and so its first class, is blue; both gates hold."""
    monkeypatch.setattr(Colours, "normalisation", Normalisation(MEAN, STD, "bgr"))
    frame = picture((8, (255, 0, 0)), (8, (0, 255, 0)), (8, (0, 0, 255)))
    with backend_of(colour_graph(half=half), tmp_path / "m.onnx") as backend:
        assert backend.predict(ALL_RED).classes.tolist() == [[BLUE] * 24] * SIZE_HW[0]
        assert set(backend.predict(frame).classes[:, :6].ravel()) == {BLUE}
        assert set(backend.predict(frame).classes[:, 18:].ravel()) == {RED}
        assert holds_at_export(count_ties(deployable(), backend, [ALL_RED, frame]))


def counted_columns(frame):
    """The classes of a row as counted by hand above."""
    return {ALL_RED.tobytes(): [RED] * 24, STRIPES.tobytes(): [RED] * 4 + [BLUE] * 20}.get(
        frame.tobytes(), [GREEN] * 24
    )


def test_a_grey_picture_cannot_tell_swapped_colours(tmp_path):
    """Why the picture must be red: on grey the same fault goes through every gate."""
    grey = picture((24, (128, 128, 128)))
    with backend_of(colour_graph(swap_channels), tmp_path / "m.onnx") as backend:
        assert holds_at_export(count_ties(deployable(), backend, [grey]))


@pytest.fixture(scope="module")
def checkpoint(narrow, tmp_path_factory):
    """DDRNet with BatchNorm statistics of the pictures it is exported with."""
    path = tmp_path_factory.mktemp("checkpoint") / "ddrnet.pt"
    torch.manual_seed(1)
    segmenter = build_segmenter("ddrnet23_slim", 3)
    estimate_statistics(segmenter, [normalise(torch.from_numpy(np.stack(coloured_frames())), Normalisation(MEAN, STD))])
    save_checkpoint(
        path,
        Checkpoint(
            network="ddrnet23_slim",
            classes=RGB_CLASSES,
            input_hw=(64, 96),
            mean=MEAN,
            std=STD,
            stage="source",
            iteration=1,
            segmenter_state=segmenter.state_dict(),
        ),
    )
    return path


def coloured_frames():
    """Three pictures 64,96,3 of coloured rectangles."""
    rng, frames = np.random.default_rng(3), []
    for _ in range(3):
        frame = np.zeros((64, 96, 3), np.uint8)
        for _ in range(12):
            top, left = rng.integers(0, 56), rng.integers(0, 80)
            frame[top : top + rng.integers(8, 40), left : left + rng.integers(8, 60)] = rng.integers(0, 256, 3)
        frames.append(frame)
    return frames


def export(checkpoint: Path, out: Path):
    return convert(checkpoint, out, Request(precision=Precision.FP32), Inputs(frames=coloured_frames())).manifest


def test_the_export_of_a_real_network_holds_without_a_fault(checkpoint, tmp_path):
    assert export(checkpoint, tmp_path / "m.onnx").parity["holds"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.md", "m.onnx"]


@pytest.mark.parametrize(
    "plant",
    [swap_channels, swap_mean_and_std, shift(b"align_corners", which=0), shift(b"asymmetric", which=-1)],
    ids=["colours", "mean and std", "inner Resize", "last Resize"],
)
def test_a_fault_in_a_real_network_stops_its_export(plant, checkpoint, tmp_path, monkeypatch):
    usual = conversion.trace

    def faulty(*arguments, **options):
        model = usual(*arguments, **options)
        plant(model)
        return model

    monkeypatch.setattr(conversion, "trace", faulty)
    monkeypatch.setattr(conversion, "check_compatibility", lambda model: None)  # the pixels alone must tell it
    with pytest.raises(BudgetNotHeld, match="m.onnx differs from PyTorch"):
        export(checkpoint, tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.rejected.json", "m.rejected.onnx"]
