"""Errors of the page's own parts as warnings of the run. What strangers send is no error, and is logged nowhere.

The framework would write a traceback for each damaged request, with the request's first line and so perhaps the token.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clst_runtime.errors import words_of
from clst_runtime.system.optional import require

REMEMBERED = 20
"""Different errors that are told once each."""


class Faults:
    """Tells each kind of error once, in one line."""

    def __init__(self, tell: Callable[[str], None], what: str = "the web page failed") -> None:
        """Args: tell: takes the line, in any thread. what: how the line begins."""
        self._tell, self._what = tell, what
        self._told: deque[str] = deque(maxlen=REMEMBERED)

    def take(self, error: BaseException) -> None:
        """Tell an error, unless it is told already."""
        self.say(words_of(error))

    def say(self, words: str) -> None:
        """The same of one that is in words."""
        if words not in self._told:
            self._told.append(words)
            self._tell(f"{self._what}: {words}")

    @contextmanager
    def caught(self) -> Iterator[None]:
        """What is raised within is told, and ends no more than that."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, it must not end a thread or a task unseen
            self.take(error)

    def mishap(self, context: dict[str, Any]) -> None:
        """Tell what an event loop reports, as when none can be accepted; a connection that breaks is no fault."""
        error = context.get("exception")
        if error is None:
            self.say(" ".join(str(context.get("message")).split()))
        elif not isinstance(error, ConnectionError):
            self.take(error)

    def logger(self) -> logging.Logger:
        """For the framework: it belongs to no other logger, and what it is given is told here alone."""
        logger = logging.Logger("clst-run web page", logging.WARNING)
        logger.addHandler(_Teller(self))
        return logger


class _Teller(logging.Handler):
    def __init__(self, faults: Faults) -> None:
        super().__init__(logging.WARNING)
        self._faults, self._strange = faults, require("aiohttp.http_exceptions").HttpProcessingError

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, self._strange):
            self._faults.mishap({"exception": error, "message": record.getMessage()})
