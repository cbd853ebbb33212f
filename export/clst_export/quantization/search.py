"""INT8 within a budget: the fewest layers are taken back to higher precision until what is lost holds.

Legend: one trial = one graph with some layers kept in higher precision, measured on held-out frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clst_export.graph.types import infer_types
from clst_export.quantization.int8 import OUTPUT_AXIS, Network, layer_names, quantisable
from clst_export.verification.evaluator import Comparison
from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.optional import require
from clst_runtime.system.tables import format_table, percent

INT8_COST = 0.5
"""Cost of an INT8 multiplication in FP16 ones: twice the rate on NVIDIA's tensor cores. An estimate of arithmetic
alone; conversions between the precisions and memory traffic are not in it."""
PRUNING_TRIALS = 16


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One measured point of the curve."""

    kept: frozenset[str]
    """Layers in higher precision."""
    comparison: Comparison
    """What was measured on the held-out frames."""
    cost: float
    """Estimated arithmetic, 1 = everything in FP16."""


@dataclass(frozen=True, kw_only=True)
class BudgetResult:
    """What the search found."""

    chosen: Trial
    """The trial with the fewest kept layers that holds; if none holds, the one that loses least."""
    holds: bool
    """Whether the budget holds."""
    sensitivities: Mapping[str, float]
    """Share of pixels that change when a layer alone is quantised, most sensitive first; empty when nothing
    had to be kept."""
    curve: tuple[Trial, ...]
    """Every measured trial, by the number of kept layers."""


def search(
    macs: Mapping[str, int],
    trial: Callable[[frozenset[str]], Comparison],
    rough: Callable[[frozenset[str]], Comparison],
    max_drop: float,
    log: Callable[[str], None] = lambda message: None,
) -> BudgetResult:
    """Find the fewest layers to keep.

    Everything is quantised first; if that holds, nothing is kept. Else each layer is quantised alone (`rough`,
    on few frames) and the most sensitive are kept, as many as needed by bisection; then each of those is quantised
    again, least sensitive first, wherever the budget still holds.

    Args:
        macs: multiply-accumulate operations of each layer that can be quantised.
        trial: measures a graph that keeps these layers, on all held-out frames.
        rough: the same on few frames.
        max_drop: what may be lost, 0 … 1, as `Comparison.drop` counts it.
        log: called with one line for each trial.
    """
    tried: dict[frozenset[str], Trial] = {}

    def measured(kept: frozenset[str]) -> Trial:
        if kept not in tried:
            tried[kept] = Trial(kept=kept, comparison=trial(kept), cost=arithmetic_cost(macs, kept))
            log(f"{len(kept)} of {len(macs)} kept: {100 * tried[kept].comparison.drop:.3f} points lost")
        return tried[kept]

    first = measured(frozenset())
    if first.comparison.drop <= max_drop or not macs:
        return _result(first, max_drop, {}, tried)
    sensitivities = {name: 1.0 - rough(frozenset(macs) - {name}).agreement for name in macs}
    order = sorted(macs, key=lambda name: (-sensitivities[name], macs[name], name))
    sensitivities = {name: sensitivities[name] for name in order}
    chosen = _bisect(order, measured, max_drop)
    if chosen.comparison.drop <= max_drop:
        chosen = _prune(chosen, order, measured, max_drop)
    return _result(chosen, max_drop, sensitivities, tried)


def _result(
    chosen: Trial, max_drop: float, sensitivities: Mapping[str, float], tried: Mapping[Any, Trial]
) -> BudgetResult:
    curve = tuple(sorted(tried.values(), key=lambda each: (len(each.kept), each.comparison.drop)))
    holds = chosen.comparison.drop <= max_drop
    if not holds:
        chosen = min(curve, key=lambda each: (each.comparison.drop, len(each.kept)))
    return BudgetResult(chosen=chosen, holds=holds, sensitivities=sensitivities, curve=curve)


def _bisect(order: Sequence[str], measured: Callable[[frozenset[str]], Trial], max_drop: float) -> Trial:
    """The shortest beginning of `order` that holds; all of it if none does. Loss is taken to fall along the way."""
    low, high = 0, len(order)  # low does not hold
    while high - low > 1:
        middle = (low + high) // 2
        if measured(frozenset(order[:middle])).comparison.drop <= max_drop:
            high = middle
        else:
            low = middle
    return measured(frozenset(order[:high]))


def _prune(chosen: Trial, order: Sequence[str], measured: Callable[[frozenset[str]], Trial], max_drop: float) -> Trial:
    for name in [name for name in reversed(order) if name in chosen.kept][:PRUNING_TRIALS]:
        smaller = measured(chosen.kept - {name})
        if smaller.comparison.drop <= max_drop:
            chosen = smaller
    return chosen


def layer_macs(model: Any) -> dict[str, int]:
    """Multiply-accumulate operations of each layer that can be quantised, by its name."""
    network, types, wanted = Network(model), infer_types(model), set(quantisable(model))
    macs = {}
    for index, name in layer_names(network).items():
        if name in wanted:
            node = network.nodes[index]
            weights = np.asarray(network.constant(node.input[1]))
            channels = weights.shape[OUTPUT_AXIS[node.op_type]]
            outputs = math.prod(types[node.output[0]].shape or (0,))  # static in every exported graph
            macs[name] = weights.size * outputs // channels
    return macs


def arithmetic_cost(macs: Mapping[str, int], kept: frozenset[str]) -> float:
    """Estimated arithmetic of the layers in `macs`, 1 = all of them in FP16."""
    total = sum(macs.values())
    return sum(count * (1.0 if name in kept else INT8_COST) for name, count in macs.items()) / total if total else 1.0


def curve_table(result: BudgetResult) -> str:
    """The curve as a table: kept layers, accuracy and estimated cost."""
    labelled = result.chosen.comparison.labelled
    rows = []
    for each in result.curve:
        mark = "←" if each is result.chosen else ""
        accuracy = each.comparison.candidate_miou if labelled else each.comparison.agreement
        rows.append(
            [str(len(each.kept)), percent(accuracy, 3), percent(each.comparison.drop, 3), f"{each.cost:.3f}", mark]
        )
    headers = ["kept layers", "mIoU %" if labelled else "pixels equal %", "points lost", "estimated cost", ""]
    return format_table(headers, rows)


def draw_curve(result: BudgetResult, path: Path, *, max_drop: float) -> None:
    """The curve, and the sensitivity of each convolution, as a PNG, written whole."""
    figure = require("matplotlib.figure").Figure(figsize=(11, 8 if result.sensitivities else 4), layout="constrained")
    _draw_points(figure.add_subplot(2 if result.sensitivities else 1, 1, 1), result, max_drop)
    if result.sensitivities:
        axes = figure.add_subplot(2, 1, 2)
        names = list(result.sensitivities)[:40]
        colours = ["tab:red" if name in result.chosen.kept else "tab:blue" for name in names]
        axes.bar(range(len(names)), [100 * result.sensitivities[name] for name in names], color=colours)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_ylabel("pixels changed alone, %")
        axes.set_title("sensitivity of each layer (red: kept in higher precision)")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_points(axes: Any, result: BudgetResult, max_drop: float) -> None:
    counts = [len(each.kept) for each in result.curve]
    axes.plot(counts, [100 * each.comparison.drop for each in result.curve], "o-", label="points lost")
    axes.axhline(100 * max_drop, color="grey", linestyle="--", label="budget")
    axes.plot(len(result.chosen.kept), 100 * result.chosen.comparison.drop, "r*", markersize=15, label="chosen")
    axes.set_xlabel("layers kept in higher precision")
    axes.set_ylabel("mIoU lost, points" if result.chosen.comparison.labelled else "pixels that differ, %")
    axes.legend(loc="upper center")
    other = axes.twinx()
    other.plot(counts, [each.cost for each in result.curve], "s:", color="tab:green", markersize=3)
    other.set_ylabel("estimated arithmetic (1 = all FP16)", color="tab:green")
