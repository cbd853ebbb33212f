"""How good the network is: verdict, classes, missed and false pixels, confusion. Legend: C classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clst_export.report.document import Block, Cell, Facts, Missing, Section, Shaded, Swatch, Table, Text, Tone
from clst_export.report.evidence import Evidence
from clst_export.report.measurement import Counts, Measured
from clst_export.report.wording import INTERVAL, ends_text, percent, points, swatches, with_ends, with_labels
from clst_runtime.evaluation.change import Verdict

TONES = {
    Verdict.BETTER.value: Tone.GOOD,
    Verdict.WORSE.value: Tone.BAD,
    Verdict.UNCLEAR.value: Tone.DOUBT,
    Verdict.NO_CHANGE.value: Tone.DOUBT,
}
WEAKEST = 5
MOST_CLASSES = 40
"""Of a confusion table that can be read."""
Comparison = Mapping[str, Any]


def comparison_of(evidence: Evidence, measured: Measured | None) -> Comparison | None:
    """What was measured for the report, else what the run has measured."""
    return measured.comparison if measured is not None else evidence.comparison


def origin_of(evidence: Evidence, measured: Measured | None) -> str:
    """Where the numbers come from, and what their intervals are of."""
    found = comparison_of(evidence, measured)
    if found is None:
        return ""
    where = (
        f"measured for this report on {measured.data}" if measured else "verdict.json of the run, measured at its end"
    )
    return (
        f"Origin: {where}: {found['images']} images in {found['stretches']} independent stretches, by "
        f"{found['new']['backend']}. Intervals: 95 %, over resampled stretches; – where fewer than five have the class."
    )


def section(evidence: Evidence, measured: Measured | None) -> Section:
    blocks: list[Block] = []
    found = comparison_of(evidence, measured)
    if found is None:
        blocks.append(Missing(what="How good it is was not measured", commands=with_labels(evidence)))
    else:
        blocks += [verdict_text(evidence, found), _scores(evidence, measured, found), _classes(evidence, found)]
    if measured is not None:
        blocks.append(_missed_and_false(evidence, measured))
        if len(measured.confusion) <= MOST_CLASSES:
            blocks.append(_confusion(evidence, measured))
    elif found is not None:
        blocks.append(Missing(what="What is taken for what was not measured", commands=with_labels(evidence)))
    if evidence.estimate is not None:
        blocks += [estimate_text(evidence.estimate), _estimated(evidence, evidence.estimate)]
    return Section(
        key="performance", title="Performance", topic="performance", blocks=tuple(blocks),
        question="How good is it on the new camera, class by class, and how sure is that?",
        origin=origin_of(evidence, measured),
    )  # fmt: skip


def verdict_text(evidence: Evidence, found: Comparison) -> Text:
    """The verdict on the change, or of a network alone its mIoU."""
    if evidence.old is None:
        of_new = found["new"]
        return Text(text=f"mIoU {with_ends(of_new['miou'], of_new.get('miou_interval'))} on {found['images']} images")
    return Text(text=found["text"], tone=TONES[found["verdict"]])


def estimate_text(found: Comparison) -> Text:
    """A verdict without labels, which is a doubt at best."""
    tone = Tone.BAD if found["verdict"] == Verdict.WORSE.value else Tone.DOUBT
    return Text(text=f"Estimated without labels: {found['text']}", tone=tone)


def _estimated(evidence: Evidence, found: Comparison) -> Table:
    named = swatches(evidence.manifest)
    rows = tuple(
        (named.get(name, name), points(one["change_points"]), ends_text(one["interval_points"], scale=1, sign="+"))
        for name, one in found["classes"].items()
    )
    return Table(
        title="Estimated change of each class",
        head=("class", "points", INTERVAL),
        rows=rows,
        origin=f"Origin: estimate.json of the run, on {found['images']} images of the new camera without labels.",
    )


def weakest(found: Comparison) -> str:
    """The labelled classes of the smallest IoU, with it and its interval."""
    iou = {name: value for name, value in found["new"]["iou"].items() if value is not None}
    ends = found["new"].get("iou_interval", {})
    names = sorted(iou, key=lambda name: iou[name])[:WEAKEST]
    return "; ".join(f"{name} {with_ends(iou[name], ends.get(name))}" for name in names)


def mostly_missed(measured: Measured) -> str:
    """The classes of which less than half of the pixels are found."""
    values = zip(measured.comparison["classes"], measured.found.values, strict=True)
    return ", ".join(f"{name} ({percent(found)} % found)" for name, found in values if found < 0.5)


def _scores(evidence: Evidence, measured: Measured | None, found: Comparison) -> Facts:
    old, new, change = found["old"], found["new"], found["miou"]
    rows = [("mIoU", with_ends(new["miou"], new.get("miou_interval")))]
    if evidence.old is not None:
        ends = ends_text(change["interval_points"], scale=1, sign="+")
        rows += [
            ("mIoU of the old network", with_ends(old["miou"], old.get("miou_interval"))),
            ("change", f"{points(change['change_points'])} points ({INTERVAL} {ends})"),
            ("classes that lost", ", ".join(found.get("worse_classes", [])) or "none whose whole interval is below 0"),
        ]
    rows.append(("weakest classes", weakest(found)))
    before = evidence.comparison
    if measured is not None and before is not None and before["text"] != found["text"]:
        rows.append(("verdict at the end of the run", f"{before['text']}; on other images, or by another version"))
    return Facts(rows=tuple(rows))


def _classes(evidence: Evidence, found: Comparison) -> Table:
    named = swatches(evidence.manifest)
    head = ["class", "IoU %", INTERVAL, *(["points", INTERVAL, "old IoU %"] if evidence.old else []), "images"]
    rows = []
    for name, one in found["classes"].items():
        iou, ends = found["new"]["iou"][name], found["new"].get("iou_interval", {}).get(name)
        cells: list[Cell] = [named.get(name, name), percent(iou), ends_text(ends)]
        if evidence.old is not None:
            change = ends_text(one["interval_points"], scale=1, sign="+")
            cells += [points(one["change_points"]), change, percent(found["old"]["iou"][name])]
        rows.append((*cells, str(one["images"])))
    return Table(title="Each class", head=tuple(head), rows=tuple(rows))


def _missed_and_false(evidence: Evidence, measured: Measured) -> Table:
    names, counts = tuple(measured.comparison["classes"]), measured.confusion
    named, rows = swatches(evidence.manifest), []
    for place, name in enumerate(names):
        missed, false = _most(counts[place], place, names), _most(counts[:, place], place, names)
        rows.append((
            named.get(name, name),
            percent(measured.found.values[place]), ends_text(measured.found.intervals[place]), missed,
            percent(measured.right.values[place]), ends_text(measured.right.intervals[place]), false,
        ))  # fmt: skip
    head = ("class", "found %", INTERVAL, "missed, mostly as", "right %", INTERVAL, "false, mostly of")
    return Table(
        title="Missed and false pixels",
        head=head,
        rows=tuple(rows),
        origin="found: of the class's pixels, those that are named so (recall). right: of the pixels named so, those "
        "that are of the class (precision).",
    )


def _most(counts: Counts, own: int, names: tuple[str, ...]) -> str:
    """The other class of most pixels, with its share of all."""
    others = counts.copy()
    others[own] = 0
    if not others.any():
        return "–"
    most = int(others.argmax())
    return f"{names[most]} {percent(others[most] / counts.sum())} %"


def _confusion(evidence: Evidence, measured: Measured) -> Table:
    names, counts = tuple(measured.comparison["classes"]), measured.confusion
    named = swatches(evidence.manifest)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows: list[tuple[Cell, ...]] = []
    for place, name in enumerate(names):
        labelled = counts[place].sum() > 0
        cells = [Shaded(f"{100 * share:.0f}" if labelled else "–", float(share)) for share in shares[place]]
        rows.append((_named(named, name), *cells))
    return Table(
        title="Confusion",
        head=("labelled as ↓, named →", *names),
        rows=tuple(rows),
        matrix=True,
        origin="In % of the pixels of each line's class; the diagonal is right.",
    )


def _named(named: Mapping[str, Swatch], name: str) -> Cell:
    return named.get(name, name)
