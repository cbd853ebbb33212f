"""Which light decoder for EfficientNet-Lite: mIoU after a short training, latency on this CPU beside DDRNet-23-slim.

    python -m benchmarks.performance.decoders --data CAMVID --work FOLDER [--steps N] [--seed N] [ROW…]

Each row is EfficientNet-Lite0 with its ImageNet weights and another decoder. The project's source training trains it on
CamVid's drive 0016E5; it is scored on the drive 0006R0. Both are of the train split: neither the pairs' test images nor
their new camera are seen. All rows have the same batches. A row that is in FOLDER is not trained again. Then all
networks are traced at 256x512, INT8 for the CPU and for TensorRT is written, and latency is taken in interleaved
rounds, on one thread. Where TensorRT for RTX is installed, its builder gets the built-in networks.
The result goes to benchmarks/results/decoders.json.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.adaptation.pairs import link_drives
from benchmarks.performance.rounds import interleaved, ratio
from benchmarks.record import RESULTS, markdown, provenance, write_result

RESULT = RESULTS / "decoders.json"
NETWORK, BASE = "efficientnet_lite0", "ddrnet23_slim"
TRAINED_ON, SCORED_ON = ("0016E5",), ("0006R0",)
LATENCY_HW = (256, 512)
CALIBRATED, COMPARED = 8, 20
"""Frames that INT8 is calibrated on, and that its classes are compared on."""
WARM_UP = 3
"""Rounds that do not count."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One decoder."""

    stride: int = 8
    """Of the features."""
    width: int = 96
    """Channels of the decoder."""
    mean: bool = True
    """Whether the mean of the coarsest map is added."""
    full: tuple[int, ...] = (8,)
    """Strides at which the 3×3 is a full convolution; elsewhere it is a depthwise one and a 1×1."""
    pretrained: str = "auto"
    """What the encoder starts from, as `model.pretrained`."""


ROWS = {
    "stride 8, 96 channels": Row(),
    "64 channels": Row(width=64),
    "128 channels": Row(width=128),
    "without mean": Row(mean=False),
    "depthwise 3x3 alone": Row(full=()),
    "stride 4": Row(stride=4, full=()),
    "random weights": Row(pretrained="none"),
}
BUILT_IN = (BASE, "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""Networks whose latency is taken beside the rows', with random weights."""


def normed(convolution: nn.Conv2d) -> list[nn.Module]:
    """A convolution and its BatchNorm."""
    return [convolution, nn.BatchNorm2d(convolution.out_channels)]


class RowDecoder(nn.Module):
    """Maps at stride 4, 8, 16 and 32 to one at the row's stride, from coarse to fine."""

    def __init__(self, channels: Sequence[int], row: Row) -> None:
        super().__init__()
        self.strides = [stride for stride in (16, 8, 4) if stride >= row.stride]
        width = row.width
        self.sides = nn.ModuleList(
            nn.Sequential(*normed(nn.Conv2d(count, width, 1, bias=False))) for count in reversed(channels)
        )
        self.mean = nn.Conv2d(channels[-1], width, 1) if row.mean else None
        self.mixed = nn.ModuleList(self._mix(width, full=stride in row.full) for stride in self.strides)

    @staticmethod
    def _mix(width: int, *, full: bool) -> nn.Sequential:
        if full:
            return nn.Sequential(*normed(nn.Conv2d(width, width, 3, padding=1, bias=False)), nn.ReLU())
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        return nn.Sequential(depthwise, *normed(nn.Conv2d(width, width, 1, bias=False)), nn.ReLU())

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The features."""
        coarse = maps[-1]
        out = self.sides[0](coarse)
        if self.mean is not None:
            out = out + self.mean(coarse.mean(dim=(2, 3), keepdim=True))
        out = F.relu(out)
        for index, mix in enumerate(self.mixed, start=1):
            finer = maps[-1 - index]
            size = (int(finer.shape[2]), int(finer.shape[3]))
            enlarged = F.interpolate(out, size=size, mode="bilinear", align_corners=False)
            out = mix(F.relu(self.sides[index](finer) + enlarged))
        return torch.as_tensor(out)


def network_of(row: Row, class_count: int) -> Any:
    """The row's network with the ImageNet weights."""
    from clst_train.config import ModelConfig
    from clst_train.models.networks import build_segmenter
    from clst_train.models.segmenter import initialise
    from clst_train.models.weights.pretrained import load_pretrained

    segmenter: Any = build_segmenter(NETWORK, class_count)
    segmenter.decoder = RowDecoder(segmenter.encoder.channels, row)
    segmenter.classifier = nn.Conv2d(row.width, class_count, 1)
    segmenter.feature_channels, segmenter.output_stride = row.width, row.stride
    initialise(segmenter)
    load_pretrained(segmenter, ModelConfig(network=NETWORK, pretrained=row.pretrained))
    return segmenter


def trained(work: Path, name: str, row: Row, settings: tuple[str, ...]) -> Any:
    """Train a row as clst-train trains a source network, or take what an earlier call left; score it."""
    import dataclasses

    from clst_train.engine.options import configure
    from clst_train.engine.run import validation_miou
    from clst_train.engine.run_folder import RunFolder
    from clst_train.models.checkpoint import load_checkpoint
    from clst_train.stages.source import train_source
    from clst_train.training import _open_setup, _run_of

    folder = RunFolder(work / "".join(each if each.isalnum() else "_" for each in name))
    options = {"source": str(work / "trained_on"), "val": str(work / "scored_on"), "settings": settings}
    config = configure("new_camera", {**options, "val_split": "train"})
    run = _run_of(folder, _open_setup(config, None), begins=False)
    torch.manual_seed(config.run.seed)
    segmenter = network_of(row, len(run.classes))
    figures = folder.path / "figures.json"
    if figures.is_file():
        segmenter.load_state_dict(load_checkpoint(folder.source).segmenter_state)
        return segmenter.eval(), json.loads(figures.read_text())
    segmenter.to(memory_format=torch.channels_last)
    folder.path.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    train_source(dataclasses.replace(run, segmenter=segmenter), None)
    seconds = time.perf_counter() - started
    if run.validation is None:
        raise click.ClickException("no images to score on")
    miou = 100 * validation_miou(segmenter, run.validation, config, None)
    entries = [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    found = {"miou": miou, "losses": losses, "seconds_a_step": seconds / config.source.iterations}
    figures.write_text(json.dumps(found))
    return segmenter.eval(), found


def frames_of(work: Path) -> list[Any]:
    """Frames of the scored drive at the size that latency is taken at."""
    import cv2

    from clst_runtime.imaging.image_files import read_image

    paths = sorted((work / "scored_on" / "images" / "train").glob("*.jpg"))
    chosen = paths[:: max(1, len(paths) // (CALIBRATED + COMPARED))][: CALIBRATED + COMPARED]
    return [cv2.resize(read_image(path), LATENCY_HW[::-1], interpolation=cv2.INTER_AREA) for path in chosen]


def graphs_of(segmenter: Any, frames: Sequence[Any]) -> dict[str, Any]:
    """Float32, INT8 for the CPU and INT8 for TensorRT."""
    from clst_export.graph.compatibility import check_compatibility
    from clst_export.graph.trace import trace
    from clst_export.precision import Target
    from clst_export.quantization.calibration import Method, calibrate
    from clst_export.quantization.int8 import activations, to_int8
    from clst_export.quantization.placement import check_placement
    from clst_train.models.deployable import Deployable

    deployable = Deployable(segmenter.to(memory_format=torch.contiguous_format), LATENCY_HW)
    model = trace(deployable, LATENCY_HW, opset=19, with_confidence=False)
    check_compatibility(model)
    ranges = calibrate(model, frames[:CALIBRATED], activations(model), [Method.MAX])[Method.MAX]
    tensorrt = to_int8(model, ranges, target=Target.TENSORRT)
    check_placement(tensorrt)
    return {"fp32": model, "int8-cpu": to_int8(model, ranges, target=Target.CPU), "int8": tensorrt}


def layers_built(model: Any, path: Path) -> dict[str, int] | None:
    """How many layers of each type TensorRT for RTX read and built; None where it is not installed."""
    import onnx

    from clst_runtime.backends.tensorrt.build.builder import serialise_engine
    from clst_runtime.backends.tensorrt.build.options import BuildOptions
    from clst_runtime.backends.tensorrt.build.progress import BuildProgress
    from clst_runtime.backends.tensorrt.rtx.library import load_rtx
    from clst_runtime.errors import MissingDependency

    try:
        trt = load_rtx()
    except MissingDependency:
        return None
    onnx.save(model, str(path))
    return dict(serialise_engine(trt, path, BuildOptions(), BuildProgress()).layers)


def session_of(model: Any) -> Any:
    """On one thread of the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def milliseconds(work: Callable[[], Any]) -> float:
    """Of one call."""
    before = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - before) / 1e6


def latencies(sessions: dict[tuple[str, str], Any], frame: Any, rounds: int) -> dict[tuple[str, str], dict[str, float]]:
    """Median milliseconds and the ratio to the base in float32."""
    ways = {f"{name}|{kind}": partial(session.run, None, {"frame": frame[None]}) for (name, kind), session in
            sessions.items()}  # fmt: skip
    taken = interleaved({name: partial(milliseconds, way) for name, way in ways.items()}, WARM_UP + rounds)
    samples = {name: values[WARM_UP:] for name, values in taken.items()}
    return {
        key: {"median_ms": statistics.median(samples["|".join(key)]),
              "ratio": ratio(samples, "|".join(key), f"{BASE}|fp32")}
        for key in sessions
    }  # fmt: skip


def agreement(sessions: dict[tuple[str, str], Any], name: str, frames: Sequence[Any]) -> float:
    """Share of pixels that INT8 for the CPU gives the class of float32."""
    equal = [
        np.mean(sessions[name, "int8-cpu"].run(None, {"frame": frame[None]})[0]
                == sessions[name, "fp32"].run(None, {"frame": frame[None]})[0])
        for frame in frames[CALIBRATED:]
    ]  # fmt: skip
    return float(np.mean(equal))


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[ROW…]")
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="CamVid.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for the trained networks.")
@click.option("--steps", default=150, show_default=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(names: tuple[str, ...], data: Path, work: Path, steps: int, rounds: int, seed: int) -> None:
    """Train, export and time the rows."""
    from clst_train.models.networks import build_segmenter

    torch.set_num_threads(1)
    link_drives(data, work / "trained_on", "train", TRAINED_ON, ("train",))
    link_drives(data, work / "scored_on", "train", SCORED_ON, ("train",))
    settings = (
        *("model.input_hw=[240,320]", "augmentation.crop_hw=[128,192]", f"source.iterations={steps}", "run.threads=1"),
        *("source.batch=8", f"run.checkpoint_every={steps}", f"run.seed={seed}"),
        "run.precision=fp32",
    )
    wanted = {name: ROWS[name] for name in names or ROWS}
    found = {}
    for name, row in wanted.items():
        segmenter, figures = trained(work, name, row, settings)
        decoder = sum(value.numel() for value in segmenter.decoder.parameters())
        every = sum(value.numel() for value in segmenter.parameters())
        found[name] = (segmenter, {"row": asdict(row), "decoder_parameters": decoder, "parameters": every, **figures})
        click.echo(f"{name}: {figures['miou']:.2f}", err=True)
    frames = frames_of(work)
    result = {name: figures for name, (_, figures) in found.items()}
    networks = {name: build_segmenter(name, 11).eval() for name in BUILT_IN}
    networks |= {name: segmenter for name, (segmenter, _) in found.items()}
    sessions: dict[tuple[str, str], Any] = {}
    for name, segmenter in networks.items():
        graphs = graphs_of(segmenter, frames)
        sessions |= {(name, kind): session_of(graphs[kind]) for kind in ("fp32", "int8-cpu")}
        entry = result.setdefault(name, {})
        entry["nodes"] = len(graphs["fp32"].graph.node)
        if name in BUILT_IN:
            kinds = ("fp32", "int8")
            entry["tensorrt_rtx_layers"] = {kind: layers_built(graphs[kind], work / "model.onnx") for kind in kinds}
        click.echo(f"{name} is traced", err=True)
    for (name, kind), figures in latencies(sessions, frames[0], rounds).items():
        result[name].setdefault("latency", {})[kind] = figures
    for name in wanted:
        result[name]["int8_cpu_agreement"] = agreement(sessions, name, frames)
    out = {**provenance(), "settings": list(settings), "trained_on": TRAINED_ON, "scored_on": SCORED_ON,
           "latency_hw": LATENCY_HW, "latency_threads": 1, "rounds": rounds, "rows": result}  # fmt: skip
    write_result(RESULT, out)
    click.echo("\n".join(show(out)))


def show(result: dict[str, Any]) -> list[str]:
    """The rows as tables."""
    rows: dict[str, dict[str, Any]] = result["rows"]

    def ratios(entry: dict[str, Any]) -> list[str]:
        return [f"{entry['latency'][kind]['ratio']:.2f}" for kind in ("fp32", "int8-cpu")]

    return [
        *markdown(("network", "fp32", "INT8"), ((f"`{name}`", *ratios(rows[name])) for name in BUILT_IN)),
        *markdown(
            ("decoder", "its parameters", "mIoU", "fp32", "INT8", "pixels alike"),
            (
                (name, f"{entry['decoder_parameters']:,}", f"{entry['miou']:.1f}", *ratios(entry),
                 f"{100 * entry['int8_cpu_agreement']:.1f} %")
                for name, entry in rows.items() if "miou" in entry
            ),
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
