"""What a report is made of: found in a run's folder and in files that were given, checked before anything is run."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clst_export.inspection import facts_of
from clst_runtime.backends.tensorrt.bundle.format import INDEX
from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import ClstError, DataError, ModelFileError
from clst_runtime.evaluation.acceptance.report import read_report
from clst_runtime.evaluation.change import Verdict
from clst_runtime.system.files.json_values import (
    any_text,
    check_fields,
    number,
    one_of,
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
    from clst_export.report.measurement import Measured
    from clst_train.config import Config


def _names(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{shown(value)}, expected a list of classes")
    return value


CHECKPOINT = "PyTorch checkpoint"
"""Kind of a model that is none of `facts_of`."""
Read = Mapping[str, Any]
"""What was read of a file, checked where it is used."""
_COUNT, _SHARE, _ENDS = whole(0, LARGEST_INTEGER), or_none(number()), or_none(several(2, number()))
_CHANGE = {"change_points": _SHARE, "interval_points": _ENDS}
_SCORES = {
    "miou": number(), "miou_interval?": _ENDS, "iou": {"*": _SHARE}, "iou_interval?": {"*": _ENDS},
    "backend": any_text, "model": any_text,
    "reliability?": {"ece": _SHARE, "bins": [{"confidence": number(), "right": number(), "pixels": number()}]},
}  # fmt: skip
ESTIMATE = {"verdict": one_of(*(each.value for each in Verdict)), "text": any_text}
"""What is read of `Estimate.to_json` …"""
COMPARISON = ESTIMATE | {
    "classes": {"*": _CHANGE | {"pixels": _COUNT, "images": _COUNT}}, "worse_classes?": _names,
    "miou": _CHANGE, "images": _COUNT, "stretches": _COUNT, "old": _SCORES, "new": _SCORES,
}  # fmt: skip
"""… and of `Change.to_json`."""
_LATENCY = {"date": any_text, "machine": {"cpu": any_text}, "frames": any_text,
            "results": [{"model": any_text, "backend": any_text}]}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Given:
    """A file of the user's and what it says."""

    path: Path
    values: Read


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a report tells."""

    place: Path
    """The run's folder or the model file, as given."""
    run: RunFolder | None = None
    config: Config | None = None
    """The run's."""
    path: Path
    """The model that the report is about; of a bundle its ONNX file."""
    model: Read
    """Its facts in the form of `facts_of`."""
    old: Path | None = None
    """The network before the adaptation; None where there was none, or it is not known."""
    files: tuple[Read, ...]
    """Facts of the files that were exported from it."""
    left_out: tuple[str, ...] = ()
    """Why files in the run's folder are not among them."""
    verdict: Read | None = None
    """`verdict.json` of the run."""
    estimate: Read | None = None
    """Its `estimate.json`, the same without labels."""
    damaged: tuple[DataError, ...] = ()
    """What is wrong with these two."""
    acceptances: tuple[Given, ...]
    latencies: tuple[Given, ...]
    notes: Given | None
    """The user's text about data, licences and use; `values` has it as `text`."""
    measured: Measured | None = None
    """What was measured for the report on labelled images; None = none were given."""

    @property
    def manifest(self) -> Read:
        found: Read = self.model["manifest"]
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
    def typed(self) -> str:
        """The place as it is typed in a command."""
        return shlex.quote(str(self.place))

    @property
    def models(self) -> tuple[Read, ...]:
        """Model files with their manifests: of bundles the files in them."""
        return tuple(inner for each in self.files for inner in inner_models(each))

    @property
    def comparison(self) -> Read | None:
        """Old and new network on labels: what was measured for the report, else what the run has measured."""
        return self.verdict if self.measured is None else self.measured.comparison

    @property
    def origin(self) -> str:
        """Where its numbers come from, and what their intervals are of."""
        found = self.comparison
        if found is None:
            return ""
        where = (
            f"measured for this report on {self.measured.data}"
            if self.measured
            else "verdict.json of the run, measured at its end"
        )
        return (
            f"Origin: {where}: {found['images']} images in {found['stretches']} independent stretches, by "
            f"{found['new']['backend']}. Intervals: 95 %, over resampled stretches; – where fewer than five have the "
            "class."
        )

    @property
    def sources(self) -> list[tuple[str, Path]]:
        """What the report rests on, file by file, with what each is."""
        run = self.run
        named: list[tuple[str, Path | None]] = [("network", self.path)]
        if run is not None:
            named = [("settings of the run", run.config), ("log of the run", run.path / "log.jsonl"),
                     ("old network", self.old), *named, ("verdict of the run", run.verdict),
                     ("verdict without labels", run.estimate)]  # fmt: skip
        named += [("exported file", path) for each in self.models if (path := Path(each["path"])) != self.path]
        named += [("device acceptance", each.path) for each in self.acceptances]
        named += [("latency", each.path) for each in self.latencies]
        named += [("text of the user", self.notes.path)] if self.notes else []
        return [(what, path) for what, path in named if path is not None and path.is_file()]


def inner_models(facts: Read) -> list[Read]:
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
    accepted = tuple(Given(path=path, values=read_report(path)) for path in acceptances)
    timed = tuple(Given(path=path, values=read_latency(path)) for path in latencies)
    said = None if notes is None else Given(path=notes, values={"text": read_text(notes)})
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
    found["files"] = (*found["files"], *_others(others, found))
    evidence = Evidence(place=place, acceptances=accepted, latencies=timed, notes=said, **found)
    for acceptance in accepted:
        _check_same_network(acceptance, [accepted_checkpoint(acceptance.values)], evidence)
    for latency in timed:
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
    files, left_out = [], []
    for path in sorted(result.parent.iterdir()):
        if path.suffix.lower() not in (".onnx", ".engine") and not (path / INDEX).is_file():
            continue
        try:
            facts = facts_of(path)
        except ClstError as error:
            left_out.append(error.message)
            continue
        if checkpoint_sha256(facts) == found["model"]["sha256"]:
            files.append(facts)
    return found | _verdicts(folder) | {
        "run": folder, "config": config, "old": folder.source if adapts else None, "files": files,
        "left_out": tuple(left_out),
    }  # fmt: skip


def _verdicts(folder: RunFolder) -> dict[str, Any]:
    from clst_train.inspection.verdict import read_verdict

    found: dict[str, Any] = {}
    damaged = []
    for name, path, wanted in (("verdict", folder.verdict, COMPARISON), ("estimate", folder.estimate, ESTIMATE)):
        try:
            found[name] = read_verdict(path, wanted)
        except DataError as error:
            damaged.append(error)
    return found | {"damaged": tuple(damaged)}


def _of_checkpoint(path: Path) -> dict[str, Any]:
    from clst_runtime.backends import check_model_file

    check_model_file(path)
    from clst_train.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    manifest = dataclasses.replace(checkpoint.manifest(), tool_versions={})
    model = {"kind": CHECKPOINT, "path": str(path), "sha256": checkpoint.sha256, "bytes": path.stat().st_size,
             "manifest": json.loads(manifest.to_json())}  # fmt: skip
    return {"path": path, "model": model, "files": []}


def _others(places: Sequence[Path], found: Read) -> list[Read]:
    """Facts of further model files, which have to come from the same checkpoint.

    Raises:
        ModelFileError: one does not, or is none.
    """
    known = {Path(facts["path"]).resolve() for facts in found["files"]}
    own = _checkpoint_of(found["model"])
    facts: list[Read] = []
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


def _checkpoint_of(model: Read) -> str:
    return str(model["sha256"] if model["kind"] == CHECKPOINT else model["manifest"]["source_checkpoint_sha256"])


def checkpoint_sha256(facts: Read) -> str:
    """Of the checkpoint that a file or bundle was exported from."""
    return _checkpoint_of(inner_models(facts)[0])


def _check_same_network(given: Given, checkpoints: Sequence[Any], evidence: Evidence) -> None:
    """Refuse by DataError a file that is about other networks alone; what names none is taken."""
    own = evidence.checkpoint_sha256
    if checkpoints and all(isinstance(each, str) and each != own for each in checkpoints):
        raise DataError(
            f"{given.path} is about another network (checkpoint SHA-256 {checkpoints[0][:12]}…) than "
            f"{evidence.place} ({own[:12]}…); give one of a file that was exported from it"
        )


def step_of(values: Read, name: str) -> Read:
    """What a step of an acceptance has measured; empty where it has none of that name."""
    found: Read = next((step["values"] for step in values["steps"] if step["name"] == name), {})
    return found


def accepted_checkpoint(values: Read) -> str | None:
    """SHA-256 of the checkpoint of the model that was accepted; None where its manifest was not read."""
    manifest = step_of(values, "file").get("manifest")
    found = manifest.get("checkpoint_sha256") if isinstance(manifest, dict) else None
    return found if isinstance(found, str) else None


def read_latency(path: Path) -> Read:
    """The result of `clst-bench --out`.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        return check_fields(read_json_object(path), _LATENCY)
    except ValueError as error:
        raise DataError(f"{path} is no result of clst-bench ({error}); give what its --out wrote") from error
