"""Target images with the class maps before and after adaptation."""

from __future__ import annotations

from clst_runtime.classes.labels import ClassList
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.imaging.image_files import write_png
from clst_runtime.imaging.overlay import blend, contact_sheet
from clst_train.data.target import TargetImages
from clst_train.engine.run_folder import RunFolder
from clst_train.models.checkpoint_backend import open_checkpoint


def draw_examples(folder: RunFolder, target: TargetImages, classes: ClassList, *, count: int = 6) -> None:
    """Write `examples/before_after.png`: image, source-only and adapted overlay in a row, evenly spread images."""
    rows = []
    size_hw = target.input_hw  # the starting network may have come from a run at another one
    with open_checkpoint(folder.source, input_hw=size_hw) as before, open_checkpoint(folder.adapted) as after:
        for index in evenly_spread(len(target), count):
            frame, content = target[index], target.content(index)
            maps = [content.of(backend.predict(frame).classes) for backend in (before, after)]
            frame = content.of(frame)
            rows.append([frame, *(blend(frame, classes_map, classes) for classes_map in maps)])
    titles = ["new camera", "source only", "adapted"]
    write_png(folder.examples / "before_after.png", contact_sheet(rows, titles))
