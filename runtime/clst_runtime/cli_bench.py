"""`clst-bench`: latency of models, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clst_runtime.command import command
from clst_runtime.errors import BudgetNotHeld, ModelFileError

if TYPE_CHECKING:
    from clst_runtime.backends.base import Frame


@command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", help="Folder of pictures or video to measure on  [default: drawn noise, which is said]")
@click.option("--runs", default=1024, show_default=True, type=click.IntRange(1), help="Measured runs, at most.")
@click.option("--seconds", default=60.0, show_default=True, help="Measured time, at most.")
@click.option("--warm-up", default=50, show_default=True, type=click.IntRange(0), help="Runs before, at least 200 ms.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--max-p99-ms", type=float, help="Exit with 6 if a model's p99 is above this.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file with every sample and the machine's facts.")
@click.option("--json", "as_json", is_flag=True, help="Result as JSON (without the samples).")
def main(
    models: tuple[Path, ...],
    data: str | None,
    runs: int,
    seconds: float,
    warm_up: int,
    threads: int | None,
    max_p99_ms: float | None,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Host-to-host latency of MODELS: a NumPy frame in, a NumPy mask out, after a warm-up."""
    from clst_runtime.atomic import write_text
    from clst_runtime.backends import open_model
    from clst_runtime.benchmark import measure_latency
    from clst_runtime.machine import machine_facts
    from clst_runtime.report import format_table
    from clst_runtime.timing import UNSTEADY

    results, size = [], None
    for model in models:
        with open_model(model, threads=threads) as backend:
            if size not in (None, backend.manifest.input_hw):
                found = backend.manifest.input_hw
                raise ModelFileError(f"{model}: input {found}, the first model's is {size}; compare equal sizes")
            size = backend.manifest.input_hw
            frames = frames_to_measure(data, size)
            measured = measure_latency(backend, frames, runs=runs, seconds=seconds, warm_up_runs=warm_up)
            results.append({"model": str(model), "backend": backend.description, "input_hw": size,
                            "runs": len(measured.samples_ns), "warm_up_runs": measured.warm_up_runs,
                            "host_to_host_ms": measured.summary_ms(), "output_sha256": measured.output_sha256,
                            "samples_ns": measured.samples_ns})  # fmt: skip
    facts = {"machine": machine_facts(), "frames": data or "drawn noise", "threads": threads}
    if out is not None:
        write_text(out, json.dumps(facts | {"results": results}) + "\n")
    brief = [{key: value for key, value in result.items() if key != "samples_ns"} for result in results]
    names = ("min", "mean", "median", "p90", "p95", "p99", "max")
    if as_json:
        click.echo(json.dumps(facts | {"results": brief}, indent=1))
    else:
        rows = [[str(r["model"]), *(f"{r['host_to_host_ms'][n]:.2f}" for n in names)] for r in brief]  # type: ignore[index]
        click.echo(f"host to host, ms, on {facts['frames']}; {machine_facts()['cpu']}, {brief[0]['backend']}")
        click.echo(format_table(["model", *names], rows))
    for result in brief:
        summary = result["host_to_host_ms"]
        if summary["cov"] > UNSTEADY:  # type: ignore[index]
            told = f"unsteady, coefficient of variation {100 * summary['cov']:.1f} %"  # type: ignore[index]
            click.echo(f"warning: {result['model']}: {told}", err=True)
        if max_p99_ms is not None and summary["p99"] > max_p99_ms:  # type: ignore[index]
            raise BudgetNotHeld(f"{result['model']}: p99 is {summary['p99']:.2f} ms, {max_p99_ms:.2f} ms allowed")  # type: ignore[index]


def frames_to_measure(data: str | None, size: tuple[int, int], *, count: int = 16) -> list[Frame]:
    """Up to `count` frames H,W,3 of a folder or video at the model's size, else noise."""
    import itertools

    import numpy as np

    from clst_runtime.frames import resize_frame
    from clst_runtime.sources import open_source

    if data is None:
        rng = np.random.default_rng(0)
        return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(4)]
    with open_source(data) as source:
        return [resize_frame(timed.rgb, size) for timed in itertools.islice(source, count)]
