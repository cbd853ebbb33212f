"""`clst-eval`: mIoU of a model or checkpoint on labelled images; whether a new one may take its place."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clst_runtime.cli.command import command, json_option, log_backend, print_json
from clst_runtime.errors import BudgetNotHeld, ConfigError
from clst_runtime.system.numbers import THREADS, Real

if TYPE_CHECKING:
    from clst_runtime.backends.base import Backend
    from clst_runtime.data.dataset import LabelledDataset
    from clst_runtime.evaluation.change import Bounds
    from clst_runtime.evaluation.evaluate import EvaluationResult

_log = logging.getLogger(__name__)


@command()
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.argument("new", metavar="[NEW]", required=False, type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled data set.")
@click.option("--split", default="val", show_default=True, help="Which of its splits.")
@click.option("--format", "form", help="Its format  [default: recognise it]")
@click.option("--mapping", type=click.Path(path_type=Path), help="JSON file relating its classes to the model's.")
@click.option("--min-miou", type=Real(0, 100), help="Smallest mIoU, of NEW where it is given, in %.")
@click.option("--max-drop", type=Real(0, 100), help="Largest loss of IoU of a class from MODEL to NEW, in points.")
@click.option("--safety", help="The classes that --max-drop is about, with commas  [default: all]")
@click.option("--threads", type=THREADS, help="CPU threads.")
@json_option()
def main(
    model: Path,
    new: Path | None,
    data: Path,
    split: str,
    form: str | None,
    mapping: Path | None,
    min_miou: float | None,
    max_drop: float | None,
    safety: str | None,
    threads: int | None,
    *,
    as_json: bool,
) -> None:
    """IoU per class and mIoU of MODEL (a model file, checkpoint or run's folder), at the labels' own size, and the
    expected calibration error of its confidence, where it has that output.

    With NEW, whether that is better or worse than MODEL on the same images; exit code 6 where it is worse, or where
    a bound does not hold.
    """
    from clst_runtime.backends import check_model_file, open_model
    from clst_runtime.data.dataset import check_dataset, open_dataset
    from clst_runtime.data.headers import check_sizes
    from clst_runtime.evaluation.change import Bounds, check_comparable
    from clst_runtime.system.files.paths import checkpoint_of

    names = tuple(name.strip() for name in safety.split(",")) if safety else ()
    bounds = Bounds(min_miou=min_miou, max_drop=max_drop, safety=names)
    if new is None and max_drop is not None:
        raise ConfigError("--max-drop is from an old model to a new one; give both, old first")
    models = [checkpoint_of(each) for each in (model, new) if each is not None]
    for each in models:
        check_model_file(each)
    check_dataset(data, split=split, format=form, mapping_file=mapping)
    with ExitStack() as opened:
        different = models if not _is_same(models) else models[:1]
        backends = [opened.enter_context(open_model(each, threads=threads)) for each in different]
        log_backend(backends[-1], threads)
        classes = backends[0].manifest.classes
        check_comparable(classes, backends[-1].manifest.classes)
        bounds.check_classes(classes)
        dataset = open_dataset(data, split=split, format=form, classes=classes, mapping_file=mapping)
        check_sizes(dataset)
        for remark in dataset.remarks:
            _log.info(f"note: {data}: {remark}")
        judge = _one if new is None else _two
        failures = judge(models, backends, dataset, bounds, as_json=as_json)
    for text in failures[:-1]:
        _log.error(BudgetNotHeld(text).line())
    if failures:
        raise BudgetNotHeld(failures[-1])


def _is_same(models: list[Path]) -> bool:
    """Whether two models are the same file, under whatever name."""
    from clst_runtime.system.files.hashing import file_sha256

    first, last = models[0], models[-1]
    if first.resolve() == last.resolve():
        return True
    return first.is_file() and last.is_file() and file_sha256(first) == file_sha256(last)


def _one(
    models: list[Path], backends: list[Backend], dataset: LabelledDataset, bounds: Bounds, *, as_json: bool
) -> list[str]:
    """Score a model and print it; what does not hold."""
    from clst_runtime.evaluation.evaluate import evaluate

    result, description = evaluate(backends[0], dataset), backends[0].description
    if as_json:
        print_json(result.to_json() | {"model": str(models[0]), "backend": description})
    else:
        click.echo(f"{models[0]}: {result.frames} images, {description}")
        _print_scores(result)
    return bounds.miou_failure(result.miou)


def _print_scores(result: EvaluationResult) -> None:
    from clst_runtime.system.tables import format_table, percent

    rows = [[name, percent(value)] for name, value in zip(result.classes.names, result.iou, strict=True)]
    rows.append(["mIoU", percent(result.miou)])
    values = result.to_json()
    rows.extend(
        [f"mIoU, {n} classes", percent(values[f"miou{n}"])] for n in (16, 13) if values.get(f"miou{n}") is not None
    )
    rows.append(["pixel accuracy", percent(result.pixel_accuracy)])
    if result.reliability is not None:
        rows.append(["expected calibration error", percent(result.reliability.ece())])
    click.echo(format_table(["class", "IoU %"], rows))
    for name, value in zip(result.classes.names, result.iou, strict=True):
        if value == 0.0:
            _log.warning(f"warning: {name} is at exactly 0; is the label mapping right?")


def _two(
    models: list[Path], backends: list[Backend], dataset: LabelledDataset, bounds: Bounds, *, as_json: bool
) -> list[str]:
    """Compare two models and print it; what does not hold."""
    from clst_runtime.evaluation.change import measure_change

    change = measure_change(backends[0], backends[-1], dataset)
    failures, compared = change.failures(bounds), ((models[0], backends[0]), (models[1], backends[-1]))
    if as_json:
        print_json(change.to_json(compared, failures))
    else:
        click.echo(change.report(compared))
    return failures
