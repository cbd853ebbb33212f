"""Would a wrong class or another camera be noticed while driving? Confidence, and the shift monitor's reference."""

from __future__ import annotations

from pathlib import Path

from clst_export.report.document import Block, Chart, Facts, Line, Missing, Table
from clst_export.report.evidence import Evidence, Read
from clst_export.report.wording import calibration_text, export, percent, with_labels
from clst_runtime.errors import ModelFileError
from clst_runtime.live.monitor.drift import HELD, OTHER_ABOVE, SAME_BELOW
from clst_runtime.live.monitor.features import feature_names
from clst_runtime.live.monitor.reference import USUAL, Reference


def blocks(evidence: Evidence) -> list[Block]:
    """How reliable the network's confidence is, whether a file gives one, and what files know of their camera."""
    found = evidence.comparison
    blocks: list[Block] = []
    if found is not None and found["new"].get("reliability"):
        blocks += _reliability(evidence, found)
    elif found is None or evidence.manifest["has_confidence"]:
        what = "Whether its confidence means what it says was not measured"
        blocks.append(Missing(what=what, commands=with_labels(evidence)))
    if not any(each["manifest"]["has_confidence"] for each in evidence.models):
        blocks.append(Missing(what="No exported file gives a confidence", commands=export(evidence, "--confidence")))
    return blocks + _reference(evidence)


def _reliability(evidence: Evidence, comparison: Read) -> list[Block]:
    """A figure, a chart and a table of `Reliability.to_json`."""
    found = comparison["new"]["reliability"]
    bins, total = found["bins"], sum(each["pixels"] for each in found["bins"]) or 1
    rows = tuple(
        (percent(each["confidence"]), percent(each["right"]), percent(each["pixels"] / total)) for each in bins
    )
    facts = [("expected calibration error", calibration_text(evidence, found))]
    if evidence.old is not None and comparison["old"].get("reliability"):
        facts.append(("of the old network", f"{percent(comparison['old']['reliability']['ece'])} %"))
    facts.append(("what it is", "how far confidence and share of right pixels are apart, on average; 0 is best"))
    measured = tuple((100 * each["confidence"], 100 * each["right"]) for each in bins)
    lines = (Line(name="network", points=measured, dots=True),
             Line(name="as it should be", points=((0.0, 0.0), (100.0, 100.0)), dashed=True))  # fmt: skip
    return [
        Facts(title="Confidence", rows=tuple(facts)),
        Chart(title="Reliability", x="confidence in %", y="right in %", lines=lines, x_range=(0.0, 100.0),
              origin="Below the dashed line it is too sure."),
        Table(title="Confidence by bins", head=("it says %", "right %", "pixels %"), rows=rows),
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
    limits, spread = reference.limits, reference.spread
    parts = tuple(next(iter(limits.values())))
    windows = tuple((f"{size} frames", *(f"{each[part]:.2f}" for part in parts)) for size, each in limits.items())
    looks = zip(names, (f"{mean:.2f}" for mean in spread.mean), (f"{scale:.2f}" for scale in spread.scale), strict=True)
    rows = (
        ("measured on", f"{reference.frames} frames of the camera that it is for"),
        ("another camera", f"a shift above {OTHER_ABOVE:g} in {HELD} looks in a row, one a second"),
        ("its own again", f"a shift below {SAME_BELOW:g} for as long"),
        ("unit", f"{100 * USUAL:.0f} % of the reference's own left-out windows are below 1"),
    )
    origin = f"Origin: measured at the export of {name}."
    return [
        Facts(title="The shift monitor's reference", rows=rows, origin=origin),
        Table(title="What is usual, in spreads of single frames", head=("window", *parts), rows=windows),
        Table(title="What the camera looks like", head=("number", "mean", "spread"), rows=tuple(looks)),
    ]
