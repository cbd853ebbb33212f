"""How every command of this project begins and ends: click, with the exit codes of `errors` and options for all."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from clst_runtime.cli.messages import keep_in, set_level, shown_messages
from clst_runtime.errors import ClstError, DataError, did_you_mean, message_of
from clst_runtime.system.credentials import keeping_secret, without_credentials
from clst_runtime.system.numbers import cores_here
from clst_runtime.system.optional import blamed_for, unimportable
from clst_runtime.system.signals import heard_as_interrupts, unheard_at_exit
from clst_runtime.system.standard_streams import open_standard_streams, silence_standard_output

if TYPE_CHECKING:
    from clst_runtime.backends.base import Backend

INTERRUPTED = 130


_log = logging.getLogger(__name__)


class _Common(click.Command):
    """The options and the ends that all commands share.

    It ends with 130 on Ctrl-C and SIGTERM, and keeps quiet when its reader (`| head`) has gone.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params = [*self.params, *_common_options()]
        self.context_settings = {"help_option_names": ["-h", "--help"], **self.context_settings}

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as the console script; with `standalone_mode=False` exceptions pass through to the caller."""
        return ending_well(super().main, *args, **options)


class Command(_Common):
    """A click command with common options and ends."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but an empty value is refused: a shell makes one of a variable that is not set, and an empty
        path would be the current folder.

        Raises:
            click.UsageError: there is one.
        """
        for before, value in zip(["", *args], args, strict=False):
            if (value == "" or re.fullmatch(r"--[\w-]+=", value)) and not ctx.resilient_parsing:
                name = value.rstrip("=") or (before if before.startswith("--") else "an argument")
                raise click.UsageError(f"{name} is empty; give it a value, or leave it out", ctx)
        given = f"{ctx.command_path} {shlex.join(args)}"
        rest = super().parse_args(ctx, args)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug(without_credentials(given))
        return rest


class Group(_Common, click.Group):
    """A click group with the same; its commands are `Command`s."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a name that is unknown comes with the nearest one."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}; {did_you_mean(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


def _common_options() -> list[click.Parameter]:
    """Handled while they are read; no command gets their values."""

    def of(*names: str, action: Callable[[click.Context, Any], None], **more: Any) -> click.Option:
        def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
            if value and not ctx.resilient_parsing:
                action(ctx, value)

        return click.Option([*names], is_eager=True, expose_value=False, callback=callback, **more)

    return [
        of("-q", "--quiet", is_flag=True, action=lambda ctx, _: _set_level(ctx, logging.WARNING),
           help="On standard error only warnings and errors."),
        of("-v", "--verbose", is_flag=True, action=lambda ctx, _: _set_level(ctx, logging.DEBUG),
           help="More on standard error, with times."),
        of("--log-file", type=click.Path(path_type=Path), action=lambda _, path: keep_in(path),
           help="Append all messages to this file, with times."),
        of("--version", is_flag=True, action=_show_version, help="Show versions and exit."),
    ]  # fmt: skip


def _show_version(ctx: click.Context, _: object) -> None:
    from clst_runtime.cli.version import version_line

    click.echo(version_line())
    ctx.exit()


def _set_level(ctx: click.Context, level: int) -> None:
    """Raises: click.UsageError: the other one was given too."""
    if ctx.meta.setdefault(__name__, level) != level:
        raise click.UsageError("-q and -v contradict each other; give one of them", ctx)
    set_level(level)


def ending_well(main: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call click's `main`; an interrupt becomes exit code 130, a closed pipe a quiet end, OSError a line."""
    if not options.pop("standalone_mode", True):
        return main(*args, standalone_mode=False, **options)
    open_standard_streams()
    sys.excepthook = _show_fault
    unheard_at_exit()
    given = options.get("args") or (args[0] if args else None)
    with keeping_secret(sys.argv[1:] if given is None else given), heard_as_interrupts(), shown_messages():
        try:
            code = _exit_code(main, *args, **options)
            sys.stdout.flush()
        except OSError as error:
            code = _os_failed(error)
        except KeyboardInterrupt:  # one more, while the first was reported
            code = INTERRUPTED
    sys.exit(code)


def _exit_code(main: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Run it; an error of click's or ours is logged. Raises: OSError."""
    try:
        result = main(*args, standalone_mode=False, **options)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt) as interrupt:
        reason = interrupt.__cause__ or interrupt  # click raises its own; training's says how to go on
        _log.error(str(reason) or "interrupted")
        return INTERRUPTED
    except ClstError as error:
        return _failed(error)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _log.error(without_credentials(shown.getvalue().rstrip("\n")))  # click repeats what was typed
        return error.exit_code
    except ImportError as error:
        package = blamed_for(error)
        if package.startswith("clst_"):
            raise
        return _failed(unimportable(package, error))
    return result if isinstance(result, int) else 0


def _os_failed(error: OSError) -> int:
    """A full disk, a folder without permission, wherever it was met, in one line; a reader that has gone in none."""
    silence_standard_output()
    if isinstance(error, BrokenPipeError):
        return 1
    return _failed(DataError(message_of(error)))


def _failed(error: ClstError) -> int:
    """Say what is wrong; its exit code."""
    _log.error(error.line())
    _log.debug(without_credentials("".join(traceback.format_exception(error))))
    return error.exit_code


def _show_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of ours, without the password that its last line may repeat."""
    click.echo(without_credentials("".join(traceback.format_exception(kind, error, trace))), err=True, nl=False)


def json_option(what: str = "Result") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command `--json`, as `as_json`: `print_json` is then all that it puts on standard output."""
    return click.option("--json", "as_json", is_flag=True, help=f"{what} as JSON, alone on standard output.")


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(value, indent=1))


def log_backend(backend: Backend, threads: int | None) -> None:
    """The first line of a run: device, precision and threads."""
    _log.info(f"{backend.description}, {backend.manifest.precision}, {threads_text(threads)}")


def threads_text(threads: int | None) -> str:
    """CPU threads as they were asked for; the default is the backend's."""
    return f"{threads} thread{'s' * (threads != 1)}" if threads else f"threads by default, {cores_here()} cores"


def command(
    name: str | None = None, kind: type[Command] = Command, **options: Any
) -> Callable[[Callable[..., Any]], Command]:
    """Like `click.command()`, giving a `Command`."""
    return click.command(name, cls=kind, **options)


def group(name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Group]:
    """Like `click.group()`, giving a `Group`."""
    return click.group(name, cls=Group, **options)
