"""Runs the project's commands inside this process: the same parsing, errors and exit codes, no second start."""

from __future__ import annotations

import click
from click.testing import CliRunner, Result


def call(command: click.Command, *arguments: object) -> Result:
    """Run a command to its end; an exception that is not an exit is raised, as it would be a traceback."""
    done = CliRunner().invoke(command, [str(argument) for argument in arguments], prog_name=command.name)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
