"""`clst-parity`: the deployed model against its PyTorch checkpoint, with a verdict."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from clst_runtime.cli.command import command, json_option, log_backend, print_json
from clst_runtime.errors import BudgetNotHeld
from clst_runtime.system.numbers import Real

_log = logging.getLogger(__name__)


@command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--checkpoint", "--reference", "reference", required=True, type=click.Path(path_type=Path),
              help="What MODEL must equal: a checkpoint or a run's folder, or another model file.")  # fmt: skip
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled data set.")
@click.option("--split", default="val", show_default=True, help="Which of its splits.")
@click.option("--format", "form", help="Its format  [default: recognise it]")
@click.option("--mapping", type=click.Path(path_type=Path), help="JSON file relating its classes to the model's.")
@click.option(
    "--max-miou-drop", default=0.05, show_default=True, type=Real(0, 100), help="Largest difference in mIoU, in points."
)
@click.option(
    "--min-agreement", default=99.9, show_default=True, type=Real(0, 100), help="Smallest share of equal pixels, in %."
)
@json_option()
def main(
    model: Path,
    reference: Path,
    data: Path,
    split: str,
    form: str | None,
    mapping: Path | None,
    max_miou_drop: float,
    min_agreement: float,
    *,
    as_json: bool,
) -> None:
    """IoU per class of MODEL and of its checkpoint, their difference and agreement; exit code 6 if they differ."""
    from clst_runtime.backends import check_model_file, open_model
    from clst_runtime.data.dataset import check_dataset, open_dataset
    from clst_runtime.data.headers import check_sizes
    from clst_runtime.evaluation.parity import compare
    from clst_runtime.system.files.paths import checkpoint_of
    from clst_runtime.system.tables import format_table, percent

    model, reference = checkpoint_of(model), checkpoint_of(reference)
    check_model_file(reference)
    check_model_file(model)
    check_dataset(data, split=split, format=form, mapping_file=mapping)
    with open_model(reference) as first, open_model(model) as second:
        log_backend(second, None)
        dataset = open_dataset(data, split=split, format=form, classes=first.manifest.classes, mapping_file=mapping)
        check_sizes(dataset)
        for remark in dataset.remarks:
            _log.info(f"note: {data}: {remark}")
        result = compare(first, second, dataset)
    failures = result.failures(max_miou_drop=max_miou_drop / 100, min_agreement=min_agreement / 100)
    if as_json:
        print_json(result.to_json() | {"holds": not failures, "failures": failures})
    else:
        columns = zip(result.reference.classes.names, result.reference.iou, result.candidate.iou, strict=True)
        rows = [[name, percent(a), percent(b), percent(b - a, 3)] for name, a, b in columns]
        a, b = result.reference.miou, result.candidate.miou
        rows.append(["mIoU", percent(a), percent(b), percent(b - a, 3)])
        click.echo(format_table(["class", "reference", "model", "difference"], rows))
        click.echo(f"{percent(result.agreement, 3)} % of pixels agree on {result.candidate.frames} images")
    if failures:
        raise BudgetNotHeld(f"{model}: parity does not hold: {'; '.join(failures)}")
    if not as_json:
        click.echo("parity holds")
