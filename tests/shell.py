"""Runs the project's commands as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def shell(command: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run one of the installed commands to its end; output and errors are text."""
    program = Path(sys.executable).with_name(command)
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | dict(options.pop("environment", {}))  # type: ignore[call-overload]
    call = [str(program), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=300, env=environment, check=False, **options)  # type: ignore[call-overload]
