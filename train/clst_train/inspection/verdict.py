"""How a run ends: the old network and the adapted one on labelled images of the new camera, and what to do next."""

from __future__ import annotations

import json
import logging
import shlex
from typing import Any

from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.errors import BudgetNotHeld, DataError
from clst_runtime.evaluation.change import Bounds, Verdict, check_labels, measure_change
from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.files.json_values import read_json_object
from clst_train.engine.run import Run
from clst_train.engine.run_folder import RunFolder, open_run
from clst_train.models.checkpoint_backend import open_checkpoint

_log = logging.getLogger(__name__)


def judge(run: Run, validation: LabelledDataset) -> None:
    """Compare source.pt and adapted.pt as `clst-eval` does, each as it is deployed; report it, write `verdict.json`.

    Labels that are too few for it leave no verdict, and a warning says why.

    Raises:
        DataError: an image or a label is unreadable.
    """
    folder = run.folder
    folder.verdict.unlink(missing_ok=True)  # of other labels
    try:
        check_labels(validation)
    except DataError as error:
        _log.warning(f"warning: no verdict: {error.message}")
        return
    paths = (folder.source, folder.adapted)
    with open_checkpoint(paths[0], device=run.device) as old, open_checkpoint(paths[1], device=run.device) as new:
        change, models = measure_change(old, new, validation), ((paths[0], old), (paths[1], new))
    values = change.to_json(models, change.failures(Bounds()))
    write_text(folder.verdict, json.dumps(values, indent=1) + "\n")
    _log.info(change.report(models))
    if change.verdict is Verdict.WORSE and not run.config.run.gate:
        _log.warning(f"warning: the adapted network is worse than the old one, which is {folder.source}")


def verdict_of(folder: RunFolder) -> dict[str, Any] | None:
    """What `judge` wrote, as `clst-eval --json` prints it; None = the run has no verdict."""
    return read_json_object(folder.verdict) if folder.verdict.is_file() else None


def warning_of(folder: RunFolder) -> str:
    """What has to stand beside a picture that makes a run look good: the verdict `worse`; empty where it is another."""
    found = verdict_of(folder)
    if found is None or found["verdict"] != Verdict.WORSE.value:
        return ""
    points = found["miou"]["change_points"]
    return f"on labelled images the adapted network is worse, by {-points:.2f} points of mIoU, whatever this shows"


def check_gate(folder: RunFolder) -> RunFolder:
    """A finished run's folder, unless its verdict ends it with an error.

    Raises:
        BudgetNotHeld: the adapted network is worse, and the run was started with `run.gate`.
    """
    found = verdict_of(folder)
    if found is not None and found["verdict"] == Verdict.WORSE.value and open_run(folder.path)[1].run.gate:
        raise BudgetNotHeld(f"{found['text']}; the old network is {folder.source}")
    return folder


def next_steps(folder: RunFolder) -> list[str]:
    """What to type after a finished run, by its verdict; at most two lines."""
    if not folder.adapted.is_file():
        return []
    run, old = shlex.quote(str(folder.path)), shlex.quote(str(folder.source))
    found = verdict_of(folder)
    if found is not None and found["verdict"] == Verdict.WORSE.value:
        return [f"next: do not export it; {folder.examples}/before_after.png and {folder.path}/curves.png show more"]
    if found is not None and found["verdict"] == Verdict.BETTER.value:
        return [f"next: clst-export {run} --onnx", f"then, all evidence in one file: clst-report {run}"]
    places = shlex.join(open_run(folder.path)[1].data.target)
    return [
        f"next, frames to label: clst-data pick {places} --model {old} --model {run} --out FEW",
        f"then, with their labels: clst-eval {old} {run} --data FEW",
    ]
