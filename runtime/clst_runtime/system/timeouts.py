"""Work that may hang, as writing to a stalled disk does, without hanging who asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

POLL_SECONDS = 0.05


def in_time(work: Callable[[], None], seconds: Callable[[], float], *, meanwhile: Callable[[], None]) -> None:
    """Do `work` in a thread of its own, which is left behind if it takes longer than `seconds()` at that moment.

    Args: meanwhile: called again and again while it lasts.

    Raises:
        TimeoutError: it is not done. Whatever `work` raises.
    """
    failures: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  raised below
            failures.append(error)

    thread = threading.Thread(target=run, name="in time", daemon=True)
    thread.start()
    begun = time.monotonic()
    thread.join(POLL_SECONDS)
    while thread.is_alive():
        waited = time.monotonic() - begun
        if waited > seconds():
            raise TimeoutError(f"it takes more than {seconds():g} s")
        meanwhile()
        thread.join(POLL_SECONDS)
    if failures:
        raise failures[0]
