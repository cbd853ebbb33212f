"""FP32, FP16 and INT8 of the same checkpoints: mIoU, per-class loss, agreement, size and latency.

    python -m benchmarks.export.precision --name dusk --data DIR --split test --calib DIR CHECKPOINT…

Every flavour is made by clst-export's own conversion; nothing is gated here, so that bad figures are seen. Latency is
host to host on this machine's CPU (ONNX Runtime), all flavours interleaved in one process, as a ratio to FP32. FP16 and
INT8 for TensorRT are computed on the CPU for their numbers only: their speed belongs to the device.
The result goes to benchmarks/results/precision_<name>.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.record import RESULTS, markdown, provenance, write_result

UNTIMED, TIMED = 3, 5
"""Runs of one file in a round."""
PROFILED = 30
"""Runs that the convolutions' share is measured on."""
FLAVOURS = ("fp32", "fp16", "int8", "int8-cpu")


def make(
    checkpoint: Path, out: Path, flavour: str, inputs: Any, budget: float | None, input_hw: tuple[int, int]
) -> dict[str, Any]:
    """One flavour's file and what the conversion measured."""
    from clst_export.pipeline import Request, convert
    from clst_export.precision import Precision, Target
    from clst_export.verification.gate import Bounds

    precision, _, target = flavour.partition("-")
    anything = Bounds(min_agreement=0.0, max_miou_drop=1.0)
    request = Request(
        precision=Precision(precision), target=Target(target or "tensorrt"), bounds=anything, input_hw=input_hw,
        budget=budget if precision == "int8" else None,
    )  # fmt: skip
    started = time.perf_counter()
    done = convert(checkpoint, out, request, inputs, log=lambda message: click.echo(f"  {message}", err=True))
    parity = {name: value for name, value in done.manifest.parity.items() if name not in ("bounds", "holds")}
    calibration = {k: v for k, v in done.manifest.calibration.items() if k in ("method", "frames", "kept", "quantised")}
    methods = {name: {"agreement": v.agreement, "miou": v.candidate_miou} for name, v in done.methods.items()}
    curve = [] if done.budget is None else [
        {"kept": len(t.kept), "drop": t.comparison.drop, "cost": t.cost} for t in done.budget.curve
    ]  # fmt: skip
    return {"flavour": flavour, "bytes": out.stat().st_size, "seconds": time.perf_counter() - started,
            "parity": parity, "calibration": calibration, "methods": methods, "curve": curve}  # fmt: skip


def latencies(
    files: Sequence[Path],
    frames: Sequence[Any],
    *,
    rounds: int,
    provider: str = "cpu",
    threads: int | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> list[list[int]]:
    """Nanoseconds of each file's runs, interleaved in rounds of a few runs; the first round warms up."""
    from clst_runtime.backends.onnxruntime.session import OrtBackend

    backends = [OrtBackend(path, provider=provider, threads=threads) for path in files]
    samples: list[list[int]] = [[] for _ in files]
    for round_ in range(rounds):
        for place, backend in enumerate(backends):
            for run in range(UNTIMED + TIMED):  # the first runs wait for the other sessions' threads to go to sleep
                frame = frames[(round_ + run) % len(frames)]
                before = clock()
                backend.predict(frame)
                if run >= UNTIMED and round_ > 0:
                    samples[place].append(clock() - before)
    for backend in backends:
        backend.close()
    return samples


def convolution_ms(file: Path, frame: Any) -> float:
    """Milliseconds of all convolutions of one run, by ONNX Runtime's own profile: the kernels without the rest."""
    import onnxruntime

    from clst_runtime.artifact.onnx_metadata import read_onnx_manifest

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    if read_onnx_manifest(file).calibration.get("target") == "tensorrt":
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for _ in range(UNTIMED + PROFILED):
            session.run(None, {"frame": frame[None]})
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[str, list[float]] = {}
    for event in events:
        is_kernel = event.get("cat") == "Node" and event["name"].endswith("kernel_time")
        if is_kernel and "Conv" in event["args"]["op_name"]:
            durations.setdefault(event["name"], []).append(event["dur"])
    return sum(statistics.median(each[UNTIMED:]) for each in durations.values()) / 1000


def measure(
    checkpoint: Path, content: Any, input_hw: tuple[int, int], work: Path, inputs: Any, options: dict[str, Any]
) -> dict[str, Any]:
    """All flavours of one checkpoint, whose `content` is loaded."""
    from clst_runtime.live.latency import summarise_ms

    budget = None if options["max_miou_drop"] is None else options["max_miou_drop"] / 100
    work.mkdir(parents=True, exist_ok=True)
    rows, files = [], []
    for flavour in FLAVOURS:
        click.echo(f"{checkpoint}: {flavour}", err=True)
        files.append(work / f"{content.network}-{checkpoint.stem}.{flavour}.onnx")
        rows.append(make(checkpoint, files[-1], flavour, inputs, budget, input_hw))
    samples = latencies(files, inputs.frames[:8], rounds=options["rounds"], provider=options["provider"])
    medians = [statistics.median(each) for each in samples]
    for row, own, median in zip(rows, samples, medians, strict=True):
        row["host_to_host_ms"] = summarise_ms(own)
        row["speed_against_fp32"] = medians[0] / median
    for row, file in zip(rows, files, strict=True):
        row["convolution_ms"] = convolution_ms(file, inputs.frames[0])
        row["convolution_speed_against_fp32"] = rows[0]["convolution_ms"] / row["convolution_ms"]
    return {"network": content.network, "input_hw": list(input_hw), "classes": list(content.classes.names),
            "stage": content.stage, "provider": options["provider"], "flavours": rows}  # fmt: skip


def inputs_of(
    content: Any, input_hw: tuple[int, int], *, data: Path, split: str, count: int | None, calib: Sequence[str],
    calib_count: int | None, mapping: Path | None = None,
) -> Any:  # fmt: skip
    """At most `count` labelled images of a split and at most `calib_count` for calibration, H,W,3 of the input size."""
    from clst_export.pipeline import Inputs
    from clst_export.quantization.calibration import calibration_frames
    from clst_export.verification.evaluator import contents_of, labelled_frames
    from clst_runtime.data.dataset import open_dataset

    labelled = open_dataset(data, split=split, classes=content.classes, mapping_file=mapping)
    frames, labels = labelled_frames(labelled, input_hw, count or len(labelled), content.fit)
    calibration = calibration_frames(list(calib), input_hw, calib_count, fit=content.fit)
    contents = contents_of(labels, input_hw, content.fit)
    return Inputs(frames=frames, labels=labels, contents=contents, calibration=calibration)


def show(result: dict[str, Any]) -> list[str]:
    """The figures as a Markdown table, one line a network and flavour."""
    budget = result["budget_points"]
    asked = "everything quantised" if budget is None else f"INT8 to a budget of {budget} points"
    headers = ("network", "file", "mIoU", "mIoU lost", "pixels equal", "MiB", "INT8 convolutions", "speed",
               "of convolutions")  # fmt: skip
    return [
        f"An adapted network, {asked}. Speed is host to host on the CPU as a ratio to fp32 in one process; "
        "beside it is that of the convolutions alone.",
        "",
        *markdown(headers, (cells(network, each) for network in result["networks"] for each in network["flavours"])),
    ]


def cells(network: dict[str, Any], each: dict[str, Any]) -> list[str]:
    """One exported file's line."""
    parity, kept, count = each["parity"], each["calibration"].get("kept", []), each["calibration"].get("quantised")
    lost = round(100 * (parity["reference_miou"] - parity["miou"]), 2) + 0.0  # no minus before a zero
    ratios = (each["speed_against_fp32"], each["convolution_speed_against_fp32"])
    runs_here = each["flavour"] in ("fp32", "int8-cpu")
    return [
        f"{network['network']}, {network['input_hw'][0]}x{network['input_hw'][1]}",
        each["flavour"],
        f"{100 * parity['miou']:.2f}",
        f"{lost:.2f}",
        f"{100 * parity['agreement']:.2f} %",
        f"{each['bytes'] / 2**20:.1f}",
        "" if count is None else f"{count} of {count + len(kept)}",
        *(f"{ratio:.2f}×" if runs_here else "on the device" for ratio in ratios),
    ]


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the result file.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled images to compare on.")
@click.option("--split", default="val", show_default=True)
@click.option("--mapping", type=click.Path(path_type=Path))
@click.option("--count", type=int, help="At most so many of them.")
@click.option("--calib", required=True, multiple=True, help="Images to calibrate on.")
@click.option("--calib-count", type=int)
@click.option("--max-miou-drop", type=float, help="Points; INT8 to that budget instead of everything quantised.")
@click.option("--size", help="Input size HxW  [default: each checkpoint's]")
@click.option("--rounds", default=12, show_default=True, type=click.IntRange(2), help="Rounds of each flavour.")
@click.option("--provider", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--work", default=Path("precision"), type=click.Path(path_type=Path), help="Folder for the files.")
def main(checkpoints: tuple[Path, ...], name: str, work: Path, **options: Any) -> None:
    """Measure every flavour of CHECKPOINTS."""
    from clst_runtime.system.numbers import parse_size
    from clst_train.models.checkpoint import load_checkpoint

    given = {each: options[each] for each in ("data", "split", "count", "calib", "calib_count", "mapping")}
    networks: list[dict[str, Any]] = []
    for path in checkpoints:
        content = load_checkpoint(path)
        input_hw = parse_size(options["size"]) if options["size"] else content.input_hw
        networks.append(measure(path, content, input_hw, work, inputs_of(content, input_hw, **given), options))
        result = {"name": name, **provenance(), "budget_points": options["max_miou_drop"], "networks": networks}
        write_result(RESULTS / f"precision_{name}.json", result)
    click.echo("\n".join(show(result)))


if __name__ == "__main__":
    main()
