"""Where the network fails and what the adaptation has changed, image by image."""

from __future__ import annotations

import numpy as np

from clst_export.report.document import Block, Chart, Facts, Legend, Line, Missing, Pictures, Section, Table
from clst_export.report.evidence import Evidence
from clst_export.report.measurement import Measured, Shown
from clst_export.report.performance import origin_of
from clst_export.report.wording import percent, points, swatches, with_labels

STRETCHES = 5
"""The worst, that are listed."""


def section(evidence: Evidence, measured: Measured | None) -> Section:
    blocks: list[Block] = []
    if measured is None:
        what = "The worst and the most changed images are not known"
        blocks.append(Missing(what=what, commands=with_labels(evidence)))
    else:
        blocks += [_spread(measured), _each_image(evidence, measured), _stretches(evidence, measured)]
        blocks.append(Legend(classes=tuple(swatches(evidence.manifest).values())))
        kinds = {
            "Worst": (measured.worst, "lowest mIoU"),
            "Lost most": (measured.lost, "largest loss of mIoU"),
            "Gained most": (measured.gained, "largest gain of mIoU"),
        }
        for kind, (shown, why) in kinds.items():
            blocks += [_pictures(kind, place, one, why) for place, one in enumerate(shown, start=1)]
    return Section(
        key="robustness", title="Robustness", topic="robustness", blocks=tuple(blocks),
        question="Where does it fail, and where did the adaptation make it better or worse?",
        origin="" if measured is None else origin_of(evidence, measured),
    )  # fmt: skip


def _spread(measured: Measured) -> Facts:
    low, middle, high = (percent(share) for share in np.nanquantile(measured.mious[1], [0.05, 0.5, 0.95]))
    rows = [("mIoU of single images", f"median {middle} %, 5 % of them below {low} %, 5 % above {high} %")]
    if measured.lost or measured.gained:
        moved = measured.mious[1] - measured.mious[0]
        rows.append(("by the adaptation", f"{int((moved > 0).sum())} images gained, {int((moved < 0).sum())} lost"))
    return Facts(rows=tuple(rows), origin="Over the classes that each image has.")


def _each_image(evidence: Evidence, measured: Measured) -> Chart:
    kinds = [("adapted network", 1)] if evidence.old is not None else [("network", 1)]
    kinds += [("old network", 0)] if evidence.old is not None else []
    lines = [
        Line(
            name=name,
            points=tuple(
                (float(place), 100 * float(value) if np.isfinite(value) else None)
                for place, value in enumerate(measured.mious[which], start=1)
            ),
            dashed=which == 0,
        )
        for name, which in kinds
    ]
    return Chart(
        title="Each image",
        x="image, in the order of names",
        y="mIoU in %",
        lines=tuple(lines),
        x_range=(1.0, float(max(len(measured.names), 2))),
    )


def _stretches(evidence: Evidence, measured: Measured) -> Table:
    old, new = measured.by_stretch
    rows = []
    for stretch in np.argsort(new, kind="stable")[:STRETCHES]:
        places = np.flatnonzero(measured.stretches == stretch)
        names = [measured.names[place].rsplit("/", 1)[-1] for place in (places[0], places[-1])]
        cells = [" to ".join(dict.fromkeys(names)), str(len(places)), percent(new[stretch])]
        if evidence.old is not None:
            cells += [percent(old[stretch]), points(100 * float(new[stretch] - old[stretch]))]
        rows.append(tuple(cells))
    head = ["images", "count", "mIoU %", *(["old mIoU %", "points"] if evidence.old is not None else [])]
    return Table(
        title="Worst stretches",
        head=tuple(head),
        rows=tuple(rows),
        origin="A stretch is one scene as far as labels tell; it has no interval of its own.",
    )


def _pictures(kind: str, place: int, shown: Shown, why: str) -> Pictures:
    return Pictures(
        title=f"{kind}, {place}: {shown.title}",
        pictures=shown.pictures,
        origin=f"Chosen by {why}; images of other stretches go first." if place == 1 else "",
    )
