"""What a CLST step costs while another program keeps one core busy, by how the CPU's threads wait for one another.

    python -m benchmarks.performance.busy_core [--rounds N] [--steps N] [--threads N] [--name NAME]

Each way to wait has a process of its own, because OpenMP reads it when it is loaded; they take turns, block by block,
first alone and then beside a program that counts. A ratio is taken within a round, to the usual way alone, and the
median over the rounds is reported. To be run where nothing else does.
The result goes to benchmarks/results/<name>.json.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from clst_train.compute.cores import WISHES

WAYS: dict[str, dict[str, str]] = {
    "usual": {"KMP_BLOCKTIME": "200"},
    "clst-train": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "1000 spins": {"GOMP_SPINCOUNT": "1000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Variables; KMP_BLOCKTIME, which GNU's OpenMP does not read, tells `bind_threads` that somebody has chosen."""
COUNTS = "while True: pass"


def serve(folder: Path, steps: int) -> None:
    """In a child: steps of a block each time that a line comes; tells the seconds of one step."""
    from clst_train.compute.cores import bind_threads, on_first_core, use_all_cores

    bind_threads()
    import cv2

    from benchmarks.performance.training_speed import block, changed, clst_step, prepare
    from clst_train.stages.adaptation import both_batches

    use_all_cores()

    cv2.setNumThreads(1)
    run = prepare(folder, ())
    batches = [both_batches(run, iteration) for iteration in range(3)]
    step = clst_step(changed(run))
    with on_first_core(run.device.type):
        block(step, batches, steps)
        print("ready", flush=True)
        for _ in sys.stdin:
            print(block(step, batches, steps), flush=True)


def begin(folder: Path, steps: int, variables: dict[str, str]) -> subprocess.Popen[str]:
    """A child that has made its first steps."""
    plain = {name: value for name, value in os.environ.items() if name not in WISHES}
    call = [sys.executable, "-m", "benchmarks.performance.busy_core", "--serve", str(folder), "--steps", str(steps)]
    child = subprocess.Popen(
        call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=plain | variables
    )
    assert child.stdout is not None  # noqa: S101  (a pipe)
    child.stdout.readline()
    return child


def seconds(child: subprocess.Popen[str]) -> float:
    """Of a step of its next block."""
    assert child.stdin is not None  # noqa: S101  (pipes)
    assert child.stdout is not None  # noqa: S101
    child.stdin.write("\n")
    return float(child.stdout.readline())


@click.command()
@click.option("--rounds", default=9, show_default=True, help="Rounds that each way is measured in.")
@click.option("--steps", default=3, show_default=True, help="Steps of a block.")
@click.option("--threads", type=int, help="OMP_NUM_THREADS of all ways but the last  [default: as many as cores]")
@click.option("--name", default="busy_core", show_default=True, help="Name of the result file.")
@click.option("--serve", "served", hidden=True, type=click.Path(path_type=Path))
def main(rounds: int, steps: int, threads: int | None, name: str, served: Path | None) -> None:
    """Measure how a CLST step slows down beside one busy program."""
    if served is not None:
        serve(served, steps)
        return
    given = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    values: dict[str, dict[str, list[float]]] = {way: {"alone": [], "beside": []} for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        children = {way: begin(Path(folder), steps, given | variables) for way, variables in WAYS.items()}
        busy = subprocess.Popen([sys.executable, "-c", COUNTS])
        try:
            for number in range(rounds):
                for state in ("alone", "beside"):
                    busy.send_signal(signal.SIGSTOP if state == "alone" else signal.SIGCONT)
                    for way in list(children)[:: -1 if number % 2 else 1]:
                        values[way][state].append(seconds(children[way]))
                tell(values)
        finally:
            busy.kill()
            for child in children.values():
                child.kill()
    from benchmarks.performance.training_speed import write

    write(name, {"rounds": rounds, "steps_a_block": steps, "threads": threads or os.cpu_count(), "ways": tell(values)})


def tell(values: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Median ratios to the usual way alone, and seconds; printed."""
    base = values["usual"]["alone"]
    told = {
        way: {
            state: round(statistics.median(a / b for a, b in zip(found, base, strict=False)), 3)
            for state, found in states.items()
        }
        | {f"seconds {state}": round(statistics.median(found), 4) for state, found in states.items()}
        for way, states in values.items()
    }
    print(time.strftime("%H:%M:%S"), json.dumps(told), flush=True)
    return told


if __name__ == "__main__":
    main()
