"""One way to record a measurement: where result files lie, and what each must be quoted with."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.machine import machine_facts
from clst_runtime.system.programs import run_program

RESULTS = Path(__file__).parents[1] / "results"


def provenance() -> dict[str, Any]:
    """`date`, `commit` (empty without Git) and `machine` of a measurement that is made now."""
    commit = run_program(["git", "-C", str(RESULTS), "rev-parse", "--short", "HEAD"]) or ""
    return {"date": time.strftime("%Y-%m-%d"), "commit": commit.strip(), "machine": machine_facts()}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file, whole or not at all."""
    write_text(path, json.dumps(result, indent=1) + "\n")
