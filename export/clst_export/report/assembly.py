"""The report of all evidence: a summary, then the sections."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clst_export.card import agreement_text
from clst_export.report import about, deployment, monitoring, performance, robustness
from clst_export.report.document import Block, Facts, Report, Text, Tone
from clst_export.report.evidence import Evidence
from clst_export.report.measurement import Measured
from clst_export.report.wording import percent, with_ends

TOPICS = (
    "The sections are arranged by what ISO/PAS 8800 and ISO 21448 (SOTIF) ask evidence on: data, performance, "
    "robustness and monitoring. This report claims no conformity with them or with any other standard."
)


def report_of(evidence: Evidence, measured: Measured | None, *, made: str) -> Report:
    """Everything in its place.

    Args:
        evidence: what was found and given.
        measured: what was measured on labelled images; None = none were given.
        made: when and with what, a line.
    """
    return Report(
        title=f"Report of {evidence.name}",
        subtitle=about.subject(evidence),
        made=made,
        summary=_summary(evidence, measured),
        sections=(
            about.adaptation_section(evidence),
            about.data_section(evidence, measured),
            performance.section(evidence, measured),
            robustness.section(evidence, measured),
            deployment.section(evidence),
            monitoring.section(evidence, measured),
            about.traceability_section(evidence, measured),
            about.limits_section(evidence, measured),
        ),
    )


def _summary(evidence: Evidence, measured: Measured | None) -> tuple[Block, ...]:
    found = performance.comparison_of(evidence, measured)
    blocks: list[Block] = []
    if found is None:
        blocks.append(Text(text="How good it is on the new camera was not measured.", tone=Tone.DOUBT))
        blocks += [performance.estimate_text(evidence.estimate)] if evidence.estimate is not None else []
    else:
        blocks.append(performance.verdict_text(evidence, found))
    missed = "" if measured is None else performance.mostly_missed(measured)
    if missed:
        blocks.append(Text(text=f"Of these classes it misses more than half of the pixels: {missed}", tone=Tone.BAD))
    rows = [*_scores(evidence, measured, found), *_deployed(evidence)]
    if rows:
        blocks.append(Facts(rows=tuple(rows), origin=performance.origin_of(evidence, measured)))
    return (*blocks, Text(text=TOPICS))


def _scores(
    evidence: Evidence, measured: Measured | None, found: performance.Comparison | None
) -> Iterator[tuple[str, str]]:
    if found is None:
        return
    old = "" if evidence.old is None else f"; old network {percent(found['old']['miou'])} %"
    yield "mIoU", with_ends(found["new"]["miou"], found["new"].get("miou_interval")) + old
    yield "weakest classes", performance.weakest(found)
    if evidence.old is not None:
        yield "classes that lost", ", ".join(found.get("worse_classes", [])) or "none whose whole interval is below 0"
    if measured is not None:
        worst = int(np.nanargmin(measured.mious[1]))
        yield "worst image", f"{measured.names[worst]}, mIoU {percent(measured.mious[1][worst])} %"
    if reliability := found["new"].get("reliability"):
        ends = None if measured is None or measured.calibration is None else measured.calibration.error
        yield "confidence", f"off by {with_ends(reliability['ece'], ends)} on average (expected calibration error)"


def _deployed(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for each in evidence.models:
        yield (
            f"export in {each['manifest']['precision']}",
            f"as in PyTorch: {agreement_text(each['manifest']['parity'])}",
        )
    for given in evidence.acceptances:
        values = given.values
        device = f"{deployment.accepted_file(values)} on {deployment.machine_of(values)}"
        yield "device", f"{device}: {values['verdict']}"
