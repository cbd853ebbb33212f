"""Source-only, BatchNorm statistics and CLST on a camera change, several seeds, with ONNX parity.

    python benchmarks/adaptation.py drawn --work FOLDER
    python benchmarks/adaptation.py camvid-dusk --work FOLDER --data DIR [any option of clst-train]
    python benchmarks/adaptation.py folders --work FOLDER --name PAIR --source DIR --target DIR --val DIR
                                            [--recipe NAME] [any option of clst-train]

Each seed is one clst-train run below --work; a finished run is not made again, a broken-off one is resumed.
The last checkpoint counts; labels of the new camera are read for the score only. The result goes to
benchmarks/results/<pair>.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

HERE = Path(__file__).parent


def train(run: Path, arguments: list[str], seed: int) -> float | None:
    """Make, resume or keep one run; returns the seconds of a run made whole now, else None."""
    if (run / "checkpoints" / "adapted.pt").is_file():
        return None
    begun = run.exists()
    started = time.perf_counter()
    program = [str(Path(sys.executable).with_name("clst-train"))]
    new = [*arguments, "--out", str(run), "--seed", str(seed)]
    subprocess.run([*program, *(["--resume", str(run)] if begun else new)], check=True)
    return None if begun else time.perf_counter() - started


def score(run: Path, val: Path, split: str, mapping: Path | None) -> dict[str, Any]:
    """IoU of the three networks and parity of the exported one, on labelled images of the new camera."""
    from clst_export.convert import Material, Request, convert
    from clst_export.demo import statistics_backend
    from clst_export.precision import Precision
    from clst_runtime.backends.ort import OrtBackend
    from clst_runtime.dataset import open_dataset
    from clst_runtime.evaluation import evaluate
    from clst_runtime.parity import compare
    from clst_train.checkpoint_backend import open_checkpoint
    from clst_train.data.target import open_target
    from clst_train.run_folder import open_run

    folder, config = open_run(run)
    images = open_target(config.data.target, input_hw=config.model.input_hw)
    model = run / "model.onnx"
    frames = [images[index] for index in range(min(16, len(images)))]
    convert(folder.adapted, model, Request(precision=Precision.FP32), Material(frames=frames))
    with (
        open_checkpoint(folder.source) as source,
        open_checkpoint(folder.adapted) as adapted,
        OrtBackend(model) as onnx,
    ):
        data = open_dataset(val, split=split, classes=source.manifest.classes, mapping_file=mapping)
        statistics = statistics_backend(folder, images, config.adaptation.statistics_images)
        parity = compare(adapted, onnx, data)
        return {
            "seed": config.run.seed,
            "source_only": evaluate(source, data).to_json(),
            "batchnorm_statistics": evaluate(statistics, data).to_json(),
            "adapted": parity.reference.to_json(),
            "onnx": parity.candidate.to_json(),
            "agreement": parity.agreement,
            "config": config.to_mapping() | {"data": {}},
        }


def write(name: str, rows: list[dict[str, Any]], seconds: list[float | None]) -> None:
    """Print the table and write the result file."""
    from clst_runtime.atomic import write_text
    from clst_runtime.machine import machine_facts

    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    summary = {}
    for method in ("source_only", "batchnorm_statistics", "adapted", "onnx"):
        values = [100 * row[method]["miou"] for row in rows]
        summary[method] = {"miou_mean": float(np.mean(values)), "miou_std": float(np.std(values)), "seeds": values}
        print(f"{method:22} {np.mean(values):6.2f} ± {np.std(values):.2f}   {[round(value, 2) for value in values]}")
    facts = {"name": name, "date": time.strftime("%Y-%m-%d"), "commit": commit, "machine": machine_facts()}
    result = facts | {"summary": summary, "training_seconds": seconds, "runs": rows}
    write_text(HERE / "results" / f"{name}.json", json.dumps(result, indent=1) + "\n")


def measure(work: Path, name: str, arguments: list[str], val: tuple[Path, str, Path | None], seeds: int) -> None:
    """All seeds of one pair; the result file is written anew after each."""
    rows, seconds = [], []
    for seed in range(1, seeds + 1):
        run = work / f"{name}-seed{seed}"
        seconds.append(train(run, arguments, seed))
        rows.append(score(run, *val))
        write(name, rows, seconds)


@click.group()
def main() -> None:
    """Measure adaptation to a new camera."""


@main.command()
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for scenes and runs.")
@click.option("--seeds", default=3, show_default=True)
def drawn(work: Path, seeds: int) -> None:
    """Drawn scenes, old look → new look, as `clst-demo` makes them."""
    from clst_train.data.camera_looks import LOOKS
    from clst_train.data.scenes import write_scenes

    for seed, look in enumerate(LOOKS.values()):
        if not (work / look.name).exists():
            write_scenes(work / look.name, look=look, counts={"train": 200, "val": 50}, size_hw=(160, 320), seed=seed)
    target = work / "new" / "images" / "train"
    length = ["--set", "source.iterations=450", "--set", "adaptation.iterations=300"]
    arguments = ["--recipe", "demo", *length, "--source", str(work / "old"), "--target", str(target)]
    measure(work, "drawn", arguments, (work / "new", "val", None), seeds)


DAY_DRIVES, DUSK_DRIVE = ("0006R0", "0016E5"), "0001TP"


def pick_drives(data: Path, out: Path, drives: tuple[str, ...], parts: dict[str, tuple[str, ...]]) -> None:
    """Links below `out` to the frames of some of CamVid's drives; `parts`: the split to make → the splits to take."""
    if out.exists():
        return
    for made, taken in parts.items():
        for kind, suffix in (("images", "jpg"), ("labels", "png")):
            folder = out / kind / made
            folder.mkdir(parents=True)
            for path in sorted(found for split in taken for found in (data / kind / split).glob(f"*.{suffix}")):
                if path.stem.startswith(drives):
                    (folder / path.name).symlink_to(path.resolve())
    (out / "classes.json").write_text((data / "classes.json").read_text())


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for the runs.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="CamVid, folder layout, usual splits.")
@click.option("--seeds", default=3, show_default=True)
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def camvid_dusk(work: Path, data: Path, seeds: int, rest: tuple[str, ...]) -> None:
    """CamVid by day → CamVid at dusk: labels of two drives by day, unlabelled frames of the drive at dusk.

    The score is that of the other half of the drive at dusk.
    """
    day, dusk = work / "camvid_day", work / "camvid_dusk"
    pick_drives(data, day, DAY_DRIVES, {"train": ("train", "val")})
    pick_drives(data, dusk, (DUSK_DRIVE,), {"train": ("train",), "test": ("test",)})
    arguments = ["--source", str(day), "--target", str(dusk / "images" / "train"), *rest]
    measure(work, "camvid_dusk", arguments, (dusk, "test", None), seeds)


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for the runs.")
@click.option("--name", required=True, help="Name of the pair.")
@click.option("--source", required=True)
@click.option("--target", required=True, multiple=True)
@click.option("--val", required=True, type=click.Path(path_type=Path))
@click.option("--val-split", default="val")
@click.option("--val-mapping", type=click.Path(path_type=Path))
@click.option("--seeds", default=3, show_default=True)
@click.argument("rest", nargs=-1, type=click.UNPROCESSED)
def folders(
    work: Path,
    name: str,
    source: str,
    target: tuple[str, ...],
    val: Path,
    val_split: str,
    val_mapping: Path | None,
    seeds: int,
    rest: tuple[str, ...],
) -> None:
    """Any pair of data sets; REST goes to clst-train."""
    arguments = ["--source", source, *(part for place in target for part in ("--target", place)), *rest]
    measure(work, name, arguments, (val, val_split, val_mapping), seeds)


if __name__ == "__main__":
    main()
