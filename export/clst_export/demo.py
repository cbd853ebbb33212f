"""The whole workflow for a new camera: adapt → export → verify → drive."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from clst_export.camera_reference import reference_segments
from clst_export.pipeline import Inputs, Request, convert
from clst_export.precision import Precision
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.backends.tensorrt.build.check import describe_build_check
from clst_runtime.data.dataset import LabelledDataset, open_dataset
from clst_runtime.evaluation.evaluate import evaluate
from clst_runtime.evaluation.latency.host_to_host import Effort, measure_side_by_side
from clst_runtime.evaluation.parity import compare
from clst_runtime.imaging.image_files import write_png
from clst_runtime.imaging.overlay import colourise, contact_sheet
from clst_runtime.live.monitor.reference import LEAST_FRAMES
from clst_runtime.live.monitor.sink import open_monitor
from clst_runtime.live.pipeline import run_pipeline
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.sinks.files import FrameLogSink
from clst_runtime.live.sinks.video import VideoSink
from clst_runtime.live.sinks.video_files import video_suffix
from clst_runtime.sources import open_source
from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.machine import machine_facts
from clst_runtime.system.tables import format_table, percent
from clst_train.data.target import TargetImages, open_target
from clst_train.engine.run_folder import RunFolder
from clst_train.method.batchnorm import estimate_statistics
from clst_train.models.checkpoint import build_from_checkpoint, load_checkpoint
from clst_train.models.checkpoint_backend import TorchBackend, open_checkpoint, segmenter_backend
from clst_train.stages.whole_images import statistics_batches
from clst_train.synthetic.camera_looks import LOOKS, find_look
from clst_train.synthetic.scenes import draw_drive, write_scenes
from clst_train.training import start_run

_log = logging.getLogger(__name__)

SIZE_HW = (160, 320)
DRIVE_FRAMES = 60
STATISTICS_IMAGES = 256
COMPARED = """\
The new camera is `middle` of `clst-data camera`: a longer, softer lens with darker corners, bluish colours, short
exposures and their noise. It sits higher, drives through haze, and a quarter of its scenes are at night.
Its {count} test images are other scenes than those of any training.
  source only  trained on the old camera's labels
  statistics   the same, its BatchNorm statistics estimated on unlabelled images of the new camera
  adapted      the same, adapted to them by CLST; then as the exported ONNX file"""


def run_demo(out: Path, *, scenes: int, settings: Sequence[str]) -> str:
    """Do everything below `out`; returns the table and where to look."""
    _log.info("1/5  making synthetic scenes of the old camera (with labels) and of the new one")
    for seed, look in enumerate(map(find_look, LOOKS)):
        counts = {"train": scenes, "val": max(8, scenes // 4)}
        write_scenes(out / f"{look.name}_camera", look=look, counts=counts, size_hw=SIZE_HW, seed=seed)
    old, new = out / "old_camera", out / "new_camera"
    target = new / "images" / "train"
    _log.info("2/5  training on the old camera, adapting to the new one (clst-train)")
    options = {"source": str(old), "target": (str(target),), "val": str(new), "settings": tuple(settings)}
    folder = start_run(recipe="demo", out=out / "run", init=None, resume=None, options=options)
    _log.info("3/5  export to ONNX, verified against PyTorch (clst-export)")
    images = open_target([str(target)], input_hw=SIZE_HW)
    model = out / "model.onnx"
    frames = [images[index] for index in range(min(16, len(images)))]
    reference, _ = reference_segments([str(target)], SIZE_HW)
    inputs = Inputs(frames=frames, reference=reference)
    exported = convert(folder.adapted, model, Request(precision=Precision.FP32), inputs)
    _log.info(f"     {describe_build_check(exported.manifest.build_check)}")
    _log.info("4/5  parity and accuracy (clst-parity, clst-eval)")
    table = _compare(out, folder, model, open_dataset(new, split="val"), images)
    _log.info("5/5  a drive with the new camera (clst-run, clst-bench)")
    speed = _drive(out, model, images)
    cameras = watch_cameras(model, {"new": new / "images" / "val", "old": old / "images" / "train"})
    hint = f"Look into {out}: before_after.png, drive{video_suffix()}, run/curves.png, run/config.toml"
    text = "\n\n".join([table, speed, cameras, hint])
    write_text(out / "report.txt", text + "\n")
    return text


def statistics_backend(folder: RunFolder, images: TargetImages, count: int) -> TorchBackend:
    """The source network with nothing but its BatchNorm statistics estimated on target images."""
    checkpoint = load_checkpoint(folder.source)
    segmenter = build_from_checkpoint(checkpoint)
    estimate_statistics(segmenter, statistics_batches(segmenter.normalisation, images, count=count, size=4))
    return segmenter_backend(
        segmenter.eval(), network=checkpoint.network, classes=checkpoint.classes, input_hw=checkpoint.input_hw
    )


def _compare(out: Path, folder: RunFolder, model: Path, data: LabelledDataset, images: TargetImages) -> str:
    with (
        open_checkpoint(folder.source) as source,
        open_checkpoint(folder.adapted) as adapted,
        OrtBackend(model) as exported,
    ):
        before = evaluate(source, data)
        statistics = evaluate(statistics_backend(folder, images, STATISTICS_IMAGES), data)
        parity = compare(adapted, exported, data)
        rows = []
        for index in range(0, len(data), max(1, len(data) // 5)):
            sample = data[index]
            maps = [sample.labels, source.predict(sample.image).classes, exported.predict(sample.image).classes]
            rows.append([sample.image, *(colourise(each, data.classes) for each in maps)])
    write_png(out / "before_after.png", contact_sheet(rows[:5], ["new camera", "truth", "source only", "adapted"]))
    values = {
        "machine": machine_facts(),
        "source_only": before.to_json(),
        "batchnorm_statistics": statistics.to_json(),
        **parity.to_json(),
    }
    write_text(out / "results.json", json.dumps(values, indent=1) + "\n")
    results = [before, statistics, parity.reference, parity.candidate]
    lines = [
        [name, *(percent(result.iou[index], 1) for result in results)] for index, name in enumerate(data.classes.names)
    ]
    lines.append(["mIoU", *(percent(result.miou) for result in results)])
    table = format_table(["IoU % on the new camera", "source only", "statistics", "adapted", "adapted, ONNX"], lines)
    agreement = f"{percent(parity.agreement, 3)} % of pixels agree between PyTorch and ONNX Runtime"
    return f"{COMPARED.format(count=len(data))}\n\n{table}\n{agreement}"


def _drive(out: Path, model: Path, images: TargetImages) -> str:
    for index, (frame, _) in enumerate(draw_drive(5, find_look("new"), SIZE_HW, DRIVE_FRAMES)):
        write_png(out / "drive" / f"{index:04d}.png", frame)
    with OrtBackend(model) as backend, open_source(str(out / "drive")) as source:
        classes = backend.manifest.classes
        sinks: list[Sink] = [
            VideoSink(out / f"drive{video_suffix()}", classes, 10.0, 0.5),
            FrameLogSink(out / "drive.jsonl", classes),
        ]
        statistics = run_pipeline(source, backend, sinks)
        frames = [images[index] for index in range(min(8, len(images)))]
        effort = Effort(runs=200, seconds=10.0, warm_up_runs=20)
        latency = measure_side_by_side([backend], frames, effort)[0].summary_ms()
    return (
        f"{statistics.frames} frames driven; host to host {latency['median']:.1f} ms median, "
        f"{latency['p99']:.1f} ms p99 at {SIZE_HW[0]}x{SIZE_HW[1]} on {machine_facts()['cpu']}"
    )


def watch_cameras(model: Path, cameras: Mapping[str, Path]) -> str:
    """A line for each camera: the monitor's result after its images, none of which are in the reference.

    Args:
        cameras: folder of images by the camera's name.
    """
    lines = []
    with OrtBackend(model) as backend:
        for name, folder in cameras.items():
            with open_source(str(folder)) as source:
                monitor = open_monitor(backend.manifest, source)
                if monitor is None:
                    few = f"fewer than {LEAST_FRAMES} images of it; give more --scenes"
                    return f"is it the new camera? not judged: {few}"
                run_pipeline(source, backend, [monitor])
                lines.append(f"{name} camera, {monitor.looks} images: {monitor.detector.status.text}")
    return "\n".join(lines)
