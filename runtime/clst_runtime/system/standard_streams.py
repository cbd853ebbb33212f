"""Standard input, output and error as a program may find them: closed, full, or read by nobody."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from contextlib import suppress
from typing import IO, Any, cast


class Output(io.FileIO):
    """Standard output: takes everything that is written, and its errors say that it was it."""

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while len(left):
                written = super().write(left)
                if written is None:  # whoever started this program made it non-blocking
                    waiting = select.poll()  # select itself knows no descriptor above 1023
                    waiting.register(self, select.POLLOUT)
                    waiting.poll()
                left = left[written or 0 :]
        except OSError as error:
            error.filename = "standard output"
            raise
        return size


class _Unfailing(io.FileIO):
    """Standard error: what cannot be written is left out, for a word that nobody hears must not end what goes on."""

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        with suppress(OSError):
            while len(left) and (written := super().write(left)):
                left = left[written:]
        return size


def open_standard_streams() -> None:
    """Give the null device to each that is closed, so that no file takes its number; standard error never fails.

    `sys.__stdout__` and its like stay None for what was closed. Standard error has no buffer below its text: threads
    write to it until the end, and Python aborts where it finds the lock of a buffer held by one of them.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  as long as the process
    if sys.stdout is sys.__stdout__:  # in tests it may be anything
        raw = Output(1, "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), _encoding(sys.stdout), "backslashreplace", line_buffering=raw.isatty()
        )
    if sys.stderr is sys.__stderr__:
        unbuffered = cast(IO[bytes], _Unfailing(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(unbuffered, _encoding(sys.stderr), "backslashreplace", line_buffering=True)


def _encoding(before: Any) -> str:
    return "utf-8" if before is None else str(before.encoding)


def standard_output() -> IO[bytes]:
    """Standard output without a buffer: a thread that hangs in it leaves nothing locked and nothing to be flushed."""
    if isinstance(getattr(sys.stdout.buffer, "raw", None), Output):
        sys.stdout.flush()
        return cast(IO[bytes], Output(os.dup(1), "w"))
    return sys.stdout.buffer


def never_wait_for_standard_error() -> None:
    """From now on what standard error cannot take at once is left out, also what libraries write there.

    A pipe or terminal is opened anew, because how it is open is shared with the programs that have it too.
    """
    if not isinstance(getattr(sys.stderr, "buffer", None), _Unfailing):
        return
    if stat.S_ISFIFO(os.fstat(2).st_mode) or os.isatty(2):
        with suppress(OSError):  # another user's, or its reader has gone
            anew = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(anew, 2)
            os.close(anew)
            return
    if not stat.S_ISREG(os.fstat(2).st_mode):
        os.set_blocking(2, False)


def silence_standard_output() -> None:
    """What was not written stays unwritten: the interpreter tries it again at its end, and would fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # in tests it may have no number
        os.dup2(null, sys.stdout.fileno())
    os.close(null)
