"""This project's own conversions to FP16 and INT8 against NVIDIA's ModelOpt and ONNX Runtime's quantizer.

    python -m benchmarks.export.quantizers --name camvid --data DIR --calib PICTURES --modelopt PYTHON CHECKPOINT…

All start from the exporter's float32 file and calibrate on the same frames, each in a process of its own
(`one_quantizer.py`; ModelOpt in its own environment, PYTHON, because its pins exclude newer ONNX and ONNX Runtime).
The method of each setting is chosen by the labelled pictures of `--choice`; agreement, mIoU and the rest are then told
on those of `--claim`, which nothing was chosen by. Files are looked at as the exporter looks at its own: graph hygiene,
TensorRT's Q/DQ rules, and parser and builder of TensorRT for RTX. Speed is that of ONNX Runtime on one thread of this
machine's CPU, in CPU time, all files in one process, in turns, as a ratio to FP32.
The result goes to benchmarks/results/quantizers.json, one entry for each name and network.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.export.precision import latencies
from benchmarks.report.record import RESULTS, provenance, write_result

RESULT = RESULTS / "quantizers.json"
CPU = ("fp32", "int8-cpu")
"""Flavours that run on the CPU, and what they are compared with."""
OURS = ("max", "percentile", "entropy")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to get one flavour."""

    flavour: str
    """fp16, int8 (for TensorRT) or int8-cpu."""
    tool: str
    """Of one_quantizer.TOOLS."""
    name: str
    """In words."""
    methods: tuple[str, ...] = ("",)
    """Calibration methods, by the tool's names."""
    left_out: tuple[str, ...] = ()
    """Parts of the graph that it is told to leave alone, by the names of `parts`."""
    options: dict[str, Any] = field(default_factory=dict)
    """More of the task."""


SETTINGS = (
    Setting(flavour="fp16", tool="clst", name="ours"),
    Setting(flavour="fp16", tool="autocast", name="AutoCast"),
    Setting(flavour="fp16", tool="autocast", name="AutoCast, first convolution left out", left_out=("first", "tail")),
    Setting(flavour="int8", tool="clst", name="ours", methods=OURS, options={"target": "tensorrt"}),
    Setting(flavour="int8", tool="modelopt", name="ModelOpt", methods=("max", "entropy"), options={"kinds": None}),
    Setting(flavour="int8", tool="modelopt", name="ModelOpt, inner convolutions alone", methods=("max", "entropy"),
            left_out=("first", "last", "tail"), options={"kinds": ["Conv"]}),
    Setting(flavour="int8-cpu", tool="clst", name="ours", methods=OURS, options={"target": "cpu"}),
    Setting(flavour="int8-cpu", tool="onnxruntime", name="ONNX Runtime", methods=("MinMax",)),
    Setting(flavour="int8-cpu", tool="onnxruntime", name="ONNX Runtime, between first and last convolution",
            methods=("MinMax", "Percentile", "Entropy"), left_out=("first", "last", "normalisations", "tail")),
)  # fmt: skip


def parts(base: Any) -> dict[str, list[str]]:
    """Names of the nodes that a careful user leaves alone: `first`, `last` convolutions, `normalisations`, `tail`."""
    from clst_export.quantization.int8 import Network, convolution_names, quantisable

    network = Network(base)
    inner = set(quantisable(base))
    outer = [index for index, name in convolution_names(network).items() if name not in inner]
    begins = next(index for index in outer)
    first = [node.name for node in network.nodes[: begins + 1]]
    readers = [network.nodes[edge.node] for edge in network.readers[network.nodes[begins].output[0]]]
    first += [node.name for node in readers if node.op_type == "Relu"]
    last = [network.nodes[index].name for index in outer if index != begins]
    normalisations = [node.name for node in network.nodes if node.op_type == "BatchNormalization"]
    tail = [node.name for node in network.nodes[max(outer) + 1 :]]
    return {"first": first, "last": last, "normalisations": normalisations, "tail": tail}


def environment(python: Path) -> dict[str, Any]:
    """Versions in ModelOpt's environment, and whether its ONNX Runtime can judge INT8 for TensorRT (ort.py, 1.23)."""
    code = (
        "import importlib.metadata, json; from clst_runtime.backends.onnxruntime.session import rounds_float16;"
        "names = ('nvidia-modelopt', 'onnx', 'onnxruntime');"
        "told = {name: importlib.metadata.version(name) for name in names};"
        "print(json.dumps(told | {'rounds_float16': rounds_float16()}))"
    )
    paths = os.environ | {"PYTHONPATH": str(RESULTS.parents[1] / "runtime")}
    done = subprocess.run([str(python), "-c", code], env=paths, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def complaint(model: Any) -> str | None:
    """Why graph hygiene refuses a graph; None if it does not."""
    from clst_export.graph.compatibility import check_hygiene
    from clst_runtime.errors import ModelFileError

    try:
        check_hygiene(model)
    except ModelFileError as error:
        return error.message
    return None


def add_speeds(rows: list[dict[str, Any]], files: list[Path], frames: Any, options: dict[str, Any]) -> None:
    """Put into each row how long its file takes on one thread, beside the first one's; other programs do not count."""
    samples = latencies(files, frames, rounds=options["rounds"], threads=1, clock=time.process_time_ns)
    medians = [statistics.median(own) for own in samples]
    for row, median in zip(rows, medians, strict=True):
        row |= {"cpu_ms": median / 1e6, "speed_against_fp32": medians[0] / median}


Made = tuple[Path | None, dict[str, Any]]


class Contest:
    """All settings on one checkpoint."""

    def __init__(self, checkpoint: Path, work: Path, material: dict[str, Any], options: dict[str, Any]) -> None:
        import numpy as np
        import onnx
        import torch

        from clst_export.graph.trace import load_deployable, trace
        from clst_export.verification.evaluator import Judge
        from clst_train.models.checkpoint_backend import TorchBackend

        deployable, self.manifest = load_deployable(checkpoint)
        self.work, self.options = work / f"{options['name']}-{self.manifest.network}", options
        self.work.mkdir(parents=True, exist_ok=True)
        self.base = trace(deployable, self.manifest.input_hw, opset=20, with_confidence=False)
        onnx.save(self.base, str(self.work / "base.onnx"))
        np.save(self.work / "frames.npy", np.stack(list(material["calibration"])))
        reference = TorchBackend(deployable, self.manifest, torch.device("cpu"))
        self.judges = {use: Judge(reference, *material[use]) for use in ("choice", "claim")}

    def rows(self) -> list[dict[str, Any]]:
        """One for FP32 and one for each setting."""
        files: list[Path | None] = [self.saved(self.base, "fp32", "")]
        rows = [{"flavour": "fp32", "name": "ours", **self.facts(self.work / "fp32-.onnx", self.base)}]
        left_out, pool = parts(self.base), ThreadPoolExecutor(self.options["jobs"])
        made: list[dict[str, Future[Made]]] = []
        for setting in SETTINGS:
            exclude = [name for part in setting.left_out for name in left_out[part]]
            made.append({method: pool.submit(self.make, setting, method, exclude) for method in setting.methods})
        for setting, files_made in zip(SETTINGS, made, strict=True):
            click.echo(f"{self.work.name}: {setting.flavour}, {setting.name}", err=True)
            row, path = self.row(setting, files_made)
            rows.append(row)
            files.append(path)
        timed = [(row, path) for row, path in zip(rows, files, strict=True) if path and row["flavour"] in CPU]
        add_speeds(
            [row for row, _ in timed], [path for _, path in timed], self.judges["claim"].frames[:8], self.options
        )
        return rows

    def row(self, setting: Setting, made: dict[str, Future[Made]]) -> tuple[dict[str, Any], Path | None]:
        """The best method's file, chosen by the pictures to choose by, told on the others."""
        import onnx

        from clst_export.pipeline import merit

        row: dict[str, Any] = {"flavour": setting.flavour, "name": setting.name, "tool": setting.tool, "methods": {}}
        best: Any = None
        for method, future in made.items():
            out, told = future.result()
            row["methods"][method] = told
            if out is None:
                continue
            path = self.saved(onnx.load(str(out)), setting.flavour, setting.name + method)
            shutil.rmtree(out.parent)
            verdict = self.judged(path, "choice")
            told |= {"choice": {"agreement": verdict.agreement, "miou": verdict.candidate_miou}}
            if best is None or merit(verdict) < best[0]:
                best = (merit(verdict), method, path)
        if best is None:
            return row, None
        _, row["method"], path = best
        return row | self.facts(path, onnx.load(str(path)), for_cpu=setting.flavour == "int8-cpu"), path

    def make(self, setting: Setting, method: str, exclude: list[str]) -> Made:
        """The file as the tool writes it, and what it took; None and the last line of its output where it fails."""
        folder = Path(tempfile.mkdtemp(dir=self.work))  # of its own: tools leave files beside the one they read
        shutil.copy(self.work / "base.onnx", folder)
        task = {"tool": setting.tool, "method": method, "exclude": exclude, **setting.options}
        task |= {"base": str(folder / "base.onnx"), "out": str(folder / "made.onnx")}
        task |= {"frames": str(self.work / "frames.npy"), "limit": self.options["limit"]}
        (folder / "task.json").write_text(json.dumps(task))
        python = self.options["modelopt"] if setting.tool in ("autocast", "modelopt") else sys.executable
        command = [str(python), str(Path(__file__).with_name("one_quantizer.py")), str(folder / "task.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        return (folder / "made.onnx", json.loads(lines[-1])) if done.returncode == 0 else (None, {"failed": lines[-1]})

    def saved(self, model: Any, flavour: str, name: str) -> Path:
        """A graph as the exporter would save it, so that it is run as a vehicle would."""
        import dataclasses

        from clst_export.graph.model_file import save_model

        target = {"int8": {"target": "tensorrt"}, "int8-cpu": {"target": "cpu"}}.get(flavour, {})
        path = self.work / f"{flavour}-{name.replace(' ', '_').replace(',', '')}.onnx"
        precision = flavour.partition("-")[0]
        save_model(model, dataclasses.replace(self.manifest, precision=precision, calibration=target), path)
        return path

    def judged(self, path: Path, use: str) -> Any:
        """A file against PyTorch and labels."""
        from clst_runtime.backends.onnxruntime.session import OrtBackend

        with OrtBackend(path, threads=1) as backend:
            return self.judges[use].judge(backend)

    def facts(self, path: Path, model: Any, *, for_cpu: bool = False) -> dict[str, Any]:
        """All that is told of a chosen file."""
        from clst_export.inspection import convolution_types
        from clst_export.quantization.placement import placement_problems
        from clst_runtime.backends.tensorrt.build.check import check_build

        told = {"bytes": path.stat().st_size, "claim": self.judged(path, "claim").to_json()}
        told |= {"hygiene": complaint(model), "convolutions": dict(Counter(convolution_types(model)))}
        return told if for_cpu else told | {"placement": placement_problems(model), "rtx": check_build(path)}


def material_of(checkpoint: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Calibration frames, and frames, labels and contents to choose by and to tell by; a single split is halved."""
    from clst_export.quantization.calibration import calibration_frames
    from clst_export.verification.evaluator import contents_of, labelled_frames
    from clst_runtime.data.dataset import open_dataset
    from clst_train.models.checkpoint import load_checkpoint

    content = load_checkpoint(checkpoint)
    one = options["choice"] == options["claim"]
    found: dict[str, Any] = {}
    for use in ("choice", "claim"):
        data = open_dataset(options["data"], split=options[use], classes=content.classes)
        count = sum(options[f"{each}_count"] for each in ("choice", "claim")) if one else options[f"{use}_count"]
        frames, labels = labelled_frames(data, content.input_hw, count, content.fit)
        if one:
            border = options["choice_count"]
            part = slice(None, border) if use == "choice" else slice(border, None)
            frames, labels = frames[part], labels[part]
        found[use] = (frames, labels, contents_of(labels, content.input_hw, content.fit))
    found["calibration"] = calibration_frames(
        list(options["calib"]), content.input_hw, options["calib_count"], fit=content.fit
    )
    return found


def show(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    headers = ("network", "flavour", "made by", "pixels equal", "mIoU", "lost", "MiB", "CPU seconds", "memory MiB",
               "hygiene", "rules of placement broken", "TensorRT for RTX: layers", "speed")  # fmt: skip
    lines = [f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]
    for each in result["networks"]:
        lines += [f"| {' | '.join(cells(each, row))} |" for row in each["rows"] if "claim" in row]
    return "\n".join(lines)


def cells(each: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    claim, cost = row["claim"], row.get("methods", {}).get(row.get("method", ""), {})
    layers = row.get("rtx", {}).get("layers")
    told = "" if "rtx" not in row else "refused" if layers is None else str(sum(layers.values()))
    method = f" ({row['method']})" if row.get("method") else ""
    return [
        f"{each['network']}, {each['name']}", row["flavour"], row["name"] + method,
        f"{100 * claim['agreement']:.2f} %", f"{100 * claim['miou']:.2f}",
        f"{100 * (claim['reference_miou'] - claim['miou']):.2f}", f"{row['bytes'] / 2**20:.1f}",
        f"{cost['cpu_seconds']:.0f}" if cost else "", f"{cost['grew_mib']:.0f}" if cost else "",
        "" if row["hygiene"] is None else "refused",
        str(len(row["placement"])) if row["flavour"] in ("fp16", "int8") else "", told,
        f"{row['speed_against_fp32']:.2f}×" if "speed_against_fp32" in row else "",
    ]  # fmt: skip


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the data, in the result.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled pictures.")
@click.option("--choice", default="val", show_default=True, help="Split to choose methods by.")
@click.option("--claim", default="test", show_default=True, help="Split to tell the figures by; the same: halves.")
@click.option("--choice-count", default=12, show_default=True)
@click.option("--claim-count", default=32, show_default=True)
@click.option("--calib", required=True, multiple=True, help="Pictures to calibrate on.")
@click.option("--calib-count", default=16, show_default=True)
@click.option("--modelopt", required=True, type=click.Path(path_type=Path), help="Python that has nvidia-modelopt.")
@click.option("--limit", default=120, show_default=True, help="CPU seconds that a conversion may take.")
@click.option("--jobs", default=1, show_default=True, help="Conversions at a time.")
@click.option("--rounds", default=12, show_default=True, type=click.IntRange(2), help="Turns of each file.")
@click.option("--work", default=Path("quantizers"), type=click.Path(path_type=Path), help="Folder for the files.")
def main(checkpoints: tuple[Path, ...], work: Path, **options: Any) -> None:
    """Let all quantizers convert CHECKPOINTS."""
    for path in checkpoints:
        material = material_of(path, options)
        contest = Contest(path, work.resolve(), material, options)
        counts = {"calibration": len(material["calibration"])}
        counts |= {use: len(material[use][0]) for use in ("choice", "claim")}
        splits = {use: options[use] for use in ("choice", "claim")}
        manifest = contest.manifest
        entry = {"name": options["name"], "network": manifest.network, "input_hw": list(manifest.input_hw),
                 "classes": list(manifest.classes.names), "frames": counts, "splits": splits,
                 **provenance(), "tools": manifest.tool_versions,
                 "modelopt": environment(options["modelopt"]), "rows": contest.rows()}  # fmt: skip
        known = json.loads(RESULT.read_text())["networks"] if RESULT.exists() else []
        others = [each for each in known if (each["name"], each["network"]) != (entry["name"], entry["network"])]
        result = {"networks": sorted([*others, entry], key=lambda each: (each["network"], each["name"]))}
        write_result(RESULT, result)
    click.echo(show(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
