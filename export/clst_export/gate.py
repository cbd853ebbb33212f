"""The parity gate: a model file gets its name only if it says what the float32 network says."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clst_export.judge import Judge, Verdict
from clst_export.onnx_export import save_model
from clst_export.precision import Precision
from clst_export.verify import Agreement, verify
from clst_runtime.atomic import write_text, written_whole
from clst_runtime.backends.ort import OrtBackend
from clst_runtime.errors import BudgetNotHeld
from clst_runtime.manifest import Manifest
from clst_train.models.deployable import Deployable


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a result must hold; both 0 … 1."""

    min_agreement: float
    """Smallest share of pixels on which it and the float32 network say the same."""
    max_miou_drop: float
    """Largest loss of mIoU; asked only where there are labels."""

    def failures(self, verdict: Verdict) -> list[str]:
        """What does not hold, in words; empty when all does."""
        told = []
        if verdict.agreement < self.min_agreement:
            told.append(f"{100 * verdict.agreement:.3f} % of pixels agree, {100 * self.min_agreement:.3f} % asked")
        if verdict.labelled and not verdict.drop <= self.max_miou_drop:
            told.append(f"mIoU fell by {100 * verdict.drop:.3f} points, at most {100 * self.max_miou_drop:.3f} allowed")
        return told


BOUNDS = {
    Precision.FP32: Bounds(min_agreement=0.999, max_miou_drop=0.0005),
    Precision.FP16: Bounds(min_agreement=0.999, max_miou_drop=0.0005),
    Precision.INT8: Bounds(min_agreement=0.97, max_miou_drop=0.01),
}
"""What is asked when nobody says otherwise."""


def release(
    model: Any, manifest: Manifest, judge: Judge, bounds: Bounds, out: Path, *, ties_of: Deployable | None = None
) -> tuple[Verdict, Manifest]:
    """Save the graph, run it, judge it; give it its name if it holds.

    Args:
        model: ONNX ModelProto by the artifact contract.
        manifest: its manifest, without parity.
        judge: the pictures and what the float32 network says of them.
        bounds: what must hold.
        out: the file to write.
        ties_of: the network that the graph must equal but for ties (float32 exports).

    Raises:
        BudgetNotHeld: it does not hold; the file is kept as `<name>.rejected.onnx` and what was measured as
            `<name>.rejected.json`. DataError: it cannot be written.
    """
    with written_whole(out) as temporary:
        save_model(model, manifest, temporary)
        with OrtBackend(temporary) as backend:
            verdict = judge.judge(backend)
            ties = verify(ties_of, backend, judge.frames) if ties_of is not None else None
        failures = bounds.failures(verdict) + _untied(ties)
        parity = {"reference": "PyTorch fp32", **verdict.to_json(), **(ties.to_json() if ties else {})}
        parity |= {"bounds": dataclasses.asdict(bounds), "holds": not failures}
        manifest = save_model(model, dataclasses.replace(manifest, parity=parity), temporary)
        if failures:
            rejected = out.with_suffix(".rejected.onnx")
            os.replace(temporary, rejected)
            write_text(rejected.with_suffix(".json"), json.dumps(parity, indent=1) + "\n")
            raise BudgetNotHeld(
                f"{out.name} differs from PyTorch: {'; '.join(failures)}; kept as {rejected} with its report beside it"
            )
    return verdict, manifest


def _untied(ties: Agreement | None) -> list[str]:
    if ties is None or ties.worst_margin <= ties.tie_margin:
        return []
    return [f"a differing pixel has a logit margin of {ties.worst_margin:.4f} (a tie is below {ties.tie_margin:.4f})"]
