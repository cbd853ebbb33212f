"""Would a wrong class or another camera be noticed while driving? Confidence, and the shift monitor's reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clst_export.report.document import Block, Cell, Chart, Facts, Line, Missing, Section, Table
from clst_export.report.evidence import Evidence
from clst_export.report.measurement import Measured
from clst_export.report.performance import Comparison, comparison_of, origin_of
from clst_export.report.wording import INTERVAL, ends_text, export, percent, with_ends, with_labels
from clst_runtime.errors import ModelFileError
from clst_runtime.live.monitor.drift import HELD, OTHER_ABOVE, SAME_BELOW
from clst_runtime.live.monitor.features import feature_names
from clst_runtime.live.monitor.reference import USUAL, Reference


def section(evidence: Evidence, measured: Measured | None) -> Section:
    blocks = [*_confidence(evidence, measured), *_reference(evidence)]
    return Section(
        key="monitoring", title="Monitoring", topic="monitoring", blocks=tuple(blocks),
        question="Would a wrong class, or another camera, be noticed while driving?",
        origin=origin_of(evidence, measured),
    )  # fmt: skip


def _confidence(evidence: Evidence, measured: Measured | None) -> list[Block]:
    """How reliable the network's confidence is, and whether a file gives one."""
    found = comparison_of(evidence, measured)
    reliability = None if found is None else found["new"].get("reliability")
    blocks: list[Block] = []
    if found is not None and reliability is not None:
        blocks += _reliability(reliability, found, measured)
    elif found is None or evidence.manifest["has_confidence"]:
        what = "Whether its confidence means what it says was not measured"
        blocks.append(Missing(what=what, commands=with_labels(evidence)))
    if not any(each["manifest"]["has_confidence"] for each in evidence.models):
        blocks.append(Missing(what="No exported file gives a confidence", commands=export(evidence, "--confidence")))
    return blocks


def _reliability(found: Mapping[str, Any], comparison: Comparison, measured: Measured | None) -> list[Block]:
    """A figure, a chart and a table of `Reliability.to_json`."""
    calibration = None if measured is None else measured.calibration
    bins, total = found["bins"], sum(each["pixels"] for each in found["bins"]) or 1
    ends = [None] * len(bins) if calibration is None else calibration.bins
    rows: list[tuple[Cell, ...]] = [
        (percent(each["confidence"]), percent(each["right"]), ends_text(own), percent(each["pixels"] / total))
        for each, own in zip(bins, ends, strict=True)
    ]
    facts = [
        ("expected calibration error", with_ends(found["ece"], None if calibration is None else calibration.error))
    ]
    if comparison["old"].get("reliability") and comparison["old"]["model"] != comparison["new"]["model"]:
        facts.append(("of the old network", with_ends(comparison["old"]["reliability"]["ece"], None)))
    facts.append(("what it is", "how far confidence and share of right pixels are apart, on average; 0 is best"))
    network = Line(
        name="network", points=tuple((100 * each["confidence"], 100 * each["right"]) for each in bins), dots=True
    )
    ideal = Line(name="as it should be", points=((0.0, 0.0), (100.0, 100.0)), dashed=True)
    return [
        Facts(title="Confidence", rows=tuple(facts)),
        Chart(title="Reliability", x="confidence in %", y="right in %", lines=(network, ideal), x_range=(0.0, 100.0),
              origin="Below the dashed line it is too sure."),
        Table(title="Confidence by bins", head=("it says %", "right %", INTERVAL, "pixels %"), rows=tuple(rows)),
    ]  # fmt: skip


def _reference(evidence: Evidence) -> list[Block]:
    """Of the first exported file that has one."""
    model = next((each for each in evidence.models if each["manifest"]["domain"]), None)
    commands = export(evidence, "--calib IMAGES")
    if model is None:
        what = "No exported file knows its camera, so that clst-run cannot notice another one"
        return [Missing(what=what, commands=commands)]
    manifest, name = model["manifest"], Path(model["path"]).name
    names = feature_names(tuple(manifest["classes"]["names"]), has_confidence=manifest["has_confidence"])
    try:
        reference = Reference.from_json(manifest["domain"], names)
    except ModelFileError as error:
        return [Missing(what=f"{name}: {error.message}", commands=commands)]
    parts = list(next(iter(reference.limits.values())))
    rows = tuple(
        (f"{size} frames", *(f"{each[part]:.2f}" for part in parts)) for size, each in reference.limits.items()
    )
    spread = reference.spread
    looks = zip(names, (f"{mean:.2f}" for mean in spread.mean), (f"{scale:.2f}" for scale in spread.scale), strict=True)
    return [
        Facts(
            title="The shift monitor's reference",
            rows=(
                ("measured on", f"{reference.frames} frames of the camera that it is for"),
                ("another camera", f"a shift above {OTHER_ABOVE:g} in {HELD} looks in a row, one a second"),
                ("its own again", f"a shift below {SAME_BELOW:g} for as long"),
                ("unit", f"{100 * USUAL:.0f} % of the reference's own left-out windows are below 1"),
            ),
            origin=f"Origin: measured at the export of {name}.",
        ),
        Table(title="What is usual, in spreads of single frames", head=("window", *parts), rows=rows),
        Table(title="What the camera looks like", head=("number", "mean", "spread"), rows=tuple(looks)),
    ]
