"""`clst-verdict`: is a new model better on images of the new camera that nobody has labelled?"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path

import click

from clst_runtime.cli.command import command, json_option, log_backend, print_json
from clst_runtime.errors import BudgetNotHeld

_log = logging.getLogger(__name__)


@command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--target", required=True, multiple=True, type=click.Path(), help="Images or video of the new camera.")
@click.option("--source", required=True, type=click.Path(path_type=Path), help="Labelled images of the old camera.")
@click.option("--split", default="train", show_default=True, help="Split of the source.")
@click.option("--mapping", type=click.Path(path_type=Path), help="JSON file relating its classes to the models'.")
@json_option()
def main(
    old: Path,
    new: Path,
    target: tuple[str, ...],
    source: Path,
    split: str,
    mapping: Path | None,
    *,
    as_json: bool,
) -> None:
    """Whether NEW is better than OLD on images without labels: models, checkpoints or runs' folders.

    An estimate with an interval; with a few labels `clst-eval OLD NEW --data FEW` knows more. Exit code 6: worse.
    """
    from clst_runtime.backends import check_model_file, open_model
    from clst_runtime.data.dataset import check_dataset, open_dataset
    from clst_runtime.evaluation.change import check_comparable
    from clst_runtime.evaluation.unlabelled import MOST_IMAGES, estimate_change, labelled_pixels
    from clst_runtime.system.files.paths import checkpoint_of
    from clst_train.data.target import find_target
    from clst_train.inspection.picking import images_at, pick_frames

    models = [checkpoint_of(each) for each in (old, new)]
    for each in models:
        check_model_file(each)
    check_dataset(source, split=split, format=None, mapping_file=mapping)
    found = find_target(target)
    for remark in found.remarks:
        _log.info(f"note: {remark}")
    picked = pick_frames(found, min(len(found), MOST_IMAGES))
    images = [(image, None) for _, image in images_at(picked)]  # all, as a damaged one would stop it after minutes
    with ExitStack() as opened:
        before, after = (opened.enter_context(open_model(each)) for each in models)
        log_backend(after, None)
        check_comparable(before.manifest.classes, after.manifest.classes)
        labels = open_dataset(source, split=split, classes=before.manifest.classes, mapping_file=mapping)
        for remark in labels.remarks:
            _log.info(f"note: {source}: {remark}")
        estimate = estimate_change(before, after, images, labelled_pixels(labels))
        compared = ((models[0], before), (models[1], after))
    if as_json:
        print_json(estimate.to_json(compared))
    else:
        click.echo(estimate.report(compared))
    if estimate.failures():
        raise BudgetNotHeld(estimate.text())
