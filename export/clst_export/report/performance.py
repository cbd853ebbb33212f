"""How good the network is: verdict, classes, confusion."""

from __future__ import annotations

import numpy as np

from clst_export.report.document import Block, Cell, Facts, Missing, Table, Text, Tone
from clst_export.report.evidence import Evidence, Read
from clst_export.report.measurement import Counts, Measured
from clst_export.report.wording import (
    INTERVAL,
    change_texts,
    coloured,
    ends_text,
    miou_text,
    percent,
    resume,
    with_ends,
    with_labels,
    without_cure,
)
from clst_runtime.evaluation.change import Values, Verdict

TONES = {Verdict.BETTER.value: Tone.GOOD, Verdict.WORSE.value: Tone.BAD}
"""Of verdicts; others are a doubt."""
WEAKEST = 5


def blocks(evidence: Evidence) -> list[Block]:
    """The verdict, and what it consists of."""
    found, measured = evidence.comparison, evidence.measured
    blocks: list[Block] = [Missing(what=without_cure(error), commands=resume(evidence)) for error in evidence.damaged]
    if found is None:
        blocks.append(Missing(what="How good it is was not measured", commands=with_labels(evidence)))
    else:
        blocks += [verdict_text(evidence, found), _scores(evidence, found), _classes(evidence, found)]
    if measured is not None:
        blocks.append(_confusion(evidence, measured))
    elif found is not None:
        blocks.append(Missing(what="What is taken for what was not measured", commands=with_labels(evidence)))
    return blocks if evidence.estimate is None else [*blocks, estimate_text(evidence.estimate)]


def verdict_text(evidence: Evidence, found: Read) -> Text:
    """The verdict on the change, or of a network alone its mIoU."""
    if evidence.old is None:
        return Text(text=f"mIoU {miou_text(found['new'])} on {found['images']} images")
    return Text(text=found["text"], tone=TONES.get(found["verdict"], Tone.DOUBT))


def estimate_text(found: Read) -> Text:
    """A verdict without labels, which is a doubt at best."""
    tone = Tone.BAD if found["verdict"] == Verdict.WORSE.value else Tone.DOUBT
    return Text(
        text=f"Estimated without labels: {found['text']}", tone=tone, origin="Origin: estimate.json of the run."
    )


def weakest(found: Read) -> str:
    """The labelled classes of the smallest IoU, with it and its interval."""
    iou = {name: value for name, value in found["new"]["iou"].items() if value is not None}
    ends = found["new"].get("iou_interval", {})
    return "; ".join(
        f"{name} {with_ends(iou[name], ends.get(name))}" for name in sorted(iou, key=iou.__getitem__)[:WEAKEST]
    )


def lost(found: Read) -> str:
    """The classes that are surely worse than by the old network."""
    return ", ".join(found.get("worse_classes", [])) or "none whose whole interval is below 0"


def mostly_missed(measured: Measured) -> str:
    """The classes of which less than half of the pixels are found."""
    shares = zip(measured.comparison["classes"], _shares(measured.confusion).diagonal(), strict=True)
    return ", ".join(f"{name} ({percent(found)} % found)" for name, found in shares if found < 0.5)


def _shares(confusion: Counts) -> Values:
    """C,C: of the pixels of each class those that are taken for each; NaN for a class without labels."""
    counts = confusion.sum(1, keepdims=True)
    return np.asarray(confusion / np.where(counts > 0, counts, np.nan))


def _scores(evidence: Evidence, found: Read) -> Facts:
    rows = [("mIoU", miou_text(found["new"]))]
    if evidence.old is not None:
        change, ends = change_texts(found["miou"])
        rows += [
            ("mIoU of the old network", miou_text(found["old"])),
            ("change", f"{change} points ({INTERVAL} {ends})"),
            ("classes that lost", lost(found)),
        ]
    rows.append(("weakest classes", weakest(found)))
    before = evidence.verdict
    if evidence.measured is not None and before is not None and before["text"] != found["text"]:
        rows.append(("verdict at the end of the run", f"{before['text']}; on other images, or by another version"))
    return Facts(rows=tuple(rows))


def _classes(evidence: Evidence, found: Read) -> Table:
    named, (old, new) = coloured(evidence), (found["old"], found["new"])
    head = ("class", "IoU %", INTERVAL, *(("points", INTERVAL, "old IoU %") if evidence.old else ()), "images")
    rows = []
    for name, one in found["classes"].items():
        cells = [named.get(name, name), percent(new["iou"].get(name)), ends_text(new.get("iou_interval", {}).get(name))]
        cells += [*change_texts(one), percent(old["iou"].get(name))] if evidence.old is not None else []
        rows.append((*cells, str(one["images"])))
    return Table(title="Each class", head=head, rows=tuple(rows))


def _confusion(evidence: Evidence, measured: Measured) -> Table:
    names, named = tuple(measured.comparison["classes"]), coloured(evidence)
    rows = tuple(
        (named.get(name, name), *(Cell(percent(share, 0), share=float(np.nan_to_num(share))) for share in line))
        for name, line in zip(names, _shares(measured.confusion), strict=True)
    )
    right = _shares(measured.confusion.T).diagonal()
    rows += (("right of those named so", *(percent(share, 0) for share in right)),)
    return Table(
        title="Confusion",
        head=("labelled as ↓, named →", *names),
        rows=rows,
        matrix=True,
        origin="In % of the pixels of each line's class; the diagonal is what is found (recall). Last line: in % "
        "of all pixels that are named so (precision).",
    )
