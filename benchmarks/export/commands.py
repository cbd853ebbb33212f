"""Networks by the documented commands: does each go from clst-train to proved ONNX files in fp32, fp16 and INT8?

    python -m benchmarks.export.commands --work FOLDER NETWORK…

Each NETWORK, named as for `clst-train --network`, is trained from random weights and adapted for a few steps on
synthetic scenes of two cameras, and exported by `clst-export` with its own bounds; TensorRT for RTX must build what it
writes. The networks know next to nothing then: the question is whether the graphs are right, not how good the masks
are. With `--python` the commands are those of another environment, e.g. one with torchvision.
The result goes to benchmarks/results/networks_by_commands.json; networks that are there already are replaced by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.record import RESULTS, markdown, provenance, write_result

RESULT = RESULTS / "networks_by_commands.json"
PRECISIONS = ("fp32", "fp16", "int8")
LIBRARIES = ("torch", "torchvision", "transformers", "segmentation_models_pytorch", "timm", "onnx", "onnxruntime")
SETTINGS = ("model.pretrained=none", "source.batch=2", "adaptation.batch=2", "run.threads=1")


def run(command: Sequence[str]) -> dict[str, Any]:
    """A command's exit code, seconds, and the last line that it wrote where it failed."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found: dict[str, Any] = {"exit_code": done.returncode, "seconds": round(time.perf_counter() - started, 1)}
    if done.returncode != 0:
        found["error"] = (done.stderr.strip().splitlines() or [""])[-1]
    return found


def versions(python: str) -> dict[str, str]:
    """Of the libraries in the environment that the commands are run in."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "have = {d.name.replace('-', '_').lower() for d in m.distributions()}\n"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:] if n in have}))"
    )
    done = subprocess.run([python, "-c", code, *LIBRARIES], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def measure(network: str, work: Path, *, python: str, size: str, steps: int) -> dict[str, Any]:
    """One network through the commands; what an export proved is read from its manifest."""
    from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
    from clst_runtime.system.numbers import parse_size

    commands = Path(python).parent
    name = "".join(letter if letter.isalnum() else "-" for letter in network)
    out = work / name
    crop = f"augmentation.crop_hw={list(parse_size(size))}"
    settings = (*SETTINGS, crop, f"source.iterations={steps}", f"adaptation.iterations={steps}")
    training = run([
        str(commands / "clst-train"), "--network", network, "--source", str(work / "old"),
        "--target", str(work / "new" / "images" / "train"), "--size", size, "--recipe", "demo", "--out", str(out),
        *(part for setting in settings for part in ("--set", setting)),
    ])  # fmt: skip
    rows = []
    for precision in PRECISIONS if training["exit_code"] == 0 else ():
        file = work / f"{name}.{precision}.onnx"
        row = {"precision": precision} | run([
            str(commands / "clst-export"), str(out), "--onnx", precision, "--data", str(work / "new"), "--out",
            str(file), "--overwrite",
        ])  # fmt: skip
        if row["exit_code"] == 0:
            manifest = read_onnx_manifest(file)
            check = manifest.build_check
            row |= {"bytes": file.stat().st_size, "agreement": manifest.parity["agreement"]}
            row |= {"builder": check.get("builder", ""), "builder_version": check.get("version", "")}
            row |= {"build_seconds": check.get("seconds"), "layers": sum(check.get("layers", {}).values())}
        rows.append(row)
    return {"network": network, "input": size, "steps": steps, "versions": versions(python), "training": training,
            "exports": rows}  # fmt: skip


def show(result: dict[str, Any]) -> list[str]:
    """The figures as a Markdown table."""
    headers = ("network", "steps", "file", "pixels equal", "MiB", "built by TensorRT for RTX", "PyTorch")
    asked = "From `clst-train` to `clst-export`: some steps of each stage from random weights, at {input}."
    return [
        asked.format(**result["networks"][0]),
        "",
        *markdown(headers, (cells(one, each) for one in result["networks"] for each in one["exports"])),
    ]


def cells(network: dict[str, Any], each: dict[str, Any]) -> tuple[str, ...]:
    """One file's line."""
    of, torch = (network["network"], str(network["steps"]), each["precision"]), network["versions"]["torch"]
    if each["exit_code"] != 0:
        return (*of, f"refused: {each['error']}", "", "", torch)
    built = f"{each['layers']} layers" if each["layers"] else "not asked"
    return (*of, f"{100 * each['agreement']:.2f} %", f"{each['bytes'] / 2**20:.1f}", built, torch)


@click.command()
@click.argument("networks", nargs=-1, required=True)
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for scenes, runs and files.")
@click.option("--python", default=sys.executable, help="Interpreter of the environment with the commands.")
@click.option("--size", default="96x160", show_default=True, help="Input size HxW.")
@click.option("--steps", default=10, show_default=True, help="Steps of each stage.")
def main(networks: tuple[str, ...], work: Path, python: str, size: str, steps: int) -> None:
    """Train, adapt and export NETWORKS."""
    for look in ("old", "new"):
        if not (work / look).is_dir():
            scenes = ["scenes", str(work / look), "--look", look, "--size", size, "--count", "12", "--val-count", "4"]
            subprocess.run([str(Path(python).parent / "clst-data"), *scenes], check=True)
    for network in networks:
        found = {**provenance(), **measure(network, work, python=python, size=size, steps=steps)}
        known = json.loads(RESULT.read_text())["networks"] if RESULT.is_file() else []
        write_result(RESULT, {"networks": [*(each for each in known if each["network"] != network), found]})
        click.echo("\n".join(show({"networks": [found]})))


if __name__ == "__main__":
    main()
