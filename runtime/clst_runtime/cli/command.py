"""How every command of this project begins and ends: click, with the exit codes of `errors`."""

from __future__ import annotations

import io
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import click

from clst_runtime.errors import DataError, words_of
from clst_runtime.system.credentials import keeping_secret, without_credentials
from clst_runtime.system.optional import blamed_for, unimportable
from clst_runtime.system.signals import heard_as_interrupts, unheard_at_exit
from clst_runtime.system.standard_streams import open_standard_streams, silence_standard_output

INTERRUPTED = 130


class Command(click.Command):
    """A click command that ends with 130 on Ctrl-C and SIGTERM and keeps quiet when its reader (`| head`) has gone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but an empty value is refused: a shell makes one of a variable that is not set, and an empty
        path would be the current folder.

        Raises:
            click.UsageError: there is one.
        """
        for before, value in zip(["", *args], args, strict=False):
            if value == "" or re.fullmatch(r"--[\w-]+=", value):
                name = value.rstrip("=") or (before if before.startswith("--") else "an argument")
                raise click.UsageError(f"{name} is empty; give it a value, or leave it out", ctx)
        return super().parse_args(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as the console script; with `standalone_mode=False` exceptions pass through to the caller."""
        return ending_well(super().main, *args, **options)


class Group(click.Group):
    """A click group with the same ends; its commands are `Command`s."""

    command_class = Command

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as the console script; with `standalone_mode=False` exceptions pass through to the caller."""
        return ending_well(super().main, *args, **options)


def ending_well(main: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call click's `main`; an interrupt becomes exit code 130, a closed pipe a quiet end, OSError a line."""
    if not options.pop("standalone_mode", True):
        return main(*args, standalone_mode=False, **options)
    open_standard_streams()
    sys.excepthook = _tell_fault
    unheard_at_exit()
    given = options.get("args") or (args[0] if args else None)
    with keeping_secret(sys.argv[1:] if given is None else given), heard_as_interrupts():
        try:
            code = _exit_code(main, *args, **options)
            sys.stdout.flush()
        except OSError as error:
            code = _told(error)
        except KeyboardInterrupt:  # one more, while the first was told
            code = INTERRUPTED
    sys.exit(code)


def _exit_code(main: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Run it; an error of click's or ours is told. Raises: OSError."""
    try:
        result = main(*args, standalone_mode=False, **options)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt) as interrupt:
        reason = interrupt.__cause__ or interrupt  # click raises its own; training's says how to go on
        click.echo(str(reason) or "interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        words = io.StringIO()
        error.show(words)
        click.echo(without_credentials(words.getvalue()), err=True, nl=False)  # click repeats what was typed
        return error.exit_code
    except ImportError as error:
        package = blamed_for(error)
        if package.startswith("clst_"):
            raise
        failed = unimportable(package, error)
        failed.show()
        return failed.exit_code
    return result if isinstance(result, int) else 0


def _told(error: OSError) -> int:
    """A full disk, a folder without permission, wherever it was met, in one line; a reader that has gone in none."""
    silence_standard_output()
    if isinstance(error, BrokenPipeError):
        return 1
    failed = DataError(words_of(error))
    failed.show()
    return failed.exit_code


def _tell_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of ours, without the password that its last line may repeat."""
    click.echo(without_credentials("".join(traceback.format_exception(kind, error, trace))), err=True, nl=False)


def command(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    """Like `click.command()`, giving a `Command`."""
    return click.command(name, cls=Command, **options)


def group(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Group]:
    """Like `click.group()`, giving a `Group`."""
    return click.group(name, cls=Group, **options)
