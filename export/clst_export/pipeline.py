"""From a checkpoint to a model file of the wanted precision that has proved itself, whole or not at all.

trace → precision → checks → parity gate → file. Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clst_export.camera_reference import measure_domain
from clst_export.graph.compatibility import check_hygiene
from clst_export.graph.model_file import opened
from clst_export.graph.trace import check_graph, load_deployable, trace
from clst_export.precision import Precision, Target
from clst_export.quantization.arithmetic import convolution_macs
from clst_export.quantization.calibration import Method, Range, calibrate, fingerprint
from clst_export.quantization.fp16 import Fp16Result, measure_ranges, to_fp16
from clst_export.quantization.int8 import activations, quantisable, to_int8
from clst_export.quantization.placement import check_placement
from clst_export.quantization.search import BudgetResult, search
from clst_export.verification.evaluator import Judge, Verdict
from clst_export.verification.gate import BOUNDS, Bounds, release
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.base import Frame
from clst_runtime.backends.onnxruntime.session import check_float16_rounding
from clst_runtime.errors import BudgetNotHeld, DataError
from clst_runtime.imaging.geometry import Content
from clst_train.models.checkpoint_backend import TorchBackend

ROUGH_FRAMES = 8
"""Frames that a single convolution's sensitivity is measured on."""
RANGE_FRAMES = 32
"""Frames that the ranges for FP16 are measured on."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is wanted."""

    precision: Precision
    """Arithmetic of the graph."""
    target: Target = Target.TENSORRT
    """INT8: what the graph is made for."""
    input_hw: tuple[int, int] | None = None
    """Another input size than the checkpoint's."""
    opset: int = 19
    """ONNX operator set, 19 or 20."""
    with_confidence: bool = False
    """Add the second output."""
    methods: tuple[Method, ...] = tuple(Method)
    """INT8: calibration methods to compare; the best is kept."""
    bounds: Bounds | None = None
    """What the parity gate asks; None = what `gate.BOUNDS` says of the precision."""
    budget: float | None = None
    """INT8: what may be lost, 0 … 1 (mIoU with labels, else pixels that agree); convolutions are kept in higher
    precision until it holds. None = everything is quantised and the gate decides."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Pictures to work with, H,W,3 of the input size."""

    frames: Sequence[Frame]
    """What the result is judged on, held out from calibration."""
    labels: Sequence[npt.NDArray[np.uint8]] | None = None
    """Their labels, when there are any."""
    contents: Sequence[Content] = ()
    """Where the camera's picture lies in each of `frames`; empty = they have no padding."""
    calibration: Sequence[Frame] = ()
    """What ranges are measured on, for FP16 and INT8."""
    reference: Sequence[Sequence[Frame]] = ()
    """Stretches of pictures of the camera it will drive with, in order of time, that it will be known by."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What came out."""

    manifest: Manifest
    """As it stands in the file."""
    verdict: Verdict
    """What the gate measured."""
    methods: Mapping[str, Verdict] = field(default_factory=dict)
    """INT8: each calibration method on the held-out frames, everything quantised."""
    budget: BudgetResult | None = None
    """INT8 with a budget: the search."""


@dataclass(frozen=True, kw_only=True)
class _Reduced:
    """A graph of lower precision and how it came about."""

    model: Any
    calibration: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Verdict] = field(default_factory=dict)
    budget: BudgetResult | None = None


def convert(
    checkpoint_path: Path, out: Path, request: Request, material: Material, *, say: Say = lambda told: None
) -> Conversion:
    """Write the deployable network in the wanted precision as ONNX, if it proves itself.

    Args:
        checkpoint_path: a checkpoint of clst-train.
        out: the file to write.
        request: what is wanted.
        material: pictures to calibrate and to judge on.
        say: told what is being done.

    Raises:
        ModelFileError: the checkpoint or the graph cannot be used. DataError: frames are missing.
        BudgetNotHeld: the budget cannot be held, or the gate refuses it; then the file is kept as
            `<name>.rejected.onnx` with its report beside it.
    """
    deployable, manifest = load_deployable(checkpoint_path, request.input_hw, with_confidence=request.with_confidence)
    manifest = dataclasses.replace(manifest, precision=request.precision.value)
    base = trace(deployable, manifest.input_hw, opset=request.opset, with_confidence=request.with_confidence)
    check_graph(base, deployable)
    judge = Judge(
        TorchBackend(deployable, manifest, torch.device("cpu")), material.frames, material.labels, material.contents
    )
    match request.precision:
        case Precision.FP32:
            reduced = _Reduced(model=base)
        case Precision.FP16:
            reduced = _to_fp16(base, material)
        case Precision.INT8:
            reduced = _Quantiser(base, manifest, request, material, judge, say).reduce()
    if request.precision is not Precision.FP32:  # which check_graph has looked at
        check_hygiene(reduced.model)
    manifest = dataclasses.replace(manifest, calibration=reduced.calibration)
    if material.reference:
        say(f"measuring the camera on {sum(map(len, material.reference))} frames")
        manifest = dataclasses.replace(manifest, domain=measure_domain(reduced.model, manifest, material.reference))
    bounds = request.bounds or BOUNDS[request.precision]
    verdict, manifest = release(reduced.model, manifest, judge, bounds, out, network=deployable, say=say)
    return Conversion(manifest=manifest, verdict=verdict, methods=reduced.methods, budget=reduced.budget)


def _to_fp16(base: Any, material: Material) -> _Reduced:
    frames = (material.calibration or material.frames)[:RANGE_FRAMES]
    result = to_fp16(base, ranges=measure_ranges(base, frames))
    facts = {"frames": len(frames), "frames_sha256": fingerprint(frames), "kept_fp32": dict(result.kept_fp32)}
    return _Reduced(model=result.model, calibration=facts)


class _Quantiser:
    """One INT8 conversion: compare the calibration methods, hold the budget, bring the rest to FP16."""

    def __init__(
        self, base: Any, manifest: Manifest, request: Request, material: Material, judge: Judge, say: Say
    ) -> None:
        if not material.calibration:
            raise DataError("INT8 needs calibration images of the new camera; give --calib a folder or a video")
        if request.target is Target.TENSORRT:
            check_float16_rounding("INT8 for TensorRT")
        self.base, self.manifest, self.request, self.judge, self.say = base, manifest, request, judge, say
        self.frames = material.calibration
        self.rough = judge.subset(ROUGH_FRAMES)
        self.manifest = dataclasses.replace(manifest, calibration={"target": request.target.value})

    def reduce(self) -> _Reduced:
        """The INT8 graph of the best method within the budget."""
        request = self.request
        self.say(f"calibrating on {len(self.frames)} frames")
        ranges = calibrate(self.base, self.frames, activations(self.base), request.methods)
        methods = {method: self._measure(self._graph(ranges[method]), self.judge) for method in request.methods}
        for method, verdict in methods.items():
            self.say(f"{method.value}: {_told(verdict)}")
        best = min(request.methods, key=lambda method: merit(methods[method]))
        budget = None if request.budget is None else self._search(ranges[best], request.budget)
        kept: frozenset[str] = frozenset() if budget is None else budget.chosen.kept
        if budget is not None and not budget.holds:
            raise BudgetNotHeld(
                f"INT8 loses {100 * budget.chosen.verdict.drop:.3f} points with {len(kept)} convolutions kept in "
                f"higher precision, {100 * (request.budget or 0):.3f} allowed; use fp16, or allow more"
            )
        facts = self._facts(best, methods, kept)
        model = self._graph(ranges[best], kept)
        if request.target is Target.TENSORRT:
            check_placement(model)
            rest = self._rest_to_fp16(model)
            model, facts = rest.model, {**facts, "rest": "fp16", "kept_fp32": dict(rest.kept_fp32)}
        told = {method.value: verdict for method, verdict in methods.items()}
        return _Reduced(model=model, calibration=facts, methods=told, budget=budget)

    def _facts(self, best: Method, methods: Mapping[Method, Verdict], kept: frozenset[str]) -> dict[str, Any]:
        return {
            "target": self.request.target.value,
            "method": best.value,
            "frames": len(self.frames),
            "frames_sha256": fingerprint(self.frames),
            "quantised": len(quantisable(self.base)) - len(kept),
            "kept": sorted(kept),
            "methods": {method.value: verdict.to_json() for method, verdict in methods.items()},
        }

    def _graph(self, ranges: Mapping[str, Range], kept: frozenset[str] = frozenset()) -> Any:
        return to_int8(self.base, ranges, target=self.request.target, keep=kept)

    def _rest_to_fp16(self, model: Any) -> Fp16Result:
        return to_fp16(model, ranges=measure_ranges(model, self.frames[:RANGE_FRAMES]))

    def _search(self, ranges: Mapping[str, Range], budget: float) -> BudgetResult:
        """A convolution's own loss is measured with the rest in FP32, the budget on the graph as it is written."""

        def as_written(kept: frozenset[str]) -> Verdict:
            model = self._graph(ranges, kept)
            for_tensorrt = self.request.target is Target.TENSORRT
            return self._measure(self._rest_to_fp16(model).model if for_tensorrt else model, self.judge)

        self.say("measuring which convolutions INT8 hurts")
        return search(
            convolution_macs(self.base),
            as_written,
            lambda kept: self._measure(self._graph(ranges, kept), self.rough),
            budget,
            self.say,
        )

    def _measure(self, model: Any, judge: Judge) -> Verdict:
        with opened(model, self.manifest) as backend:
            return judge.judge(backend)


def merit(verdict: Verdict) -> tuple[float, float]:
    """Small is good: the loss in steps of a tenth of a point, which is noise on a few frames, then disagreement."""
    return round(1000 * verdict.drop), 1.0 - verdict.agreement


def _told(verdict: Verdict) -> str:
    agreement = f"{100 * verdict.agreement:.3f} % of pixels equal"
    return f"{agreement}, mIoU {100 * verdict.candidate_miou:.2f}" if verdict.labelled else agreement
