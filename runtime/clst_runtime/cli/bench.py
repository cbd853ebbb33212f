"""`clst-bench`: latency of models, side by side."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clst_runtime.cli.command import command, json_option, print_json, threads_text
from clst_runtime.cli.gpu_options import gpu_of, gpu_options
from clst_runtime.errors import BudgetNotHeld
from clst_runtime.system.credentials import without_credentials
from clst_runtime.system.numbers import THREADS, Real, Whole

if TYPE_CHECKING:
    from clst_runtime.evaluation.latency.comparison import Score

_log = logging.getLogger(__name__)


@command()
@click.argument("models", nargs=-1, required=True)
@click.option("--data", help="Folder of images or video to measure on  [default: random noise]")
@click.option("--live", help="Capture-to-mask on this source (as of clst-run) in place of the two other kinds.")
@click.option("--runs", default=1024, show_default=True, type=Whole(1), help="Measured runs, at most.")
@click.option("--seconds", default=60.0, show_default=True, type=Real(0, min_open=True),
              help="Measured time of each model, at most; with --live just that.")  # fmt: skip
@click.option("--warm-up", default=50, show_default=True, type=Whole(0), help="Runs before, at least 200 ms.")
@click.option("--threads", type=THREADS, help="CPU threads.")
@gpu_options
@click.option("--engine/--no-engine", default=True, show_default=True, help="Measure engine-only too.")
@click.option("--max-p99-ms", type=Real(0), help="Exit with 6 if a model's p99 is above this.")
@click.option("--max-median-ms", type=Real(0), help="Exit with 6 if a model's median is above this.")
@click.option("--max-ratio", type=Real(0), help="Exit with 6 if a model takes more times as long as the first one.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file with every sample and the machine's facts.")
@click.option("--plot", type=click.Path(path_type=Path), help="Picture (.png, .svg, .pdf) of every run.")
@json_option("Result without the samples")
@click.pass_context
def main(context: click.Context, /, **options: Any) -> None:
    """Latency of MODELS, which take turns: host-to-host (a NumPy frame in, a NumPy mask out) and engine-only.

    A model is a file or bundle; an .onnx file may name what computes it: front.onnx@ort-cuda. Budgets are held against
    host-to-host latencies, with --live against capture-to-mask ones.
    """
    check_options(options, context)
    scores, facts = measure(options)
    print_result(options, scores, facts)
    check_budgets(options, scores)


def check_options(options: dict[str, Any], context: click.Context) -> None:
    """Refuse what contradicts itself or cannot be done, before anything takes time."""
    from clst_runtime.system.files.atomic import check_can_write
    from clst_runtime.system.optional import require

    useless = [
        name
        for name in ("data", "runs", "warm_up", "engine")
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if options["live"] is not None and useless:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise click.UsageError(f"--live measures another kind of latency; {names} has no part in it")
    if len(set(options["models"])) < len(options["models"]):
        raise click.UsageError(f"a model is named twice: {', '.join(options['models'])}")
    if options["max_ratio"] is not None and len(options["models"]) < 2:
        raise click.UsageError("--max-ratio compares with the first model; give at least two")
    for path in (options["out"], options["plot"]):
        if path is not None:
            check_can_write(path)
    if options["plot"] is not None:
        require("matplotlib")  # before a long measurement
        if options["plot"].suffix.lower() not in (".png", ".svg", ".pdf"):
            raise click.UsageError(f"--plot {options['plot']}: give a name that ends in .png, .svg or .pdf")


def measure(options: dict[str, Any]) -> tuple[list[Score], dict[str, Any]]:
    """All scores, and the facts they must be quoted with."""
    from clst_runtime.evaluation.latency.comparison import candidates_for, capture_to_mask, engine_only, host_to_host
    from clst_runtime.evaluation.latency.host_to_host import Effort
    from clst_runtime.system.device_state import device_state, unsteadiness
    from clst_runtime.system.machine import machine_facts

    live, data, threads = options["live"], options["data"], options["threads"]
    candidates = candidates_for(options["models"], gpu_of(options))
    facts: dict[str, Any] = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine_facts()}
    facts |= {"frames": without_credentials(live or data or "random noise"), "threads": threads}
    _log.info(
        f"{', '.join([facts['machine']['cpu'], *facts['machine']['gpus']])}; {threads_text(threads)}; at most "
        f"{options['seconds']:g} s for each of {len(candidates)} models, each in the precision of its file"
    )
    before = device_state()
    if live is not None:
        scores = capture_to_mask(candidates, live, options["seconds"], threads=threads)
    else:
        effort = Effort(runs=options["runs"], seconds=options["seconds"], warm_up_runs=options["warm_up"])
        scores = host_to_host(candidates, data, effort, threads=threads)
        if options["engine"]:
            scores += engine_only(candidates, data, effort, threads=threads)
    after = device_state()
    return scores, facts | {"before": before, "after": after, "doubts": unsteadiness(before, after)}


def print_result(options: dict[str, Any], scores: list[Score], facts: dict[str, Any]) -> None:
    """Print the result and warnings, then write files: a full disk does not hide what was measured."""
    from clst_runtime.evaluation.latency.comparison import Level
    from clst_runtime.evaluation.latency.plot import plot_scores
    from clst_runtime.evaluation.latency.report import level_table, scores_json, warnings
    from clst_runtime.system.device_state import brief_state
    from clst_runtime.system.files.atomic import write_text

    if options["as_json"]:
        print_json(facts | {"results": scores_json(scores, samples=False)})
    else:
        rows, columns = scores[0].input_hw
        click.echo(f"on {facts['frames']}, input {rows}x{columns}; {facts['machine']['cpu']}")
        click.echo(f"before: {brief_state(facts['before'])}\nafter:  {brief_state(facts['after'])}")
        for level in (Level.HOST_TO_HOST, Level.ENGINE_ONLY, Level.CAPTURE_TO_MASK):
            own = [score for score in scores if score.level is level]
            if own:
                click.echo(f"\n{level_table(own)}")
    for warning in warnings(scores, facts["doubts"]):
        _log.warning(f"warning: {warning}")
    if options["out"] is not None:
        write_text(options["out"], json.dumps(facts | {"results": scores_json(scores, samples=True)}) + "\n")
    if options["plot"] is not None:
        plot_scores(scores, options["plot"])


def check_budgets(options: dict[str, Any], scores: list[Score]) -> None:
    """Refuse by BudgetNotHeld what is over the budgets: host-to-host or capture-to-mask, never engine-only."""
    from clst_runtime.evaluation.latency.comparison import Budgets, Level

    budgets = Budgets(
        max_p99_ms=options["max_p99_ms"], max_median_ms=options["max_median_ms"], max_ratio=options["max_ratio"]
    )
    failures = budgets.failures([score for score in scores if score.level is not Level.ENGINE_ONLY])
    if failures:
        raise BudgetNotHeld("; ".join(failures))
