"""Runs the project's commands as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def shell(command: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run one of the installed commands to its end; output and errors are text."""
    program = Path(sys.executable).with_name(command)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(options.pop("environment", {}))  # type: ignore[call-overload]
    call = [str(program), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=300, env=environment, check=False, **options)  # type: ignore[call-overload]


def heed_interrupts() -> None:
    """In a child: Ctrl-C counts, even where the tests themselves run in the background of a shell, which ignores it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def interrupted(
    ready: Callable[[], bool],
    command: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
    number: int = signal.SIGINT,
) -> tuple[int, str, str]:
    """Start a command, send Ctrl-C or `number` when `ready()` holds; returns its exit code, output and errors."""
    call = [str(Path(sys.executable).with_name(command)), *map(str, arguments)]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables, preexec_fn=heed_interrupts
    ) as process:
        end = time.time() + 120
        while not ready() and process.poll() is None and time.time() < end:
            time.sleep(0.02)
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
        return process.returncode, out, errors
