"""One way to record a measurement: where result files lie, what each must be quoted with, and tables."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.machine import machine_facts
from clst_runtime.system.programs import run_program

RESULTS = Path(__file__).parent / "results"


def provenance() -> dict[str, Any]:
    """`date`, `commit` (empty without Git) and `machine` of a measurement that is made now."""
    commit = run_program(["git", "-C", str(RESULTS), "rev-parse", "--short", "HEAD"]) or ""
    return {"date": time.strftime("%Y-%m-%d"), "commit": commit.strip(), "machine": machine_facts()}


def machine_text(result: dict[str, Any]) -> str:
    """The machine of a `provenance` in words."""
    machine = result["machine"]
    gpus = [text.split(",")[0] for text in machine["gpus"]]
    return f"{', '.join([*gpus, machine['cpu']])}, {machine['cores']} cores"


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file, whole or not at all."""
    write_text(path, json.dumps(result, indent=1) + "\n")


def markdown(headers: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table and an empty line."""
    return [
        f"| {' | '.join(headers)} |",
        "|---" * len(headers) + "|",
        *(f"| {' | '.join(each)} |" for each in rows),
        "",
    ]
