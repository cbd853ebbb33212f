"""`clst-report`: all evidence about a run or a model file as one HTML file, and the same as Markdown."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clst_runtime.cli.command import command

if TYPE_CHECKING:
    from clst_export.report.evidence import Evidence
    from clst_export.report.measurement import Measured

FILE = click.Path(path_type=Path)


@command()
@click.argument("places", metavar="RUN|MODEL [MODEL]...", nargs=-1, required=True, type=FILE)
@click.option(
    "--val", type=FILE, help="Labelled images of the new camera: scores, worst images, confusion, confidence."
)
@click.option("--val-split", help="Split of --val  [default: of the run's own labels the run's, else val]")
@click.option("--val-mapping", type=FILE, help="JSON file relating the classes of --val to the model's.")
@click.option("--acceptance", "acceptances", multiple=True, type=FILE,
              help="Report of clst-doctor --verify from a device; repeatable.")  # fmt: skip
@click.option("--latency", "latencies", multiple=True, type=FILE, help="Result of clst-bench --out; repeatable.")
@click.option("--notes", type=FILE, help="Text about data, licences and use, to be shown as it is.")
@click.option(
    "--out", type=FILE, help="HTML file to make, with a .md beside it  [default: RUN/report.html, MODEL.report.html]"
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier report.")
def main(
    places: tuple[Path, ...],
    val: Path | None,
    val_split: str | None,
    val_mapping: Path | None,
    acceptances: tuple[Path, ...],
    latencies: tuple[Path, ...],
    notes: Path | None,
    out: Path | None,
    *,
    overwrite: bool,
) -> None:
    """What a RUN or MODEL was made of, how good it is and how sure that is, where it fails, and what is not known.

    Further MODELs are files that were exported from it; those in the run's own folder are found. What is missing is
    named with the command that makes it. Prints the SHA-256 of both files.
    """
    if val is None and (val_split is not None or val_mapping is not None):
        raise click.UsageError("--val-split and --val-mapping are about --val; give that, too")
    from clst_export.report.assembly import report_of
    from clst_export.report.evidence import gather
    from clst_export.report.html import to_html
    from clst_export.report.markdown import to_markdown
    from clst_runtime.system.files.atomic import write_text
    from clst_runtime.system.files.hashing import file_sha256

    page = out or default_out(places[0])
    twin = page.with_suffix(".md")
    check_out(page, twin, overwrite=overwrite)
    evidence = gather(places, acceptances, latencies, notes)
    check_no_input(page, twin, evidence)
    if val is not None:
        evidence = replace(evidence, measured=measured_on(evidence, val, val_split, val_mapping))
    report = report_of(evidence, made=made_now())
    for path, text in ((page, to_html(report)), (twin, to_markdown(report))):
        write_text(path, text.encode(errors="replace").decode())  # a path may have bytes that are no UTF-8
        click.echo(f"{file_sha256(path)}  {path}")


def made_now() -> str:
    """The one line that differs between two reports of the same evidence."""
    from clst_runtime.system.machine import own_version

    return f"Made {time.strftime('%Y-%m-%d %H:%M')} by {own_version()}."


def default_out(place: Path) -> Path:
    """In a run's folder; beside a model file, under a name that its card does not have."""
    from clst_runtime.backends.tensorrt.bundle.format import INDEX

    is_run = place.is_dir() and not (place / INDEX).is_file()
    return place / "report.html" if is_run else place.with_name(f"{place.stem}.report.html")


def check_out(page: Path, twin: Path, *, overwrite: bool) -> None:
    """Find out before any work that both files can be written.

    Raises:
        DataError: another name, a file that is there, or a place that cannot be written.
    """
    from clst_runtime.errors import DataError
    from clst_runtime.system.files.atomic import check_can_write

    if page.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"--out {page}: give a name that ends in .html; the Markdown file lies beside it")
    for path in (page, twin):
        if path.exists() and not overwrite:
            raise DataError(f"{path} exists; give --overwrite or another --out")
        check_can_write(path)


def check_no_input(page: Path, twin: Path, evidence: Evidence) -> None:
    """Refuse by DataError to write over what the report is made of, or a model's card."""
    from clst_export.card import card_path
    from clst_runtime.errors import DataError

    cards = [card_path(Path(each["path"])) for each in evidence.models]
    for path in (page, twin):
        if any(path.resolve() == each.resolve() for each in [*(each for _, each in evidence.sources), *cards]):
            raise DataError(f"{path} is something that the report is about; give another --out")


def measured_on(evidence: Evidence, val: Path, split: str | None, mapping: Path | None) -> Measured:
    """Everything that labels show.

    Raises:
        What `open_dataset`, `check_sizes` and `measure` raise.
    """
    from clst_export.report.measurement import measure
    from clst_runtime.data.dataset import open_dataset
    from clst_runtime.data.headers import check_sizes
    from clst_runtime.data.inputs import place_name
    from clst_runtime.system.files.json_values import printable

    own = evidence.config.data if evidence.config is not None else None
    if split is None:
        split = own.val_split if own is not None and own.val and Path(own.val).resolve() == val.resolve() else "val"
    dataset = open_dataset(val, split=split, classes=evidence.classes, mapping_file=mapping)
    check_sizes(dataset)
    return measure(evidence.path, evidence.old, own, dataset, printable(f"{place_name(val)}, split {split}"))
