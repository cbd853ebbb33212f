"""A report as Markdown, for a review beside code: all texts and tables; images and charts are in the HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clst_export.card import literal
from clst_export.report.document import (
    Block,
    Cell,
    Chart,
    Facts,
    Legend,
    Missing,
    Pictures,
    Points,
    Report,
    Table,
    Text,
)


def flat(text: str) -> str:
    """A text as it is, in one line."""
    return literal(" ".join(text.split()))


def to_markdown(report: Report) -> str:
    """The whole file."""
    index = [
        [f"{number} {section.title}", str(len(section.missing) or "nothing"), section.question, section.topic]
        for number, section in report.numbered()
    ]
    parts = [f"# {flat(report.title)}", flat(report.subtitle), flat(report.made), "## 1 Summary"]
    parts += map(block_markdown, report.summary)
    parts += ["### Where the evidence is", _table(["section", "missing", "answers", "topic"], index)]
    gaps = [
        f"- {_missing(Missing(what='; '.join(each.what for _, each in lacking), commands=commands))}"
        for commands, lacking in report.gaps().items()
    ]
    parts += ["### What is not known, and what tells it", "\n".join(gaps)] if gaps else []
    for number, section in report.numbered():
        parts += [f"## {number} {flat(section.title)}", f"*{flat(section.question)}*"]
        parts += [f"*{flat(section.origin)}*"] if section.origin else []
        parts += map(block_markdown, section.blocks)
    return "\n\n".join(parts) + "\n"


def block_markdown(block: Block) -> str:
    match block:
        case Text():
            return _titled(block.title, "  \n".join(flat(line) for line in block.text.splitlines()), "")
        case Points():
            return "\n".join(f"- {flat(item)}" for item in block.items)
        case Legend():
            return ", ".join(flat(f"{each.text} #{bytes(each.colour).hex()}") for each in block.classes)
        case Facts():
            facts = "\n".join(f"- {flat(name)}: {flat(value)}" for name, value in block.rows)
            return _titled(block.title, facts, block.origin)
        case Table():
            rows = [[_cell(cell) for cell in row] for row in block.rows]
            return _titled(block.title, _table(block.head, rows, numbers_from=block.names), block.origin)
        case Pictures() | Chart():
            return _titled(block.title, "(in the HTML report)", block.origin)
        case Missing():
            return f"Missing: {_missing(block)}"


def _titled(title: str, body: str, origin: str) -> str:
    return "\n\n".join([*([f"### {flat(title)}"] if title else []), body, *([f"*{flat(origin)}*"] if origin else [])])


def _missing(block: Missing) -> str:
    return flat(block.what) + "".join(
        f"{', then ' if place else ': '}{_code(each)}" for place, each in enumerate(block.commands)
    )


def _code(text: str) -> str:
    """In more backticks than stand in a row in it, so that none in it ends it."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{text}{ticks}"


def _cell(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 4) -> str:
    marks = ["---" if place < numbers_from else "--:" for place in range(len(head))]
    lines = [[*map(flat, head)], marks, *([flat(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
