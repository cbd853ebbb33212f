"""`clst-data`: check, convert, re-image data sets, pick frames to label, make synthetic scenes, draw features."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clst_runtime.cli.command import group, json_option, log_backend, print_json
from clst_runtime.errors import DataError
from clst_runtime.system.numbers import SEED, Whole, parse_size

if TYPE_CHECKING:
    from clst_train.inspection.feature_space import Gap

_log = logging.getLogger(__name__)


@group()
def main() -> None:
    """Check a data set, convert it, take it through another camera, pick frames to label, make synthetic scenes."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", default="train", show_default=True, help="Which split to look at.")
@click.option("--format", "form", help="Its format  [default: recognise it]")
@click.option("--classes", help="Class list the labels shall become: a shipped one or a JSON file.")
@click.option("--mapping", type=click.Path(path_type=Path), help="JSON file relating the classes.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Contact sheet to write  [default: contact_sheet.png]")
@json_option()
def check(
    folder: Path,
    split: str,
    form: str | None,
    classes: str | None,
    mapping: Path | None,
    sheet: Path | None,
    *,
    as_json: bool,
) -> None:
    """Say what is wrong with FOLDER, and draw a contact sheet; exit code 3 if something must be mended."""
    from clst_runtime.classes.labels import load_class_list
    from clst_runtime.imaging.image_files import write_png
    from clst_runtime.system.files.atomic import check_can_write
    from clst_runtime.system.tables import format_table, percent
    from clst_train.data.inspection import inspect

    picture = sheet or Path("contact_sheet.png")
    check_can_write(picture)
    wanted = load_class_list(classes) if classes else None
    found = inspect(folder, split=split, format=form, classes=wanted, mapping_file=mapping)
    write_png(picture, found.sheet())
    total = max(1, int(found.pixels.sum()))
    shares = {name: found.pixels[index] / total for index, name in enumerate(found.classes.names)}
    if as_json:
        values = {"format": found.form, "images": found.images, "problems": found.problems, "remarks": found.remarks,
                  "shares": {n: float(s) for n, s in shares.items()}, "ignored": float(found.pixels[255] / total),
                  "sizes": {f"{r}x{c}": n for (r, c), n in found.sizes.items()}, "sheet": str(picture)}  # fmt: skip
        print_json(values)
    else:
        click.echo(f"{folder}: {found.images} images in split {split!r}, {found.form} layout")
        rows = [[name, percent(share)] for name, share in shares.items()]
        click.echo(format_table(["class", "pixels %"], [*rows, ["(ignored)", percent(found.pixels[255] / total)]]))
        for remark in found.remarks:
            click.echo(f"note: {remark}")
        for problem in found.problems[:20]:
            click.echo(f"wrong: {problem}")
        click.echo(f"overlays: {picture}")
    if found.problems:
        raise DataError(f"{folder}: {len(found.problems)} things to mend, the first: {found.problems[0]}")
    if not as_json:
        click.echo("nothing is wrong")


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--look", default="old", show_default=True, help="Camera: old or new.")
@click.option("--count", default=200, show_default=True, type=Whole(1), help="Images of split train.")
@click.option("--val-count", default=50, show_default=True, type=Whole(0), help="Images of split val.")
@click.option("--size", default="160x320", show_default=True, help="Size HxW.")
@click.option("--seed", default=1, show_default=True, type=SEED, help="Seed.")
@json_option()
def scenes(out: Path, look: str, count: int, val_count: int, size: str, seed: int, *, as_json: bool) -> None:
    """Write synthetic road scenes with labels to OUT in the folder layout."""
    from clst_train.synthetic.camera_looks import find_look
    from clst_train.synthetic.scenes import write_scenes

    counts = {"train": count, "val": val_count}
    write_scenes(out, look=find_look(look), counts=counts, size_hw=parse_size(size), seed=seed)
    if as_json:
        print_json({"folder": str(out), "images": counts})
    else:
        click.echo(str(out))


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--split", "splits", multiple=True, default=("train", "val"), show_default=True, help="Splits.")
@click.option("--format", "form", help="Format of FOLDER  [default: recognise it]")
@click.option("--classes", help="Class list the labels shall become.")
@click.option("--mapping", type=click.Path(path_type=Path), help="JSON file relating the classes.")
def convert(
    folder: Path, out: Path, splits: tuple[str, ...], form: str | None, classes: str | None, mapping: Path | None
) -> None:
    """Write the labelled data set FOLDER to OUT in the folder layout, with class ids as labels."""
    from clst_runtime.classes.labels import load_class_list
    from clst_runtime.data.dataset import open_dataset
    from clst_runtime.imaging.image_files import write_png
    from clst_runtime.system.files.atomic import folder_written_whole, write_text
    from clst_runtime.system.files.paths import check_new_folder

    check_new_folder(out, hint="give another folder")
    wanted = load_class_list(classes) if classes else None
    datasets = [
        open_dataset(folder, split=split, format=form, classes=wanted, mapping_file=mapping) for split in splits
    ]
    with folder_written_whole(out) as made:
        for split, dataset in zip(splits, datasets, strict=True):
            for index, name in enumerate(dataset.own_names()):
                sample = dataset[index]
                write_png(made / "images" / split / f"{name}.png", sample.image)
                write_png(made / "labels" / split / f"{name}.png", sample.labels)
            write_text(made / "classes.json", json.dumps(dataset.classes.to_json(), indent=1) + "\n")
            click.echo(f"{split}: {len(dataset)} images")


@main.command()
@click.argument("root", required=False, type=click.Path(path_type=Path))
@click.option("--camera", required=True, help="mild, middle, severe or a TOML file.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; it must be new.")
@click.option("--split", "splits", multiple=True, help="Split; repeatable  [default: train and val, where there]")
@click.option("--format", "form", help="Format of ROOT  [default: recognise it]")
@click.option("--seed", default=1, show_default=True, type=SEED, help="Seed of noise and compression.")
@click.option("--settings", "shows_settings", is_flag=True, help="Print the camera's values and their meaning as TOML.")
@json_option()
def camera(
    root: Path | None,
    camera: str,
    out: Path | None,
    splits: tuple[str, ...],
    form: str | None,
    seed: int,
    *,
    shows_settings: bool,
    as_json: bool,
) -> None:
    """Write ROOT as another camera would have taken it to OUT, in the folder layout; labels follow exactly.

    ROOT is a labelled data set or a folder of images.
    """
    from clst_train.synthetic.camera_model import camera_toml, find_camera

    values = find_camera(camera)
    if shows_settings:
        click.echo(camera_toml(values), nl=False)
        return
    if root is None or out is None:
        raise click.UsageError("give ROOT, the images, and --out, the folder to write; or --settings alone")
    from clst_train.data.reimaged import reimage_folder

    made = reimage_folder(root, out, values, name=camera, splits=splits, format=form, seed=seed)
    if as_json:
        counts = {split: {"images": each.images, "outside": each.outside} for split, each in made.items()}
        print_json({"folder": str(out), "splits": counts})
        return
    for split, each in made.items():
        kind = "images with labels" if each.labelled else "images without labels"
        click.echo(f"{split}: {each.images} {kind}, {each.outside:.2%} of the pixels outside the old images")
    click.echo(str(out))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--source", help="Labelled images of the old camera  [default: the run's]")
@click.option("--split", help="Split of --source  [default: the run's]")
@click.option("--target", multiple=True, help="Images or video of the new camera; repeatable  [default: the run's]")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="Labelled images of the new camera, instead of --target."
)
@click.option("--labels-split", default="val", show_default=True, help="Split of --labels.")
@click.option("--count", default=60, show_default=True, type=Whole(1), help="Images of each camera.")
@click.option("--out", type=click.Path(path_type=Path), help="Picture to write  [default: RUN/features.png]")
@json_option()
def features(
    run: Path,
    source: str | None,
    split: str | None,
    target: tuple[str, ...],
    labels: Path | None,
    labels_split: str,
    count: int,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Draw where both cameras' classes lie in the feature space of RUN's network, before and after adaptation.

    Prints how far the cameras' centres of the same class are apart, as a share of the distance between classes.
    Without --labels the new camera's classes are what each network itself predicts.
    """
    if labels is not None and target:
        raise click.UsageError("--labels and --target both name images of the new camera; give one of them")
    from clst_runtime.system.files.atomic import check_can_write
    from clst_runtime.system.optional import check_installed, require

    packages = ("torch", "cv2", "matplotlib")
    check_installed(*packages)
    from clst_train.engine.options import check_finished_run
    from clst_train.engine.run_folder import RunFolder

    picture = out or run / "features.png"
    check_can_write(picture)
    check_finished_run(run, source=source, target=target, labels=labels, labels_split=labels_split)
    for module in packages:
        require(module)
    from clst_train.inspection.feature_space import draw_feature_space, measure_gap
    from clst_train.inspection.run_features import stages_of_run
    from clst_train.inspection.verdict import warning_of

    if warning := warning_of(RunFolder(run)):
        _log.warning(f"warning: {warning} ({RunFolder(run).verdict})")
    before, after, classes = stages_of_run(
        run, source=source, split=split, target=target, labels=labels, labels_split=labels_split, count=count
    )
    draw_feature_space(picture, (before, after), classes, warning=warning)
    gaps = [measure_gap(stage, len(classes)) for stage in (before, after)]
    if as_json:
        values = {**_gaps_as_json(gaps, classes.names), "labelled": labels is not None, "picture": str(picture)}
        print_json(values)
        return
    click.echo(_gaps_as_table(gaps, classes.names))
    whose = "labels" if labels else "the networks’ own predictions"
    click.echo(f"classes of the new camera: {whose}; picture: {picture}")


@main.command()
@click.argument("places", metavar="IMAGES|VIDEO...", nargs=-1, required=True)
@click.option("--model", "models", multiple=True, required=True, type=click.Path(path_type=Path),
              help="Model file, checkpoint or run: the new one, or the old one and then the new one.")  # fmt: skip
@click.option("--count", default=20, show_default=True, type=Whole(1), help="Frames to label.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write; it must be new.")
@json_option()
def pick(places: tuple[str, ...], models: tuple[Path, ...], count: int, out: Path, *, as_json: bool) -> None:
    """Pick frames of the new camera to label for `clst-eval OLD NEW --data OUT`, and write them with prelabels.

    They are evenly spread over the drive. Prelabels are the new model's predictions; where the old one predicts
    another class, a pixel is left open.
    """
    from clst_runtime.backends import check_model_file, open_model
    from clst_runtime.evaluation.change import check_comparable
    from clst_runtime.system.files.paths import check_new_folder, checkpoint_of
    from clst_train.data.target import find_target
    from clst_train.inspection.picking import pick_frames
    from clst_train.inspection.prelabelled_folder import write_prelabelled_folder

    if len(models) > 2:
        raise click.UsageError("--model is the new model, or the old one and then the new one; give one or two")
    check_new_folder(out, hint="give another folder")
    files = [checkpoint_of(model) for model in models]
    for file in files:
        check_model_file(file)
    found = find_target(places)
    for remark in found.remarks:
        _log.info(f"note: {remark}")
    picked = pick_frames(found, count)
    with ExitStack() as opened:
        *old, new = [opened.enter_context(open_model(file)) for file in files]
        log_backend(new, None)
        for each in old:
            check_comparable(each.manifest.classes, new.manifest.classes)
        written = write_prelabelled_folder(out, picked, new, *old).values()
        names = new.manifest.classes.names
    if not old:
        _log.warning(
            "warning: mistakes in the prelabels that nobody corrects count for the new model, the only one here; for "
            "a comparison give --model OLD --model NEW, which leaves open what they disagree on"
        )
    frames_with = {name: sum(name in each.classes for each in written) for name in names}
    if as_json:
        print_json({"folder": str(out), "images": len(picked), "of": len(found), "frames_with": frames_with})
        return
    click.echo(f"{out}: {len(picked)} of {len(found)} frames")
    listed = ", ".join(f"{name} {number}" for name, number in frames_with.items())
    click.echo(f"frames with each class, by the prediction: {listed}; clst-eval needs 5 for an interval of a class")
    click.echo(f"label what is open, correct the rest ({out}/labels/val, or {out}/cvat), then: "
               f"clst-eval OLD NEW --data {out}")  # fmt: skip


def _gaps_as_json(gaps: Sequence[Gap], names: Sequence[str]) -> dict[str, Any]:
    return {
        "ratio": [_finite(gap.ratio) for gap in gaps],
        "between_classes": [_finite(gap.between_classes) for gap in gaps],
        "distance": {name: [_finite(gap.of_class[i]) for gap in gaps] for i, name in enumerate(names)},
    }


def _gaps_as_table(gaps: Sequence[Gap], names: Sequence[str]) -> str:
    from clst_runtime.system.tables import format_table

    rows = [[name, *(f"{gap.of_class[index]:.3f}" for gap in gaps)] for index, name in enumerate(names)]
    rows.append(["between classes", *(f"{gap.between_classes:.3f}" for gap in gaps)])
    rows.append(["ratio", *(f"{gap.ratio:.3f}" for gap in gaps)])
    shown = [[cell.replace("nan", "–") for cell in row] for row in rows]
    return format_table(["distance of the cameras", "before", "after"], shown)


def _finite(value: float) -> float | None:
    return float(value) if value == value else None
