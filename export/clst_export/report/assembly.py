"""The report of all evidence: a summary, then the sections."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clst_export.card import agreement_text
from clst_export.report import about, deployment, monitoring, performance, robustness
from clst_export.report.document import Block, Facts, Report, Section, Text, Tone
from clst_export.report.evidence import Evidence
from clst_export.report.wording import calibration_text, miou_text, percent

TOPICS = (
    "The sections are arranged by what ISO/PAS 8800 and ISO 21448 (SOTIF) ask evidence on: data, performance, "
    "robustness and monitoring. This report claims no conformity with them or with any other standard."
)

SECTIONS = {
    "adaptation": ("What was adapted to what", "data", about.adaptation,
                   "Which network is it, and of what was it made?"),
    "data": ("Data", "data", about.data, "On which images does it rest, what do they show, and what do they not?"),
    "performance": ("Performance", "performance", performance.blocks,
                    "How good is it on the new camera, class by class, and how sure is that?"),
    "robustness": ("Robustness", "robustness", robustness.blocks,
                   "Where does it fail, and where did the adaptation make it better or worse?"),
    "deployment": ("Deployed files and device", "performance", deployment.blocks,
                   "Do the exported files compute what was trained, how fast, and was it accepted on its device?"),
    "monitoring": ("Monitoring", "monitoring", monitoring.blocks,
                   "Would a wrong class, or another camera, be noticed while driving?"),
    "traceability": ("Traceability", "traceability", about.traceability,
                     "Exactly which files and versions does this report speak of?"),
    "limits": ("Known limits", "robustness", about.known_limits, "What must not be concluded from this report?"),
}  # fmt: skip
"""By anchor: title, topic, what makes its blocks, and the question that it answers."""


def report_of(evidence: Evidence, *, made: str) -> Report:
    """Everything in its place; `made` says when and with what, in a line."""
    return Report(
        title=f"Report of {evidence.place.absolute().name}",
        subtitle=about.subject(evidence),
        made=made,
        summary=tuple(_summary(evidence)),
        sections=tuple(
            Section(key=key, title=title, topic=topic, question=question, blocks=tuple(blocks(evidence)),
                    origin=evidence.origin if key in ("data", "performance", "monitoring") else "")
            for key, (title, topic, blocks, question) in SECTIONS.items()
        ),
    )  # fmt: skip


def _summary(evidence: Evidence) -> Iterator[Block]:
    found, measured = evidence.comparison, evidence.measured
    if found is not None:
        yield performance.verdict_text(evidence, found)
    else:
        yield Text(text="How good it is on the new camera was not measured.", tone=Tone.DOUBT)
        if evidence.estimate is not None:
            yield performance.estimate_text(evidence.estimate)
    if measured is not None and (missed := performance.mostly_missed(measured)):
        yield Text(text=f"Of these classes it misses more than half of the pixels: {missed}", tone=Tone.BAD)
    if rows := (*_scores(evidence), *_deployed(evidence)):
        yield Facts(rows=rows, origin=evidence.origin)
    yield Text(text=TOPICS)


def _scores(evidence: Evidence) -> Iterator[tuple[str, str]]:
    found, measured = evidence.comparison, evidence.measured
    if found is None:
        return
    old = "" if evidence.old is None else f"; old network {percent(found['old']['miou'])} %"
    yield "mIoU", miou_text(found["new"]) + old
    yield "weakest classes", performance.weakest(found)
    if evidence.old is not None:
        yield "classes that lost", performance.lost(found)
    if measured is not None:
        worst = int(np.nanargmin(measured.mious[1]))
        yield "worst image", f"{measured.names[worst]}, mIoU {percent(measured.mious[1][worst])} %"
    if reliability := found["new"].get("reliability"):
        error = calibration_text(evidence, reliability)
        yield "confidence", f"off by {error} on average (expected calibration error)"


def _deployed(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for each in evidence.models:
        agreement = agreement_text(each["manifest"]["parity"])
        yield f"export in {each['manifest']['precision']}", f"as in PyTorch: {agreement}"
    for given in evidence.acceptances:
        device = f"{deployment.accepted_file(given.values)} on {deployment.machine_of(given.values)}"
        yield "device", f"{device}: {given.values['verdict']}"
