"""What was adapted to what, on which data, from which files, and what must not be expected of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from clst_export.card import MISSING, OF_THE_IMAGES, limits, made_of, what_it_is
from clst_export.report.document import (
    Block,
    Facts,
    Legend,
    Missing,
    Picture,
    Pictures,
    Points,
    Row,
    Table,
    Text,
    Tone,
)
from clst_export.report.evidence import Evidence, Read
from clst_export.report.measurement import jpeg
from clst_export.report.wording import NONE, again, coloured, export, percent, resume, with_labels, without_cure
from clst_runtime.data.inputs import place_name
from clst_runtime.errors import DataError
from clst_runtime.evaluation.resampling import FEWEST_STRETCHES
from clst_runtime.imaging.geometry import resize_frame
from clst_runtime.imaging.image_files import read_image
from clst_runtime.system.files.hashing import file_sha256
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


def adaptation(evidence: Evidence) -> Iterator[Block]:
    """What it is and what it was made of, by the facts of its model card."""
    model = evidence.model
    yield Facts(rows=tuple(what_it_is(model, model)), origin=f"Origin: {Path(model['path']).name} itself.")
    origin = "Origin: written into it by its training."
    yield Facts(title="Made of", rows=tuple(made_of(evidence.manifest)), origin=origin)
    yield Legend(classes=tuple(coloured(evidence).values()))
    if evidence.run is None:
        return
    if evidence.old is not None:
        yield _picture(
            evidence, evidence.run.examples / "before_after.png", "Before and after",
            "evenly spread images, not chosen by result", "Origin: the run's examples/before_after.png.",
        )  # fmt: skip
    yield _picture(
        evidence, evidence.run.path / "curves.png", "Curves of the training", "losses, and quality in %",
        "Origin: the run's log.jsonl. Agreement and confidence are about the network's own labels; they do not say how "
        "good it is.",
    )  # fmt: skip


def _picture(evidence: Evidence, path: Path, title: str, shows: str, origin: str) -> Block:
    """A picture of the run; a wider one than `WIDEST` columns as JPEG of that width."""
    if not path.exists():
        return Missing(what=f"The run has not drawn {path.name}", commands=resume(evidence))
    try:
        image = read_image(path)
    except DataError as error:
        return Missing(what=without_cure(error), commands=resume(evidence))
    rows, columns = image.shape[:2]
    narrow = columns <= WIDEST
    content = path.read_bytes() if narrow else jpeg(resize_frame(image, (round(rows * WIDEST / columns), WIDEST)))
    return Pictures(title=title, pictures=(Picture(shows, content),), origin=origin)


def data(evidence: Evidence) -> Iterator[Block]:
    """The images of the training, those that it is judged on, licences, and what the user says of them."""
    found, measured = evidence.comparison, evidence.measured
    yield Facts(rows=tuple(_images(evidence)), origin="Origin: of the training's images, as it recorded them.")
    if measured is not None and any(count for _, count in measured.in_training):
        text = "Some labelled images were part of the training: the scores below are of images that it knows."
        yield Text(text=text, tone=Tone.BAD)
    if found is None:
        yield Missing(what="No labelled image shows how good it is", commands=with_labels(evidence))
    else:
        yield from _labels(evidence, found)
    given = [each["manifest"]["provenance"].get("licence") for each in (evidence.model, *evidence.models)]
    named = ", ".join(dict.fromkeys(licence for licence in given if licence))
    yield Facts(title="Licences", rows=(("weights", named or "not given"), ("images", OF_THE_IMAGES)))
    if not named:
        yield Missing(what="The licence of the weights was not given", commands=export(evidence, "--licence TEXT"))
    yield from _notes(evidence)


def _images(evidence: Evidence) -> Iterator[tuple[str, str]]:
    known, found, measured = evidence.manifest["provenance"], evidence.comparison, evidence.measured
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
        unknown = "not known, as they are not here or were a video"
        yield f"of these, {what}", unknown if count is None else f"{count}, by their paths"
    for remark in measured.remarks:
        yield "classes of these labels", remark


def _labels(evidence: Evidence, found: Read) -> Iterator[Block]:
    """What the labels hold of each class, and of which too little."""
    classes, named = found["classes"], coloured(evidence)
    labelled = sum(one["pixels"] for one in classes.values()) or 1
    rows = tuple(
        (named.get(name, name), percent(one["pixels"] / labelled, 2), str(one["images"]))
        for name, one in classes.items()
    )
    yield Table(title="What the labels hold", head=("class", "pixels %", "images"), rows=rows)
    ends = found["new"].get("iou_interval", {})
    none = [name for name, one in classes.items() if not one["pixels"]]
    few = [name for name, one in classes.items() if one["pixels"] and ends.get(name) is None]
    gaps = (
        ("independent stretches", f"{found['stretches']} in {found['images']} images"),
        ("classes that no label has", ", ".join(none) or "none"),
        (f"classes in fewer than {FEWEST_STRETCHES} stretches", ", ".join(few) or "none"),
    )
    yield Facts(title="How much they can tell", rows=gaps)


def _notes(evidence: Evidence) -> Iterator[Block]:
    """The user's own words, as paragraphs: ends of lines as they are, no control characters."""
    if evidence.notes is None:
        what = "Where and when images were taken, who labelled them by which rules, and their licences were not given"
        yield Missing(what=what, commands=(again(evidence, "--notes TEXT.txt"),))
        return
    text = "".join(c for c in evidence.notes.values["text"].expandtabs() if c == "\n" or c.isprintable())
    parts = [part.strip("\n") for part in re.split(r"\n(?:[^\S\n]*\n)+", text.strip()) if part.strip()]
    title = f"Said by the user in {evidence.notes.path.name}, not checked"
    for part in parts or ["The file is empty."]:
        yield Text(title=title, text=part)
        title = ""


def traceability(evidence: Evidence) -> Iterator[Block]:
    """Every file with its hash, every version."""
    rows: list[Row] = []
    for what, path in evidence.sources:
        inside = evidence.run is not None and path.is_relative_to(evidence.place)
        name = path.relative_to(evidence.place).as_posix() if inside else path.name
        rows.append((what, name, _sha256(path), f"{path.stat().st_size:,}"))
    if evidence.measured is not None:
        rows.append(("labelled images", evidence.measured.data, evidence.measured.files_sha256, NONE))
    pretrained = evidence.manifest["provenance"].get("pretrained_sha256")
    if pretrained is not None:
        rows.append(("pretrained weights", "of the training", pretrained, NONE))
    origin = (
        "Of labelled images: over the hashes and names of all images and labels, in order. Of the training's images no "
        "hash was recorded. The hashes of this report are what clst-report printed."
    )
    yield Table(title="Files", head=("what", "name", "SHA-256", "bytes"), rows=tuple(rows), names=3, origin=origin)
    machine = machine_facts()
    made = [(Path(each["path"]).name, _versions(each["manifest"]["tool_versions"])) for each in evidence.models]
    here = _versions({"Python": machine["python"], **machine["packages"]})
    yield Facts(title="Versions", rows=(*made, ("this report", here)))


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{tool} {version}" for tool, version in versions.items()) or MISSING


def known_limits(evidence: Evidence) -> Iterator[Block]:
    """The limits of each file's card, and those of the evidence."""
    models = evidence.models or (evidence.model,)
    items = list(dict.fromkeys(sentence for each in models for sentence in limits(each["manifest"])))
    if evidence.comparison is not None:
        items += [
            "Scores and intervals hold for images like those judged on: their places, hours and weather, no others.",
            "Labels are taken for the truth; their own errors are in every score.",
        ]
    items.append("Whether this evidence is enough for a purpose or a standard is for its reader to say.")
    yield Points(items=tuple(items))
