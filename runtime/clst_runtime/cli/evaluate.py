"""`clst-eval`: mIoU of a model or checkpoint on labelled images."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from clst_runtime.cli.command import command, json_option, log_backend, print_json
from clst_runtime.system.numbers import THREADS

_log = logging.getLogger(__name__)


@command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled data set.")
@click.option("--split", default="val", show_default=True, help="Which of its splits.")
@click.option("--format", "form", help="Its format  [default: recognise it]")
@click.option("--mapping", type=click.Path(path_type=Path), help="JSON file relating its classes to the model's.")
@click.option("--threads", type=THREADS, help="CPU threads.")
@json_option()
def main(
    model: Path,
    data: Path,
    split: str,
    form: str | None,
    mapping: Path | None,
    threads: int | None,
    *,
    as_json: bool,
) -> None:
    """IoU per class and mIoU of MODEL (a model file, checkpoint or run's folder), at the labels' own size."""
    from clst_runtime.backends import check_model_file, open_model
    from clst_runtime.data.dataset import check_dataset, open_dataset
    from clst_runtime.evaluation.evaluate import evaluate
    from clst_runtime.system.files.paths import checkpoint_of
    from clst_runtime.system.tables import format_table, percent

    model = checkpoint_of(model)
    check_model_file(model)
    check_dataset(data, split=split, format=form, mapping_file=mapping)
    with open_model(model, threads=threads) as backend:
        log_backend(backend, threads)
        dataset = open_dataset(data, split=split, format=form, classes=backend.manifest.classes, mapping_file=mapping)
        for remark in dataset.remarks:
            _log.info(f"note: {data}: {remark}")
        result = evaluate(backend, dataset)
        description = backend.description
    if as_json:
        print_json(result.to_json() | {"model": str(model), "backend": description})
        return
    rows = [[name, percent(value)] for name, value in zip(result.classes.names, result.iou, strict=True)]
    rows.append(["mIoU", percent(result.miou)])
    values = result.to_json()
    rows.extend(
        [f"mIoU, {n} classes", percent(values[f"miou{n}"])] for n in (16, 13) if values.get(f"miou{n}") is not None
    )
    rows.append(["pixel accuracy", percent(result.pixel_accuracy)])
    click.echo(f"{model}: {result.frames} images, {description}")
    click.echo(format_table(["class", "IoU %"], rows))
    for name, value in zip(result.classes.names, result.iou, strict=True):
        if value == 0.0:
            _log.warning(f"warning: {name} is at exactly 0; is the label mapping right?")
