"""Other programs' output, when they are there and answer; nothing here can hang or fail."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

Runner = Callable[..., "str | None"]
"""How facts are asked for: `run_program`, or in tests a function that answers with recorded texts."""

MOST_BYTES = 1 << 20


def run_program(arguments: Sequence[str], *, seconds: float = 10.0, endless: bool = False) -> str | None:
    """What a program writes to stdout.

    A program that hangs is killed and left behind: one that waits for a broken device cannot even be killed, so nobody
    waits for it.

    Args:
        arguments: the program and what it is given; it gets no input.
        seconds: how long it may take.
        endless: it never ends by itself: take what it wrote until its first whole line, then end it.

    Returns:
        None if it is not installed, fails or does not answer in time.
    """
    path = shutil.which(arguments[0])
    if path is None:
        return None
    try:
        process = subprocess.Popen(
            [path, *arguments[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        written, ended = _read(process, time.monotonic() + seconds, until_line=endless)
        if endless:
            return written.decode(errors="replace") if b"\n" in written else None
        if not ended:
            return None
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        return written.decode(errors="replace") if process.returncode == 0 else None
    except OSError:  # no descriptor is left to wait with
        return None
    finally:
        _leave(process)


def ask_python(module: str, *arguments: str, seconds: float, run: Runner = run_program) -> dict[str, Any] | None:
    """What `main(arguments)` of a module of ours prints last, a JSON object, in a process of its own.

    Returns:
        None if that process crashed, hung for so many seconds or printed no such thing.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main(sys.argv[1:])"
    answer = run([sys.executable, "-c", code, *arguments], seconds=seconds)
    try:
        found = json.loads((answer or "").strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return found if isinstance(found, dict) else None


def _read(process: subprocess.Popen[bytes], until: float, *, until_line: bool) -> tuple[bytes, bool]:
    """What was written before `until`, and whether that was all."""
    assert process.stdout is not None  # noqa: S101  (it is a pipe)
    written = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(written) < MOST_BYTES and not (until_line and b"\n" in written):
            if not selector.select(max(0.0, until - time.monotonic())):
                return written, False
            block = os.read(process.stdout.fileno(), 1 << 16)
            if not block:
                return written, True
            written += block
    return written, False


def _leave(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    if process.stdout is not None:
        process.stdout.close()
