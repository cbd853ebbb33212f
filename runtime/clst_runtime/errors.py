"""Every error a user can cause, and the exit code each one ends with.

    click.ClickException
      └─ ClstError              1  our own failure
          ├─ ConfigError        3  a setting that cannot be used
          ├─ DataError          3  images, labels, videos or folders that cannot be used
          ├─ ModelFileError     4  a checkpoint, ONNX file or engine that cannot be used
          ├─ MissingDependency  5  a package or device this machine lacks
          └─ BudgetNotHeld      6  parity, accuracy or latency outside what was asked; an export that TensorRT refuses

Each message is one line: what is wrong, with the value, and what to do about it.
The commands print it without a traceback. Code 2 (usage) is click's own, 130 is an interrupt.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import click

from clst_runtime.system.credentials import without_credentials


class ClstError(click.ClickException):
    """Base of the errors that end a command with one line and an exit code; no password stands in it."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(without_credentials(message))

    def line(self) -> str:
        """`error: …` as one line, whatever names of files stand in it."""
        message = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in self.message
        )
        return f"error: {message}"


class ConfigError(ClstError):
    """A setting that is unknown, out of range or contradicts another one."""

    exit_code = 3


class DataError(ClstError):
    """Images, labels, videos or folders that are missing, damaged or do not fit each other."""

    exit_code = 3


class ModelFileError(ClstError):
    """A checkpoint, ONNX file or engine that is damaged or does not fit this program."""

    exit_code = 4


class MissingDependency(ClstError):
    """A package or a device that this machine lacks."""

    exit_code = 5


class BudgetNotHeld(ClstError):
    """Parity, accuracy or latency came out worse than what was asked for, or TensorRT refuses an export."""

    exit_code = 6


def message_of(error: BaseException) -> str:
    """An error in one line; with its kind where it is none of ours."""
    if isinstance(error, ClstError):
        return error.message
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name: the nearest known one, and all of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}known: {', '.join(names)}"
