"""Ties counted by hand: what differs within the precision's reach, and what differs beyond it."""

import dataclasses
import json
import os
import signal
import threading
import time

import numpy as np
import onnx
import pytest

from clst_export.precision import Precision
from clst_export.verification import gate
from clst_export.verification.evaluator import Comparison, Evaluator
from clst_export.verification.gate import BOUNDS, Bounds, verify_and_save
from clst_export.verification.ties import count_ties
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.base import Prediction
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.backends.tensorrt.build import check as module
from clst_runtime.errors import BudgetNotHeld
from clst_runtime.system.programs import run_program
from tests.conftest import RGB_CLASSES, SIZE_HW, rgb_manifest, write_rgb_model


class Colours:
    """Logits are the colour channels themselves."""

    def logits(self, frame):
        return frame.permute(0, 3, 1, 2).float()


@dataclasses.dataclass
class Says:
    """A backend that always gives this class map."""

    classes: np.ndarray

    def predict(self, frame):
        return Prediction(classes=self.classes)


def found(tie_fraction):
    """Four pixels, largest logit 200; the backend says green everywhere.

    Gaps of red to green: 0 (green wins), 1, 10, 100.
    """
    frame = np.array([[[0, 200, 0], [101, 100, 0], [110, 100, 0], [200, 100, 0]]], np.uint8)
    return count_ties(Colours(), Says(np.full((1, 4), 1, np.uint8)), [frame], tie_fraction=tie_fraction)


@pytest.mark.parametrize(("tie_fraction", "untied"), [(0.0, 3), (0.005, 2), (0.05, 1), (0.5, 0)])
def test_a_tie_is_a_gap_up_to_the_share_of_the_largest_logit(tie_fraction, untied):
    agreement = found(tie_fraction)
    assert (agreement.differing_pixels, agreement.pixels, agreement.agreement) == (3, 4, 0.25)
    assert agreement.worst_margin == 100
    assert agreement.tie_margin == 200 * tie_fraction
    assert agreement.untied_pixels == untied


def test_no_frames_agree_in_nothing_and_differ_in_nothing():
    agreement = count_ties(Colours(), Says(np.zeros((1, 1), np.uint8)), [])
    assert (agreement.pixels, agreement.differing_pixels, agreement.worst_margin) == (0, 0, 0.0)


def comparison(agreement, *, labelled=False, drop=0.0):
    iou = np.array([0.5, 0.5, 0.5])
    return Comparison(classes=RGB_CLASSES, frames=1, labelled=labelled, agreement=agreement, reference_iou=iou,
                   candidate_iou=iou - drop)  # fmt: skip


def test_untied_pixels_are_bounded_as_a_share_of_all():
    bounds = Bounds(min_agreement=0.0, max_miou_drop=1.0, tie_fraction=0.05, max_untied=0.25)
    assert bounds.failures(comparison(0.25), found(0.05)) == []  # one of four
    stricter = dataclasses.replace(bounds, max_untied=0.24)
    assert stricter.failures(comparison(0.25), found(0.05)) == [
        "1 of 4 pixels differ and are no ties, the worst by a logit margin of 100.0000 (a tie is below 10.0000)"
    ]


def test_the_miou_is_asked_only_where_there_are_labels_and_a_gain_is_no_failure():
    bounds = Bounds(min_agreement=0.9, max_miou_drop=0.01)
    assert bounds.failures(comparison(0.95, drop=0.02)) == []
    assert len(bounds.failures(comparison(0.95, labelled=True, drop=0.02))) == 1
    assert bounds.failures(comparison(0.95, labelled=True, drop=-0.2)) == []
    assert len(bounds.failures(comparison(0.85, labelled=True, drop=0.02))) == 2


def test_a_miou_that_is_no_number_does_not_hold():
    bounds = Bounds(min_agreement=0.0, max_miou_drop=1.0)
    assert bounds.failures(comparison(1.0, labelled=True, drop=float("nan"))) != []


def test_each_precision_has_bounds_and_float32_allows_ties_alone():
    assert set(BOUNDS) == set(Precision)
    assert BOUNDS[Precision.FP32].max_untied == 0.0
    assert BOUNDS[Precision.FP16].min_agreement == 0.999


# --- TensorRT for RTX is asked last

RGB = rgb_manifest()


def saved(tmp_path, change=lambda graph: None, *, min_agreement=1.0, manifest=RGB):
    """The little model that names the strongest channel, put through the gate; it equals itself."""
    model = onnx.load(str(write_rgb_model(tmp_path / "rgb.onnx")))
    change(model.graph)
    frames = [np.random.default_rng(0).integers(0, 256, (*SIZE_HW, 3), np.uint8)]
    (tmp_path / "out").mkdir(exist_ok=True)
    with OrtBackend(tmp_path / "rgb.onnx") as reference:
        evaluator, path = Evaluator(reference, frames), tmp_path / "out" / "m.onnx"
        bounds = Bounds(min_agreement=min_agreement, max_miou_drop=0.0)
        return verify_and_save(model, manifest, evaluator, bounds, path, network=None)[1]


def out(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir())


def lottery(graph):
    """An operator that ONNX Runtime has and TensorRT has not; nobody reads what it gives."""
    graph.node.append(onnx.helper.make_node("Bernoulli", ["real"], ["drawn"], name="lottery"))


def test_a_file_that_is_built_says_so_in_its_manifest(trt, tmp_path):
    manifest = saved(tmp_path)
    assert out(tmp_path) == ["m.md", "m.onnx"]
    assert read_onnx_manifest(tmp_path / "out" / "m.onnx") == manifest
    answer = manifest.build_check
    assert (answer["builder"], answer["version"]) == ("TensorRT for RTX", trt.__version__)
    assert (answer["layers"]["GATHER"], answer["layers"]["TOPK"]) == (1, 1)
    assert answer["engine_bytes"] > 1000
    assert 0 < answer["seconds"] < 60
    assert manifest.parity["holds"] is True


def test_a_file_that_equals_pytorch_and_is_refused_by_tensorrt_gets_no_name(trt, tmp_path):
    told = f"TensorRT for RTX {trt.__version__} cannot parse it: Bernoulli lottery: not supported"
    with pytest.raises(BudgetNotHeld) as error:
        saved(tmp_path, lottery)
    rejected = tmp_path / "out" / "m.rejected.onnx"
    assert error.value.message == f"m.onnx is refused: {told}; kept as {rejected} with its report beside it"
    assert error.value.exit_code == 6
    assert out(tmp_path) == ["m.rejected.json", "m.rejected.onnx"]
    report = json.loads((tmp_path / "out" / "m.rejected.json").read_text())
    assert (report["holds"], report["agreement"]) == (True, 1.0)
    assert report["build_check"]["refused"] == "cannot parse it: Bernoulli lottery: not supported"
    assert read_onnx_manifest(rejected).build_check == report["build_check"]


def test_what_differs_from_pytorch_is_not_built_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "check_build", lambda path, report: pytest.fail("asked"))
    with pytest.raises(BudgetNotHeld, match="differs from PyTorch"):
        saved(tmp_path, min_agreement=1.1)
    assert read_onnx_manifest(tmp_path / "out" / "m.rejected.onnx").build_check == {}


def test_a_file_that_holds_takes_the_place_of_one_that_was_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "check_build", lambda path, report: {})
    with pytest.raises(BudgetNotHeld):
        saved(tmp_path, min_agreement=1.1)
    assert out(tmp_path) == ["m.rejected.json", "m.rejected.onnx"]
    saved(tmp_path)
    assert out(tmp_path) == ["m.md", "m.onnx"]


def test_int8_for_the_cpu_is_not_shown_to_tensorrt(tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "check_build", lambda path, report: pytest.fail("asked"))
    assert saved(tmp_path, manifest=rgb_manifest(calibration={"target": "cpu"})).build_check == {}
    assert out(tmp_path) == ["m.md", "m.onnx"]


def test_a_machine_that_cannot_tell_keeps_no_file_from_its_name(tmp_path, build_check):
    assert saved(tmp_path).build_check == build_check
    assert out(tmp_path) == ["m.md", "m.onnx"]


def test_ctrl_c_while_tensorrt_builds_ends_its_process_and_leaves_no_file(tmp_path, monkeypatch):
    """A process that never ends stands for a build that takes long."""
    process = tmp_path / "process"

    def build(path, report):
        script = f"echo $$ > {process}.new; mv {process}.new {process}; exec sleep 600"
        return module.check_build(
            path, run=lambda arguments, seconds: run_program(["sh", "-c", script], seconds=seconds)
        )

    def interrupt():
        while not process.exists():
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(gate, "check_build", build)
    monkeypatch.setattr(module, "find_rtx", lambda: None)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            saved(tmp_path)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert out(tmp_path) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.read_text()), 0)
