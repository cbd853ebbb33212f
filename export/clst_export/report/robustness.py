"""Where the network fails and what the adaptation has changed, image by image."""

from __future__ import annotations

import numpy as np

from clst_export.report.document import Block, Chart, Facts, Legend, Line, Missing, Pictures
from clst_export.report.evidence import Evidence
from clst_export.report.measurement import Measured
from clst_export.report.wording import coloured, percent, with_labels
from clst_runtime.evaluation.change import Values


def blocks(evidence: Evidence) -> list[Block]:
    """Each image, the worst and the most changed ones."""
    measured = evidence.measured
    if measured is None:
        what = "The worst and the most changed images are not known"
        return [Missing(what=what, commands=with_labels(evidence))]
    blocks: list[Block] = [_spread(evidence, measured), _each_image(evidence, measured)]
    blocks.append(Legend(classes=tuple(coloured(evidence).values())))
    kinds = {"Worst": "lowest mIoU", "Lost most": "largest loss of mIoU", "Gained most": "largest gain of mIoU"}
    for (kind, why), shown in zip(kinds.items(), (measured.worst, measured.lost, measured.gained), strict=True):
        origin = f"Chosen by {why}; images of other stretches go first."
        for place, (name, pictures) in enumerate(shown, start=1):
            blocks.append(Pictures(title=f"{kind}, {place}: {name}", pictures=pictures, origin=origin))
            origin = ""
    return blocks


def _spread(evidence: Evidence, measured: Measured) -> Facts:
    low, middle, high = (percent(share) for share in np.nanquantile(measured.mious[1], [0.05, 0.5, 0.95]))
    rows = [("mIoU of single images", f"median {middle} %, 5 % of them below {low} %, 5 % above {high} %")]
    if measured.lost or measured.gained:
        moved = measured.mious[1] - measured.mious[0]
        rows.append(("by the adaptation", f"{int((moved > 0).sum())} images gained, {int((moved < 0).sum())} lost"))
    return Facts(rows=tuple(rows), origin=f"{evidence.origin} Of an image: over the classes that it has.")


def _line(name: str, mious: Values, *, dashed: bool = False) -> Line:
    places = enumerate(mious, start=1)
    points = tuple((float(place), 100 * float(miou) if np.isfinite(miou) else None) for place, miou in places)
    return Line(name=name, points=points, dashed=dashed)


def _each_image(evidence: Evidence, measured: Measured) -> Chart:
    lines = [_line("network", measured.mious[1])]
    if evidence.old is not None:
        lines = [_line("adapted network", measured.mious[1]), _line("old network", measured.mious[0], dashed=True)]
    return Chart(title="Each image", x="image, in the order of names", y="mIoU in %", lines=tuple(lines),
                 x_range=(1.0, float(max(len(measured.names), 2))))  # fmt: skip
