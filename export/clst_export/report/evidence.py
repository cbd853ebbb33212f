"""What a report is made of: found in a run's folder and in files that were given, checked before anything is run."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clst_export.inspection import facts_of
from clst_export.precision import Precision
from clst_runtime.backends.tensorrt.bundle.format import INDEX
from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import ClstError, DataError, ModelFileError
from clst_runtime.evaluation.acceptance.report import read_report
from clst_runtime.evaluation.change import Verdict
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.json_values import (
    any_text,
    field,
    mapping,
    number,
    objects,
    one_of,
    optional,
    or_none,
    read_json_object,
    read_text,
    several,
    shown,
    whole,
)
from clst_runtime.system.numbers import LARGEST_INTEGER
from clst_train.engine.run_folder import RunFolder, open_run

if TYPE_CHECKING:
    from clst_train.config import Config

CHECKPOINT = "PyTorch checkpoint"
"""Kind of a model that is none of `facts_of`."""
Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Given:
    """A file of the user's and what it says."""

    path: Path
    values: Values


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything but what is measured for the report."""

    place: Path
    """The run's folder or the model file, as given."""
    run: RunFolder | None
    config: Config | None
    """The run's."""
    path: Path
    """The model that the report is about; of a bundle its ONNX file."""
    model: Values
    """Its facts in the form of `facts_of`."""
    old: Path | None
    """The network before the adaptation; None where there was none, or it is not known."""
    files: tuple[Values, ...]
    """Facts of the files that were exported from it, by precision."""
    left_out: tuple[str, ...]
    """Why files in the run's folder are not among them."""
    comparison: Values | None
    """`verdict.json` of the run."""
    estimate: Values | None
    """Its `estimate.json`, the same without labels."""
    acceptances: tuple[Given, ...]
    latencies: tuple[Given, ...]
    notes: Given | None
    """The user's text about data, licences and use; `values` has it as `text`."""

    @property
    def manifest(self) -> Values:
        found: Values = self.model["manifest"]
        return found

    @property
    def classes(self) -> ClassList:
        return ClassList.from_json(self.manifest["classes"], name=self.path.stem)

    @property
    def checkpoint_sha256(self) -> str:
        """Of the checkpoint that it is, or was exported from."""
        return _checkpoint_of(self.model)

    @property
    def adapted(self) -> bool:
        return "adaptation" in self.manifest["provenance"]

    @property
    def name(self) -> str:
        """Of the run or file, without the folders above."""
        return self.place.absolute().name

    @property
    def typed(self) -> str:
        """The place as it is typed in a command."""
        return shlex.quote(str(self.place))

    @property
    def models(self) -> tuple[Values, ...]:
        """Model files with their manifests: of bundles the files in them."""
        return tuple(inner for each in self.files for inner in inner_models(each))

    @property
    def inputs(self) -> list[Path]:
        """Files that were read and are not the run's own."""
        given = [*self.acceptances, *self.latencies, *([self.notes] if self.notes else [])]
        return [each.path for each in given]


def inner_models(facts: Values) -> list[Values]:
    """A file's facts, or of a bundle those of its models."""
    if facts["kind"] != "bundle":
        return [facts]
    return [each for each in (facts["model"], facts["baseline"]) if each is not None]


def gather(
    places: Sequence[Path], acceptances: Sequence[Path], latencies: Sequence[Path], notes: Path | None
) -> Evidence:
    """Read and check all of it.

    Args:
        places: a run's folder or a model file, then files that were exported from it.
        acceptances: reports of `clst-doctor --verify`.
        latencies: results of `clst-bench --out`.
        notes: a text.

    Raises:
        ModelFileError: no such run or model, an unfinished run, a model without a manifest or of another checkpoint.
        ConfigError: a damaged run. DataError: another file is not what it should be.
    """
    place, *others = places
    given = {
        "acceptances": tuple(Given(path=path, values=read_report(path)) for path in acceptances),
        "latencies": tuple(Given(path=path, values=read_latency(path)) for path in latencies),
        "notes": None if notes is None else Given(path=notes, values={"text": read_text(notes)}),
    }
    if not place.exists():
        raise ModelFileError(f"{place}: no such run or model file")
    if place.is_dir() and not (place / INDEX).is_file():
        found = _of_run(place)
    elif place.suffix.lower() == ".pt":
        found = _of_checkpoint(place)
    else:
        facts = facts_of(place)
        model = inner_models(facts)[0]
        found = {"path": Path(model["path"]), "model": model, "files": [facts]}
    files = [*found["files"], *_others(others, found)]
    nothing = {"run": None, "config": None, "old": None, "left_out": (), "comparison": None, "estimate": None}
    evidence = Evidence(**nothing | {"place": place} | given | found | {"files": _sorted(files)})
    for acceptance in evidence.acceptances:
        _check_same_network(acceptance, [accepted_checkpoint(acceptance.values)], evidence)
    for latency in evidence.latencies:
        _check_same_network(latency, [each.get("checkpoint_sha256") for each in latency.values["results"]], evidence)
    return evidence


def _of_run(place: Path) -> dict[str, Any]:
    folder, config = open_run(place)
    adapts = bool(config.data.target)
    result = folder.adapted if adapts else folder.source
    if not result.is_file():
        raise ModelFileError(
            f"{place} is not finished, it has no checkpoints/{result.name}; "
            f"go on with it: clst-train --resume {shlex.quote(str(place))}"
        )
    found = _of_checkpoint(result)
    sha256, files, left_out = found["model"]["sha256"], [], []
    beside = [path for path in sorted(result.parent.iterdir()) if _is_model(path)]
    for path in beside:
        try:
            facts = facts_of(path)
        except ClstError as error:
            left_out.append(error.message)
            continue
        if checkpoint_sha256(facts) == sha256:
            files.append(facts)
    return found | {
        "run": folder, "config": config, "old": folder.source if adapts else None, "files": files,
        "left_out": tuple(left_out),
        "comparison": read_verdict(folder.verdict, check_comparison) if folder.verdict.is_file() else None,
        "estimate": read_verdict(folder.estimate, _check_changes) if folder.estimate.is_file() else None,
    }  # fmt: skip


def _is_model(path: Path) -> bool:
    """Whether it is named as what an export leaves."""
    return path.suffix.lower() in (".onnx", ".engine") or (path / INDEX).is_file()


def _of_checkpoint(path: Path) -> dict[str, Any]:
    from clst_runtime.backends import check_model_file

    check_model_file(path)
    from clst_train.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    manifest = dataclasses.replace(checkpoint.manifest(), tool_versions={})
    model = {"kind": CHECKPOINT, "path": str(path), "sha256": checkpoint.sha256, "bytes": path.stat().st_size,
             "manifest": json.loads(manifest.to_json())}  # fmt: skip
    return {"path": path, "model": model, "files": []}


def _others(places: Sequence[Path], found: Values) -> list[Values]:
    """Facts of further model files, which have to come from the same checkpoint.

    Raises:
        ModelFileError: one does not, or is none.
    """
    known = {Path(facts["path"]).resolve() for facts in found["files"]}
    own = _checkpoint_of(found["model"])
    facts: list[Values] = []
    for place in places:
        one = facts_of(place)
        if (other := checkpoint_sha256(one)) != own:
            raise ModelFileError(
                f"{place} was exported from another checkpoint (SHA-256 {other[:12]}…) than that of "
                f"{found['path']} ({own[:12]}…); give files that were exported from it"
            )
        if place.resolve() not in known:
            facts.append(one)
    return facts


def _checkpoint_of(model: Values) -> str:
    return str(model["sha256"] if model["kind"] == CHECKPOINT else model["manifest"]["source_checkpoint_sha256"])


def checkpoint_sha256(facts: Values) -> str:
    """Of the checkpoint that a file or bundle was exported from."""
    return _checkpoint_of(inner_models(facts)[0])


def _sorted(files: Sequence[Values]) -> tuple[Values, ...]:
    order = [each.value for each in Precision]

    def key(facts: Values) -> tuple[int, str]:
        precision = inner_models(facts)[0]["manifest"]["precision"]
        return (order.index(precision) if precision in order else len(order), str(facts["path"]))

    return tuple(sorted(files, key=key))


def _check_same_network(given: Given, checkpoints: Sequence[Any], evidence: Evidence) -> None:
    """Refuse by DataError a file that is about other networks alone; what names none is taken."""
    own = evidence.checkpoint_sha256
    if checkpoints and all(isinstance(each, str) and each != own for each in checkpoints):
        raise DataError(
            f"{given.path} is about another network (checkpoint SHA-256 {checkpoints[0][:12]}…) than "
            f"{evidence.place} ({own[:12]}…); give one of a file that was exported from it"
        )


def step_of(values: Values, name: str) -> Values:
    """A step of an acceptance; empty where it has none of that name."""
    found: Values = next((step for step in values["steps"] if step["name"] == name), {})
    return found


def accepted_checkpoint(values: Values) -> str | None:
    """SHA-256 of the checkpoint of the model that was accepted; None where its manifest was not read."""
    manifest = step_of(values, "file").get("values", {}).get("manifest")
    found = manifest.get("checkpoint_sha256") if isinstance(manifest, dict) else None
    return found if isinstance(found, str) else None


def read_latency(path: Path) -> Values:
    """The result of `clst-bench --out`.

    Raises:
        DataError: it cannot be read, or is none.
    """
    values = read_json_object(path)
    try:
        field(values, "date", any_text)
        field(field(values, "machine", mapping), "cpu", any_text)
        field(values, "frames", any_text)
        for entry in field(values, "results", objects):
            field(entry, "model", any_text)
            field(entry, "backend", any_text)
    except ValueError as error:
        raise DataError(f"{path} is no result of clst-bench ({error}); give what its --out wrote") from error
    return values


def read_verdict(path: Path, check: Callable[[Values], object]) -> Values:
    """A run's `verdict.json` or `estimate.json`.

    Raises:
        DataError: it is damaged.
    """
    values = read_json_object(path)
    try:
        check(values)
    except ValueError as error:
        resume = f"clst-train --resume {shlex.quote(str(path.parent))}"
        raise DataError(f"{path} is damaged ({error}); remove it and run {resume}") from error
    return values


def _check_changes(values: Values) -> dict[str, Any]:
    """A verdict, and the changes of each class, which are returned."""
    ends = or_none(several(2, number()))
    field(values, "verdict", one_of(*(each.value for each in Verdict)))
    field(values, "text", any_text)
    field(values, "images", whole(0, LARGEST_INTEGER))
    of_classes = field(values, "classes", mapping)
    for name in of_classes:
        one = field(of_classes, name, mapping)
        field(one, "change_points", or_none(number()))
        field(one, "interval_points", ends)
    field(field(values, "miou", mapping), "interval_points", ends)
    field(values["miou"], "change_points", number())
    return of_classes


def check_comparison(values: Values) -> None:
    """Raises: ValueError: it is not of the form of `Change.to_json`."""
    of_classes = _check_changes(values)
    field(values, "stretches", whole(0, LARGEST_INTEGER))
    lost = values.get("worse_classes", [])
    if not isinstance(lost, list) or not all(name in list(of_classes) for name in lost):
        raise ValueError(f"worse_classes is {shown(lost)}, expected a list of its classes")
    for one in of_classes.values():
        for count in ("pixels", "images"):
            field(one, count, whole(0, LARGEST_INTEGER))
    for which in ("old", "new"):
        _check_scores(field(values, which, mapping), of_classes)


def _check_scores(one: Values, of_classes: Values) -> None:
    """Of one network."""
    field(one, "miou", number())
    field(one, "backend", any_text)
    field(one, "model", any_text)
    reliability = optional(one, "reliability", mapping)
    if reliability is not None:
        field(reliability, "ece", or_none(number()))
        for each in field(reliability, "bins", objects):
            for name in ("confidence", "right", "pixels"):
                field(each, name, number())
    found = field(one, "iou", mapping)
    for name in of_classes:
        field(found, name, or_none(number()))
    ends = or_none(several(2, number()))
    optional(one, "miou_interval", ends)
    intervals = optional(one, "iou_interval", mapping) or {}
    for name in intervals:
        field(intervals, name, ends)


def sources_of(evidence: Evidence) -> list[tuple[str, Path]]:
    """What the report rests on, file by file, with what each is."""
    found: list[tuple[str, Path]] = []
    if evidence.run is not None:
        run = evidence.run
        named = {"settings of the run": run.config, "log of the run": run.path / "log.jsonl",
                 "old network": evidence.old, "network": evidence.path, "verdict of the run": run.verdict,
                 "verdict without labels": run.estimate}  # fmt: skip
        found += [(what, path) for what, path in named.items() if path is not None and path.is_file()]
    elif evidence.path.is_file():
        found.append(("network", evidence.path))
    found += [("exported file", Path(each["path"])) for each in evidence.models if Path(each["path"]) != evidence.path]
    found += [("device acceptance", each.path) for each in evidence.acceptances]
    found += [("latency", each.path) for each in evidence.latencies]
    return found + ([("text of the user", evidence.notes.path)] if evidence.notes else [])


def hashes(evidence: Evidence) -> list[tuple[str, str, str, int]]:
    """What it is, name, SHA-256 and bytes of each of `sources_of`; of the run's files the name below its folder."""
    top = evidence.place if evidence.run is not None else None
    rows = []
    for what, path in sources_of(evidence):
        inside = top is not None and path.is_relative_to(top)
        name = path.relative_to(top).as_posix() if inside and top is not None else path.name
        rows.append((what, name, file_sha256(path), path.stat().st_size))
    return rows


def plain(text: str) -> str:
    """A text of a file as paragraphs: ends of lines as they are, no control characters."""
    return re.sub(
        r"[^\S\n]+$", "", "".join(c for c in text.expandtabs() if c == "\n" or c.isprintable()), flags=re.MULTILINE
    ).strip()
