"""Errors of the page's own parts as warnings of the run. What strangers send is no error, and is logged nowhere.

The framework would write a traceback for each damaged request, with the request's first line and so perhaps the token.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clst_runtime.errors import message_of
from clst_runtime.system.optional import require

REMEMBERED = 20
"""How many different errors are remembered; each is reported once."""


class ErrorLog:
    """Reports each kind of error once, in one line."""

    def __init__(self, report: Callable[[str], None], what: str = "the web page failed") -> None:
        """Args: report: called with the line, in any thread. what: how the line begins."""
        self._report, self._what = report, what
        self._reported: deque[str] = deque(maxlen=REMEMBERED)

    def report(self, error: BaseException) -> None:
        """Report an error, unless that was done already."""
        self.report_text(message_of(error))

    def report_text(self, message: str) -> None:
        """As `report`, of an error that is text."""
        if message not in self._reported:
            self._reported.append(message)
            self._report(f"{self._what}: {message}")

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Report what is raised within, and go on after it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  whatever it is, it must not end a thread or a task unseen
            self.report(error)

    def report_event(self, context: dict[str, Any]) -> None:
        """Report an error of an event loop, e.g. no connection can be accepted; a broken one is no error."""
        error = context.get("exception")
        if error is None:
            self.report_text(" ".join(str(context.get("message")).split()))
        elif not isinstance(error, ConnectionError):
            self.report(error)

    def logger(self) -> logging.Logger:
        """For the framework: it belongs to no other logger, and its records go here alone."""
        logger = logging.Logger("clst-run web page", logging.WARNING)
        logger.addHandler(_Handler(self))
        return logger


class _Handler(logging.Handler):
    def __init__(self, errors: ErrorLog) -> None:
        super().__init__(logging.WARNING)
        self._errors, self._strange = errors, require("aiohttp.http_exceptions").HttpProcessingError

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, self._strange):
            self._errors.report_event({"exception": error, "message": record.getMessage()})
