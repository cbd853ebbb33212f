"""Everything that only a machine with an NVIDIA GPU can show, as one script of less than ten minutes.

    python -m benchmarks.gpu_machine.run prepare FOLDER CHECKPOINT IMAGES      # where PyTorch is
    python -m benchmarks.gpu_machine.run wheels PACKAGES --python 3.12         # what that machine may lack
    PYTHONPATH=runtime python3 -m benchmarks.gpu_machine.run run FOLDER --packages PACKAGES   # there

`prepare` exports a trained checkpoint in fp32, fp16 and INT8 and keeps the class maps that ONNX Runtime's CPU gives for
some images. `run` downloads nothing and needs Python 3.10 or newer, NumPy, click and an ONNX Runtime. Each step runs in
a process of its own, has a time limit, and ends as `passed`, `failed: …` or `not possible here: …`; the next one runs
in any case. The result, benchmarks/results/gpu_<GPU>.json, is written whole after each step. Exit code 0: all
passed; 6: one failed; 5: none failed, but some were not possible.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from benchmarks.gpu_machine import inputs
from benchmarks.gpu_machine.packages import SETS, collect
from benchmarks.gpu_machine.steps import STEPS, Prepared, Step, perform
from benchmarks.record import RESULTS, provenance, write_result
from clst_runtime.cli.command import group
from clst_runtime.errors import BudgetNotHeld, ConfigError, MissingDependency
from clst_runtime.system.files.atomic import check_can_write, write_text
from clst_runtime.system.machine import gpu_names
from clst_runtime.system.numbers import Real, parse_size
from clst_runtime.system.platforms import detect_machine

ROOT = Path(__file__).parents[2]
PASSED, FAILED, NOT_HERE = "passed", "failed", "not possible here"
Record = dict[str, Any]
"""`step`, `status`, `seconds`, `figures`."""
Performer = Callable[[Step, Prepared, float], Record]
"""Runs one step of that folder within so many seconds."""


def in_a_child(step: Step, prepared: Prepared, seconds: float) -> Record:
    """Run a step where a crash, a hang or a broken GPU ends nothing but itself."""
    with tempfile.TemporaryDirectory() as name:
        written = Path(name) / "record.json"
        arguments = ["-m", "benchmarks.gpu_machine.run", "step", step.name, str(prepared.folder), str(written)]
        arguments += ["--work", str(prepared.work)]
        arguments += [] if prepared.packages is None else ["--packages", str(prepared.packages)]
        places = [str(ROOT / each) for each in ("runtime", "train", "export", ".")]
        paths = [str(prepared.site), *places, os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),  # what the libraries print
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return {"step": step.name, "status": f"{FAILED}: not done within {seconds:.0f} s", "figures": {}}
        finally:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if not written.is_file():
            return {"step": step.name, "status": f"{FAILED}: its process ended with {code}", "figures": {}}
        record: Record = json.loads(written.read_text())
        return record


def run_steps(
    steps: Sequence[Step],
    prepared: Prepared,
    *,
    seconds: float,
    performer: Performer,
    save: Callable[[list[Record]], None],
) -> list[Record]:
    """All steps in order, `save` called after each; none is tried where no GPU answers."""
    end = time.monotonic() + seconds
    gpus = gpus_here()
    records: list[Record] = []
    for step in steps:
        begun = time.monotonic()
        left = min(step.seconds, end - begun)
        record: Record
        if not gpus:
            record = {"step": step.name, "status": f"{NOT_HERE}: no NVIDIA driver answers", "figures": {}}
        elif left < 1.0:
            record = {"step": step.name, "status": f"{NOT_HERE}: no time is left (--seconds)", "figures": {}}
        else:
            record = performer(step, prepared, left)
        record["seconds"] = round(time.monotonic() - begun, 2)
        records.append(record)
        click.echo(f"{step.name:14} {record['seconds']:7.1f} s  {record['status']}", err=True)
        save(records)
    return records


def gpus_here() -> list[str]:
    """GPUs as nvidia-smi names them, or the board where it is a Jetson; empty without one."""
    machine = detect_machine()
    return gpu_names() or ([machine.text] if machine.platform.is_jetson else [])


def result_name(gpus: Sequence[str]) -> str:
    """`gpu_nvidia_h200.json` by the first GPU's name; `gpu_none.json` without one."""
    name = gpus[0].split(",")[0] if gpus else "none"
    return f"gpu_{re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')}.json"


@group()
def main() -> None:
    """Prepare and run what only a machine with a GPU can show."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--size", help="HxW of the models  [default: the checkpoint's]")
def prepare(folder: Path, checkpoint: Path, images: Path, size: str | None) -> None:
    """Write CHECKPOINT in every precision, some of IMAGES and the CPU's class maps for them into FOLDER."""
    inputs.prepare(folder, checkpoint, images, None if size is None else parse_size(size))
    click.echo(f"{folder}: {sum(each.stat().st_size for each in folder.iterdir()) / 2**20:.1f} MiB to copy there")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--python", "version", default="3.12", show_default=True, help="Python of the GPU machine.")
@click.option("--set", "sets", multiple=True, help="Of rtx, ort-gpu, pycuda; again for more  [default: all]")
@click.option("--part-mib", default=56.0, show_default=True, type=Real(1), help="Size of a part.")
def wheels(folder: Path, version: str, sets: tuple[str, ...], part_mib: float) -> None:
    """Download packages for x86-64 Linux and cut them into parts in FOLDER."""
    for line in collect(folder, version, sets or tuple(SETS), part_mib):
        click.echo(line)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--packages", "--carried", "packages", type=click.Path(path_type=Path),
              help="Parts made by `wheels`, in any folders below it.")  # fmt: skip
@click.option("--seconds", default=570.0, show_default=True, type=Real(1), help="For all steps together.")
@click.option("--step", "only", multiple=True, help=f"Of {', '.join(step.name for step in STEPS)}  [default: all]")
@click.option("--out", type=click.Path(path_type=Path), help="Result  [default: benchmarks/results/gpu_<GPU>.json]")
def run(folder: Path, packages: Path | None, seconds: float, only: tuple[str, ...], out: Path | None) -> None:
    """Run every step on FOLDER, which `prepare` wrote."""
    if any(argument.partition("=")[0] == "--carried" for argument in sys.argv):
        click.echo("--carried is now --packages; the old name goes in version 0.2", err=True)
    known = [step.name for step in STEPS]
    for name in only:
        if name not in known:
            raise ConfigError(f"step {name!r} is not known; known: {', '.join(known)}")
    out = out or RESULTS / result_name(gpus_here())
    check_can_write(out)
    with tempfile.TemporaryDirectory(prefix="clst-gpu-") as work:
        prepared = Prepared(folder=folder.absolute(), work=Path(work), packages=packages and packages.absolute())
        prepared.check()
        facts = {"name": out.stem, **provenance()}

        def save(records: list[Record]) -> None:
            write_result(out, facts | {"steps": records})

        steps = [step for step in STEPS if not only or step.name in only]
        records = run_steps(steps, prepared, seconds=seconds, performer=in_a_child, save=save)
    click.echo(f"result: {out}", err=True)
    raise_worst(records)


def raise_worst(records: Sequence[Record]) -> None:
    """Exit code 6 where a step failed, else 5 where one was not possible.

    Raises:
        BudgetNotHeld, MissingDependency: accordingly.
    """
    for status, error in ((FAILED, BudgetNotHeld), (NOT_HERE, MissingDependency)):
        names = [record["step"] for record in records if record["status"].startswith(status)]
        if names:
            raise error(f"{len(names)} of {len(records)} steps {status}: {', '.join(names)}; the reasons stand above")


@main.command(hidden=True)
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("written", type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--packages", type=click.Path(path_type=Path))
def step(name: str, folder: Path, written: Path, work: Path, packages: Path | None) -> None:
    """Run one step in this process and write its record."""
    one = next(step for step in STEPS if step.name == name)
    write_text(written, json.dumps(perform(one, Prepared(folder=folder, work=work, packages=packages))))


if __name__ == "__main__":
    main()
