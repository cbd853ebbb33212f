"""The README's image: frames of a video by the network before adaptation and by the adapted one, with a legend.

python -m benchmarks.report.street_image RUN VIDEO --licence TEXT --scores FILE

RUN is a finished run of `clst-train` with VIDEO, or a folder of images, as its target. The frames are the first, the
middle and the last one: nobody has chosen them by what they show. What `clst-eval OLD NEW --json` says of both networks
is kept with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

import click
import numpy as np

from benchmarks.record import RESULTS, provenance, write_result
from clst.model import Model
from clst_runtime.imaging.geometry import Image, resize_frame
from clst_runtime.imaging.image_files import write_png
from clst_runtime.imaging.overlay import beside_legend, blend, contact_sheet
from clst_runtime.sources import open_source
from clst_runtime.system.files.hashing import file_sha256
from clst_train.engine.run_folder import open_run
from clst_train.models.checkpoint_backend import open_checkpoint

DOCS = RESULTS.parents[1] / "docs"
NETWORKS = {"old network": "source.pt", "adapted network": "adapted.pt"}
TILE_HW = (126, 224)


def chosen_frames(video: Path) -> dict[int, Image]:
    """The first, the middle and the last frame, RGB, by their positions."""
    with open_source(str(video)) as source:
        frames = [frame.rgb for frame in source]
    return {index: frames[index] for index in (0, len(frames) // 2, len(frames) - 1)}


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--licence", required=True, help="Whose video it is, and its licence.")
@click.option("--trained", default="", help="How the old network was trained, and by which commits both were.")
@click.option("--scores", required=True, type=click.File(), help="JSON of clst-eval with both networks.")
def main(run: Path, video: Path, licence: str, trained: str, scores: TextIO) -> None:
    """Draw docs/before_after.png and write benchmarks/results/street_before_after.json."""
    _, config = open_run(run)
    frames = chosen_frames(video)
    rows = [[resize_frame(frame, TILE_HW)] for frame in frames.values()]
    networks = {}
    for title, file in NETWORKS.items():
        path = run / "checkpoints" / file
        backend = open_checkpoint(path, input_hw=config.model.input_hw)  # the old one may be of another size
        with Model(backend, path) as model:
            classes = model.manifest.classes
            maps = [model.segment(frame).classes for frame in frames.values()]
        for row, frame, ids in zip(rows, frames.values(), maps, strict=True):
            row.append(resize_frame(blend(frame, ids, classes), TILE_HW))
        counts = [np.bincount(ids.ravel(), minlength=len(classes)) / ids.size for ids in maps]
        shares = [{each: round(float(of[i]), 4) for i, each in enumerate(classes.names)} for of in counts]
        networks[title] = {"checkpoint_sha256": file_sha256(path), "class_shares": shares}
    sheet = beside_legend(contact_sheet(rows, ["new camera", *NETWORKS]), classes)
    write_png(DOCS / "before_after.png", sheet)
    settings = {
        "size": config.model.input_hw,
        "fit": config.model.fit,
        "seed": config.run.seed,
        "steps": config.adaptation.iterations,
    }
    shown = {"video": video.name, "licence": licence, "frames": list(frames), "trained": trained}
    measured = json.load(scores)
    for which in ("old", "new"):
        measured[which]["model"] = Path(measured[which]["model"]).name  # not where it lay on this machine
    known = {"scores": measured, "networks": networks}
    path = RESULTS / "street_before_after.json"
    write_result(path, {"name": path.stem, **provenance(), **settings, **shown, **known})


if __name__ == "__main__":
    main()
