"""The gate: a model file gets its name only if it says what the float32 network says and TensorRT does not refuse it.

A pixel where PyTorch's two best logits lie closer together than the precision can tell apart is a tie: which class
wins there says nothing of the file. How many pixels differ without being ties does.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clst_export.graph.model_file import save_model
from clst_export.precision import Precision, Target
from clst_export.verification.comparison import FP32_TIE, Agreement, verify
from clst_export.verification.evaluator import Judge, Verdict
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.backends.tensorrt.build.check import check_build, told_build_check
from clst_runtime.errors import BudgetNotHeld
from clst_runtime.evaluation.export_digest import KEY as FINGERPRINT
from clst_runtime.evaluation.export_digest import take_fingerprint
from clst_runtime.system.files.atomic import write_text, written_whole
from clst_train.models.deployable import Deployable


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a result must hold; both 0 … 1."""

    min_agreement: float
    """Smallest share of pixels on which it and the float32 network say the same."""
    max_miou_drop: float
    """Largest loss of mIoU; asked only where there are labels."""
    tie_fraction: float = 0.0
    """Gap of PyTorch's logits up to which two classes tie, as a share of the largest logit; 0 = not looked at."""
    max_untied: float = 1.0
    """Largest share of pixels that differ without being ties."""

    def failures(self, verdict: Verdict, ties: Agreement | None = None) -> list[str]:
        """What does not hold, in words; empty when all does. `ties` are looked at where `tie_fraction` is above 0."""
        told = []
        if verdict.agreement < self.min_agreement:
            told.append(f"{100 * verdict.agreement:.3f} % of pixels agree, {100 * self.min_agreement:.3f} % asked")
        if verdict.labelled and not verdict.drop <= self.max_miou_drop:
            told.append(f"mIoU fell by {100 * verdict.drop:.3f} points, at most {100 * self.max_miou_drop:.3f} allowed")
        if ties is not None and ties.untied_pixels > self.max_untied * ties.pixels:
            told.append(
                f"{ties.untied_pixels} of {ties.pixels} pixels differ and are no ties, the worst by a logit margin of "
                f"{ties.worst_margin:.4f} (a tie is below {ties.tie_margin:.4f})"
            )
        return told


BOUNDS = {
    Precision.FP32: Bounds(min_agreement=0.999, max_miou_drop=0.0005, tie_fraction=FP32_TIE, max_untied=0.0),
    Precision.FP16: Bounds(min_agreement=0.999, max_miou_drop=0.0005),
    Precision.INT8: Bounds(min_agreement=0.95, max_miou_drop=0.01),
}
"""What is asked when nobody says otherwise."""
TIE_FRAMES = 16
"""Frames, at most, on which differing pixels are told from ties."""


def release(
    model: Any,
    manifest: Manifest,
    judge: Judge,
    bounds: Bounds,
    out: Path,
    *,
    network: Deployable,
    say: Callable[[str], None] = lambda told: None,
) -> tuple[Verdict, Manifest]:
    """Save the graph, run it, judge it, have TensorRT for RTX build it; give it its name if all that holds.

    Args:
        model: ONNX ModelProto by the artifact contract.
        manifest: its manifest, without parity and build_check.
        judge: the pictures and what the float32 network says of them.
        bounds: what must hold.
        out: the file to write.
        network: the float32 network, whose logits tell ties.
        say: told what is being done.

    Raises:
        BudgetNotHeld: it differs, or TensorRT for RTX refuses it; the file is kept as `<name>.rejected.onnx` and what
            was measured as `<name>.rejected.json`. DataError: it cannot be written.
    """
    with written_whole(out) as temporary:
        save_model(model, manifest, temporary)
        with OrtBackend(temporary) as backend:
            verdict = judge.judge(backend)
            fingerprint = take_fingerprint(backend, judge.frames)
            ties = _ties(network, backend, judge, bounds.tie_fraction)
        failures = bounds.failures(verdict, ties)
        parity: dict[str, Any] = {"reference": "PyTorch fp32", **verdict.to_json()}
        parity |= {"ties": ties.to_json()} if ties else {}
        parity |= {FINGERPRINT: fingerprint.to_json()}
        parity |= {"bounds": dataclasses.asdict(bounds), "holds": not failures}
        for_tensorrt = manifest.calibration.get("target") != Target.CPU.value
        build_check = check_build(temporary, say=say) if for_tensorrt and not failures else {}
        manifest = save_model(model, dataclasses.replace(manifest, parity=parity, build_check=build_check), temporary)
        if failures or "refused" in build_check:
            raise _rejected(temporary, out, manifest, failures)
    for stale in _rejected_paths(out):  # of an earlier export
        stale.unlink(missing_ok=True)
    return verdict, manifest


def _rejected_paths(out: Path) -> tuple[Path, Path]:
    """Where a file that does not hold is kept, and its report."""
    return out.with_suffix(".rejected.onnx"), out.with_suffix(".rejected.json")


def _rejected(temporary: Path, out: Path, manifest: Manifest, failures: Sequence[str]) -> BudgetNotHeld:
    """Keep the file under the other name, with its report; the error that says so."""
    rejected, report = _rejected_paths(out)
    os.replace(temporary, rejected)
    write_text(report, json.dumps({**manifest.parity, "build_check": manifest.build_check}, indent=1) + "\n")
    refused = f"is refused: {told_build_check(manifest.build_check)}"
    told = f"differs from PyTorch: {'; '.join(failures)}" if failures else refused
    return BudgetNotHeld(f"{out.name} {told}; kept as {rejected} with its report beside it")


def _ties(network: Deployable, backend: OrtBackend, judge: Judge, tie_fraction: float) -> Agreement | None:
    if tie_fraction <= 0.0:
        return None
    return verify(network, backend, judge.subset(TIE_FRAMES).frames, tie_fraction=tie_fraction)
