"""Ctrl-C, SIGTERM and SIGHUP end training well: the step at hand is finished and saved; a second one ends at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from clst_runtime.system.signals import ENDING, handled, not_ignored
from clst_train.compute.ranks import ranks

SAME_SECONDS = 5.0
"""Of several processes: torchrun hands on what the terminal has sent to all of them already."""


class Stopped(KeyboardInterrupt):
    """The end was requested; the message has what is kept and how to resume."""


class _Wish:
    """Whether the end was asked for, and whether a step is at work that has to be finished first."""

    since: float | None = None
    in_steps: bool = False


_wish = _Wish()


def asked() -> bool:
    """Whether this process was asked to end."""
    return _wish.since is not None


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Take the signals as a wish; those that whoever started the process has it ignore (nohup) stay ignored.

    In another thread than the main one nothing is changed.
    """
    _wish.since = None
    with handled(not_ignored([signal.SIGINT, *ENDING]), _take_note):
        try:
            yield
        finally:
            _wish.since = None


@contextmanager
def finishing_steps() -> Iterator[None]:
    """Meanwhile a first signal only notes the wish, for `asked`; elsewhere it raises at once.

    Raises:
        Stopped: at its end, if the end was asked for meanwhile.
    """
    _wish.in_steps = True
    try:
        yield
    finally:
        _wish.in_steps = False
    if asked():
        raise Stopped


def _take_note(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _wish.since is not None:
        if ranks().count > 1 and now - _wish.since < SAME_SECONDS:
            return
        raise Stopped
    _wish.since = now
    if not _wish.in_steps:
        raise Stopped
    if ranks().first:
        with suppress(OSError):  # past Python's streams, which may be in the middle of a line
            os.write(2, b"\nending after this step, which is saved; once more ends at once\n")
