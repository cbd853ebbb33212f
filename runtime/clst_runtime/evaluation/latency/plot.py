"""Latencies as an image: every run of every model, a panel for each kind of latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.evaluation.latency.comparison import Level, Score
from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.optional import require

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Distinct for colour-blind people, too."""
WIDEST_SHARE = 0.99
"""The axis ends at 1.15 times this share of the runs of the slowest model; what lies beyond is counted at its edge."""


def plot_scores(scores: Sequence[Score], path: Path) -> None:
    """Draw all scores that have samples.

    Raises:
        MissingDependency: Matplotlib is not installed. DataError: the file cannot be written.
    """
    figures = require("matplotlib.figure")
    measured = [score for score in scores if score.samples_ns]
    levels = [
        level
        for level in (Level.HOST_TO_HOST, Level.ENGINE_ONLY, Level.CAPTURE_TO_MASK)
        if any(score.level is level for score in measured)
    ]
    rows = [[score for score in measured if score.level is level] for level in levels]
    names = dict.fromkeys(score.candidate.name for score in measured)
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}  # the same in every panel
    height = sum(1.0 + 0.75 * len(own) for own in rows)
    figure = figures.Figure(figsize=(9.0, max(2.2, height)), layout="constrained")
    axes = figure.subplots(len(levels), 1, squeeze=False, height_ratios=[1.0 + len(own) for own in rows])[:, 0]
    for axis, level, own in zip(axes, levels, rows, strict=True):
        _panel(axis, level, own, colours)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130)


def _panel(axis: Any, level: Level, scores: Sequence[Score], colours: Mapping[str, str]) -> None:
    edge = 1.15 * max(float(np.quantile(score.samples_ns, WIDEST_SHARE)) for score in scores) / 1e6
    jitter = np.random.default_rng(0)
    for row, score in enumerate(scores):
        values = np.asarray(score.samples_ns, np.float64) / 1e6
        colour, beyond = colours[score.candidate.name], int((values > edge).sum())
        heights = row + jitter.uniform(-0.28, 0.28, values.size)
        axis.plot(values, heights, ".", color=colour, markersize=4, alpha=0.35, markeredgewidth=0)
        median, p99 = np.percentile(values, [50, 99])
        for value, style in ((median, "-"), (p99, ":")):
            axis.plot([value, value], [row - 0.36, row + 0.36], style, color="black", linewidth=1.4)
        text = f"median {median:.2f}\np99 {p99:.2f}"
        axis.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), fontsize=8, va="center")
        if beyond:
            axis.annotate(f"{beyond} slower →", (edge, row + 0.3), fontsize=8, ha="right", va="center", color=colour)
    axis.set(
        xlim=(0.0, edge),
        ylim=(len(scores) - 0.45, -0.65),
        xlabel="ms",
        title=f"{level.label} (line: median, dotted: p99)",
    )
    axis.set_yticks(range(len(scores)), short_names([score.candidate.name for score in scores]))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)


def short_names(names: Sequence[str]) -> list[str]:
    """File names without their folders, where they are still distinct."""
    short = [Path(name).name or name for name in names]
    return short if len(set(short)) == len(short) else list(names)
