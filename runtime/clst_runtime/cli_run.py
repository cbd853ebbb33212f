"""`clst-run`: live segmentation of a camera, a video or a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clst_runtime.command import command
from clst_runtime.errors import DataError

if TYPE_CHECKING:
    from clst_runtime.labels import ClassList
    from clst_runtime.sinks.base import Sink
    from clst_runtime.sources import Source
    from clst_runtime.statistics import RunStatistics


@command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--source", "uri", required=True, help="Folder, video, camera:0, rtsp://… or gst:pipeline.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for overlay.mp4, statistics and masks.")
@click.option("--video/--no-video", default=True, show_default=True, help="Write overlay.mp4.")
@click.option("--masks", is_flag=True, help="Write masks/<frame>.png with class ids at camera size.")
@click.option("--pictures", is_flag=True, help="Write overlays/<frame>.png.")
@click.option("--window", is_flag=True, help="Show the overlay; q ends.")
@click.option("--frames", "limit", type=click.IntRange(1), help="Stop after so many frames.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--alpha", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Strength of the colours.")
@click.option("--overwrite", is_flag=True, help="Write into an existing folder.")
@click.option("--json", "as_json", is_flag=True, help="Statistics as JSON.")
def main(
    model: Path,
    uri: str,
    out: Path | None,
    limit: int | None,
    threads: int | None,
    alpha: float,
    *,
    video: bool,
    masks: bool,
    pictures: bool,
    window: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Segment what --source gives with MODEL. Ctrl-C is the normal end: it reports and exits with 0."""
    from clst_runtime.atomic import write_text
    from clst_runtime.backends import open_model
    from clst_runtime.images import write_png
    from clst_runtime.overlay import legend
    from clst_runtime.pipeline import Watchers, run_pipeline
    from clst_runtime.sources import open_source

    if out is None and (masks or pictures):
        raise click.UsageError("--masks and --pictures need --out")
    if out is not None and out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; give another --out or --overwrite")
    with open_model(model, threads=threads) as backend, open_source(uri) as source:
        classes = backend.manifest.classes
        chosen = {"video": video, "masks": masks, "pictures": pictures}
        sinks = open_sinks(out, classes, source, alpha, chosen) if out is not None else []
        if window:
            from clst_runtime.sinks.window import WindowSink

            sinks.append(WindowSink(classes, alpha))
        rows, columns = backend.manifest.input_hw
        click.echo(f"ready: {backend.description}, input {rows}x{columns}", err=True)
        statistics = run_pipeline(source, backend, sinks, limit=limit, watchers=Watchers(tick=show_progress))
        facts = {"model": str(model), "source": uri, "backend": backend.description, **statistics.to_json()}
    if out is not None:
        write_text(out / "statistics.json", json.dumps(facts, indent=1) + "\n")
        write_png(out / "legend.png", legend(classes))
    report(statistics, json.dumps(facts, indent=1) if as_json else None)


def open_sinks(out: Path, classes: ClassList, source: Source, alpha: float, chosen: dict[str, bool]) -> list[Sink]:
    """The sinks that were asked for, below `out`."""
    from clst_runtime.sinks.files import FrameLogSink, MaskSink, PictureSink, VideoSink

    sinks: list[Sink] = [FrameLogSink(out / "frames.jsonl", classes)]
    if chosen["video"]:
        sinks.append(VideoSink(out / "overlay.mp4", classes, source.fps or 10.0, alpha))
    if chosen["masks"]:
        sinks.append(MaskSink(out / "masks"))
    if chosen["pictures"]:
        sinks.append(PictureSink(out / "overlays", classes, alpha))
    return sinks


def show_progress(statistics: RunStatistics) -> None:
    """A line on the terminal that is written over, where there is a terminal."""
    if sys.stderr.isatty() and statistics.frames % 10 == 0:
        click.echo(f"\r{statistics.frames} frames, {statistics.fps:.1f} frames/s ", nl=False, err=True)


def report(statistics: RunStatistics, text: str | None) -> None:
    """Print the result, as JSON if that was asked for."""
    for warning in statistics.warnings:
        click.echo(f"warning: {warning}", err=True)
    if text is not None:
        click.echo(text)
        return
    values = statistics.to_json()
    end = " (interrupted)" if statistics.interrupted else ""
    click.echo(f"{statistics.frames} frames in {statistics.seconds:.1f} s, {statistics.fps:.1f} frames/s, "
               f"{values['dropped']} dropped{end}")  # fmt: skip
    for name, words in (("inference_ms", "inference"), ("capture_to_mask_ms", "capture to mask")):
        if values[name]:
            told = ", ".join(f"{key} {values[name][key]:.1f}" for key in ("median", "p90", "p99", "max"))
            click.echo(f"{words} ms: {told}")
