"""Numbers of a report as text, and the commands that make what is missing."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clst_export.report.document import Swatch
from clst_export.report.evidence import CHECKPOINT, Evidence

NONE = "–"
INTERVAL = "95 % interval"


def percent(share: float | None, digits: int = 1) -> str:
    """0 … 1 as points out of 100."""
    return NONE if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}"


def points(change: float | None) -> str:
    return NONE if change is None or not math.isfinite(change) else f"{change:+.1f}"


def ends_text(ends: Sequence[float] | None, *, scale: float = 100, sign: str = "") -> str:
    """An interval, of shares by default."""
    return NONE if ends is None else f"{scale * ends[0]:{sign}.1f} to {scale * ends[1]:{sign}.1f}"


def with_ends(share: float | None, ends: Sequence[float] | None) -> str:
    """A share with its interval, in words."""
    return f"{percent(share)}\N{NO-BREAK SPACE}%" + (f" ({INTERVAL} {ends_text(ends)})" if ends is not None else "")


def swatches(manifest: Mapping[str, Any]) -> dict[str, Swatch]:
    """Of each class a cell with its colour."""
    classes = manifest["classes"]
    return {
        name: Swatch(name, (colour[0], colour[1], colour[2]))
        for name, colour in zip(classes["names"], classes["colors"], strict=True)
    }


def export(evidence: Evidence, options: str) -> tuple[str, ...]:
    """The command that exports the network with these options."""
    network = str(evidence.place) if evidence.model["kind"] == CHECKPOINT else "CHECKPOINT"
    there = " --overwrite" if evidence.files else ""
    return (f"clst-export {shlex.quote(network)} --onnx {options}{there}",)


def a_file(evidence: Evidence) -> str:
    """An exported file as it is typed, or a name for one."""
    return shlex.quote(str(evidence.files[0]["path"])) if evidence.files else "MODEL"


def again(evidence: Evidence, options: str) -> str:
    """The command that makes the report with these options."""
    return f"clst-report {evidence.typed} {options} --overwrite"


def with_labels(evidence: Evidence) -> tuple[str, ...]:
    """Commands that measure on labelled images, the run's own where they are there; else how to come by some."""
    data = evidence.config.data if evidence.config is not None else None
    if data is None:
        return (again(evidence, "--val LABELLED"),)
    if data.val and Path(data.val).is_dir():
        return (again(evidence, f"--val {shlex.quote(data.val)} --val-split {shlex.quote(data.val_split)}"),)
    if not data.target or evidence.old is None:
        return (again(evidence, "--val LABELLED"),)
    models = f"--model {shlex.quote(str(evidence.old))} --model {evidence.typed}"
    return (f"clst-data pick {shlex.join(data.target)} {models} --out FEW", again(evidence, "--val FEW"))
