"""From a checkpoint to a model file of the wanted precision, which is written only if it agrees with PyTorch.

load → trace → precision → checks → parity gate → file. A checkpoint is loaded, traced and run in PyTorch once; every
precision starts from that. Legend: H rows, W columns of the model's input.
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
from clst_export.graph.compatibility import check_compatibility
from clst_export.graph.model_file import opened
from clst_export.graph.trace import deployable_of, trace
from clst_export.precision import Precision, Target
from clst_export.quantization.calibration import Method, Range, calibrate, frames_digest
from clst_export.quantization.fp16 import Fp16Result, measure_ranges, to_fp16
from clst_export.quantization.int8 import activations, quantisable, to_int8
from clst_export.quantization.placement import check_placement
from clst_export.quantization.search import BudgetResult, layer_macs, search
from clst_export.verification.evaluator import Comparison, Evaluator
from clst_export.verification.gate import BOUNDS, Bounds, verify_and_save
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.base import Frame
from clst_runtime.backends.onnxruntime.session import check_float16_rounding
from clst_runtime.errors import BudgetNotHeld, DataError
from clst_runtime.imaging.geometry import Content
from clst_runtime.system.commit import commit
from clst_train.models.checkpoint import Checkpoint, load_checkpoint
from clst_train.models.checkpoint_backend import TorchBackend
from clst_train.models.deployable import Deployable

ROUGH_FRAMES = 8
"""Frames that a single layer's sensitivity is measured on."""
RANGE_FRAMES = 32
"""Frames that the ranges for FP16 are measured on."""
Log = Callable[[str], None]


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
    """What the parity gate requires; None = `gate.BOUNDS` of the precision."""
    budget: float | None = None
    """INT8: what may be lost, 0 … 1 (mIoU with labels, else pixels that agree); layers are kept in higher
    precision until it holds. None = everything is quantised and the gate decides."""
    licence: str = ""
    """Of the weights, as their owner gives it; a line for the manifest. Empty = not given."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Images that an export works with, H,W,3 of the input size."""

    frames: Sequence[Frame]
    """Held out from calibration: what the result is compared with PyTorch on."""
    name: str = ""
    """What `frames` are, a line for the manifest; empty = not known."""
    labels: Sequence[npt.NDArray[np.uint8]] | None = None
    """Their labels, when there are any."""
    contents: Sequence[Content] = ()
    """Where the camera's image lies in each of `frames`; empty = they have no padding."""
    calibration: Sequence[Frame] = ()
    """What ranges are measured on, for FP16 and INT8."""
    reference: Sequence[Sequence[Frame]] = ()
    """Segments of consecutive frames of the deployment camera, from which clst-run learns to recognise it."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What came out."""

    manifest: Manifest
    """As it stands in the file."""
    comparison: Comparison
    """What the gate measured."""
    methods: Mapping[str, Comparison] = field(default_factory=dict)
    """INT8: each calibration method on the held-out frames, everything quantised."""
    budget: BudgetResult | None = None
    """INT8 with a budget: the search."""


@dataclass(frozen=True, kw_only=True)
class _Reduced:
    """A graph in the wanted precision and how it was made."""

    model: Any
    calibration: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Comparison] = field(default_factory=dict)
    budget: BudgetResult | None = None


@dataclass(frozen=True, kw_only=True)
class TracedNetwork:
    """A checkpoint's network, loaded and traced once, with PyTorch's predictions: any precision is made from it."""

    deployable: Deployable
    """The network in PyTorch, float32."""
    manifest: Manifest
    """Of the float32 graph, without parity and build check."""
    graph: Any
    """The float32 graph, an ONNX ModelProto."""
    inputs: Inputs
    """Images to calibrate and to compare on."""
    evaluator: Evaluator
    """PyTorch's class maps on `inputs.frames`."""


def convert(
    checkpoint: Checkpoint | Path, out: Path, request: Request, inputs: Inputs, *, log: Log = lambda message: None
) -> Conversion:
    """`trace_network` and `write_model` in one, of a checkpoint of clst-train or of the path of its file."""
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    return write_model(trace_network(loaded, request, inputs), out, request, log=log)


def trace_network(checkpoint: Checkpoint, request: Request, inputs: Inputs) -> TracedNetwork:
    """Trace the network and run it in PyTorch on the frames to compare on; both take most of an export's time.

    Raises:
        ModelFileError: the checkpoint or the graph cannot be used. DataError: there are no frames.
    """
    deployable, manifest = deployable_of(checkpoint, request.input_hw, with_confidence=request.with_confidence)
    graph = trace(deployable, manifest.input_hw, opset=request.opset, with_confidence=request.with_confidence)
    check_compatibility(graph)
    reference = TorchBackend(deployable, manifest, torch.device("cpu"))
    evaluator = Evaluator(reference, inputs.frames, inputs.labels, inputs.contents)
    known = {"commit": commit(), "licence": request.licence}
    manifest = dataclasses.replace(
        manifest,
        provenance={**manifest.provenance, **{key: text for key, text in known.items() if text}},
        parity={"images": inputs.name} if inputs.name else {},
    )
    return TracedNetwork(deployable=deployable, manifest=manifest, graph=graph, inputs=inputs, evaluator=evaluator)


def write_model(network: TracedNetwork, out: Path, request: Request, *, log: Log = lambda message: None) -> Conversion:
    """Write the network in the wanted precision as ONNX, with its card beside it, if it passes the parity gate.

    Args:
        network: traced with this request's size, opset and outputs.
        out: the file to write.
        request: what is wanted.
        log: called with one line for each step.

    Raises:
        ModelFileError: the graph cannot be used. DataError: frames are missing.
        BudgetNotHeld: the budget cannot be held, or the gate refuses the file, which is then kept as
            `<name>.rejected.onnx` with its report beside it.
    """
    match request.precision:
        case Precision.FP32:
            reduced = _Reduced(model=network.graph)
        case Precision.FP16:
            reduced = _to_fp16(network)
        case Precision.INT8:
            reduced = _Quantiser(network, request, log).reduce()
    if request.precision is not Precision.FP32:  # that one has been checked when it was traced
        check_compatibility(reduced.model)
    manifest = dataclasses.replace(network.manifest, precision=request.precision.value, calibration=reduced.calibration)
    reference = network.inputs.reference
    if reference:
        log(f"measuring the camera on {sum(map(len, reference))} frames")
        manifest = dataclasses.replace(manifest, domain=measure_domain(reduced.model, manifest, reference))
    bounds = request.bounds or BOUNDS[request.precision]
    comparison, manifest = verify_and_save(
        reduced.model, manifest, network.evaluator, bounds, out, network=network.deployable, log=log
    )
    return Conversion(manifest=manifest, comparison=comparison, methods=reduced.methods, budget=reduced.budget)


def _to_fp16(network: TracedNetwork) -> _Reduced:
    frames = (network.inputs.calibration or network.inputs.frames)[:RANGE_FRAMES]
    result = to_fp16(network.graph, ranges=measure_ranges(network.graph, frames))
    facts = {"frames": len(frames), "frames_sha256": frames_digest(frames), "kept_fp32": dict(result.kept_fp32)}
    return _Reduced(model=result.model, calibration=facts)


class _Quantiser:
    """One INT8 conversion: compare the calibration methods, hold the budget, convert the rest to FP16."""

    def __init__(self, network: TracedNetwork, request: Request, log: Log) -> None:
        if not network.inputs.calibration:
            raise DataError("INT8 needs calibration images of the new camera; give --calib a folder or a video")
        if request.target is Target.TENSORRT:
            check_float16_rounding("INT8 for TensorRT")
        self.base, self.request, self.log = network.graph, request, log
        self.frames, self.evaluator = network.inputs.calibration, network.evaluator
        self.rough = self.evaluator.subset(ROUGH_FRAMES)
        facts = {"target": request.target.value}
        self.manifest = dataclasses.replace(network.manifest, precision=request.precision.value, calibration=facts)

    def reduce(self) -> _Reduced:
        """The INT8 graph of the best method within the budget."""
        request = self.request
        self.log(f"calibrating on {len(self.frames)} frames")
        ranges = calibrate(self.base, self.frames, activations(self.base), request.methods)
        methods = {method: self._measure(self._graph(ranges[method]), self.evaluator) for method in request.methods}
        for method, comparison in methods.items():
            self.log(f"{method.value}: {_describe(comparison)}")
        best = min(request.methods, key=lambda method: merit(methods[method]))
        budget = None if request.budget is None else self._search(ranges[best], request.budget)
        kept: frozenset[str] = frozenset() if budget is None else budget.chosen.kept
        if budget is not None and not budget.holds:
            raise BudgetNotHeld(
                f"INT8 loses {100 * budget.chosen.comparison.drop:.3f} points with {len(kept)} layers kept in "
                f"higher precision, {100 * (request.budget or 0):.3f} allowed; use fp16, or allow more"
            )
        facts = self._facts(best, methods, kept)
        model = self._graph(ranges[best], kept)
        if request.target is Target.TENSORRT:
            check_placement(model)
            rest = self._rest_to_fp16(model)
            model, facts = rest.model, {**facts, "rest": "fp16", "kept_fp32": dict(rest.kept_fp32)}
        named = {method.value: comparison for method, comparison in methods.items()}
        return _Reduced(model=model, calibration=facts, methods=named, budget=budget)

    def _facts(self, best: Method, methods: Mapping[Method, Comparison], kept: frozenset[str]) -> dict[str, Any]:
        return {
            "target": self.request.target.value,
            "method": best.value,
            "frames": len(self.frames),
            "frames_sha256": frames_digest(self.frames),
            "quantised": len(quantisable(self.base)) - len(kept),
            "kept": sorted(kept),
            "methods": {method.value: comparison.to_json() for method, comparison in methods.items()},
        }

    def _graph(self, ranges: Mapping[str, Range], kept: frozenset[str] = frozenset()) -> Any:
        return to_int8(self.base, ranges, target=self.request.target, keep=kept)

    def _rest_to_fp16(self, model: Any) -> Fp16Result:
        return to_fp16(model, ranges=measure_ranges(model, self.frames[:RANGE_FRAMES]))

    def _search(self, ranges: Mapping[str, Range], budget: float) -> BudgetResult:
        """A layer's own loss is measured with the rest in FP32, the budget on the graph as it is written."""

        def as_written(kept: frozenset[str]) -> Comparison:
            model = self._graph(ranges, kept)
            for_tensorrt = self.request.target is Target.TENSORRT
            return self._measure(self._rest_to_fp16(model).model if for_tensorrt else model, self.evaluator)

        self.log("measuring which layers INT8 hurts")
        return search(
            layer_macs(self.base),
            as_written,
            lambda kept: self._measure(self._graph(ranges, kept), self.rough),
            budget,
            self.log,
        )

    def _measure(self, model: Any, evaluator: Evaluator) -> Comparison:
        with opened(model, self.manifest) as backend:
            return evaluator.evaluate(backend)


def merit(comparison: Comparison) -> tuple[float, float]:
    """Small is good: the loss in steps of a tenth of a point, which is noise on a few frames, then disagreement."""
    return round(1000 * comparison.drop), 1.0 - comparison.agreement


def _describe(comparison: Comparison) -> str:
    agreement = f"{100 * comparison.agreement:.3f} % of pixels equal"
    return f"{agreement}, mIoU {100 * comparison.candidate_miou:.2f}" if comparison.labelled else agreement
