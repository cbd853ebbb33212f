"""This project's own conversions to FP16 and INT8 against NVIDIA's ModelOpt and ONNX Runtime's quantizer.

    python -m benchmarks.export.quantizers --name camvid --data DIR --calib IMAGES --modelopt PYTHON CHECKPOINT…

All start from the exporter's float32 file and calibrate on the same frames, each in a process of its own
(`one_quantizer.py`; ModelOpt in its own environment, PYTHON, because its pins exclude newer ONNX and ONNX Runtime).
The method of each setting is chosen by the labelled images of `--choice`; agreement, mIoU and the rest are then
reported on those of `--claim`, which nothing was chosen by. Files pass the exporter's own checks: graph compatibility,
TensorRT's Q/DQ rules, and parser and builder of TensorRT for RTX. Speed is that of ONNX Runtime on one thread of this
machine's CPU, in CPU time, all files interleaved in one process, as a ratio to FP32.
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

from benchmarks.export.precision import inputs_of, latencies
from benchmarks.record import RESULTS, markdown, provenance, write_result
from clst_runtime.errors import MissingDependency, ModelFileError

RESULT = RESULTS / "quantizers.json"
CPU = ("fp32", "int8-cpu")
"""Flavours that run on the CPU, and what they are compared with."""
OURS = ("max", "percentile", "entropy")
USES = ("choice", "claim")
"""What labelled images are for."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to get one flavour."""

    flavour: str
    """fp16, int8 (for TensorRT) or int8-cpu."""
    tool: str
    """Of one_quantizer.TOOLS."""
    name: str
    """In the table."""
    methods: tuple[str, ...] = ("",)
    """Calibration methods, by the tool's names."""
    left_out: tuple[str, ...] = ()
    """Parts of the graph that stay as they are, by the names of `parts`."""
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
    from clst_export.quantization.int8 import Network, layer_names, quantisable

    network = Network(base)
    inner = set(quantisable(base))
    outer = [index for index, name in layer_names(network).items() if name not in inner]
    begins = next(index for index in outer)
    first = [node.name for node in network.nodes[: begins + 1]]
    readers = [network.nodes[edge.node] for edge in network.readers[network.nodes[begins].output[0]]]
    first += [node.name for node in readers if node.op_type == "Relu"]
    last = [network.nodes[index].name for index in outer if index != begins]
    normalisations = [node.name for node in network.nodes if node.op_type == "BatchNormalization"]
    tail = [node.name for node in network.nodes[max(outer) + 1 :]]
    return {"first": first, "last": last, "normalisations": normalisations, "tail": tail}


def environment(python: Path) -> dict[str, Any]:
    """Versions in ModelOpt's environment, and whether its ONNX Runtime rounds float16, as 1.23 and newer do.

    Raises:
        MissingDependency: something is not installed there.
    """
    code = (
        "import importlib.metadata, json; from clst_runtime.backends.onnxruntime.session import rounds_float16;"
        "names = ('nvidia-modelopt', 'onnx', 'onnxruntime');"
        "versions = {name: importlib.metadata.version(name) for name in names};"
        "print(json.dumps(versions | {'rounds_float16': rounds_float16()}))"
    )
    paths = os.environ | {"PYTHONPATH": str(RESULTS.parents[1] / "runtime")}
    done = subprocess.run([str(python), "-c", code], env=paths, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise MissingDependency(f"--modelopt {python}: {reason}; install nvidia-modelopt[onnx] there")
    return dict(json.loads(done.stdout))


def incompatibility(model: Any) -> str | None:
    """Why the exporter's compatibility check refuses a graph; None if it does not."""
    from clst_export.graph.compatibility import check_compatibility

    try:
        check_compatibility(model)
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


class Comparison:
    """All settings on one checkpoint."""

    def __init__(self, checkpoint: Path, work: Path, inputs: dict[str, Any], options: dict[str, Any]) -> None:
        import numpy as np
        import onnx
        import torch

        from clst_export.graph.trace import deployable_of, trace
        from clst_export.verification.evaluator import Evaluator
        from clst_train.models.checkpoint import load_checkpoint
        from clst_train.models.checkpoint_backend import TorchBackend

        deployable, self.manifest = deployable_of(load_checkpoint(checkpoint))
        self.work, self.options = work / f"{options['name']}-{self.manifest.network}", options
        self.work.mkdir(parents=True, exist_ok=True)
        self.base = trace(deployable, self.manifest.input_hw, opset=20, with_confidence=False)
        onnx.save(self.base, str(self.work / "base.onnx"))
        np.save(self.work / "frames.npy", np.stack(list(inputs["choice"].calibration)))
        reference = TorchBackend(deployable, self.manifest, torch.device("cpu"))
        self.evaluators = {
            use: Evaluator(reference, each.frames, each.labels, each.contents) for use, each in inputs.items()
        }

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
            [row for row, _ in timed], [path for _, path in timed], self.evaluators["claim"].frames[:8], self.options
        )
        return rows

    def row(self, setting: Setting, made: dict[str, Future[Made]]) -> tuple[dict[str, Any], Path | None]:
        """The best method's file, chosen by the images to choose by, reported on the others."""
        import onnx

        from clst_export.pipeline import merit

        row: dict[str, Any] = {"flavour": setting.flavour, "name": setting.name, "tool": setting.tool, "methods": {}}
        best: Any = None
        for method, future in made.items():
            out, cost = future.result()
            row["methods"][method] = cost
            if out is None:
                continue
            path = self.saved(onnx.load(str(out)), setting.flavour, setting.name + method)
            shutil.rmtree(out.parent)
            found = self.compared(path, "choice")
            cost |= {"choice": {"agreement": found.agreement, "miou": found.candidate_miou}}
            if best is None or merit(found) < best[0]:
                best = (merit(found), method, path)
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

    def compared(self, path: Path, use: str) -> Any:
        """A file beside PyTorch's network, and both by the labels."""
        from clst_runtime.backends.onnxruntime.session import OrtBackend

        with OrtBackend(path, threads=1) as backend:
            return self.evaluators[use].evaluate(backend)

    def facts(self, path: Path, model: Any, *, for_cpu: bool = False) -> dict[str, Any]:
        """All that is reported of a chosen file."""
        from clst_export.inspection import layer_types
        from clst_export.quantization.placement import placement_problems
        from clst_runtime.backends.tensorrt.build.check import check_build

        found = {"bytes": path.stat().st_size, "claim": self.compared(path, "claim").to_json()}
        found |= {"hygiene": incompatibility(model), "convolutions": dict(Counter(layer_types(model, "Conv")))}
        return found if for_cpu else found | {"placement": placement_problems(model), "rtx": check_build(path)}


def labelled_inputs(checkpoint: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Images to choose by and images to report on, each with those for calibration; a single split is cut in two."""
    import dataclasses

    from clst_train.models.checkpoint import load_checkpoint

    content = load_checkpoint(checkpoint)
    given = {each: options[each] for each in ("data", "calib", "calib_count")}
    counts = [options[f"{use}_count"] for use in USES]
    if options["choice"] != options["claim"]:
        return {
            use: inputs_of(content, content.input_hw, split=options[use], count=count, **given)
            for use, count in zip(USES, counts, strict=True)
        }
    both = inputs_of(content, content.input_hw, split=options["choice"], count=sum(counts), **given)
    return {
        use: dataclasses.replace(both, frames=both.frames[part], labels=both.labels[part], contents=both.contents[part])
        for use, part in zip(USES, (slice(counts[0]), slice(counts[0], None)), strict=True)
    }


def show(result: dict[str, Any]) -> list[str]:
    """The figures as a Markdown table."""
    headers = ("network", "flavour", "made by", "pixels equal", "mIoU", "lost", "MiB", "CPU seconds", "memory MiB",
               "compatibility", "rules of placement broken", "TensorRT for RTX: layers", "speed")  # fmt: skip
    return markdown(
        headers, (cells(each, row) for each in result["networks"] for row in each["rows"] if "claim" in row)
    )


def cells(each: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """One line of the table."""
    claim, cost = row["claim"], row.get("methods", {}).get(row.get("method", ""), {})
    layers = row.get("rtx", {}).get("layers")
    rtx = "" if "rtx" not in row else "refused" if layers is None else str(sum(layers.values()))
    method = f" ({row['method']})" if row.get("method") else ""
    return [
        f"{each['network']}, {each['name']}", row["flavour"], row["name"] + method,
        f"{100 * claim['agreement']:.2f} %", f"{100 * claim['miou']:.2f}",
        f"{100 * (claim['reference_miou'] - claim['miou']):.2f}", f"{row['bytes'] / 2**20:.1f}",
        f"{cost['cpu_seconds']:.0f}" if cost else "", f"{cost['grew_mib']:.0f}" if cost else "",
        "" if row["hygiene"] is None else "refused",
        str(len(row["placement"])) if row["flavour"] in ("fp16", "int8") else "", rtx,
        f"{row['speed_against_fp32']:.2f}×" if "speed_against_fp32" in row else "",
    ]  # fmt: skip


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the data, in the result.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled images.")
@click.option("--choice", default="val", show_default=True, help="Split to choose methods by.")
@click.option("--claim", default="test", show_default=True, help="Split to report on; the same one is cut in two.")
@click.option("--choice-count", default=12, show_default=True)
@click.option("--claim-count", default=32, show_default=True)
@click.option("--calib", required=True, multiple=True, help="Images to calibrate on.")
@click.option("--calib-count", default=16, show_default=True)
@click.option("--modelopt", required=True, type=click.Path(path_type=Path), help="Python that has nvidia-modelopt.")
@click.option("--limit", default=120, show_default=True, help="CPU seconds that a conversion may take.")
@click.option("--jobs", default=1, show_default=True, help="Conversions at a time.")
@click.option("--rounds", default=12, show_default=True, type=click.IntRange(2), help="Rounds of each file.")
@click.option("--work", default=Path("quantizers"), type=click.Path(path_type=Path), help="Folder for the files.")
def main(checkpoints: tuple[Path, ...], work: Path, **options: Any) -> None:
    """Let all quantizers convert CHECKPOINTS."""
    modelopt = environment(options["modelopt"])
    for path in checkpoints:
        inputs = labelled_inputs(path, options)
        comparison = Comparison(path, work.resolve(), inputs, options)
        counts = {"calibration": len(inputs["choice"].calibration)}
        counts |= {use: len(inputs[use].frames) for use in USES}
        splits = {use: options[use] for use in USES}
        manifest = comparison.manifest
        entry = {"name": options["name"], "network": manifest.network, "input_hw": list(manifest.input_hw),
                 "classes": list(manifest.classes.names), "frames": counts, "splits": splits,
                 **provenance(), "tools": manifest.tool_versions,
                 "modelopt": modelopt, "rows": comparison.rows()}  # fmt: skip
        known = json.loads(RESULT.read_text())["networks"] if RESULT.exists() else []
        others = [each for each in known if (each["name"], each["network"]) != (entry["name"], entry["network"])]
        result = {"networks": sorted([*others, entry], key=lambda each: (each["network"], each["name"]))}
        write_result(RESULT, result)
    click.echo("\n".join(show(result)))


if __name__ == "__main__":
    main()
