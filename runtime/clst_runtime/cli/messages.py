"""Where messages go: notes and warnings to standard error as they are, everything with its time to a log file.

All other code only logs (`logging.getLogger(__name__)`). A command attaches these handlers while it runs, so a program
that imports the packages gets records and no handler.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from clst_runtime.system.credentials import without_credentials
from clst_runtime.system.progress import PROGRESS

_STAMP = re.compile(rb"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ", re.MULTILINE)
LOGGERS = ("clst", "clst_runtime", "clst_train", "clst_export")
_log = logging.getLogger(__name__)


class _Handler(logging.Handler):
    """Without a lock: a thread that hangs in a stream stops no other one, nor the end of the program.

    Each record is written by one call, so lines of several threads and processes do not mix.
    """

    def createLock(self) -> None:  # noqa: N802
        """There is none."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Write it."""
        self.emit(record)
        return True


class Console(_Handler):
    """Standard error, as it is when a message comes."""

    timed = False
    """Whether time and level stand before each message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message above progress bars that are open."""
        text = f"{_stamp(record)[11:]} " * self.timed + record.getMessage()
        bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
        if bars is None:
            click.echo(text, err=True)
        else:
            bars.write(f"{text}\n", file=sys.stderr, end="")


class LogFile(_Handler):
    """Appends whole lines without credentials; what cannot be written is left out, and the first time said."""

    def __init__(self, path: Path) -> None:
        """Raises: OSError: it cannot be written."""
        super().__init__()
        # not blocking: a named pipe that nobody reads is an error and no endless wait
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._path, self._file, self._failed = path, os.open(path, flags, 0o666), False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message, time and level before each of its lines."""
        lines = without_credentials(record.getMessage()).splitlines()
        data = "".join(f"{_stamp(record)} {line}\n" for line in lines).encode(errors="backslashreplace")
        try:
            written, reason = os.write(self._file, data), "the disk is full"
        except OSError as error:
            written, reason = 0, error.strerror or str(error)
        if written == len(data):
            return
        if written:
            with suppress(OSError):  # a pipe
                os.ftruncate(self._file, os.lseek(self._file, 0, os.SEEK_CUR) - written)
        if not self._failed:
            self._failed = True
            _log.warning(f"warning: {self._path}: {reason}; the log file misses lines")

    def close(self) -> None:
        """Close it."""
        super().close()
        os.close(self._file)


def _stamp(record: logging.LogRecord) -> str:
    """`2026-01-31 12:00:00.123 INFO   `, local time."""
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    return f"{clock}.{record.msecs:03.0f} {record.levelname:<7}"


@contextmanager
def shown_messages() -> Iterator[None]:
    """Meanwhile messages go to standard error; at the end the loggers are as they were.

    An error that nobody catches is put into the log file too, and goes on.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    progress = PROGRESS.level
    for logger in loggers:
        logger.propagate = False  # else a library that sets up the root logger would show each message twice
    _use(Console(logging.INFO))
    try:
        yield
    except Exception as fault:
        record = logging.LogRecord(
            __name__, logging.CRITICAL, __file__, 0, "".join(traceback.format_exception(fault)), None, None
        )
        for file in _log_files():
            file.emit(record)
        raise
    finally:
        files = _log_files()
        for logger, level, propagate, handlers in before:
            logger.setLevel(level)
            logger.propagate, logger.handlers[:] = propagate, handlers
        PROGRESS.setLevel(progress)
        for file in files:
            file.close()


def set_level(level: int) -> None:
    """Show messages of this level and higher; below INFO with their times. Progress has level INFO."""
    for console in _handlers():
        if isinstance(console, Console):
            console.setLevel(level)
            console.timed = level < logging.INFO
    _use(*_handlers())
    PROGRESS.setLevel(max(level, logging.INFO))


def keep_in(path: Path) -> None:
    """Append everything to a file as well; one line says where it cannot be written, and nothing else changes.

    A file that has other content stays as it is: a slip of the keyboard would damage a model or a recipe.
    """
    try:
        if not _can_be_log(path):
            raise FileExistsError(None, "has other content than messages; give another file")
        _use(*_handlers(), LogFile(path))
    except OSError as error:
        _log.warning(f"warning: --log-file {path}: {error.strerror or error}; there will be no log file")


def _can_be_log(path: Path) -> bool:
    """Whether it is new, empty, a device or a pipe, or has messages at its beginning, be it cut within a line."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        head = file.read(4096)
    return not head or _STAMP.search(head) is not None


def _handlers() -> list[logging.Handler]:
    return logging.getLogger(LOGGERS[0]).handlers[:]


def _log_files() -> list[LogFile]:
    return [handler for handler in _handlers() if isinstance(handler, LogFile)]


def _use(*handlers: logging.Handler) -> None:
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(min(handler.level or logging.DEBUG for handler in handlers))
