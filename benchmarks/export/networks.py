"""Networks of other making through every precision: do they pass the gates, and what does each precision cost?

    python -m benchmarks.export.networks NETWORK…

A NETWORK is named as for `clst-train --network`: `benchmarks.export.families:unet`, `hf:nvidia/segformer-b0`, … Each is
trained for some steps on synthetic scenes, so that its class maps say something, and then exported by clst-export's own
conversion with its own bounds. Whether TensorRT for RTX builds a file is part of the gate. INT8's processor time is
measured beside float32's, interleaved in one process with one thread, as a ratio; other programs do not count in it.
The result goes to benchmarks/results/networks_export.json; networks that are there already are replaced by name.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.export.precision import FLAVOURS, latencies
from benchmarks.record import RESULTS, markdown, provenance, write_result

RESULT = RESULTS / "networks_export.json"
TRAINED_ON, BATCH, LEARNING_RATE = 24, 4, 2e-3
COMPARED, CALIBRATED = 6, 12


def scenes(seed: int, count: int, input_hw: tuple[int, int]) -> list[tuple[Any, Any]]:
    """Frames H,W,3 of synthetic scenes with their labels H,W."""
    import numpy as np

    from clst_train.synthetic.camera_looks import find_look
    from clst_train.synthetic.scenes import draw_scene

    return [draw_scene(np.random.default_rng([seed, index]), find_look("new"), input_hw) for index in range(count)]


def train(segmenter: Any, steps: int, input_hw: tuple[int, int]) -> float:
    """Some steps of AdamW on synthetic scenes; the last loss."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from clst_train.models.deployable import normalise

    drawn = scenes(1, TRAINED_ON, input_hw)
    images = torch.from_numpy(np.stack([frame for frame, _ in drawn]))
    labels = torch.from_numpy(np.stack([labels for _, labels in drawn])).long()
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=LEARNING_RATE)
    loss = torch.zeros(())
    segmenter.train()
    for _ in range(steps):
        chosen = torch.randint(TRAINED_ON, (BATCH,))
        logits = F.interpolate(
            segmenter(normalise(images[chosen], segmenter.normalisation)), size=input_hw, mode="bilinear"
        )
        loss = F.cross_entropy(logits, labels[chosen], ignore_index=255)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    segmenter.eval()
    return float(loss.detach())


def traced(network: str, segmenter: Any, input_hw: tuple[int, int]) -> Any:
    """The network as the exporter traces it, with frames to compare and to calibrate on."""
    from clst_export.pipeline import Inputs, Request, trace_network
    from clst_export.precision import Precision
    from clst_runtime.classes.labels import load_class_list
    from clst_train.config import MEAN, STD
    from clst_train.models.checkpoint import Checkpoint

    checkpoint = Checkpoint(
        network=network, classes=load_class_list("scenes10"), input_hw=input_hw, mean=MEAN, std=STD, stage="source",
        iteration=0, segmenter_state=segmenter.state_dict(), architecture=getattr(segmenter, "architecture", None),
    )  # fmt: skip
    frames, calibration = (
        [frame for frame, _ in scenes(seed, count, input_hw)] for seed, count in ((2, COMPARED), (3, CALIBRATED))
    )
    return trace_network(checkpoint, Request(precision=Precision.FP32), Inputs(frames=frames, calibration=calibration))


def export(ready: Any, out: Path, flavour: str) -> dict[str, Any]:
    """One file by the exporter's own gates: what was measured, or why it is refused."""
    from clst_export.pipeline import Request, write_model
    from clst_export.precision import Precision, Target
    from clst_runtime.errors import ClstError

    precision, _, target = flavour.partition("-")
    request = Request(precision=Precision(precision), target=Target(target or "tensorrt"))
    started = time.perf_counter()
    try:
        manifest = write_model(ready, out, request).manifest
    except ClstError as error:
        return {"flavour": flavour, "refused": error.message}
    calibration, check = manifest.calibration, manifest.build_check
    facts = {name: calibration[name] for name in ("method", "quantised") if name in calibration}
    facts |= {"kept_fp32": len(calibration["kept_fp32"])} if "kept_fp32" in calibration else {}
    return {
        "flavour": flavour, "seconds": round(time.perf_counter() - started, 1), "bytes": out.stat().st_size,
        "nodes": sum(operators(out).values()), "agreement": manifest.parity["agreement"], **facts,
        "build_check": {**check, "layers": sum(check["layers"].values())} if "layers" in check else check,
    }  # fmt: skip


def operators(path: Path) -> Counter[str]:
    """How often each operator occurs in a file."""
    import onnx

    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def measure(network: str, work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """One network through every precision."""
    import torch

    from clst_runtime.classes.labels import load_class_list
    from clst_runtime.system.numbers import parse_size
    from clst_train.models.networks import build_segmenter

    input_hw = parse_size(options["size"])
    torch.manual_seed(0)
    segmenter = build_segmenter(network, len(load_class_list("scenes10")), input_hw=input_hw)
    loss = train(segmenter, options["steps"], input_hw)
    ready = traced(network, segmenter, input_hw)
    work.mkdir(parents=True, exist_ok=True)
    files = {flavour: work / f"{network.replace(':', '-').replace('/', '-')}.{flavour}.onnx" for flavour in FLAVOURS}
    rows = [export(ready, files[flavour], flavour) for flavour in FLAVOURS]
    found = {
        "network": network, "input_hw": list(input_hw), "steps": options["steps"], "loss": round(loss, 3),
        "parameters": sum(each.numel() for each in segmenter.parameters()), "flavours": rows,
    }  # fmt: skip
    if files["fp32"].is_file():
        found["operators"] = dict(operators(files["fp32"]).most_common())
    timed = [flavour for flavour in ("fp32", "int8-cpu") if files[flavour].is_file()]
    if len(timed) == 2:
        pair = [files[flavour] for flavour in timed]
        rounds, clock = options["rounds"], time.process_time_ns
        samples = latencies(pair, ready.inputs.frames, rounds=rounds, threads=1, clock=clock)
        medians = [statistics.median(each) for each in samples]
        found |= {"fp32_ms": round(medians[0] / 1e6, 2), "int8_cpu_speed": round(medians[0] / medians[1], 2)}
    return found


def show(result: dict[str, Any]) -> list[str]:
    """The figures as a Markdown table."""
    headers = ("network", "file", "nodes", "layers quantised", "pixels equal", "MiB", "built by TensorRT for RTX",
               "INT8 on the CPU against fp32")  # fmt: skip
    first = result["networks"][0]
    rows, columns = first["input_hw"]
    return [
        f"Networks of other making at {rows}x{columns}, trained for {first['steps']} steps on synthetic scenes, by the "
        "exporter's own gates. INT8 for the CPU is timed beside fp32 in one process: processor time of one thread.",
        "",
        *markdown(headers, (cells(one, each) for one in result["networks"] for each in one["flavours"])),
    ]


def cells(network: dict[str, Any], each: dict[str, Any]) -> Sequence[str]:
    """One file's line."""
    name, flavour = network["network"].rpartition(":")[2], each["flavour"]
    if "refused" in each:
        return (name, flavour, "", "", f"refused: {each['refused']}", "", "", "")
    check = each["build_check"]
    built = f"{check['layers']} layers, {check['seconds']} s" if "layers" in check else ""
    speed = f"{network['int8_cpu_speed']:.2f}×" if flavour == "int8-cpu" and "int8_cpu_speed" in network else ""
    return (name, flavour, str(each["nodes"]), str(each.get("quantised", "")), f"{100 * each['agreement']:.2f} %",
            f"{each['bytes'] / 2**20:.1f}", built, speed)  # fmt: skip


@click.command()
@click.argument("networks", nargs=-1, required=True)
@click.option("--size", default="128x256", show_default=True, help="Input size HxW.")
@click.option("--steps", default=60, show_default=True, help="Training steps.")
@click.option("--rounds", default=12, show_default=True, type=click.IntRange(2), help="Rounds of each timed file.")
@click.option("--work", default=Path("networks"), type=click.Path(path_type=Path), help="Folder for the files.")
def main(networks: tuple[str, ...], work: Path, **options: Any) -> None:
    """Export NETWORKS in every precision."""
    for network in networks:
        found = {**provenance(), **measure(network, work, options)}
        known = json.loads(RESULT.read_text())["networks"] if RESULT.is_file() else []
        kept = [each for each in known if each["network"] != network]
        result = {"networks": [*kept, found]}
        write_result(RESULT, result)
        click.echo("\n".join(show({"networks": [found]})))


if __name__ == "__main__":
    main()
