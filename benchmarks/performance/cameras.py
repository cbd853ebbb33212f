"""What a second camera costs, and whether frames of two cameras should be computed one by one or as a batch.

    python -m benchmarks.performance.cameras [--rounds N] [--size 512x1024]

A DDRNet-23-slim with random weights is exported at the given size. In interleaved rounds the live loop takes the same
images of 1280x720 from one camera, from two, and from one beside a camera that is silent, with the masks at the
camera's size; the time is that from the warm-up to the last mask. Then the same network, as a graph of one frame and
as one of two, computes a pair of frames in the bare ONNX Runtime session: in two runs, or as a batch. Both frames are
there at the start, so that the time to a result is its age. Everything is a ratio within one process. The result goes
to benchmarks/results/cameras.json.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.performance.rounds import interleaved, ratio
from benchmarks.performance.runtime_cost import CAMERA_HW, WARM_UP, exported
from benchmarks.record import RESULTS, provenance, write_result
from clst_runtime.backends.base import Backend
from clst_runtime.imaging.geometry import Image
from clst_runtime.live.pipeline import Camera, Observers, Stop, run_cameras
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.sources import Source, SourceEnded, TimedFrame

FRAMES = 3
"""Of each camera in a round."""
OPSET = 19


class Given(Source):
    """The same image `FRAMES` times, always there."""

    def __init__(self, image: Image) -> None:
        super().__init__()
        self.image, self.given = image, 0

    def take(self, timeout_seconds: float) -> TimedFrame:
        if self.given == FRAMES:
            raise SourceEnded
        self.given += 1
        return TimedFrame(index=self.given, image=self.image, captured_ns=time.monotonic_ns(), name="x")


class Silent(Source):
    """A camera that gives nothing."""

    live = True

    def waiting_ns(self) -> None:
        return None

    def take(self, timeout_seconds: float) -> None:
        return None


class Last(Sink):
    """Knows when the last mask came."""

    name = "last"
    in_main_thread = True

    def __init__(self) -> None:
        self.came_ns, self.masks = 0, 0

    def write(self, result: Result) -> None:
        self.came_ns, self.masks = time.perf_counter_ns(), self.masks + 1


def loop_ms(backend: Backend, sources: list[Source]) -> float:
    """From the warm-up to the last mask of cameras that give frames."""
    begun_ns, last, stop = [], Last(), Stop()

    def ready(_: RunStatistics) -> None:
        begun_ns.append(time.perf_counter_ns())

    giving = [source for source in sources if isinstance(source, Given)]

    def tick(_: RunStatistics) -> None:
        if last.masks == FRAMES * len(giving):
            stop.ask("all masks are there")

    cameras = [
        Camera(source=source, sinks=[last], statistics=RunStatistics(), observers=Observers(ready=ready, tick=tick))
        for source in sources
    ]
    run_cameras(cameras, backend, stop=stop)
    return (last.came_ns - begun_ns[0]) / 1e6


def loops(model: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each kind of run, by round."""
    from clst_runtime.backends.onnxruntime.session import OrtBackend

    images = np.random.default_rng(0).integers(0, 256, (2, *CAMERA_HW, 3), dtype=np.uint8)
    with OrtBackend(model) as backend:

        def run(*made: Callable[[], Source]) -> Callable[[], float]:
            return lambda: loop_ms(backend, [make() for make in made])

        def front() -> Source:
            return Given(images[0])

        def rear() -> Source:
            return Given(images[1])

        ways = {
            "one camera": run(front),
            "two cameras": run(front, rear),
            "one beside a silent one": run(front, Silent),
        }
        taken = interleaved(ways, WARM_UP + rounds)
    return {name: values[WARM_UP:] for name, values in taken.items()}


def graph(checkpoint: Path, batch: int) -> bytes:
    """The deployed network as an ONNX graph of so many frames."""
    import torch

    from clst_export.graph.trace import deployable_of
    from clst_train.models.checkpoint import load_checkpoint

    deployable, manifest = deployable_of(load_checkpoint(checkpoint))
    frames = torch.zeros(batch, 3, *manifest.input_hw, dtype=torch.uint8).permute(0, 2, 3, 1)
    with torch.no_grad():
        program = torch.export.export(deployable, (frames,), strict=False)
        made: Any = torch.onnx.export(program, input_names=["frame"], output_names=["classes"], opset_version=OPSET,
                                      dynamo=True, optimize=True, verbose=False)  # fmt: skip
    text: bytes = made.model_proto.SerializeToString()
    return text


def pairs(checkpoint: Path, size_hw: tuple[int, int], rounds: int) -> dict[str, list[float]]:
    """Milliseconds to the first and to both results of a pair of frames, in two runs and as a batch, by round."""
    import onnxruntime

    one, two = (onnxruntime.InferenceSession(graph(checkpoint, batch)) for batch in (1, 2))
    frames = np.random.default_rng(0).integers(0, 256, (2, *size_hw, 3), dtype=np.uint8)
    expected = [one.run(None, {"frame": frame[None]})[0][0] for frame in frames]
    agreement = float((two.run(None, {"frame": frames})[0] == np.stack(expected)).mean())
    first_ms: list[float] = []

    def in_two_runs() -> float:
        before = time.perf_counter_ns()
        one.run(None, {"frame": frames[:1]})
        first_ms.append((time.perf_counter_ns() - before) / 1e6)
        one.run(None, {"frame": frames[1:]})
        return (time.perf_counter_ns() - before) / 1e6

    def as_batch() -> float:
        before = time.perf_counter_ns()
        two.run(None, {"frame": np.stack([*frames])})  # frames of two cameras lie in different places
        return (time.perf_counter_ns() - before) / 1e6

    taken = interleaved({"two runs": in_two_runs, "batch of two": as_batch}, WARM_UP + rounds)
    taken["two runs, first result"] = first_ms
    taken["two runs, mean age"] = [(a + b) / 2 for a, b in zip(first_ms, taken["two runs"], strict=True)]
    return {name: values[WARM_UP:] for name, values in taken.items()} | {"agreement": [agreement]}


@click.command()
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1))
@click.option("--size", default="512x1024", show_default=True, help="HxW of the network.")
def main(rounds: int, size: str) -> None:
    """Measure and write the result file."""
    rows, columns = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        model = exported(Path(name), (rows, columns))
        looped = loops(model, rounds)
        paired = pairs(Path(name) / "c.pt", (rows, columns), rounds)
    (agreement,) = paired.pop("agreement")
    ratios = {
        "two cameras / one camera": ratio(looped, "two cameras", "one camera"),
        "one beside a silent one / one camera": ratio(looped, "one beside a silent one", "one camera"),
        "batch / two runs, both results": ratio(paired, "batch of two", "two runs"),
        "batch / two runs, first result": ratio(paired, "batch of two", "two runs, first result"),
        "batch / two runs, mean age": ratio(paired, "batch of two", "two runs, mean age"),
    }
    samples = {
        way: {"median_ms": statistics.median(values), "samples_ms": values} for way, values in (looped | paired).items()
    }
    facts = {"name": "cameras", "size": size, "rounds": rounds, "frames": FRAMES, **provenance()}
    write_result(RESULTS / "cameras.json", facts | {"ratios": ratios, "agreement": agreement, "times": samples})
    for text, value in ratios.items():
        print(f"{text:40} {value:.3f}")
    print(f"batch and two runs give the same class on {100 * agreement:.3f} % of pixels")


if __name__ == "__main__":
    main()
