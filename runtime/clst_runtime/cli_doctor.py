"""`clst-doctor`: what this machine can run."""

from __future__ import annotations

import dataclasses
import json

import click

from clst_runtime.command import command
from clst_runtime.errors import MissingDependency


@command()
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
def main(*, as_json: bool) -> None:
    """Say what this machine has, what it lacks and how to get it; exit code 5 if clst-run cannot work."""
    from clst_runtime.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            click.echo(f"{finding.state:<8}  {finding.name:<{width}}  {finding.told}")
    lacking = [finding.name for finding in findings if finding.needed and finding.state != "good"]
    if lacking:
        raise MissingDependency(f"clst-run cannot work here: {', '.join(lacking)}; the cures stand above")
