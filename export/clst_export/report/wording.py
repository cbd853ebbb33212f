"""Numbers of a report as text, and the commands that make what is missing."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from clst_export.report.document import Cell
from clst_export.report.evidence import CHECKPOINT, Evidence, Read
from clst_runtime.errors import ClstError

NONE = "–"
INTERVAL = "95 % interval"


def percent(share: float | None, digits: int = 1) -> str:
    """0 … 1 as points out of 100."""
    return NONE if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}"


def points(change: float | None) -> str:
    return NONE if change is None or not math.isfinite(change) else f"{change:+.1f}"


def ends_text(ends: Sequence[float] | None) -> str:
    """An interval of shares."""
    return NONE if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def change_texts(change: Read) -> tuple[str, str]:
    """A change in points, and its interval."""
    ends = change["interval_points"]
    return points(change["change_points"]), NONE if ends is None else f"{ends[0]:+.1f} to {ends[1]:+.1f}"


def with_ends(share: float | None, ends: Sequence[float] | None) -> str:
    """A share with its interval, in words."""
    return f"{percent(share)}\N{NO-BREAK SPACE}%" + (f" ({INTERVAL} {ends_text(ends)})" if ends is not None else "")


def miou_text(scores: Read) -> str:
    """mIoU of one network, with its interval."""
    return with_ends(scores["miou"], scores.get("miou_interval"))


def calibration_text(evidence: Evidence, reliability: Read) -> str:
    """The expected calibration error, with its interval where it was measured for the report."""
    return with_ends(reliability["ece"], None if evidence.measured is None else evidence.measured.calibration)


def coloured(evidence: Evidence) -> dict[str, Cell]:
    """Of each class a cell with its colour."""
    classes = evidence.manifest["classes"]
    return {name: Cell(name, (*rgb,)) for name, rgb in zip(classes["names"], classes["colors"], strict=True)}


def export(evidence: Evidence, options: str) -> tuple[str, ...]:
    """The command that exports the network with these options."""
    network = str(evidence.place) if evidence.model["kind"] == CHECKPOINT else "CHECKPOINT"
    there = " --overwrite" if evidence.files else ""
    return (f"clst-export {shlex.quote(network)} --onnx {options}{there}",)


def resume(evidence: Evidence) -> tuple[str, ...]:
    """The command that draws and judges a finished run anew."""
    return (f"clst-train --resume {evidence.typed}",)


def without_cure(error: ClstError) -> str:
    """What is wrong, where a command is named beside it."""
    return error.message.split("; ")[0]


def a_file(evidence: Evidence) -> str:
    """An exported file as it is typed, or a name for one."""
    return shlex.quote(str(evidence.files[0]["path"])) if evidence.files else "MODEL"


def again(evidence: Evidence, options: str) -> str:
    """The command that makes the report with these options."""
    return f"clst-report {evidence.typed} {options} --overwrite"


def with_labels(evidence: Evidence) -> tuple[str, ...]:
    """Commands that measure on labelled images, the run's own where they are there; else how to come by some."""
    data = evidence.config.data if evidence.config is not None else None
    if data is not None and data.val and Path(data.val).is_dir():
        return (again(evidence, f"--val {shlex.quote(data.val)} --val-split {shlex.quote(data.val_split)}"),)
    if data is None or evidence.old is None:
        return (again(evidence, "--val LABELLED"),)
    models = f"--model {shlex.quote(str(evidence.old))} --model {evidence.typed}"
    return (f"clst-data pick {shlex.join(data.target)} {models} --out FEW", again(evidence, "--val FEW"))
