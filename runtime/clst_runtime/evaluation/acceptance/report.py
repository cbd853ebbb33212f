"""An acceptance as one file: Markdown for people, and everything measured as one block of JSON at its end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clst_runtime.errors import DataError
from clst_runtime.evaluation.acceptance.run import Acceptance, Status
from clst_runtime.system.credentials import all_without_credentials
from clst_runtime.system.files.json_values import (
    any_text,
    check_fields,
    mapping,
    number,
    one_of,
    parse_object,
    read_text,
    whole,
)
from clst_runtime.system.machine import machine_facts
from clst_runtime.system.tables import format_table

FIELDS = {
    "verdict": any_text, "exit_code": whole(0, 255), "date": any_text,
    "machine": {"cpu": any_text, "system": any_text},
    "steps": [{"name": any_text, "status": one_of(*(each.value for each in Status)), "told": any_text,
               "seconds": number(), "values": mapping}],
}  # fmt: skip
"""What is read of an acceptance, by `check_fields`."""


def brief(acceptance: Acceptance) -> str:
    """The steps as a table and the verdict."""
    rows = [[step.name, step.status.value, f"{step.seconds:.1f} s"] for step in acceptance.steps]
    lines = [format_table(["step", "result", "took"], rows)]
    lines += [f"{step.name}: {step.text}" for step in acceptance.steps]
    return "\n".join([*lines, acceptance.verdict])


def to_json(acceptance: Acceptance) -> dict[str, Any]:
    """Plain values, raw samples included."""
    plan = {name: str(value) if value is not None else None for name, value in vars(acceptance.plan).items()}
    return {
        "verdict": acceptance.verdict,
        "exit_code": acceptance.exit_code,
        "date": acceptance.date,
        "plan": all_without_credentials(plan),
        "machine": machine_facts(),
        "findings": [finding.to_json() for finding in acceptance.findings],
        "steps": [step.to_json() for step in acceptance.steps],
    }


def report_text(acceptance: Acceptance) -> str:
    values = to_json(acceptance)
    machine = values["machine"]
    steps = [[step.name, step.status.value, f"{step.seconds:.1f}", step.text] for step in acceptance.steps]
    findings = [[each.name.strip(), each.state.value, each.text, each.hint] for each in acceptance.findings]
    gpus = ", ".join(machine["gpus"]) or "no NVIDIA GPU that answers nvidia-smi"
    parts = [
        f"# Acceptance of {acceptance.plan.model.name}",
        f"**{acceptance.verdict}** (exit code {acceptance.exit_code}), {acceptance.date}",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; {gpus}",
        "## Steps",
        markdown_table(["step", "result", "seconds", "what was found"], steps),
        "## The machine",
        markdown_table(["what", "state", "found", "what to do"], findings),
        "## Everything measured",
        f"```json\n{json.dumps(values)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def read_report(path: Path) -> dict[str, Any]:
    """Everything measured, as `to_json` gives it, of a file that `report_text` made.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    content = read_text(path).replace("\r\n", "\n")
    found = re.search(r"\A# Acceptance of .*```json\n(\{.*\})\n```\s*\Z", content, re.DOTALL)
    try:
        if found is None:
            raise ValueError("it has no block of JSON at its end")
        return check_fields(parse_object(found[1]), FIELDS)
    except ValueError as error:
        raise DataError(
            f"{path} is no acceptance of clst-doctor --verify ({error}); give what --report wrote"
        ) from error


def markdown_table(headers: list[str], rows: list[list[str]]) -> str:
    """A table whose cells may hold anything."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
