"""The parity gate: a model file is saved only if it agrees with the float32 network and TensorRT can build it.

A pixel is a tie where PyTorch's two best logits differ by less than rounding can change. Which class wins there tells
nothing about the file; the number of pixels that differ without being ties does.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clst_export.card import card, card_path
from clst_export.graph.model_file import save_model
from clst_export.inspection import facts_of
from clst_export.precision import Precision, Target
from clst_export.verification.evaluator import Comparison, Evaluator
from clst_export.verification.ties import FP32_TIE, Ties, count_ties
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.backends.tensorrt.build.check import check_build, describe_build_check
from clst_runtime.errors import BudgetNotHeld
from clst_runtime.evaluation.export_digest import KEY as FINGERPRINT
from clst_runtime.evaluation.export_digest import take_digest
from clst_runtime.system.files.atomic import write_text, written_whole
from clst_train.models.deployable import Deployable


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a file must reach; shares 0 … 1."""

    min_agreement: float
    """Smallest share of pixels with the float32 network's class."""
    max_miou_drop: float
    """Largest loss of mIoU; checked only where there are labels."""
    tie_fraction: float = 0.0
    """Gap of PyTorch's logits up to which two classes tie, as a share of the largest logit; 0 = none is counted."""
    max_untied: float = 1.0
    """Largest share of pixels that differ without being ties."""

    def failures(self, comparison: Comparison, ties: Ties | None = None) -> list[str]:
        """A message for each bound that does not hold; `ties` = None checks no ties."""
        found = []
        if comparison.agreement < self.min_agreement:
            found.append(f"{100 * comparison.agreement:.3f} % of pixels agree, {100 * self.min_agreement:.3f} % asked")
        if comparison.labelled and not comparison.drop <= self.max_miou_drop:
            allowed = f"{100 * self.max_miou_drop:.3f} allowed"
            found.append(f"mIoU fell by {100 * comparison.drop:.3f} points, at most {allowed}")
        if ties is not None and ties.untied_pixels > self.max_untied * ties.pixels:
            found.append(
                f"{ties.untied_pixels} of {ties.pixels} pixels differ and are no ties, the worst by a logit margin of "
                f"{ties.worst_margin:.4f} (a tie is below {ties.tie_margin:.4f})"
            )
        return found


BOUNDS = {
    Precision.FP32: Bounds(min_agreement=0.999, max_miou_drop=0.0005, tie_fraction=FP32_TIE, max_untied=0.0),
    Precision.FP16: Bounds(min_agreement=0.999, max_miou_drop=0.0005),
    Precision.INT8: Bounds(min_agreement=0.95, max_miou_drop=0.01),
}
"""The default bounds."""
TIE_FRAMES = 16
"""Frames, at most, on which ties are counted."""


def verify_and_save(
    model: Any,
    manifest: Manifest,
    evaluator: Evaluator,
    bounds: Bounds,
    out: Path,
    *,
    network: Deployable,
    log: Callable[[str], None] = lambda message: None,
) -> tuple[Comparison, Manifest]:
    """Compare the graph with the float32 network, have TensorRT for RTX build it, and save it if both succeed.

    Args:
        model: ONNX ModelProto by the artifact contract.
        manifest: its manifest, without build_check, in parity only what `evaluator`'s frames are.
        evaluator: the frames with the float32 network's class maps.
        bounds: what must hold.
        out: the file to write; its card gets the same name with `.md`.
        network: the float32 network, whose logits decide what is a tie.
        log: called with one line for each step.

    Raises:
        BudgetNotHeld: it differs, or TensorRT for RTX refuses it; the file is kept as `<name>.rejected.onnx` and what
            was measured as `<name>.rejected.json`. DataError: it cannot be written.
    """
    with written_whole(card_path(out)) as page, written_whole(out) as temporary:
        save_model(model, manifest, temporary)
        with OrtBackend(temporary) as backend:
            comparison = evaluator.evaluate(backend)
            fingerprint = take_digest(backend, evaluator.frames)
            ties = None
            if bounds.tie_fraction > 0.0:
                tried = evaluator.subset(TIE_FRAMES).frames
                ties = count_ties(network, backend, tried, tie_fraction=bounds.tie_fraction)
        failures = bounds.failures(comparison, ties)
        parity: dict[str, Any] = {**manifest.parity, "reference": "PyTorch fp32", **comparison.to_json()}
        parity |= {"ties": ties.to_json()} if ties else {}
        parity |= {FINGERPRINT: fingerprint.to_json()}
        parity |= {"bounds": dataclasses.asdict(bounds), "holds": not failures}
        for_tensorrt = manifest.calibration.get("target") != Target.CPU.value
        build_check = check_build(temporary, report=log) if for_tensorrt and not failures else {}
        manifest = save_model(model, dataclasses.replace(manifest, parity=parity, build_check=build_check), temporary)
        if failures or "refused" in build_check:
            raise _rejected(temporary, out, manifest, failures)
        page.write_text(card(facts_of(temporary) | {"path": out.name}), encoding="utf-8")
    for stale in _rejected_paths(out):  # of an earlier export
        stale.unlink(missing_ok=True)
    return comparison, manifest


UNSURE = "or train longer: a network that is unsure rounds to other classes"
HINTS = {
    "fp16": f"; take fp32, {UNSURE}",
    "int8": f"; take fp16, keep layers in higher precision by --max-miou-drop, {UNSURE}",
}
"""What to try when a file of that precision differs from PyTorch."""


def _rejected_paths(out: Path) -> tuple[Path, Path]:
    """Where a file that does not hold is kept, and its report."""
    return out.with_suffix(".rejected.onnx"), out.with_suffix(".rejected.json")


def _rejected(temporary: Path, out: Path, manifest: Manifest, failures: Sequence[str]) -> BudgetNotHeld:
    """Keep the file under another name, with its report beside it; returns the error to raise."""
    rejected, report = _rejected_paths(out)
    os.replace(temporary, rejected)
    write_text(report, json.dumps({**manifest.parity, "build_check": manifest.build_check}, indent=1) + "\n")
    refused = f"is refused: {describe_build_check(manifest.build_check)}"
    reason = f"differs from PyTorch: {'; '.join(failures)}" if failures else refused
    hint = HINTS.get(manifest.precision, "") if failures else ""
    return BudgetNotHeld(f"{out.name} {reason}; kept as {rejected} with its report beside it{hint}")
