"""What the runtime costs beside the bare session, and how old a frame is when the program gets it.

    python -m benchmarks.performance.runtime_cost [--rounds N] [--size 512x1024] [--seconds N]

A DDRNet-23-slim with random weights is exported at the given size. In interleaved rounds the same frame is computed
by the bare ONNX Runtime session, by the backend, and by the live loop's segmenter, at the network's size and from a
camera of 1280x720 in BGR, NV12 and YUYV with the mask at the camera's size. Then frames of 1280x720 come through a pipe
at 30 a second, and their age on arrival is taken. Last, `clst-run` is started on one image. The result goes to
benchmarks/results/runtime_cost.json; everything is a ratio within one process, or the median of its own row.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.performance.rounds import interleaved, ratio
from benchmarks.record import RESULTS, provenance, write_result

CAMERA_HW = (720, 1280)
WARM_UP = 2
"""Rounds that do not count."""
WRITER = """
import sys, time
count, bytes_each = int(sys.argv[1]), int(sys.argv[2])
begun = time.monotonic()
for index in range(count):
    time.sleep(max(0.0, begun + index / 30 - time.monotonic()))
    sys.stdout.buffer.write(bytes(bytes_each))
    sys.stdout.buffer.flush()
"""
READER = """
import json, sys, time
from clst_runtime.sources import open_source
ages = []
with open_source("raw:1280x720?layout=bgr&fps=30") as source:
    for timed in source:
        ages.append((time.monotonic_ns() - timed.captured_ns) / 1e6)
    print(json.dumps({"frames": len(ages), "dropped": sum(source.drops.values()), "ages_ms": ages}))
"""


def exported(folder: Path, size_hw: tuple[int, int]) -> Path:
    """A network with random weights as an ONNX file."""
    import torch

    from clst_export.pipeline import Inputs, Request, convert
    from clst_export.precision import Precision
    from clst_runtime.classes.labels import load_class_list
    from clst_train.config import MEAN, STD
    from clst_train.models.checkpoint import Checkpoint, save_checkpoint
    from clst_train.models.networks import build_segmenter

    torch.manual_seed(0)
    classes = load_class_list("road19")
    network = build_segmenter("ddrnet23_slim", len(classes))
    checkpoint = Checkpoint(
        network="ddrnet23_slim", classes=classes, input_hw=size_hw, mean=MEAN, std=STD, stage="adapted", iteration=1,
        segmenter_state=network.state_dict(),
    )  # fmt: skip
    save_checkpoint(folder / "c.pt", checkpoint)
    frames = [np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)]
    convert(folder / "c.pt", folder / "m.onnx", Request(precision=Precision.FP32), Inputs(frames=frames))
    return folder / "m.onnx"


def costs(model: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds of each way and its ratio to the bare session, medians over the rounds."""
    from clst_runtime.backends.onnxruntime.session import OrtBackend
    from clst_runtime.imaging.geometry import Layout
    from clst_runtime.live.pipeline import Segmenter
    from clst_runtime.sources import TimedFrame

    rng = np.random.default_rng(0)
    with OrtBackend(model) as backend:
        size_hw, session = backend.manifest.input_hw, backend._session
        frame = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        segmenter = Segmenter(backend, at_camera_size=True)

        def loop(layout: Layout, hw: tuple[int, int]) -> Callable[[], Any]:
            image = rng.integers(0, 256, layout.shape(hw), dtype=np.uint8)
            given = TimedFrame(index=0, image=image, layout=layout, captured_ns=0, name="x")
            return lambda: segmenter.segment(given)

        ways: dict[str, Callable[[], Any]] = {
            "bare session": lambda: session.run(None, {"frame": frame[None]}),
            "backend": lambda: backend.predict(frame),
            "loop, frame of the network's size": loop(Layout.RGB, size_hw),
            **{f"loop, 1280x720 {layout.value}": loop(layout, CAMERA_HW) for layout in list(Layout)[1:]},
        }
        taken = interleaved({name: partial(milliseconds, way) for name, way in ways.items()}, WARM_UP + rounds)
    samples = {name: values[WARM_UP:] for name, values in taken.items()}
    return {
        name: {"median_ms": statistics.median(values), "ratio": ratio(samples, name, "bare session"),
               "samples_ms": values}
        for name, values in samples.items()
    }  # fmt: skip


def milliseconds(work: Callable[[], Any]) -> float:
    """Of one call."""
    before = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - before) / 1e6


def ages(seconds: float) -> dict[str, Any]:
    """How old frames of a pipe are when the program has them: the cost of reading in another process."""
    count = round(30 * seconds)
    arguments = [sys.executable, "-c", WRITER, str(count), str(CAMERA_HW[0] * CAMERA_HW[1] * 3)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
        done = subprocess.run([sys.executable, "-c", READER], stdin=writer.stdout, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    values = found.pop("ages_ms")
    return found | {"given": count, "median_ms": float(np.median(values)), "p99_ms": float(np.percentile(values, 99))}


def start_seconds(model: Path, folder: Path, *, times: int = 5) -> list[float]:
    """Wall time of `clst-run` on one image, from the start of the process to its end."""
    from clst_runtime.imaging.image_files import write_png

    write_png(folder / "one.png", np.zeros((*CAMERA_HW, 3), np.uint8))
    program = "import sys; from clst_runtime.cli.run import main; main(sys.argv[1:])"
    taken = []
    for _ in range(times):
        before = time.perf_counter()
        command = [sys.executable, "-c", program, str(model), "--source", str(folder / "one.png")]
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - before)
    return taken


@click.command()
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1))
@click.option("--size", default="512x1024", show_default=True, help="HxW of the network.")
@click.option("--seconds", default=10.0, show_default=True, help="Of frames through a pipe.")
def main(rounds: int, size: str, seconds: float) -> None:
    """Measure and write the result file."""
    rows, columns = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        model = exported(Path(name), (rows, columns))
        found: dict[str, Any] = {"costs": costs(model, rounds), "pipe_30fps_1280x720_bgr": ages(seconds)}
        found["start_seconds"] = start_seconds(model, Path(name))
    facts = {"name": "runtime_cost", "size": size, "rounds": rounds, **provenance()}
    write_result(RESULTS / "runtime_cost.json", facts | found)
    for way, row in found["costs"].items():
        print(f"{way:36} {row['median_ms']:8.2f} ms  {row['ratio']:.3f}×")
    print(found["pipe_30fps_1280x720_bgr"], [f"{seconds:.2f} s" for seconds in found["start_seconds"]])


if __name__ == "__main__":
    main()
