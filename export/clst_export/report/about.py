"""What was adapted to what, on which data, from which files, and what must not be expected of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from clst_export.card import MISSING, OF_THE_IMAGES, limits, made_of, what_it_is
from clst_export.report.document import (
    Block,
    Cell,
    Facts,
    Legend,
    Missing,
    Picture,
    Pictures,
    Points,
    Section,
    Table,
    Text,
    Tone,
)
from clst_export.report.evidence import Evidence, hashes, plain
from clst_export.report.measurement import Measured, jpeg
from clst_export.report.performance import Comparison, comparison_of, origin_of
from clst_export.report.wording import NONE, again, export, percent, swatches, with_labels
from clst_runtime.data.inputs import place_name
from clst_runtime.evaluation.resampling import FEWEST_STRETCHES
from clst_runtime.imaging.geometry import resize_frame
from clst_runtime.imaging.image_files import png_layout, read_image
from clst_runtime.system.machine import machine_facts

WIDEST = 1400
"""Columns of the run's picture of examples in the report."""


def subject(evidence: Evidence) -> str:
    """What the report is about, in a sentence."""
    manifest, known = evidence.manifest, evidence.manifest["provenance"]
    text = f"{manifest['network']} segments road images into {len(manifest['classes']['names'])} classes"
    if not evidence.adapted:
        return f"{text}; it was not adapted to a new camera."
    source, target = known.get("source", "images not recorded"), known.get("target", "images not recorded")
    return f"{text}, adapted from {source} (labelled) to {target} (unlabelled)."


def adaptation_section(evidence: Evidence) -> Section:
    """What it is and what it was made of, by the facts of its model card."""
    model = evidence.model
    blocks: list[Block] = [
        Facts(rows=tuple(what_it_is(model, model)), origin=f"Origin: {Path(model['path']).name} itself."),
        Facts(
            title="Made of", rows=tuple(made_of(evidence.manifest)), origin="Origin: written into it by its training."
        ),
        Legend(classes=tuple(swatches(evidence.manifest).values())),
    ]
    if evidence.run is not None:
        blocks += _of_run(evidence, evidence.run.examples / "before_after.png", evidence.run.path / "curves.png")
    return Section(
        key="adaptation", title="What was adapted to what", topic="data", blocks=tuple(blocks),
        question="Which network is it, and of what was it made?",
    )  # fmt: skip


def _of_run(evidence: Evidence, examples: Path, curves: Path) -> list[Block]:
    blocks: list[Block] = []
    resume = f"clst-train --resume {evidence.typed}"
    if examples.is_file():
        picture = Picture(title="evenly spread images, not chosen by result", kind="jpeg", content=_narrowed(examples))
        origin = "Origin: the run's examples/before_after.png."
        blocks.append(Pictures(title="Before and after", pictures=(picture,), origin=origin))
    elif evidence.old is not None:
        blocks.append(Missing(what="The run has not drawn what both networks see", commands=(resume,)))
    if curves.is_file() and png_layout(curves) is not None:
        picture = Picture(title="losses, and quality in %", kind="png", content=curves.read_bytes())
        origin = (
            "Origin: the run's log.jsonl. Agreement and confidence are about the network's own labels; they do not say "
            "how good it is."
        )
        blocks.append(Pictures(title="Curves of the training", pictures=(picture,), origin=origin))
    else:
        blocks.append(Missing(what="The run has not drawn its curves", commands=(resume,)))
    return blocks


def _narrowed(path: Path) -> bytes:
    """An image as JPEG, at most `WIDEST` columns wide."""
    image = read_image(path)
    rows, columns = image.shape[:2]
    return jpeg(resize_frame(image, (round(rows * WIDEST / columns), WIDEST)) if columns > WIDEST else image)


def data_section(evidence: Evidence, measured: Measured | None) -> Section:
    """The images of the training, those that it is judged on, licences, and what the user says of them."""
    found = comparison_of(evidence, measured)
    blocks: list[Block] = [Facts(rows=tuple(_images(evidence, measured)))]
    if measured is not None and any(count for _, count in measured.in_training):
        text = "Some labelled images were part of the training: the scores below are of images that it knows."
        blocks.append(Text(text=text, tone=Tone.BAD))
    if found is None:
        blocks.append(Missing(what="No labelled image shows how good it is", commands=with_labels(evidence)))
    else:
        blocks += _labels(evidence, found)
    blocks += [*_licences(evidence), *_notes(evidence)]
    return Section(
        key="data", title="Data", topic="data", blocks=tuple(blocks),
        question="On which images does it rest, what do they show, and what do they not?",
        origin=f"Images of the training: as it recorded them. {origin_of(evidence, measured)}".strip(),
    )  # fmt: skip


def _images(evidence: Evidence, measured: Measured | None) -> Iterator[tuple[str, str]]:
    known, found = evidence.manifest["provenance"], comparison_of(evidence, measured)
    yield "labelled images of the old camera", known.get("source", MISSING)
    yield "unlabelled images of the new camera", known.get("target", MISSING if evidence.adapted else "none")
    if evidence.config is not None:
        mask = evidence.config.data.ignore_mask
        yield "pixels never learned from", f"mask {place_name(mask)}" if mask else "none, no ignore mask was given"
    if measured is None:
        yield "labelled images judged on", MISSING if found is None else f"{found['images']} images"
        return
    yield "labelled images judged on", f"{len(measured.names)} images of {measured.data}"
    for what, count in measured.in_training:
        yield f"of these, {what}", _count_text(count)
    for remark in measured.remarks:
        yield "classes of these labels", remark


def _count_text(count: int | None) -> str:
    return "not known, as they are not here or were a video" if count is None else f"{count}, by their paths"


def _labels(evidence: Evidence, found: Comparison) -> list[Block]:
    """What the labels hold of each class, and of which too little."""
    classes, named = found["classes"], swatches(evidence.manifest)
    labelled = sum(one["pixels"] for one in classes.values()) or 1
    rows: list[tuple[Cell, ...]] = [
        (named.get(name, name), percent(one["pixels"] / labelled, 2), str(one["images"]))
        for name, one in classes.items()
    ]
    ends = found["new"].get("iou_interval", {})
    none = [name for name, one in classes.items() if not one["pixels"]]
    few = [name for name, one in classes.items() if one["pixels"] and ends.get(name) is None]
    gaps = (
        ("independent stretches", f"{found['stretches']} in {found['images']} images"),
        ("classes that no label has", ", ".join(none) or "none"),
        (f"classes in fewer than {FEWEST_STRETCHES} stretches", ", ".join(few) or "none"),
    )
    return [
        Table(title="What the labels hold", head=("class", "pixels %", "images"), rows=tuple(rows)),
        Facts(title="How much they can tell", rows=gaps),
    ]


def _licences(evidence: Evidence) -> list[Block]:
    given = [each["manifest"]["provenance"].get("licence") for each in (evidence.model, *evidence.models)]
    named = list(dict.fromkeys(licence for licence in given if licence))
    blocks: list[Block] = [
        Facts(title="Licences", rows=(("weights", ", ".join(named) or "not given"), ("images", OF_THE_IMAGES)))
    ]
    if not named:
        what = "The licence of the weights was not given"
        blocks.append(Missing(what=what, commands=export(evidence, "--licence TEXT")))
    return blocks


def _notes(evidence: Evidence) -> list[Block]:
    """The user's own words."""
    if evidence.notes is None:
        what = "Where and when images were taken, who labelled them by which rules, and their licences were not given"
        return [Missing(what=what, commands=(again(evidence, "--notes TEXT.txt"),))]
    first, *rest = [
        part.strip("\n") for part in plain(evidence.notes.values["text"]).split("\n\n") if part.strip()
    ] or [""]
    title = f"Said by the user in {evidence.notes.path.name}, not checked"
    return [Text(title=title, text=first or "The file is empty."), *(Text(text=part) for part in rest)]


def traceability_section(evidence: Evidence, measured: Measured | None) -> Section:
    """Every file with its hash, every version."""
    rows: list[tuple[Cell, ...]] = [(what, name, sha256, f"{size:,}") for what, name, sha256, size in hashes(evidence)]
    if measured is not None:
        rows.append(("labelled images", measured.data, measured.files_sha256, NONE))
    pretrained = evidence.manifest["provenance"].get("pretrained_sha256")
    if pretrained is not None:
        rows.append(("pretrained weights", "of the training", pretrained, NONE))
    made = [(Path(each["path"]).name, _versions(each["manifest"]["tool_versions"])) for each in evidence.models]
    machine = machine_facts()
    here = _versions({"Python": machine["python"], **machine["packages"]})
    origin = (
        "Of labelled images: over the hashes and names of all images and labels, in order. Of the training's images no "
        "hash was recorded. The hashes of this report are what clst-report printed."
    )
    return Section(
        key="traceability", title="Traceability", topic="traceability",
        question="Exactly which files and versions does this report speak of?",
        blocks=(
            Table(title="Files", head=("what", "name", "SHA-256", "bytes"), rows=tuple(rows), names=3, origin=origin),
            Facts(title="Versions", rows=(*made, ("this report", here))),
        ),
    )  # fmt: skip


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{tool} {version}" for tool, version in versions.items()) or MISSING


def limits_section(evidence: Evidence, measured: Measured | None) -> Section:
    """The limits of each file's card, and those of the evidence."""
    models = evidence.models or (evidence.model,)
    items = list(dict.fromkeys(sentence for each in models for sentence in limits(each["manifest"])))
    if comparison_of(evidence, measured) is not None:
        items += [
            "Scores and intervals hold for images like those judged on: their places, hours and weather, no others.",
            "Labels are taken for the truth; their own errors are in every score.",
        ]
    items.append("Whether this evidence is enough for a purpose or a standard is for its reader to say.")
    return Section(
        key="limits", title="Known limits", topic="robustness", blocks=(Points(items=tuple(items)),),
        question="What must not be concluded from this report?",
    )  # fmt: skip
