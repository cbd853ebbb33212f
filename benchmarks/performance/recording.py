"""What is left of a recording when its program is killed, and what flushing it to the disk costs.

    python -m benchmarks.performance.recording [--kills N] [--fps N] [--folder DIR]

A process of its own records drawn frames of 1280x720 in real time, in H.264 and in Motion JPEG. It is killed with
SIGKILL at random moments, and the frames that can be read are counted. What a power cut would have taken in the worst
moment is told by the frames that were given but not yet flushed. Last, the time that a frame takes the recording
thread, with flushing and without by turns. The result goes to benchmarks/results/recording.json.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np

HERE = Path(__file__).parents[1]
SIZE_HW = (720, 1280)
DRAWN = 90
LONGEST_SECONDS = 8.0
COST_TURNS = 3


def record(folder: Path, suffix: str, fps: float, seconds: float, *, flushed: bool = True) -> None:
    """Record in real time, and note after each frame what was given, what is flushed and what it took."""
    from clst_runtime.backends.base import Prediction
    from clst_runtime.classes.labels import load_class_list
    from clst_runtime.imaging.image_files import read_image, read_label
    from clst_runtime.live.results import Result
    from clst_runtime.live.sinks.video import VideoSink
    from clst_runtime.sources import TimedFrame

    frames = [read_image(folder / f"{index:03d}.png") for index in range(DRAWN)]
    masks = [read_label(folder / f"{index:03d}-mask.png").astype(np.uint8) for index in range(DRAWN)]
    sink = VideoSink(folder / f"v{suffix}", load_class_list("scenes10"), None, 0.5)
    on_disk, real = [0], os.fsync

    def flush(handle: int) -> None:
        in_file = sink._video.frames if sink._video else 0
        if flushed:
            real(handle)
        on_disk[0] = max(on_disk[0], in_file)

    begun = time.monotonic()
    with (
        (folder / "notes").open("w", buffering=1) as notes,
        patch("clst_runtime.live.sinks.growing_file.os.fsync", flush),
    ):
        for index in range(round(seconds * fps)):
            time.sleep(max(0.0, begun + index / fps - time.monotonic()))
            timed = TimedFrame(index=index, picture=frames[index % DRAWN], captured_ns=time.monotonic_ns(), name="x")
            mask = masks[index % DRAWN]
            result = Result(timed=timed, prediction=Prediction(classes=mask), mask=mask, inference_ns=1, age_ns=1)
            before = time.perf_counter()
            sink.write(result)
            took_ms = (time.perf_counter() - before) * 1e3
            notes.write(f"{index + 1} {index + 1 - on_disk[0]} {took_ms:.3f}\n")
    sink.close()


def readable(path: Path) -> int:
    """Frames that OpenCV reads."""
    import cv2

    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count


def notes_of(folder: Path) -> list[list[float]]:
    """Frames given, of them not flushed, and milliseconds, a row a frame; a row that was cut is left out."""
    lines = (folder / "notes").read_text().split("\n")[:-1]
    return [[float(value) for value in line.split()] for line in lines]


def clean(folder: Path) -> None:
    """Remove what a recording left."""
    for path in [*folder.glob("v*"), *folder.glob("notes")]:
        path.unlink()


def started(folder: Path, suffix: str, fps: float, seconds: float, *, flushed: bool) -> subprocess.Popen[bytes]:
    """`record` in a process of its own."""
    program = f"from recording import *; record(Path({str(folder)!r}), {suffix!r}, {fps}, {seconds}, flushed={flushed})"
    return subprocess.Popen([sys.executable, "-c", program], cwd=HERE)


def kill(folder: Path, suffix: str, fps: float, seconds: float) -> dict[str, Any]:
    """One recording that is killed so many seconds after its first frame."""
    child = started(folder, suffix, fps, LONGEST_SECONDS + 60, flushed=True)
    while not (folder / "notes").exists() or not notes_of(folder):
        time.sleep(0.01)
    time.sleep(seconds)
    child.kill()
    child.wait()
    rows, count = notes_of(folder), readable(folder / f"v-unfinished{suffix}")
    told = {"seconds": round(seconds, 3), "written": int(rows[-1][0]), "readable": count,
            "unflushed_most": int(max(row[1] for row in rows))}  # fmt: skip
    clean(folder)
    return told


def costs(folder: Path, suffix: str, fps: float) -> dict[str, Any]:
    """Milliseconds of a frame in the recording thread, with flushing and without by turns, and KiB of a frame."""
    taken: dict[str, list[float]] = {"flushed": [], "not_flushed": []}
    for turn in range(2 * COST_TURNS):
        name = ("flushed", "not_flushed")[turn % 2]
        started(folder, suffix, fps, LONGEST_SECONDS, flushed=name == "flushed").wait()
        rows = notes_of(folder)
        kib = (folder / f"v{suffix}").stat().st_size / len(rows) / 1024
        taken[name] += [row[2] for row in rows]
        clean(folder)
    shares = {
        name: {f"p{share}_ms": round(float(np.percentile(values, share)), 2) for share in (50, 99, 100)}
        for name, values in taken.items()
    }
    return {**shares, "kib_a_frame": round(kib, 1)}


def draw(folder: Path) -> None:
    """The frames to record and their masks."""
    from clst_runtime.imaging.image_files import write_png
    from clst_train.synthetic.camera_looks import LOOKS
    from clst_train.synthetic.scenes import draw_drive

    for index, (frame, mask) in enumerate(draw_drive(5, LOOKS["new"], SIZE_HW, DRAWN)):
        write_png(folder / f"{index:03d}.png", frame)
        write_png(folder / f"{index:03d}-mask.png", mask)


@click.command()
@click.option("--kills", default=20, show_default=True, type=click.IntRange(1), help="Of each format.")
@click.option("--fps", default=30.0, show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="On the disk to look at; else the system's temporary one."
)
def main(kills: int, fps: float, folder: Path | None) -> None:
    """Measure and write the result file."""
    from clst_runtime.system.files.atomic import write_text
    from clst_runtime.system.machine import machine_facts

    told: dict[str, Any] = {}
    chance = random.Random(0)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        draw(Path(name))
        for suffix in (".mp4", ".mkv"):
            rows = [kill(Path(name), suffix, fps, chance.uniform(1.0, LONGEST_SECONDS)) for _ in range(kills)]
            told[suffix] = {
                "lost_most_seconds": round(max(row["written"] - row["readable"] for row in rows) / fps, 2),
                "unflushed_most_seconds": round(max(row["unflushed_most"] for row in rows) / fps, 2),
                **costs(Path(name), suffix, fps),
                "kills": rows,
            }
            print(suffix, {key: value for key, value in told[suffix].items() if key != "kills"}, flush=True)
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    facts = {"name": "recording", "size": "720x1280", "fps": fps, "date": time.strftime("%Y-%m-%d"), "commit": commit,
             "machine": machine_facts()}  # fmt: skip
    write_text(HERE / "results" / "recording.json", json.dumps(facts | told, indent=1) + "\n")


if __name__ == "__main__":
    main()
