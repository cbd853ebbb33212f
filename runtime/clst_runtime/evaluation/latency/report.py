"""A comparison as tables and as JSON: one table for each kind of latency, never two in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clst_runtime.evaluation.latency.comparison import Level, Score, ratios_to_first
from clst_runtime.system.tables import format_table

NAMES = ("min", "mean", "median", "p90", "p95", "p99", "max")


def level_table(scores: Sequence[Score]) -> str:
    """The scores of one kind in ms, with their ratio to the first, and remarks below."""
    level = scores[0].level
    rows = []
    for score, ratio in zip(scores, ratios_to_first(scores), strict=True):
        summary = score.summary_ms()
        cells = [f"{summary[name]:.2f}" if summary else "–" for name in NAMES]
        times = [str(len(score.samples_ns)), *cells, "–" if ratio is None else f"{ratio:.3f}"]
        rows.append([score.candidate.name, *times])
    lines = [f"{level.label}, ms", format_table(["model", "runs", *NAMES, "to first"], rows)]
    for score in scores:
        remarks = [score.backend, *([score.note] if score.note else [])]
        if "parity" in score.details:
            remarks.append(str(score.details["parity"]["told"]))
        lines.append(f"  {score.candidate.name}: {'; '.join(remarks)}")
    return "\n".join(lines)


def warnings(scores: Sequence[Score], doubts: Sequence[str]) -> list[str]:
    lines = []
    for score in scores:
        if score.unsteady is not None:
            spread = f"coefficient of variation {100 * score.unsteady:.1f} %"
            lines.append(f"{score.candidate.name}: {score.level.label} is unsteady, {spread}")
    return [*lines, *doubts]


def scores_json(scores: Sequence[Score], *, samples: bool) -> list[dict[str, Any]]:
    """One entry for each model; what belongs to a kind of latency begins with its name.

    Host-to-host samples are called `samples_ns`, those of the other kinds `engine_only_samples_ns` and
    `glass_to_mask_samples_ns`.
    """
    entries: dict[str, dict[str, Any]] = {}
    for level in Level:
        own = [score for score in scores if score.level is level]
        for score, ratio in zip(own, ratios_to_first(own), strict=True):
            entry = entries.setdefault(
                score.candidate.name,
                {"model": score.candidate.name, "backend": score.backend, "input_hw": list(score.input_hw)},
            )
            if level is Level.HOST_TO_HOST:  # engine-only is measured without a CUDA graph, and says so
                entry["backend"] = score.backend
            entry |= _level_json(score, ratio, samples=samples)
    return list(entries.values())


def _level_json(score: Score, ratio: float | None, *, samples: bool) -> dict[str, Any]:
    prefix = "" if score.level is Level.HOST_TO_HOST else f"{score.level.value}_"
    found: dict[str, Any] = {
        f"{score.level.value}_ms": score.summary_ms(),
        f"{prefix}runs": len(score.samples_ns),
        f"{prefix}ratio_to_first": ratio,
        **score.details,
    }
    if score.note:
        found[f"{prefix}note"] = score.note
    if samples:
        found[f"{prefix}samples_ns"] = list(score.samples_ns)
    return found
