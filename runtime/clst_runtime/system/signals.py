"""Signals that end a program, and who gets them meanwhile."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Those that end a program beside Ctrl-C."""
IMPORT_SECONDS = 10.0
"""So long an import may put a signal off."""
AGAIN_SECONDS = 0.02
"""A signal that was put off comes again after so long."""


def not_ignored(signals: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Those that are not ignored from the start, as `nohup` makes a program ignore SIGHUP."""
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

    Not those that somebody ignores or handles already. While a library is imported all three are put off: one in C
    would take the exception for a fault of its own, and the command for a library that is missing.
    """
    first_seconds = 0.0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal first_seconds
        first_seconds = first_seconds or time.monotonic()
        if not _is_importing(frame) or time.monotonic() - first_seconds > IMPORT_SECONDS:
            raise KeyboardInterrupt
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    usual = (signal.SIG_DFL, signal.default_int_handler)
    with handled([each for each in (signal.SIGINT, *ENDING) if signal.getsignal(each) in usual], interrupt):
        yield


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def unheard_at_exit() -> None:
    """Let signals change nothing while the interpreter takes itself down: all files are closed, the exit code is known.

    A second one would change that code there, and Ctrl-C print a traceback.
    """
    atexit.register(_ignore)


def _ignore() -> None:
    for each in (signal.SIGINT, *ENDING):
        signal.signal(each, signal.SIG_IGN)
