"""How a run ends: the old network and the adapted one on images of the new camera, and what to do next."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clst_runtime.backends.base import Backend
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.errors import BudgetNotHeld, DataError
from clst_runtime.evaluation.change import Bounds, Models, Verdict, check_labels, measure_change
from clst_runtime.evaluation.unlabelled import MOST_IMAGES, Estimate, NoEstimate, estimate_change, labelled_pixels
from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.files.json_values import any_text, check_fields, number, parse_object, read_text
from clst_train.engine.run import Run, needed
from clst_train.engine.run_folder import RunFolder, open_run
from clst_train.models.checkpoint_backend import open_checkpoint

_log = logging.getLogger(__name__)
FIELDS = {"verdict": any_text, "text": any_text, "miou": {"change_points": number()}}
"""What every command reads of a verdict."""


def judge(run: Run) -> None:
    """Compare source.pt and adapted.pt, each as it is deployed; report it.

    On images without labels as `clst-verdict` does, to `estimate.json`; on labels, where there are some, as `clst-eval`
    does, to `verdict.json`. Images or labels that are too few leave no verdict, and a warning says why.

    Raises:
        DataError: an image or a label is unreadable.
    """
    folder = run.folder
    for file in (folder.estimate, folder.verdict):
        file.unlink(missing_ok=True)  # of other images
    paths = (folder.source, folder.adapted)
    with open_checkpoint(paths[0], device=run.device) as old, open_checkpoint(paths[1], device=run.device) as new:
        models = ((paths[0], old), (paths[1], new))
        _estimate(run, models)
        if run.validation is not None:
            _compare(run, run.validation, models)
    if is_worse(folder) and not run.config.run.gate:
        _log.warning(f"warning: the adapted network is worse than the old one, which is {folder.source}")


def estimate(run: Run, old: Backend, new: Backend) -> Estimate:
    """By how much a network is better than an old one on the run's target images, without labels.

    Raises:
        NoEstimate: images or labels show too little. DataError: one is unreadable.
    """
    target = needed(run.target)
    places = evenly_spread(len(target), MOST_IMAGES, centred=True)
    return estimate_change(old, new, [target.shown(place) for place in places], labelled_pixels(run.source))


def _estimate(run: Run, models: Models) -> None:
    (_, old), (_, new) = models
    try:
        found = estimate(run, old, new)
    except NoEstimate as error:
        _log.warning(f"warning: no estimate without labels: {error.message}")
        return
    write_text(run.folder.estimate, json.dumps(found.to_json(models), indent=1) + "\n")
    _log.info(found.report(models) if run.validation is None else f"without labels: {found.text()}")


def _compare(run: Run, validation: LabelledDataset, models: Models) -> None:
    try:
        check_labels(validation)
    except DataError as error:
        _log.warning(f"warning: no verdict: {error.message}")
        return
    change = measure_change(models[0][1], models[1][1], validation)
    values = change.to_json(models, change.failures(Bounds()))
    write_text(run.folder.verdict, json.dumps(values, indent=1) + "\n")
    _log.info(change.report(models))


def verdict_of(folder: RunFolder) -> dict[str, Any] | None:
    """What `judge` wrote of labels, as `clst-eval --json` prints it; None = the run has no such verdict."""
    return read_verdict(folder.verdict, FIELDS)


def estimate_of(folder: RunFolder) -> dict[str, Any] | None:
    """What `judge` wrote of images without labels, as `clst-verdict --json` prints it; None = it could not tell."""
    return read_verdict(folder.estimate, FIELDS)


def read_verdict(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """A run's verdict; None = there is none.

    Args:
        path: the file.
        wanted: what is read of it, for `check_fields`.

    Raises:
        DataError: it is damaged in that.
    """
    if not path.is_file():
        return None
    try:
        return check_fields(parse_object(read_text(path)), wanted)
    except ValueError as error:
        resume = f"clst-train --resume {shlex.quote(str(path.parent))}"
        raise DataError(f"{path} is damaged ({error}); make it again with {resume}") from error


def _judged(folder: RunFolder) -> dict[str, Any]:
    """By labels where there are some, else without; empty where neither is known."""
    return verdict_of(folder) or estimate_of(folder) or {}


def is_worse(folder: RunFolder) -> bool:
    return _judged(folder).get("verdict") == Verdict.WORSE.value


def warning_of(folder: RunFolder) -> str:
    """What has to stand beside a picture that makes a run look good: the verdict `worse`; empty where it is another."""
    if not is_worse(folder):
        return ""
    how = "on labelled images" if verdict_of(folder) else "by an estimate without labels"
    points = _judged(folder)["miou"]["change_points"]
    return f"{how} the adapted network is worse, by {-points:.2f} points of mIoU, whatever this shows"


def check_gate(folder: RunFolder) -> RunFolder:
    """A finished run's folder, unless its verdict ends it with an error.

    Raises:
        BudgetNotHeld: the adapted network is worse, and the run was started with `run.gate`.
    """
    if is_worse(folder) and open_run(folder.path)[1].run.gate:
        raise BudgetNotHeld(f"{_judged(folder)['text']}; the old network is {folder.source}")
    return folder


def next_steps(folder: RunFolder) -> list[str]:
    """What to type after a finished run, by its verdict; at most two lines."""
    if not folder.adapted.is_file():
        return []
    run, old, found = shlex.quote(str(folder.path)), shlex.quote(str(folder.source)), _judged(folder).get("verdict")
    places = shlex.join(open_run(folder.path)[1].data.target)
    pick = f"clst-data pick {places} --model {old} --model {run} --out FEW"
    first = {
        Verdict.WORSE.value: f"next: do not export it; {folder.examples}/before_after.png and {folder.path}/curves.png "
        "show more",
        Verdict.BETTER.value: f"next: clst-export {run} --onnx",
    }.get(found or "")
    if first is None:
        return [f"next, frames to label: {pick}", f"then, with their labels: clst-eval {old} {run} --data FEW"]
    if not verdict_of(folder):
        return [first, f"to be surer, label a few frames: {pick}"]
    better = found == Verdict.BETTER.value
    return [first, *[f"then, all evidence in one file: clst-report {run}"] * better]
