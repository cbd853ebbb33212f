"""A process of this program's own: what hangs or crashes there harms nobody else, and it can be ended.

It gets one JSON object as its argument, sends lines of JSON through a pipe and is fed through its standard input, whose
end is its own: it cannot outlive the program. It knows no signal of the terminal.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import IO, Any

from clst_runtime.errors import DataError
from clst_runtime.system.credentials import without_credentials

PROGRAM = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {module} import main; main()"
MESSAGE_BYTES = 2000
"""So much of its standard error is kept: the latest."""
LEAVING_SECONDS = 0.5
"""How long it may take to end by itself."""


class Child:
    """One child process and its pipes."""

    def __init__(self, module: str, order: Callable[[int], str], descriptors: Sequence[int] = ()) -> None:
        """Start it. Raises: OSError: it cannot be started; nothing is left open.

        Args:
            module: whose `main` it runs.
            order: its argument, given the descriptor that its messages go to.
            descriptors: files that it gets under the same numbers.
        """
        self._rest, self._text, self._cut = b"", b"", False
        with ExitStack() as opened, ExitStack() as passed_on:
            self._messages, theirs = os.pipe()
            opened.callback(os.close, self._messages)
            theirs = not_standard(theirs)
            passed_on.callback(os.close, theirs)
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(module=module), json.dumps(sys.path), order(theirs)], bufsize=0,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=[*descriptors, theirs], start_new_session=True,
            )  # fmt: skip
            assert self._process.stdin is not None  # noqa: S101  (it is a pipe)
            assert self._process.stderr is not None  # noqa: S101
            self._fed = opened.enter_context(self._process.stdin)
            self._errors = opened.enter_context(self._process.stderr).fileno()
            self._poll = select.poll()  # select itself knows no descriptor above 1023
            for descriptor in (self._messages, self._errors):
                self._poll.register(descriptor, select.POLLIN)
            self._opened = opened.pop_all()

    def messages(self, timeout_seconds: float) -> list[dict[str, Any]] | None:
        """The messages since the last call; None when the process is gone."""
        lines: list[bytes] = []
        for descriptor, _ in self._poll.poll(1000 * timeout_seconds):
            read = os.read(descriptor, 1 << 16)
            if descriptor == self._errors:
                self._keep(read)
            if not read and descriptor == self._messages:
                return None
            if not read:
                self._poll.unregister(descriptor)
            if descriptor == self._messages:
                *lines, self._rest = (self._rest + read).split(b"\n")
        return [json.loads(line) for line in lines]

    def _keep(self, text: bytes) -> None:
        self._cut = self._cut or len(self._text) + len(text) > MESSAGE_BYTES
        self._text = (self._text + text)[-MESSAGE_BYTES:]

    def feed(self, data: bytes) -> None:
        """Write to its standard input; nothing where it has ended: `messages` returns None then."""
        with suppress(BrokenPipeError):
            rest = memoryview(data)
            while rest:
                rest = rest[self._fed.write(rest) :]

    def end(self) -> str:
        """Let it end, kill it if it does not; the last line it wrote on its standard error."""
        self._fed.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=LEAVING_SECONDS)
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # a driver may hold it in the kernel: it goes when that lets it
            self._process.wait(timeout=1.0)
        with self._opened, suppress(OSError):
            os.set_blocking(self._errors, False)
            self._keep(os.read(self._errors, 1 << 16))
        lines = self._text.decode(errors="replace").strip().splitlines()
        if self._cut:
            del lines[:1]  # its beginning is missing, and with it what marks a password
        text = without_credentials(lines[-1]) if lines else ""
        # What is new each time, a place in memory or in the stream, would make a warning of its own of each loss
        return re.sub(r"\d{5,}", "#", re.sub(r" @ 0x[0-9a-f]+", "", text))[:200]


def shared_file(size: int) -> IO[bytes]:
    """A file without a name that two processes can map; sparse, so that only what is written costs memory.

    Raises:
        DataError: there is no room, or a limit on files (ulimit -f) forbids it.
    """
    if hasattr(os, "memfd_create"):  # not bounded by the size of /dev/shm, which containers keep small
        file: IO[bytes] = os.fdopen(not_standard(os.memfd_create("clst-frames")), "w+b")
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115  the caller's
    try:
        file.truncate(size)
    except OSError as error:
        file.close()
        raise DataError(f"no room for frames in memory ({size >> 20} MiB, sparse): {error.strerror}") from error
    return file


def not_standard(descriptor: int) -> int:
    """The same file under a number above 2: this program's own standard files may be closed, a child's never are."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)
