"""`clst-doctor`: what this machine can run, and whether a model holds on it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clst_runtime.cli.command import command, json_option, print_json
from clst_runtime.cli.gpu_options import NAMES as GPU_NAMES
from clst_runtime.cli.gpu_options import gpu_of, gpu_options
from clst_runtime.errors import MissingDependency
from clst_runtime.system.numbers import THREADS, Real

if TYPE_CHECKING:
    from clst_runtime.doctor import Finding

REPORT = Path("clst-acceptance.md")
_log = logging.getLogger(__name__)


@command()
@click.option("--verify", metavar="MODEL", type=click.Path(path_type=Path),
              help="Accept MODEL on this device, from its hash to a live run; writes --report.")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="Labelled data set, or folder of images, to verify on.")
@click.option("--source", help="Camera for the live run (as of clst-run)  [default: the images, replayed]")
@click.option("--seconds", default=60.0, show_default=True, type=Real(0, min_open=True),
              help="Length of the live run.")  # fmt: skip
@click.option("--threads", type=THREADS, help="CPU threads.")
@click.option("--backend", default="auto", show_default=True, help="What computes MODEL, as of clst-run.")
@gpu_options
@click.option("--deadline-ms", type=Real(0, min_open=True), help="Live: the run must not be stale by this deadline.")
@click.option("--max-p99-ms", type=Real(0), help="Host-to-host p99 that must hold.")
@click.option(
    "--report", default=REPORT, show_default=True, type=click.Path(path_type=Path), help="Report of --verify."
)
@json_option()
@click.pass_context
def main(context: click.Context, /, verify: Path | None, report: Path, *, as_json: bool, **options: Any) -> None:
    """Say what this machine has, what it lacks and how to get it; exit code 5 if clst-run cannot work.

    With --verify: the whole acceptance of a model on this device, written into one report; exit code 5 if something
    that it needs is missing here, 6 if a step does not hold.
    """
    if verify is not None:
        accept_model(verify, report, options, as_json=as_json)
        return
    names = ("data", "source", "seconds", "threads", "backend", *GPU_NAMES, "deadline_ms", "max_p99_ms",
             "report")  # fmt: skip
    useless = [name for name in names if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if useless:
        raise click.UsageError(f"{', '.join('--' + name.replace('_', '-') for name in useless)} need --verify MODEL")
    examine_machine(as_json=as_json)


def examine_machine(*, as_json: bool) -> None:
    """Print the findings; raise MissingDependency where clst-run cannot work here."""
    from clst_runtime.doctor import examine, lacking

    findings = examine()
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        click.echo(listing(findings))
    missing = lacking(findings)
    if missing:
        raise MissingDependency(f"clst-run cannot work here: {', '.join(missing)}; what to do stands above")


def listing(findings: list[Finding]) -> str:
    """A line for each finding, and its hint below it."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state.value:<8}  {finding.name:<{width}}  {finding.text}")
        if finding.hint:
            lines.append(f"{'':<8}  {'':<{width}}  → {finding.hint}")
    return "\n".join(lines)


def accept_model(model: Path, report: Path, options: dict[str, Any], *, as_json: bool) -> None:
    """Run the acceptance, write the report, print it shortly; a verdict that rejects the model is raised."""
    from clst_runtime.evaluation.acceptance.report import brief, report_text, to_json
    from clst_runtime.evaluation.acceptance.run import Plan, accept
    from clst_runtime.system.files.atomic import check_can_write, write_text

    check_can_write(report)
    others = {name: value for name, value in options.items() if name not in GPU_NAMES}
    plan = Plan(model=model, gpu=gpu_of(options), **others)
    acceptance = accept(plan)
    if as_json:
        print_json(to_json(acceptance))
    else:
        click.echo(brief(acceptance))
    write_text(report, report_text(acceptance))
    _log.info(f"report: {report}")
    acceptance.raise_if_rejected()
