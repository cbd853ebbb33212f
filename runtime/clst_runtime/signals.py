"""Signals that end a program, and who gets them meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Those that end a program beside Ctrl-C."""


def not_ignored(signals: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Those that whoever started the program has not told it to ignore, as `nohup` does with SIGHUP."""
    return [each for each in signals if signal.getsignal(each) is not signal.SIG_IGN]


@contextmanager
def handled(signals: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Meanwhile `handler` gets these signals; in another thread than the main one nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def heard_as_interrupts() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP end a command as Ctrl-C does, through every `finally`: no file is left half-written.

    Not those that somebody ignores or handles already.
    """
    with handled([each for each in ENDING if signal.getsignal(each) is signal.SIG_DFL], signal.default_int_handler):
        yield
