"""SIGTERM and SIGHUP end a command as Ctrl-C does: through every `finally`, so that no file is left half-written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def heard_as_interrupts() -> Iterator[None]:
    """Meanwhile these signals raise KeyboardInterrupt, unless who started the program has them ignored (nohup).

    In another thread than the main one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    unheard = [each for each in ENDING if signal.getsignal(each) is signal.SIG_DFL]
    for each in unheard:
        signal.signal(each, _interrupt)
    try:
        yield
    finally:
        for each in unheard:
            signal.signal(each, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
