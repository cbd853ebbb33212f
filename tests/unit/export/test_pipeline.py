"""Whole conversions: what comes out holds its gate, and what does not hold gets no name."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch

from clst_export import pipeline as conversion
from clst_export.cli.conversion import report
from clst_export.graph.trace import deployable_of
from clst_export.inspection import facts_of, layer_types
from clst_export.pipeline import Inputs, Request, convert, merit
from clst_export.precision import Precision, Target
from clst_export.quantization.calibration import Method
from clst_export.verification import gate
from clst_export.verification.evaluator import Comparison
from clst_export.verification.gate import Bounds
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.base import Prediction
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.errors import BudgetNotHeld, DataError
from clst_train.models.checkpoint import load_checkpoint
from clst_train.models.checkpoint_backend import TorchBackend
from tests.conftest import RGB_CLASSES
from tests.unit.export.conftest import needs_rounding

ANYTHING = Bounds(min_agreement=0.0, max_miou_drop=1.0)


@pytest.fixture(scope="module")
def checkpoint(narrow_checkpoint):
    return narrow_checkpoint


def int8(target=Target.TENSORRT, **changes):
    usual = {"precision": Precision.INT8, "methods": (Method.MAX,), "bounds": ANYTHING}
    return Request(target=target, **usual | changes)


def test_fp32_equals_pytorch_but_for_ties_and_says_so_in_its_manifest(checkpoint, frames, tmp_path):
    out = tmp_path / "m.onnx"
    done = convert(checkpoint, out, Request(precision=Precision.FP32), Inputs(frames=frames[:3]))
    assert done.comparison.agreement >= 0.999
    manifest = read_onnx_manifest(out)
    assert manifest == done.manifest
    assert (manifest.precision, manifest.parity["holds"], manifest.parity["frames"]) == ("fp32", True, 3)
    assert manifest.parity["ties"]["untied_pixels"] == 0
    assert set(manifest.parity["iou"]) == set(manifest.classes.names)


def test_fp16_halves_the_file_and_says_the_same(checkpoint, frames, tmp_path):
    sizes = {}
    for precision in (Precision.FP32, Precision.FP16):
        out = tmp_path / f"{precision.value}.onnx"
        done = convert(checkpoint, out, Request(precision=precision, bounds=ANYTHING), Inputs(frames=frames[:3]))
        sizes[precision] = out.stat().st_size
    assert 0.45 < sizes[Precision.FP16] / sizes[Precision.FP32] < 0.6
    assert done.comparison.agreement > 0.99  # random weights: many near ties
    assert layer_types(onnx.load(out), "Conv")[:2] == ["fp32", "fp16"]  # the first reads the normalised frame
    assert set(layer_types(onnx.load(out), "Conv")[1:]) == {"fp16"}


@needs_rounding
def test_int8_for_tensorrt_has_int8_convolutions_in_an_fp16_rest(checkpoint, frames, tmp_path):
    inputs = Inputs(frames=frames[:2], calibration=frames[4:8])
    done = convert(checkpoint, tmp_path / "q.onnx", int8(methods=tuple(Method)), inputs)
    kinds = layer_types(onnx.load(tmp_path / "q.onnx"), "Conv")
    assert kinds[0] == "fp32"
    assert set(kinds[1:]) == {"int8", "fp16"}
    assert kinds.count("int8") == done.manifest.calibration["quantised"]
    assert set(done.methods) == {"max", "percentile", "entropy"}
    best = min(done.methods, key=lambda name: merit(done.methods[name]))
    assert done.manifest.calibration["method"] == best
    assert done.manifest.calibration["frames"] == 4


def test_a_method_wins_by_its_loss_and_within_a_tenth_of_a_point_by_its_agreement():
    def comparison(agreement, drop):
        iou = np.array([0.5, 0.5, 0.5])
        return Comparison(classes=RGB_CLASSES, frames=1, labelled=True, agreement=agreement, reference_iou=iou,
                       candidate_iou=iou - drop)  # fmt: skip

    assert merit(comparison(0.98, 0.0100)) < merit(comparison(0.97, 0.0097))
    assert merit(comparison(0.97, 0.0050)) < merit(comparison(0.98, 0.0100))
    assert merit(comparison(0.97, -0.0050)) < merit(comparison(0.98, 0.0))


def test_int8_for_the_cpu_keeps_the_rest_in_fp32(checkpoint, frames, tmp_path):
    done = convert(
        checkpoint, tmp_path / "c.onnx", int8(Target.CPU), Inputs(frames=frames[:2], calibration=frames[4:8])
    )
    assert set(layer_types(onnx.load(tmp_path / "c.onnx"), "Conv")) == {"int8", "fp32"}
    assert done.manifest.calibration["target"] == "cpu"


def of_the_first(count):
    """The search, among the first convolutions only."""
    search = conversion.search
    return lambda macs, *others: search(dict(list(macs.items())[:count]), *others)


@needs_rounding
def test_a_budget_keeps_what_it_must_and_the_report_shows_the_curve(checkpoint, frames, tmp_path, monkeypatch):
    """Between nothing kept and all of the first eight, where much is lost: a fifth less than full INT8 loses."""
    monkeypatch.setattr(conversion, "search", of_the_first(8))
    inputs = Inputs(frames=frames[:2], calibration=frames[4:8])
    lost = convert(checkpoint, tmp_path / "all.onnx", int8(), inputs).methods["max"].drop
    assert lost > 0.002
    done = convert(checkpoint, tmp_path / "b.onnx", int8(budget=0.8 * lost), inputs)
    assert done.budget is not None
    kept = done.budget.chosen.kept
    assert 0 < len(kept) < len(done.budget.sensitivities)
    assert done.budget.chosen.comparison.drop <= 0.8 * lost
    assert done.manifest.calibration["kept"] == sorted(kept)
    assert layer_types(onnx.load(tmp_path / "b.onnx"), "Conv").count("int8") == 53 - len(kept)
    told = report(done, tmp_path / "b.onnx", 0.8 * lost)
    assert "kept layers" in told
    assert (tmp_path / "b.curve.png").is_file()


def test_labels_turn_agreement_into_miou(checkpoint, frames, tmp_path):
    labels = [np.zeros((64, 96), np.uint8)] * 2
    done = convert(
        checkpoint, tmp_path / "m.onnx", Request(precision=Precision.FP32), Inputs(frames=frames[:2], labels=labels)
    )
    assert done.comparison.labelled
    assert done.manifest.parity["reference_miou"] == pytest.approx(done.manifest.parity["miou"], abs=5e-4)
    assert "mIoU" in report(done, tmp_path / "m.onnx", None)


@needs_rounding
def test_rounded_files_divide_the_logits_of_their_confidence_by_the_temperature_as_pytorch_does(
    checkpoint, frames, tmp_path
):
    loaded = dataclasses.replace(load_checkpoint(checkpoint), temperature=2.0)
    inputs, out = Inputs(frames=frames[:1], calibration=frames[4:5]), tmp_path / "m.onnx"
    deployable, manifest = deployable_of(loaded, with_confidence=True)

    def sure(backend):
        return backend.predict(frames[0]).confidence.mean()

    divided = sure(TorchBackend(deployable, manifest, torch.device("cpu")))
    deployable.segmenter.temperature = 1.0
    moved = sure(TorchBackend(deployable, manifest, torch.device("cpu"))) - divided
    assert moved > 10
    for precision in (Precision.FP16, Precision.INT8):
        done = convert(loaded, out, int8(with_confidence=True, precision=precision), inputs)
        with OrtBackend(out) as backend:
            assert done.manifest.temperature == backend.manifest.temperature == 2
            assert sure(backend) == pytest.approx(divided, abs=0.3 * moved), precision


@needs_rounding
def test_what_does_not_hold_gets_no_name_but_is_kept_with_its_report(checkpoint, frames, tmp_path):
    bounds = Bounds(min_agreement=1.0, max_miou_drop=0.0)
    inputs = Inputs(frames=frames[:2], calibration=frames[4:6])
    with pytest.raises(BudgetNotHeld, match=r"q.onnx differs .* agree, 100.000 % asked; kept as .*; take fp16, keep"):
        convert(checkpoint, tmp_path / "q.onnx", int8(bounds=bounds), inputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.rejected.json", "q.rejected.onnx"]
    assert json.loads((tmp_path / "q.rejected.json").read_text())["holds"] is False


def test_a_graph_that_is_wrong_beyond_ties_is_rejected(checkpoint, frames, tmp_path, monkeypatch):
    """One pixel of 6144 said wrong is within 99.9 %, but it is no tie."""

    class Wrong(OrtBackend):
        def predict(self, frame):
            classes = super().predict(frame).classes.copy()
            classes[0, 0] = (classes[0, 0] + 1) % 10
            return Prediction(classes=classes)

    monkeypatch.setattr(gate, "OrtBackend", Wrong)
    with pytest.raises(BudgetNotHeld, match="1 of 6144 pixels differ and are no ties"):
        convert(checkpoint, tmp_path / "m.onnx", Request(precision=Precision.FP32), Inputs(frames=frames[:1]))
    assert not (tmp_path / "m.onnx").exists()


def test_int8_without_calibration_images_is_refused(checkpoint, frames, tmp_path):
    with pytest.raises(DataError, match="give --calib"):
        convert(checkpoint, tmp_path / "q.onnx", int8(), Inputs(frames=frames[:1]))


@needs_rounding
def test_a_budget_nobody_can_hold_ends_with_the_best_that_was_found(checkpoint, frames, tmp_path, monkeypatch):
    real = conversion.Evaluator.evaluate

    def worse(self, candidate):
        comparison = real(self, candidate)
        object.__setattr__(comparison, "agreement", comparison.agreement - 0.5)
        return comparison

    monkeypatch.setattr(conversion.Evaluator, "evaluate", worse)
    monkeypatch.setattr(conversion, "search", of_the_first(2))
    with pytest.raises(BudgetNotHeld, match="use fp16, or allow more"):
        convert(checkpoint, tmp_path / "q.onnx", int8(budget=0.01), Inputs(frames=frames[:1], calibration=frames[4:6]))
    assert list(tmp_path.iterdir()) == []


def test_inspect_tells_a_changed_graph(checkpoint, frames, tmp_path):
    out = tmp_path / "m.onnx"
    convert(checkpoint, out, Request(precision=Precision.FP32), Inputs(frames=frames[:1]))
    facts = facts_of(out)
    assert facts["convolutions"] == {"fp32": 55}
    assert facts["manifest"]["network"] == "ddrnet23_slim"
    model = onnx.load(out)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    onnx.save(model, out)
    from clst_runtime.errors import ModelFileError

    with pytest.raises(ModelFileError, match="SHA-256 of its graph"):
        facts_of(out)
